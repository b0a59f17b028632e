//! Calls of the binary, and a throw-away host to make them on.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Output, Stdio};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_portmap");
/// The container's namespace on every [`Host`].
pub(crate) const CONTAINER: &str = "/run/netns/container";

/// One call of the plugin: its variables and its stdin.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    variables: Vec<(&'static str, OsString)>,
    stdin: Vec<u8>,
}

impl Call {
    /// A call with every variable that `command` can need.
    pub(crate) fn new(command: &str, stdin: impl Into<Vec<u8>>) -> Self {
        Self { variables: Vec::new(), stdin: stdin.into() }
            .set("CNI_COMMAND", command)
            .set("CNI_CONTAINERID", "c1")
            .set("CNI_NETNS", CONTAINER)
            .set("CNI_IFNAME", "eth0")
            .set("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=p")
            .set("CNI_PATH", "/opt/cni/bin")
    }

    /// A call without any variable.
    pub(crate) fn bare() -> Self {
        Self { variables: Vec::new(), stdin: Vec::new() }
    }

    pub(crate) fn set(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self = self.unset(name);
        self.variables.push((name, value.into()));
        self
    }

    pub(crate) fn unset(mut self, name: &str) -> Self {
        self.variables.retain(|(known, _)| *known != name);
        self
    }

    /// Runs in the test's own namespaces: for calls that must be refused before the plugin acts.
    ///
    /// Should one be let through all the same, ADD still refuses its own network namespace.
    pub(crate) fn run_here(mut self) -> Answer {
        for (name, value) in &mut self.variables {
            if *name == "CNI_NETNS" && value == CONTAINER {
                *value = "/proc/self/ns/net".into();
            }
        }
        self.finish(Command::new("env"))
    }

    /// `env -i`, the variables and the binary, appended to whatever leads into the namespaces.
    pub(crate) fn command(&self, mut command: Command) -> Command {
        command.arg("-i");
        for (name, value) in &self.variables {
            let mut assignment = OsString::from(name);
            assignment.push("=");
            assignment.push(value);
            command.arg(assignment);
        }
        command.arg(BINARY);
        command
    }

    fn finish(self, lead: Command) -> Answer {
        let mut command = self.command(lead);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("env and the plugin can be run");
        let mut stdin = child.stdin.take().expect("piped");
        // The plugin reads all of stdin before it prints, or closes it unread.
        let _ = stdin.write_all(&self.stdin);
        drop(stdin);
        Answer::from(child.wait_with_output().expect("the plugin ends"))
    }
}

/// What the plugin answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A CNI error object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: u64,
    pub(crate) msg: String,
    pub(crate) details: String,
}

impl Answer {
    /// The one error object of a failed call.
    pub(crate) fn refusal(&self, context: &str) -> Refusal {
        assert_eq!(self.status, Some(1), "{context}: exit status of {self:?}");
        let error = self.only_value(context);
        let text = |key: &str| error[key].as_str().map(str::to_owned);
        let known = ["code", "msg", "details"];
        let keys: Vec<_> = error.as_object().expect("an object").keys().collect();
        assert!(keys.iter().all(|key| known.contains(&key.as_str())), "{context}: {error}");
        Refusal {
            code: error["code"].as_u64().expect("code is an unsigned integer"),
            msg: text("msg").filter(|msg| !msg.is_empty()).expect("msg says something"),
            details: text("details").unwrap_or_default(),
        }
    }

    /// The one result object of an ADD.
    pub(crate) fn result(&self, context: &str) -> Value {
        assert_eq!(self.status, Some(0), "{context}: {self:?}");
        let result = self.only_value(context);
        assert!(result["cniVersion"].is_string() && result.get("code").is_none(), "{context}");
        result
    }

    /// Success of a command that prints nothing.
    pub(crate) fn silence(&self, context: &str) {
        assert_eq!((self.status, self.stdout.as_str()), (Some(0), ""), "{context}: {self:?}");
    }

    fn only_value(&self, context: &str) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{context}: not one JSON value ({error}): {self:?}"))
    }
}

/// Network and mount namespaces of their own, with a container's network namespace inside.
#[derive(Debug)]
pub(crate) struct Host {
    /// Holds the namespaces; ends when its stdin does, so that nothing outlives the test.
    holder: Child,
    _lifeline: ChildStdin,
}

impl Host {
    pub(crate) fn new() -> Self {
        let script = "mount -t tmpfs tmpfs /run && mkdir /run/netns && ip link set lo up && \
                      ip netns add container && echo ready && exec cat";
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("these tests need unshare(1) of util-linux");
        let lifeline = holder.stdin.take().expect("piped");
        let mut line = String::new();
        let stdout = holder.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("the namespaces' holder answers");
        assert_eq!(line.trim(), "ready", "these tests need root and ip(8) to make namespaces");
        Self { holder, _lifeline: lifeline }
    }

    pub(crate) fn run(&self, call: Call) -> Answer {
        call.finish(self.inside("env"))
    }

    /// A command whose program runs on this host.
    pub(crate) fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &self.holder.id().to_string(),
            "--net",
            "--mount",
            "--",
            program,
        ]);
        command
    }

    /// Runs a tool that must succeed, and returns what it printed.
    pub(crate) fn tool(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.inside(program).args(arguments).output().expect("nsenter(1) can be run");
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Everything that `nft` can see.
    pub(crate) fn ruleset(&self) -> String {
        self.tool("nft", &["list", "ruleset"])
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
