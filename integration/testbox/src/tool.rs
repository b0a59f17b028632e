//! The operator's tools as readers and furniture: `ip`, `nft`, `conntrack`, …

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Which Debian package brings a program.
const PACKAGES: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("cc", "gcc"),
    ("chroot", "coreutils"),
    ("conntrack", "conntrack"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("curl", "curl"),
    ("dbus-daemon", "dbus"),
    ("dbus-send", "dbus"),
    ("firewall-cmd", "firewalld"),
    ("firewalld", "firewalld"),
    ("go", "golang-go"),
    ("ip", "iproute2"),
    ("ip6tables", "iptables"),
    ("ip6tables-legacy", "iptables"),
    ("ip6tables-legacy-save", "iptables"),
    ("ip6tables-nft-save", "iptables"),
    ("ip6tables-restore", "iptables"),
    ("ip6tables-save", "iptables"),
    ("iptables", "iptables"),
    ("iptables-legacy", "iptables"),
    ("iptables-legacy-save", "iptables"),
    ("iptables-nft-save", "iptables"),
    ("iptables-restore", "iptables"),
    ("iptables-save", "iptables"),
    ("iperf3", "iperf3"),
    ("mount", "mount"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("podman", "podman"),
    ("prlimit", "util-linux"),
    ("protoc", "protobuf-compiler"),
    ("rootlesskit", "rootlesskit"),
    ("runc", "runc"),
    ("setpriv", "util-linux"),
    ("sh", "dash"),
    ("sha256sum", "coreutils"),
    ("strace", "strace"),
    ("tar", "tar"),
    ("tc", "iproute2"),
    ("timeout", "coreutils"),
    ("umount", "mount"),
    ("unshare", "util-linux"),
    ("valgrind", "valgrind"),
];

/// Fails by the package's name where a program is not installed.
#[track_caller]
pub(crate) fn require(program: &str) {
    let (_, package) = PACKAGES
        .iter()
        .find(|(name, _)| *name == program)
        .unwrap_or_else(|| panic!("{program} is not in the list of tools"));
    let path = std::env::var("PATH").unwrap_or_default();
    let installed = path.split(':').any(|d| std::path::Path::new(d).join(program).is_file());
    assert!(installed, "{program} is not in PATH ({path}): apt-get install {package}");
}

/// A command of an installed tool.
#[track_caller]
pub fn tool(program: &str) -> Command {
    require(program);
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Runs a command that must succeed; its stdout.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    succeeded(&format!("{command:?}"), &output)
}

/// Runs a script that must succeed; its stdout.
#[track_caller]
pub fn sh(script: &str) -> String {
    succeeded(script, &attempt(script))
}

/// Runs a script that may fail.
#[track_caller]
pub fn attempt(script: &str) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-euc", script]).stdin(Stdio::null()).output().expect("sh")
}

/// The list that a tool prints as JSON; `ip` and `tc` print nothing for an empty one.
#[track_caller]
pub fn listed(command: &str) -> Vec<Value> {
    let text = sh(command);
    if text.trim().is_empty() {
        return Vec::new();
    }
    let list: Vec<Value> =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"));
    // `ip` prints an empty object for what it filtered out.
    list.into_iter().filter(|one| one.as_object().is_none_or(|one| !one.is_empty())).collect()
}

/// `ip -batch` in the current namespace.
#[track_caller]
pub fn batch(lines: &[&str]) {
    feed(tool("ip").args(["-batch", "-"]), &lines.join("\n"));
}

/// Runs a command that must succeed with text on its stdin.
#[track_caller]
pub fn feed(command: &mut Command, input: &str) -> String {
    let output = fed(command, input);
    succeeded(&format!("{command:?} with {input}"), &output)
}

/// Runs a command that may fail with text on its stdin.
#[track_caller]
pub fn fed(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("write to the tool");
    drop(stdin);
    child.wait_with_output().expect("wait for the tool")
}

#[track_caller]
fn succeeded(what: &str, output: &Output) -> String {
    assert!(
        output.status.success(),
        "{what} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Takes iptables away, as if it had never been installed, until this is dropped.
pub struct WithoutIptables(Vec<&'static str>);

impl WithoutIptables {
    /// Both kinds: behind their many names are two programs.
    pub fn begin() -> Self {
        let programs = vec!["/usr/sbin/xtables-nft-multi", "/usr/sbin/xtables-legacy-multi"];
        for program in &programs {
            // What is there then is no file that could be run.
            run(tool("mount").args(["--bind", "/dev/null", program]));
        }
        Self(programs)
    }
}

impl Drop for WithoutIptables {
    fn drop(&mut self) {
        for program in &self.0 {
            run(tool("umount").arg(program));
        }
    }
}
