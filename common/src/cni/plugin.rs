//! From a process with `CNI_*` variables to a plugin's methods and back to stdout.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use super::protocol::config::{NetworkConfig, ValidAttachment};
use super::protocol::environment::{Command, Environment};
use super::protocol::error::{CniError, ErrorCode};
use super::protocol::json::{Json, Object};
use super::protocol::result::CniResult;
use super::protocol::version::{self, CniVersion};
use crate::cni::attachment::{Attachment, Stale};
use crate::cni::help;
use crate::cni::log::{Log, LogConfig, say};
use crate::cni::netns::{self, OwnNetns};

/// What a plugin does for each command. The protocol around it is [`run`]'s.
pub trait Plugin {
    /// The plugin's name, whatever its file is called.
    const NAME: &'static str;
    /// What it does, in a sentence without its end, for a person.
    const ABOUT: &'static str;
    /// The keys of its entry that it reads, besides [`COMMON_KEYS`].
    const KEYS: &'static [&'static str];

    /// Whether ADD would take this configuration, whatever the host is like.
    fn validate(config: &NetworkConfig) -> Result<(), CniError>;

    /// ADD: make what the configuration asks for, all or nothing, and return the result.
    fn add(&self, request: &AttachmentRequest) -> Result<CniResult, CniError>;
    /// DEL: remove what the attachment owns; nothing there is success.
    fn del(&self, request: &AttachmentRequest) -> Result<(), CniError>;
    /// CHECK: compare what is there with what ADD would make; change nothing.
    fn check(&self, request: &AttachmentRequest) -> Result<(), CniError>;
    /// GC: remove what attachments of this network own that are not valid any more.
    fn gc(&self, request: &GcRequest) -> Result<(), CniError>;
    /// STATUS: could ADD be served? Codes 50 and 51 if not.
    fn status(&self, request: &StatusRequest) -> Result<(), CniError>;
}

/// The keys of every entry: those of the specification, what runtimes add, and this collection's log.
pub const COMMON_KEYS: [&str; 11] = [
    "cniVersion",
    "name",
    "type",
    "capabilities",
    "args",
    "ipam",
    "dns",
    "runtimeConfig",
    "prevResult",
    "logFile",
    "logLevel",
];

/// The input of ADD, DEL and CHECK.
#[derive(Debug)]
pub struct AttachmentRequest {
    /// Network, container ID and interface name.
    pub attachment: Attachment,
    /// `CNI_NETNS`; empty when the runtime gave none.
    pub netns: String,
    /// Where the call is made.
    pub own_netns: OwnNetns,
    /// `CNI_ARGS`, not parsed.
    pub args: String,
    /// The configuration.
    pub config: NetworkConfig,
    /// The command's log.
    pub log: Log,
}

impl AttachmentRequest {
    /// The previous result, which chained plugins need for ADD and CHECK.
    pub fn required_prev_result(&self) -> Result<CniResult, CniError> {
        self.config.prev_result()?.ok_or_else(|| {
            CniError::config(
                "must be called as chained plugin: Required prevResult missing; put this entry behind the \
                 plugin that makes the interface",
            )
        })
    }
}

/// The input of GC.
#[derive(Debug)]
pub struct GcRequest {
    /// The configuration, with the network's name.
    pub config: NetworkConfig,
    /// Attachments to keep.
    pub valid: Vec<ValidAttachment>,
    /// The command's log.
    pub log: Log,
}

impl GcRequest {
    /// The attachments to keep, with the network that they belong to.
    pub fn valid_attachments(&self) -> impl Iterator<Item = Attachment> {
        self.valid.iter().map(|valid| Attachment {
            network: self.config.name.clone(),
            container_id: valid.container_id.clone(),
            ifname: valid.ifname.clone(),
        })
    }

    /// What may be removed.
    #[must_use]
    pub fn stale(&self) -> Stale {
        Stale::new(self.config.name.clone(), self.valid_attachments())
    }
}

/// The input of STATUS.
#[derive(Debug)]
pub struct StatusRequest {
    /// The configuration, with the network's name.
    pub config: NetworkConfig,
    /// The command's log.
    pub log: Log,
}

/// Set once something was written to stdout: a second JSON value would break every reader.
static STDOUT_USED: AtomicBool = AtomicBool::new(false);

/// A plugin's whole `main`, given the first argument, if there is one.
pub fn run<P: Plugin>(plugin: &P, argument: Option<&OsStr>) -> ExitCode {
    report_panics_as_errors();
    if let Some(text) = argument.and_then(answer::<P>) {
        println!("{text}");
        return ExitCode::SUCCESS;
    }
    let environment = match Environment::read(|name| std::env::var_os(name)) {
        Ok(Some(environment)) => environment,
        Ok(None) => {
            let versions: Vec<&str> = CniVersion::ALL.iter().map(|v| v.as_str()).collect();
            say(format_args!(
                "{}\nCNI protocol versions supported: {}",
                about(P::NAME),
                versions.join(", ")
            ));
            return ExitCode::SUCCESS;
        }
        Err(error) => return finish(Err(error)),
    };
    finish(dispatch(plugin, environment, &mut io::stdin()))
}

/// What a person is told who runs the plugin by hand.
fn answer<P: Plugin>(argument: &OsStr) -> Option<String> {
    let is = |known: &[&str]| known.iter().any(|known| argument == *known);
    let version = format!("{}\n{COLLECTION}", about(P::NAME));
    if is(&["--help", "-h"]) {
        return Some(help::page(&version, P::NAME, P::ABOUT));
    }
    is(&["version", "--version", "-V"]).then_some(version)
}

/// The second line of `--version`, by which a plugin of this collection is told from another of
/// the same name and perhaps the same version. The banner, which others parse, stays as it is.
pub const COLLECTION: &str = "Part of cni-chain";

/// The line that nerdctl and Nomad read; see "The banner" in ARCHITECTURE.md.
fn about(name: &str) -> String {
    format!("CNI {name} plugin v{}", env!("CARGO_PKG_VERSION"))
}

/// Runs one command. The text is what belongs on stdout, empty for most commands.
pub fn dispatch<P: Plugin>(
    plugin: &P,
    environment: Environment,
    stdin: &mut dyn Read,
) -> Result<String, CniError> {
    if environment.command == Ok(Command::Version) {
        // Never reads stdin: a runtime may leave it open and silent.
        return Ok(format!("{}\n", version_report()));
    }
    let text = read_all(stdin)?;
    let config = NetworkConfig::from_stdin(&text)?;
    drop(text);
    let command = environment.command.clone().map_err(|unknown| {
        CniError::new(ErrorCode::InvalidEnvironment, format!("unknown CNI_COMMAND: {unknown}"))
    })?;
    let log_config = match config.with_fields(LogConfig::read) {
        Ok(log_config) => log_config,
        // A wrong log setting must not keep DEL and GC from cleaning up.
        Err(_) if matches!(command, Command::Del | Command::Gc) => LogConfig::default(),
        Err(error) => return Err(error),
    };
    let log = Log::open(&log_config, log_context(P::NAME, command, &environment, &config));
    serve(plugin, command, environment, config, log)
}

/// More than a runtime can mean; the list of all of a node's ports is a twentieth of it.
const LONGEST_CONFIG: u64 = 64 << 20;

fn read_all(stdin: &mut dyn Read) -> Result<Vec<u8>, CniError> {
    // Room for most, so that it takes one read, and one to see that this was all.
    let mut text = Vec::with_capacity(4 * 1024);
    stdin.take(LONGEST_CONFIG + 1).read_to_end(&mut text).map_err(|error| {
        CniError::new(ErrorCode::IoFailure, "error reading from stdin")
            .with_details(error.to_string())
    })?;
    if text.len() as u64 <= LONGEST_CONFIG {
        return Ok(text);
    }
    Err(CniError::new(ErrorCode::Decoding, "the network configuration on stdin is too long")
        .with_details(format!(
            "it may have {LONGEST_CONFIG} bytes (64 MiB): remove what makes it so long"
        )))
}

fn serve<P: Plugin>(
    plugin: &P,
    command: Command,
    environment: Environment,
    config: NetworkConfig,
    log: Log,
) -> Result<String, CniError> {
    // A command that is refused here leaves its line in the log as well.
    let version = log_failure(select_version(command, &config), &log)?;
    match command {
        Command::Gc => {
            let Some(valid) = log_failure(config.valid_attachments(), &log)? else {
                // A runtime that does not say what is valid cannot mean that nothing is.
                log.warn(
                    "GC without cni.dev/valid-attachments: nothing is known to be stale, nothing was removed",
                );
                return logged(Ok(String::new()), &log);
            };
            let request = GcRequest { config, valid, log };
            logged(plugin.gc(&request), &request.log)?;
            Ok(String::new())
        }
        Command::Status => {
            let request = StatusRequest { config, log };
            logged(plugin.status(&request), &request.log)?;
            Ok(String::new())
        }
        Command::Add | Command::Del | Command::Check => {
            let request = AttachmentRequest {
                attachment: Attachment {
                    network: config.name.clone(),
                    container_id: environment.container_id,
                    ifname: environment.ifname,
                },
                netns: environment.netns,
                own_netns: OwnNetns::of_one_call(),
                args: environment.args,
                config,
                log,
            };
            let outcome = serve_attachment(plugin, command, &request, environment.netns_override);
            let AttachmentRequest { config, log, .. } = request;
            // A long one needs its memory for its result, which holds prevResult once more.
            drop(config);
            logged(outcome.and_then(|result| text_of(result, version)), &log)
        }
        Command::Version => Ok(format!("{}\n", version_report())),
    }
}

/// The version that the configuration asks for, if it has this command.
fn select_version(command: Command, config: &NetworkConfig) -> Result<CniVersion, CniError> {
    let minimum = match command {
        Command::Gc | Command::Status => CniVersion::V1_1_0,
        Command::Check => CniVersion::V0_4_0,
        Command::Add | Command::Del | Command::Version => return config.version(),
    };
    version::select_for(&config.version_text, command.as_str(), minimum)
}

fn serve_attachment<P: Plugin>(
    plugin: &P,
    command: Command,
    request: &AttachmentRequest,
    netns_override: bool,
) -> Result<Option<CniResult>, CniError> {
    match command {
        Command::Add => {
            if !netns_override {
                netns::validate(&request.netns, &request.own_netns, true, false)?;
            }
            request.config.validate_common()?;
            warn_of_unknown_keys::<P>(request);
            plugin.add(request).map(Some)
        }
        Command::Check => {
            if !netns_override {
                netns::validate(&request.netns, &request.own_netns, true, true)?;
            }
            request.config.validate_common()?;
            plugin.check(request).map(|()| None)
        }
        _ => {
            plugin.del(request)?;
            // A /proc path that by now means the host is reported, after the host's side of the
            // attachment has been released: nothing of it may stay behind.
            if !netns_override && !request.netns.is_empty() {
                netns::validate(&request.netns, &request.own_netns, false, false)?;
            }
            Ok(None)
        }
    }
}

/// A key that is spelled wrong does nothing, and nobody would ever hear of it. One with a dot is
/// somebody's own, as `cni.dev/valid-attachments` is.
fn warn_of_unknown_keys<P: Plugin>(request: &AttachmentRequest) {
    for key in request.config.keys() {
        let is = |known: &&str| known.eq_ignore_ascii_case(key);
        if !key.contains('.') && !P::KEYS.iter().any(is) && !COMMON_KEYS.iter().any(is) {
            request.log.warn(format!(
                "plugin {} knows no key {key:?} and does nothing about it: cni-chain lint says what it may mean",
                P::NAME
            ));
        }
    }
}

fn text_of(result: Option<CniResult>, version: CniVersion) -> Result<String, CniError> {
    result.map_or_else(|| Ok(String::new()), |result| result.to_pretty(version))
}

fn logged<T>(outcome: Result<T, CniError>, log: &Log) -> Result<T, CniError> {
    log.outcome(outcome.as_ref().map(|_| ()));
    outcome
}

fn log_failure<T>(outcome: Result<T, CniError>, log: &Log) -> Result<T, CniError> {
    if let Err(error) = &outcome {
        log.outcome(Err(error));
    }
    outcome
}

fn log_context(
    plugin: &str,
    command: Command,
    environment: &Environment,
    config: &NetworkConfig,
) -> Object {
    let mut context = Object::default();
    context.push("plugin", plugin);
    context.push("command", command.as_str());
    context.push("network", config.name.as_str());
    for (key, value) in
        [("containerID", &environment.container_id), ("ifname", &environment.ifname)]
    {
        if !value.is_empty() {
            context.push(key, value.as_str());
        }
    }
    context
}

fn version_report() -> Json {
    let mut report = Object::default();
    report.push("cniVersion", CniVersion::CURRENT.as_str());
    report.push("supportedVersions", CniVersion::ALL.map(CniVersion::as_str).to_vec());
    report.into()
}

/// Prints the outcome as the only thing on stdout; exit status 1 goes with an error object.
fn finish(outcome: Result<String, CniError>) -> ExitCode {
    let (text, status) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error.to_json().to_pretty(), ExitCode::FAILURE),
    };
    match print(&text) {
        Ok(()) => status,
        Err(error) => {
            say(format_args!("cannot write to stdout: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    STDOUT_USED.store(true, Ordering::SeqCst);
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// A panic is a defect, but the runtime must still read an error object, not an empty stdout.
fn report_panics_as_errors() {
    std::panic::set_hook(Box::new(|info| {
        say(info);
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let error = CniError::new(
            ErrorCode::Internal,
            format!("internal error in the plugin at {place}; please report it"),
        )
        .with_details(info.payload_as_str().unwrap_or_default());
        if !STDOUT_USED.load(Ordering::SeqCst) {
            let _ = print(&error.to_json().to_pretty());
        }
        // The release build would abort, which some runtimes report as "no error message".
        std::process::exit(1);
    }));
}

#[cfg(test)]
mod tests;
