//! Executing a plugin: finding it, feeding it, and judging what it printed.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use cni_common::cni::protocol::json::Json;
use cni_common::cni::protocol::{CniError, CniResult, CniVersion, Command};

use super::request::RuntimeConf;

/// Why a plugin did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// An entry of the list names no plugin.
    #[error("no plugin name provided")]
    NoName,
    /// A type is a file name; this one is a path.
    #[error("invalid plugin name: {0}")]
    InvalidName(String),
    /// The search list is empty.
    #[error("no paths provided")]
    NoPaths,
    /// No directory of the search list, which is in text, has the plugin of this type.
    #[error("failed to find plugin {0:?} in path [{1}]")]
    NotFound(String, String),
    /// The runner refused the container ID, the network's name or the interface name.
    #[error("{0}")]
    Input(CniError),
    /// This file cannot be executed.
    #[error("netplugin failed with no error message: cannot execute {path}: {1}", path = .0.display())]
    Spawn(PathBuf, io::Error),
    /// The plugin did not answer in time and was killed.
    #[error("netplugin failed with no error message: signal: killed (no answer within {0:?})")]
    Deadline(Duration),
    /// The plugin failed and said why.
    #[error("{0}")]
    Plugin(CniError),
    /// The plugin failed and wrote this to stderr, and nothing else.
    #[error("netplugin failed: {0:?}: {1}")]
    OnlyStderr(String, Ended),
    /// The plugin failed in silence.
    #[error("netplugin failed with no error message: {0}")]
    Silent(Ended),
    /// The plugin failed and printed this, which is no error object, and why it is none.
    #[error("netplugin failed but error parsing its diagnostic message {0:?}: {1}")]
    Unreadable(String, String),
    /// The plugin succeeded, but what it printed cannot be used.
    #[error("{0}")]
    Output(String),
}

impl ExecError {
    /// The CNI error, from the plugin or from the runner's own validation.
    #[must_use]
    pub fn cni_error(&self) -> Option<&CniError> {
        match self {
            Self::Plugin(error) | Self::Input(error) => Some(error),
            _ => None,
        }
    }
}

/// How a process ended, in Go's words, which runtimes' logs are searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended(ExitStatus);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.code(), self.0.signal()) {
            (Some(code), _) => write!(f, "exit status {code}"),
            (None, Some(6)) => f.write_str("signal: aborted"),
            (None, Some(9)) => f.write_str("signal: killed"),
            (None, Some(11)) => f.write_str("signal: segmentation fault"),
            (None, Some(15)) => f.write_str("signal: terminated"),
            (None, Some(signal)) => write!(f, "signal: {signal}"),
            (None, None) => write!(f, "{}", self.0),
        }
    }
}

/// The first regular file called `plugin_type` in the directories.
pub fn find(plugin_type: &str, dirs: &[PathBuf]) -> Result<PathBuf, ExecError> {
    if plugin_type.is_empty() {
        return Err(ExecError::NoName);
    }
    if plugin_type.contains('/') {
        return Err(ExecError::InvalidName(plugin_type.to_owned()));
    }
    if dirs.is_empty() {
        return Err(ExecError::NoPaths);
    }
    dirs.iter().map(|dir| dir.join(plugin_type)).find(|path| path.is_file()).ok_or_else(|| {
        let paths: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        ExecError::NotFound(plugin_type.to_owned(), paths.join(" "))
    })
}

/// A plugin's environment: the runner's own, with these six variables.
pub(crate) type Variables = [(&'static str, OsString); 6];

/// The variables of a command.
pub(crate) fn variables(command: Command, conf: &RuntimeConf, dirs: &[PathBuf]) -> Variables {
    let mut path = OsString::new();
    for (index, dir) in dirs.iter().enumerate() {
        if index > 0 {
            path.push(":");
        }
        path.push(dir);
    }
    [
        ("CNI_COMMAND", command.as_str().into()),
        ("CNI_CONTAINERID", conf.container_id.as_str().into()),
        ("CNI_NETNS", conf.netns.as_str().into()),
        ("CNI_IFNAME", conf.ifname.as_str().into()),
        ("CNI_ARGS", conf.cni_args().into()),
        ("CNI_PATH", path),
    ]
}

/// Runs a plugin to its end and returns its stdout; its stderr goes to ours.
pub(crate) fn run(
    path: &Path,
    variables: &Variables,
    stdin: &[u8],
    deadline: Option<Duration>,
) -> Result<Vec<u8>, ExecError> {
    let (stdout, stderr) = run_heard(path, variables, stdin, deadline)?;
    // Informational only: our own stderr may be closed.
    let _ = io::stderr().write_all(&stderr);
    Ok(stdout)
}

/// The same, but returns its stderr, too.
pub(crate) fn run_heard(
    path: &Path,
    variables: &Variables,
    stdin: &[u8],
    deadline: Option<Duration>,
) -> Result<(Vec<u8>, Vec<u8>), ExecError> {
    let output = capture(path, &[], variables, stdin, deadline)?;
    if output.status.success() { Ok((output.stdout, output.stderr)) } else { Err(failure(&output)) }
}

/// Reads the result that ADD printed. One without a version has the configuration's.
pub(crate) fn decode_result(stdout: &[u8], config_version: &str) -> Result<Json, ExecError> {
    let unusable =
        |reason: String| ExecError::Output(format!("failed to unmarshal raw result: {reason}"));
    let mut result = match Json::parse(stdout) {
        Ok(Json::Object(result)) => result,
        Ok(Json::Null) => cni_common::cni::protocol::json::Object::default(),
        Ok(other) => return Err(unusable(format!("it is {}, not an object", other.kind()))),
        Err(error) if stdout.is_empty() => return Err(unusable(format!("no output ({error})"))),
        Err(error) => return Err(unusable(error.to_string())),
    };
    match result.get("cniVersion") {
        Some(Json::String(version)) if !version.is_empty() => {}
        None | Some(Json::String(_)) => {
            let assumed = if config_version.is_empty() {
                CniVersion::V0_1_0.as_str()
            } else {
                config_version
            };
            result.set("cniVersion", assumed);
        }
        Some(other) => {
            return Err(unusable(format!("cniVersion is {}, not a string", other.kind())));
        }
    }
    let result = Json::from(result);
    // Only to be sure that the next plugin can read it: it is passed on as it was printed.
    CniResult::from_json(&result, CniVersion::V0_1_0)
        .map_err(|error| ExecError::Output(error.to_string()))?;
    Ok(result)
}

/// The versions a plugin supports, from its answer to VERSION.
pub(crate) fn decode_versions(
    answer: Result<Vec<u8>, ExecError>,
) -> Result<Vec<String>, ExecError> {
    let stdout = match answer {
        // Plugins of 0.1.0 do not know the command.
        Err(ExecError::Plugin(error)) if error.msg == "unknown CNI_COMMAND: VERSION" => {
            return Ok(vec![CniVersion::V0_1_0.to_string()]);
        }
        answer => answer?,
    };
    let unusable = |reason: &str| ExecError::Output(format!("decoding version info: {reason}"));
    let json = Json::parse(&stdout).map_err(|error| unusable(&error.to_string()))?;
    let info = json.as_object().ok_or_else(|| unusable("it is no object"))?;
    let version = info.get("cniVersion").and_then(Json::as_str).unwrap_or_default();
    if version.is_empty() {
        return Err(unusable("missing field cniVersion"));
    }
    let supported = match info.get("supportedVersions") {
        Some(Json::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect::<Option<Vec<String>>>()
            .ok_or_else(|| unusable("supportedVersions must be a list of strings"))?,
        Some(_) => return Err(unusable("supportedVersions must be a list of strings")),
        None => Vec::new(),
    };
    if !supported.is_empty() {
        return Ok(supported);
    }
    if version == CniVersion::V0_2_0.as_str() {
        return Ok([CniVersion::V0_1_0, CniVersion::V0_2_0].map(|v| v.to_string()).to_vec());
    }
    Err(unusable("missing field supportedVersions"))
}

/// What a plugin prints about itself when it is called without a command.
pub(crate) fn banner(path: &Path, deadline: Duration) -> Result<String, ExecError> {
    let output = without_command(path, &[], deadline)?;
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What a plugin prints about itself when it is asked for its `--version`. Go plugins know no
/// arguments and print their banner on stderr: their answer is empty.
pub(crate) fn version_text(path: &Path, deadline: Duration) -> Result<String, ExecError> {
    let output = without_command(path, &["--version"], deadline)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn without_command(path: &Path, args: &[&str], deadline: Duration) -> Result<Output, ExecError> {
    let mut none = variables(Command::Version, &RuntimeConf::default(), &[]);
    none[0].1 = OsString::new();
    let output = capture(path, args, &none, b"", Some(deadline))?;
    if output.status.success() { Ok(output) } else { Err(failure(&output)) }
}

struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

fn failure(output: &Output) -> ExecError {
    let status = Ended(output.status);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.stdout.is_empty() {
        if output.stderr.is_empty() {
            return ExecError::Silent(status);
        }
        return ExecError::OnlyStderr(text(&output.stderr), status);
    }
    let unreadable = |reason: String| ExecError::Unreadable(text(&output.stdout), reason);
    match Json::parse(&output.stdout) {
        Err(error) => unreadable(error.to_string()),
        Ok(json) => match CniError::from_json(&json) {
            None => unreadable(format!("it is {}, not an error object", json.kind())),
            Some(error) if error.msg.is_empty() => {
                ExecError::Plugin(CniError { msg: ExecError::Silent(status).to_string(), ..error })
            }
            Some(error) => ExecError::Plugin(error),
        },
    }
}

fn capture(
    path: &Path,
    args: &[&str],
    variables: &Variables,
    stdin: &[u8],
    deadline: Option<Duration>,
) -> Result<Output, ExecError> {
    let failed = |error| ExecError::Spawn(path.to_owned(), error);
    let mut process = Process::new(path);
    process.args(args);
    process.envs(variables.iter().map(|(name, value)| (name, value)));
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn_when_not_busy(&mut process).map_err(failed)?;
    feed(&mut child, stdin.to_owned());
    let until = deadline.map(|limit| Instant::now() + limit);
    if let Some(output) = collect(&mut child, until).map_err(failed)? {
        return Ok(output);
    }
    child.kill().map_err(failed)?;
    child.wait().map_err(failed)?;
    Err(ExecError::Deadline(deadline.unwrap_or_default()))
}

/// How often a plugin is tried whose file is still being written, as an installer does it.
const BUSY_ATTEMPTS: u32 = 6;
const BUSY_PAUSE: Duration = Duration::from_secs(1);

fn spawn_when_not_busy(process: &mut Process) -> io::Result<Child> {
    for _ in 1..BUSY_ATTEMPTS {
        match process.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                thread::sleep(BUSY_PAUSE);
            }
            outcome => return outcome,
        }
    }
    process.spawn()
}

/// Writes stdin beside the reading, so that neither side can wait for the other.
fn feed(child: &mut Child, text: Vec<u8>) {
    if let Some(mut pipe) = child.stdin.take() {
        // A plugin need not read it: a broken pipe is no failure.
        thread::spawn(move || pipe.write_all(&text));
    }
}

/// Waits for the end of both outputs, then of the process; `None` once the time is up.
fn collect(child: &mut Child, until: Option<Instant>) -> io::Result<Option<Output>> {
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(drain);
    let Some(stdout) = receive(stdout, until) else { return Ok(None) };
    let Some(stderr) = receive(stderr, until) else { return Ok(None) };
    let status = wait(child, until)?;
    Ok(status.map(|status| Output { status, stdout, stderr }))
}

fn drain(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        // What came before a read error is all there is; nobody may be listening any more.
        let _ = pipe.read_to_end(&mut text);
        let _ = sender.send(text);
    });
    receiver
}

fn receive(output: Option<Receiver<Vec<u8>>>, until: Option<Instant>) -> Option<Vec<u8>> {
    let Some(output) = output else { return Some(Vec::new()) };
    match until {
        None => Some(output.recv().unwrap_or_default()),
        Some(until) => match output.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(text) => Some(text),
            Err(RecvTimeoutError::Disconnected) => Some(Vec::new()),
            Err(RecvTimeoutError::Timeout) => None,
        },
    }
}

fn wait(child: &mut Child, until: Option<Instant>) -> io::Result<Option<ExitStatus>> {
    let Some(until) = until else { return child.wait().map(Some) };
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        // The outputs are at their end already, so this is the process's last moment.
        thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_object_without_a_message_keeps_its_code() {
        let output = Output {
            status: ExitStatus::from_raw(1 << 8),
            stdout: br#"{"code":11}"#.to_vec(),
            stderr: Vec::new(),
        };
        let error = failure(&output);
        assert_eq!(error.to_string(), "netplugin failed with no error message: exit status 1");
        assert_eq!(error.cni_error().map(|error| error.code.number()), Some(11));
    }

    #[test]
    fn ends_in_gos_words() {
        for (raw, text) in [(2 << 8, "exit status 2"), (9, "signal: killed"), (10, "signal: 10")] {
            assert_eq!(Ended(ExitStatus::from_raw(raw)).to_string(), text);
        }
    }
}
