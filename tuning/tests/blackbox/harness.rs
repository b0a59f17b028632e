//! The box of a test, and calls of a plugin in it.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use cni_common::kernel::netns::Netns;
use serde_json::Value;

const IN_BOX: &str = "TUNING_TEST_BOX";
pub(crate) const DATA_DIR: &str = "/run/cni/tuning";

/// Declares tests that run in a box of their own.
macro_rules! in_box {
    ($(fn $name:ident() $body:block)+) => {
        $(#[test]
        fn $name() {
            crate::harness::run_in_box(concat!(module_path!(), "::", stringify!($name)), || $body);
        })+
    };
}

/// Runs `case` in fresh namespaces, by executing this test again in them.
pub(crate) fn run_in_box(test: &str, case: impl FnOnce()) {
    let own = fs::read_link("/proc/self/ns/net").expect("/proc").display().to_string();
    if let Ok(outside) = std::env::var(IN_BOX) {
        // The variable alone is no proof: furnishing hides directories of whoever runs this.
        let fresh = outside != own && std::process::id() == 1;
        assert!(fresh, "{IN_BOX} is set, but this is no box: unset it");
        furnish();
        return case();
    }
    let (_, name) = test.split_once("::").expect("a path inside this binary");
    let output = Command::new("timeout")
        .args(["--kill-after=5", "300", "unshare", "--net", "--mount", "--pid", "--fork"])
        .args(["--kill-child", "--mount-proc", "--propagation", "private"])
        .arg(std::env::current_exe().expect("own path"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(IN_BOX, own)
        .stdin(Stdio::null())
        .output()
        .expect("timeout and unshare, of coreutils and util-linux");
    let stdout = String::from_utf8_lossy(&output.stdout);
    println!("{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    let passed = output.status.success() && stdout.contains("test result: ok. 1 passed");
    assert!(passed, "{name} failed in its box, which takes root: {}", output.status);
}

/// A host with one container, `c1`, whose `eth0` is one end of a veth pair.
fn furnish() {
    for directory in ["/run", "/etc/cni"] {
        fs::create_dir_all(directory).expect("a mount point");
        sh(&format!("mount -t tmpfs -o mode=755 tmpfs {directory}"));
    }
    sh("mkdir /run/netns && ip link set lo up");
    container("c1", "eth0");
}

/// Makes a container with an interface.
pub(crate) fn container(id: &str, ifname: &str) {
    sh(&format!(
        "ip netns add {id} && ip link add h{id} type veth peer name {ifname} netns {id} \
         && ip link set h{id} up && ip -n {id} link set {ifname} up && ip -n {id} link set lo up"
    ));
}

/// Runs a script that must succeed; its stdout.
pub(crate) fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-euc", script]).output().expect("sh");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Whose plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plugin {
    Ours,
    Go,
}

impl Plugin {
    fn path(self) -> &'static str {
        let path = match self {
            Self::Ours => env!("CARGO_BIN_EXE_tuning"),
            Self::Go => "/usr/lib/cni/tuning",
        };
        assert!(Path::new(path).is_file(), "{path}: apt-get install containernetworking-plugins");
        path
    }
}

/// One call.
#[derive(Clone)]
pub(crate) struct Call {
    plugin: Plugin,
    wrapper: Vec<String>,
    command: String,
    pub(crate) network: String,
    pub(crate) container: String,
    pub(crate) netns: String,
    pub(crate) ifname: String,
    pub(crate) args: String,
    pub(crate) version: String,
    /// Members of the configuration, as JSON text that ends without a comma.
    keys: String,
    pub(crate) prev_result: Option<String>,
}

pub(crate) fn ours(command: &str, keys: &str) -> Call {
    Call::new(Plugin::Ours, command, keys)
}

pub(crate) fn go(command: &str, keys: &str) -> Call {
    Call::new(Plugin::Go, command, keys)
}

impl Call {
    pub(crate) fn new(plugin: Plugin, command: &str, keys: &str) -> Self {
        Self {
            plugin,
            wrapper: Vec::new(),
            command: command.to_owned(),
            network: "net".to_owned(),
            container: "c1".to_owned(),
            netns: "/run/netns/c1".to_owned(),
            ifname: "eth0".to_owned(),
            args: String::new(),
            version: "1.0.0".to_owned(),
            keys: keys.to_owned(),
            prev_result: None,
        }
    }

    pub(crate) fn of(mut self, container: &str, ifname: &str) -> Self {
        container.clone_into(&mut self.container);
        ifname.clone_into(&mut self.ifname);
        self.netns = format!("/run/netns/{container}");
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    fn stdin(&self) -> String {
        let Self { version, network, ifname, netns, keys, .. } = self;
        let comma = if keys.is_empty() { "" } else { "," };
        let prev_result = self.prev_result.clone().unwrap_or_else(|| {
            format!(
                r#"{{"cniVersion":"{version}","interfaces":[{{"name":"{ifname}","mac":"02:00:00:00:00:99","mtu":1500,"sandbox":"{netns}"}}],"ips":[{{"version":"4","address":"10.0.0.2/24","interface":0}}]}}"#
            )
        });
        format!(
            r#"{{"cniVersion":"{version}","name":"{network}","type":"tuning",{keys}{comma}"prevResult":{prev_result}}}"#
        )
    }

    pub(crate) fn run(&self) -> Outcome {
        let mut words = self.wrapper.clone();
        words.push(self.plugin.path().to_owned());
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", &self.command)
            .env("CNI_CONTAINERID", &self.container)
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", &self.ifname)
            .env("CNI_ARGS", &self.args)
            .env("CNI_PATH", "/usr/lib/cni")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let mut stdin = child.stdin.take().expect("a pipe");
        // A plugin that dislikes its environment may leave without reading.
        let _ = stdin.write_all(self.stdin().as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("wait");
        let outcome = Outcome {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        println!("{:?} {} {outcome:?}", self.plugin, self.command);
        outcome
    }

    /// Runs it; it must succeed.
    #[track_caller]
    pub(crate) fn ok(&self) -> Outcome {
        let outcome = self.run();
        assert_eq!(outcome.status, Some(0), "{outcome:?}");
        outcome
    }

    /// Runs it; it must fail with this code and all these words.
    #[track_caller]
    pub(crate) fn fails(&self, code: u64, words: &[&str]) {
        let outcome = self.run();
        assert_ne!(outcome.status, Some(0), "{outcome:?}");
        let error = outcome.json();
        assert_eq!(error["code"].as_u64(), Some(code), "{outcome:?}");
        for word in words {
            assert!(outcome.stdout.contains(word), "{word:?} is not in {outcome:?}");
        }
    }
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.status == Some(0)
    }
}

/// The value of `/proc/sys/net/<path>` in a container.
pub(crate) fn sysctl(container: &str, path: &str) -> String {
    let netns = Netns::open(Path::new(&format!("/run/netns/{container}"))).expect("netns");
    let path = format!("/proc/sys/net/{path}");
    let text = netns.run(|| fs::read_to_string(&path)).expect("enter");
    text.unwrap_or_else(|error| panic!("{path}: {error}")).trim_end().to_owned()
}

/// Sets it behind the plugins' back.
pub(crate) fn set_sysctl(container: &str, path: &str, value: &str) {
    let netns = Netns::open(Path::new(&format!("/run/netns/{container}"))).expect("netns");
    let path = format!("/proc/sys/net/{path}");
    netns.run(|| fs::write(&path, value)).expect("enter").expect("write");
}

/// MAC, MTU, queue length and the two modes of an interface, as `ip` shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) mac: String,
    pub(crate) mtu: u64,
    pub(crate) qlen: u64,
    pub(crate) promisc: bool,
    pub(crate) allmulti: bool,
}

pub(crate) fn link(container: &str, ifname: &str) -> Seen {
    let text = sh(&format!("ip -n {container} -j link show {ifname}"));
    let json: Value = serde_json::from_str(&text).expect("JSON from ip");
    let flag = |name: &str| {
        json[0]["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == name))
    };
    Seen {
        mac: json[0]["address"].as_str().expect("an address").to_owned(),
        mtu: json[0]["mtu"].as_u64().expect("an MTU"),
        qlen: json[0]["txqlen"].as_u64().unwrap_or(0),
        promisc: flag("PROMISC"),
        allmulti: flag("ALLMULTI"),
    }
}

/// The names in a directory, sorted; none if there is no such directory.
pub(crate) fn files(directory: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

/// Writes the node's allowlist.
pub(crate) fn allowlist(content: &str) {
    fs::create_dir_all("/etc/cni/tuning").expect("directory");
    fs::write("/etc/cni/tuning/allowlist.conf", content).expect("allowlist");
}
