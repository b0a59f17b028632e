//! A host in namespaces of its own, containers on veth pairs, and calls of a plugin.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Map, Value, json};

/// Holds the network namespace outside, so that a variable left over cannot pass for a box.
const IN_BOX: &str = "BANDWIDTH_TEST_BOX";
const HANG_SECONDS: &str = "120";

/// Whose plugin is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plugin {
    Ours,
    Go,
}

impl Plugin {
    fn path(self) -> PathBuf {
        match self {
            Self::Ours => PathBuf::from(env!("CARGO_BIN_EXE_bandwidth")),
            Self::Go => {
                let path = PathBuf::from("/usr/lib/cni/bandwidth");
                assert!(path.is_file(), "apt-get install containernetworking-plugins");
                path
            }
        }
    }
}

/// Runs `case` in a fresh box. `test` is the test's path inside this binary.
pub(crate) fn in_box(test: &str, case: impl FnOnce()) {
    let own = std::fs::read_link("/proc/self/ns/net").expect("/proc").display().to_string();
    match std::env::var(IN_BOX) {
        Ok(outside) => {
            let fresh = outside.starts_with("net:[") && outside != own && std::process::id() == 1;
            assert!(fresh, "{IN_BOX} is set, but this is no box: unset it");
            run("mount -t tmpfs tmpfs /run");
            run("mkdir /run/netns");
            run("ip link set lo up");
            case();
        }
        Err(_) => repeat_in_box(test, &own),
    }
}

fn repeat_in_box(test: &str, own: &str) {
    let (_, name) = test.split_once("::").expect("a path inside this binary");
    let output = Command::new("timeout")
        .args(["--kill-after=5", HANG_SECONDS, "unshare"])
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["--propagation", "private"])
        .arg(std::env::current_exe().expect("own path"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(IN_BOX, own)
        .stdin(Stdio::null())
        .output()
        .expect("timeout and unshare: apt-get install coreutils util-linux");
    let stdout = String::from_utf8_lossy(&output.stdout);
    println!("{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && stdout.contains("test result: ok. 1 passed"),
        "{name} failed in its box ({}); boxes need root",
        output.status
    );
}

/// A fault of the Go plugin: the case must fail on it and pass on ours.
pub(crate) fn fails_on_go_only(case: impl Fn(Plugin)) {
    let on_go = catch_unwind(AssertUnwindSafe(|| case(Plugin::Go)));
    assert!(on_go.is_err(), "the Go plugin passes: this is no fault of its any more");
    println!("so much for the Go plugin");
    case(Plugin::Ours);
}

/// Defines tests that run in boxes.
macro_rules! boxed {
    ($($name:ident)+) => {
        mod boxed {
            $(#[test]
            fn $name() {
                crate::testbox::in_box(
                    concat!(module_path!(), "::", stringify!($name)),
                    super::$name,
                );
            })+
        }
    };
}
pub(crate) use boxed;

/// Runs a shell command that must succeed; its stdout.
#[track_caller]
pub(crate) fn run(command: &str) -> String {
    let output = attempt(command);
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a shell command.
pub(crate) fn attempt(command: &str) -> Output {
    Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output().expect("sh")
}

/// What a tool prints as JSON.
#[track_caller]
pub(crate) fn listed(command: &str) -> Vec<Value> {
    let text = run(command);
    if text.trim().is_empty() {
        return Vec::new();
    }
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"))
}

/// A container with a veth pair to the host.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    /// Its ID and the name of its namespace.
    pub(crate) id: String,
    pub(crate) ifname: String,
    /// The host's end.
    pub(crate) veth: String,
    /// Tells its subnets, 10.9.n.0/24 and `fd00:9:n::/64`, from others'.
    pub(crate) number: u8,
}

impl Container {
    pub(crate) fn new(id: &str, number: u8) -> Self {
        run(&format!("ip netns add {id}; ip -n {id} link set lo up"));
        Self::attach(id, "eth0", number)
    }

    /// One for each plugin, so that what one leaves is not in the other's way.
    pub(crate) fn of(plugin: Plugin) -> Self {
        match plugin {
            Plugin::Ours => Self::new("ours", 1),
            Plugin::Go => Self::new("go", 2),
        }
    }

    /// Another interface of the same container.
    pub(crate) fn attach(id: &str, ifname: &str, number: u8) -> Self {
        let veth = format!("veth{number}");
        let (v4, v6) = (format!("10.9.{number}"), format!("fd00:9:{number}:"));
        for command in [
            format!("ip link add {veth} mtu 1400 type veth peer name {ifname} mtu 1400 netns {id}"),
            format!("ip addr add {v4}.1/24 dev {veth}; ip addr add {v6}:1/64 dev {veth} nodad"),
            format!("ip link set {veth} up"),
            format!("ip -n {id} addr add {v4}.2/24 dev {ifname}"),
            format!("ip -n {id} addr add {v6}:2/64 dev {ifname} nodad"),
            format!("ip -n {id} link set {ifname} up"),
        ] {
            run(&command);
        }
        Self { id: id.into(), ifname: ifname.into(), veth, number }
    }

    pub(crate) fn host_v4(&self) -> String {
        format!("10.9.{}.1", self.number)
    }

    pub(crate) fn own_v4(&self) -> String {
        format!("10.9.{}.2", self.number)
    }

    pub(crate) fn own_v6(&self) -> String {
        format!("fd00:9:{}::2", self.number)
    }

    pub(crate) fn netns(&self) -> String {
        format!("/run/netns/{}", self.id)
    }

    /// A command inside.
    #[track_caller]
    pub(crate) fn run(&self, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.id))
    }

    /// The disciplines of the host's end.
    pub(crate) fn qdiscs(&self) -> Vec<Value> {
        qdiscs(&self.veth)
    }

    /// The rate of the bucket on the host's end in bytes per second.
    pub(crate) fn ingress_rate(&self) -> Option<u64> {
        rate_of(&self.veth)
    }

    /// The u32 filters at a hook of the host's end.
    pub(crate) fn filters(&self, hook: &str) -> Vec<Value> {
        let mut filters = listed(&format!("tc -j filter show dev {} {hook}", self.veth));
        filters.retain(|filter| filter["options"]["match"].is_object());
        filters
    }

    /// The interface that what comes out of the container is redirected to.
    pub(crate) fn redirect(&self) -> Option<String> {
        let filters = self.filters("ingress");
        let action = &filters.first()?["options"]["actions"][0];
        Some(action["to_dev"].as_str().unwrap_or_default().to_owned())
    }
}

/// The disciplines of a link.
pub(crate) fn qdiscs(link: &str) -> Vec<Value> {
    listed(&format!("tc -j qdisc show dev {link}"))
}

/// A link's bucket.
pub(crate) fn bucket(link: &str) -> Option<Value> {
    qdiscs(link).into_iter().find(|qdisc| qdisc["kind"] == "tbf").map(|q| q["options"].clone())
}

/// The rate of a link's bucket in bytes per second.
pub(crate) fn rate_of(link: &str) -> Option<u64> {
    bucket(link)?["rate"].as_u64()
}

/// The names of all IFBs.
pub(crate) fn ifbs() -> Vec<String> {
    let links = listed("ip -j link show type ifb");
    // `ip` prints an empty object for what it filtered out.
    links.iter().filter_map(|link| Some(link["ifname"].as_str()?.to_owned())).collect()
}

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    command: String,
    container: Container,
    netns: String,
    wrapper: Vec<String>,
    pub(crate) config: Map<String, Value>,
}

impl Call {
    /// With a prevResult as `ptp` leaves it.
    pub(crate) fn new(command: &str, container: &Container) -> Self {
        let config = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "bandwidth",
            "prevResult": { "cniVersion": "1.0.0", "interfaces": [
                { "name": container.veth },
                { "name": container.ifname, "sandbox": container.netns() },
            ] },
        });
        let Value::Object(config) = config else { unreachable!("an object literal") };
        Self {
            command: command.into(),
            container: container.clone(),
            netns: container.netns(),
            wrapper: Vec::new(),
            config,
        }
    }

    pub(crate) fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.config.insert(key.into(), value.into());
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.config.remove(key);
        self
    }

    /// Bits per second and bits.
    pub(crate) fn ingress(self, rate: u64, burst: u64) -> Self {
        self.set("ingressRate", rate).set("ingressBurst", burst)
    }

    /// Bits per second and bits.
    pub(crate) fn egress(self, rate: u64, burst: u64) -> Self {
        self.set("egressRate", rate).set("egressBurst", burst)
    }

    pub(crate) fn netns(mut self, path: &str) -> Self {
        self.netns = path.into();
        self
    }

    /// Started by another program.
    pub(crate) fn under(mut self, wrapper: &str) -> Self {
        self.wrapper = wrapper.split_whitespace().map(str::to_owned).collect();
        self
    }

    pub(crate) fn run(&self, plugin: Plugin) -> Outcome {
        let words = self.wrapper.iter().cloned();
        let mut words = words.chain([plugin.path().display().to_string()]);
        let mut child = Command::new(words.next().expect("at least the plugin"))
            .args(words)
            .env("CNI_COMMAND", &self.command)
            .env("CNI_CONTAINERID", &self.container.id)
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", &self.container.ifname)
            .env("CNI_PATH", "/usr/lib/cni")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the plugin");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(Value::Object(self.config.clone()).to_string().as_bytes()).expect("stdin");
        drop(stdin);
        let output = child.wait_with_output().expect("the plugin's end");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let outcome = Outcome {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        };
        println!("{plugin:?} {}: {outcome:?}", self.command);
        outcome
    }

    /// Runs ours, which must succeed.
    #[track_caller]
    pub(crate) fn ok(&self) -> Outcome {
        self.run(Plugin::Ours).success()
    }
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    code: Option<i32>,
    stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// The names in the result.
    #[track_caller]
    pub(crate) fn interfaces(&self) -> Vec<String> {
        let interfaces = self.json()["interfaces"].clone();
        let names = interfaces.as_array().expect("interfaces").iter();
        names.map(|interface| interface["name"].as_str().expect("a name").to_owned()).collect()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not one JSON value: {error}: {self:?}"))
    }

    /// Failure as the protocol has it: the code, and message and details.
    #[track_caller]
    pub(crate) fn error(&self) -> (u64, String) {
        assert_eq!(self.code, Some(1), "{self:?}");
        let error = self.json();
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        (error["code"].as_u64().expect("a code"), format!("{}; {}", text("msg"), text("details")))
    }

    #[track_caller]
    pub(crate) fn fails_with(&self, code: u64, words: &str) {
        let (found, text) = self.error();
        assert!(found == code && text.contains(words), "{found}: {text}");
    }
}
