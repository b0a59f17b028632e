//! A container's life on a shipped list: ADD, packets and settings, CHECK, ADD again, DEL, DEL again.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use cni_chain::{ConfError, NetworkList, Runner, RuntimeConf};
use cni_testbox::{
    Container, GO_PLUGINS, HOST_V4, HOST_V6, Implementation, Namespace, OUT_V4, TestBox, Transport,
    link, links, listed, run, sh, spy, tc, tool,
};
use serde_json::{Value, json};

use super::caller::{Caller, MAC, PORT};
use crate::compat::Compat;
use crate::node::{self, PLUGINS, everything, nothing_is_left};

/// The names that our plugins have in the lists.
const OURS: [(&str, &str); 5] = [
    ("portmap", "portmap"),
    ("bandwidth", "bandwidth"),
    ("tuning", "tuning"),
    ("firewall", "firewall"),
    ("buildkit-cni-firewall", "firewall"),
];
/// Those that no package of Debian's has.
const STAND_INS: [&str; 10] = [
    "flannel",
    "calico",
    "antrea",
    "cilium-cni",
    "aws-cni",
    "egress-cni",
    "kube-ovn",
    "weave-net",
    "terway",
    "consul-cni",
];

/// A node with all plugins, each behind a spy.
pub(super) struct Host<'a> {
    b: &'a TestBox,
    runner: Runner,
    /// Whether it drops what it forwards and nobody admits.
    drops: Cell<bool>,
}

/// A container on a network.
pub(super) struct Pod {
    pub(super) container: Container,
    pub(super) conf: RuntimeConf,
    pub(super) result: Value,
}

impl<'a> Host<'a> {
    pub(super) fn of(b: &'a TestBox) -> Self {
        let directory = Path::new(PLUGINS);
        fs::create_dir_all(directory).expect("a copy of /opt");
        for entry in fs::read_dir(GO_PLUGINS).expect("apt-get install containernetworking-plugins")
        {
            let plugin = entry.expect("an entry").path();
            let name = plugin.file_name().expect("a name").to_string_lossy();
            spy::stand_before(directory, &name, &plugin);
        }
        for name in STAND_INS {
            // It goes by its name.
            let path = format!("/run/{name}");
            std::os::unix::fs::symlink(spy::example("cni-stand-in"), &path).expect("a new name");
            spy::stand_before(directory, name, Path::new(&path));
        }
        for (name, plugin) in OURS {
            spy::stand_before(directory, name, &Implementation::Ours.plugin(plugin));
        }
        b.out.serve("out", 80);
        let runner = Runner::new(vec![PLUGINS.into()], "/var/lib/cni".into());
        Self { b, runner, drops: Cell::new(false) }
    }

    /// A list as it is shipped, but for the backend that is under test where it names none.
    pub(super) fn list(&self, file: &str) -> NetworkList {
        let list = load(file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let Some(backend) = self.b.implementation.backend() else { return list };
        let mut list: Value = serde_json::from_slice(list.bytes()).expect("JSON");
        for entry in list["plugins"].as_array_mut().expect("a list") {
            let plugin = entry["type"].as_str().map(ours).unwrap_or_default();
            if ["portmap", "firewall"].contains(&plugin) && entry.get("backend").is_none() {
                entry["backend"] = json!(backend);
            }
        }
        NetworkList::from_bytes(list.to_string().as_bytes()).expect("a list")
    }

    /// A container lives on this list, as its runtime has it; its port answers on every address of the host.
    #[track_caller]
    pub(super) fn lives(&self, file: &str, caller: Caller, look: impl Fn(&Pod)) {
        self.lives_at(file, caller, &[HOST_V4, HOST_V6, "127.0.0.1"], look);
    }

    /// The same where its port answers on these addresses of the host.
    #[track_caller]
    pub(super) fn lives_at(
        &self,
        file: &str,
        caller: Caller,
        addresses: &[&str],
        look: impl Fn(&Pod),
    ) {
        println!("== {file}, called by {}", caller.name());
        let list = self.list(file);
        self.drop_what_nobody_admits(&list);
        if caller.validates() {
            self.runner.validate(&list).expect("every plugin knows the list's version");
        }
        let first = self.add(&list, caller, "first");
        self.del(&list, caller, first);
        let before = everything(self.b);

        fs::remove_file(Path::new(PLUGINS).join("calls")).expect("a record of the spies");
        let pod = self.add(&list, caller, "web");
        returns_what_was_made(&list, caller, &pod);
        pod.container.netns.serve("web", 80);
        self.has_what_it_asks_for(&list, caller, &pod, addresses);
        look(&pod);
        self.check(&list, &pod);
        let there = everything(self.b);
        add_again(&pod);
        let now = everything(self.b);
        assert!(now == there, "ADD again has changed\n{there}\nto\n{now}");
        self.has_what_it_asks_for(&list, caller, &pod, addresses);
        look(&pod);
        self.del(&list, caller, pod);
        self.nobody_answers(addresses);
        nothing_is_left(self.b, &before);
        self.tell(file, &list, caller);
    }

    /// ADD is refused in these words, and leaves nothing.
    #[track_caller]
    pub(super) fn refuses(&self, file: &str, caller: Caller, words: &[&str]) {
        println!("== {file}, called by {}", caller.name());
        let list = self.list(file);
        // host-local's directory stays.
        fs::create_dir_all(format!("/var/lib/cni/networks/{}", list.name)).expect("a directory");
        let before = everything(self.b);
        let container = self.b.container("web");
        let conf = caller.add(&container);
        let error = self.runner.add(&list, &conf).expect_err("it is to be refused").to_string();
        for word in words {
            assert!(error.contains(word), "{error}");
        }
        for _ in 0..2 {
            self.runner.del(&list, &conf).unwrap_or_else(|error| panic!("DEL: {error}"));
        }
        run(tool("ip").args(["netns", "del", &container.id]));
        nothing_is_left(self.b, &before);
    }

    fn drop_what_nobody_admits(&self, list: &NetworkList) {
        let Some(firewall) = entries(list).into_iter().find(|entry| is(entry, "firewall")) else {
            return;
        };
        if self.drops.replace(true) {
            return;
        }
        if firewall["backend"] == "iptables" {
            for program in ["iptables", "ip6tables"] {
                run(tool(program).args(["-P", "FORWARD", "DROP"]));
            }
        } else {
            node::drop_what_is_forwarded(self.b);
        }
    }

    #[track_caller]
    fn add(&self, list: &NetworkList, caller: Caller, name: &str) -> Pod {
        let container = self.b.container(name);
        let conf = caller.add(&container);
        if caller == Caller::Nerdctl {
            self.runner.del(list, &caller.del(&conf)).expect("DEL before ADD");
        }
        let result = self.runner.add(list, &conf).unwrap_or_else(|error| panic!("ADD: {error}"));
        let result = serde_json::from_str(&result.to_string()).expect("JSON");
        Pod { container, conf, result }
    }

    /// DEL, and DEL again.
    #[track_caller]
    fn del(&self, list: &NetworkList, caller: Caller, pod: Pod) {
        let Pod { container, conf, .. } = pod;
        if caller.deletes_after_the_end() {
            // A listener of ours keeps the namespace, but nothing else of it.
            run(tool("ip").args(["-n", &container.id, "link", "del", &conf.ifname]));
            run(tool("ip").args(["netns", "del", &container.id]));
        }
        let conf = caller.del(&conf);
        for _ in 0..2 {
            self.runner.del(list, &conf).unwrap_or_else(|error| panic!("DEL: {error}"));
        }
        if caller.deletes_after_the_end() {
            clean_up_as_nerdctl(&conf.container_id);
        } else {
            run(tool("ip").args(["netns", "del", &container.id]));
        }
    }

    #[track_caller]
    fn has_what_it_asks_for(
        &self,
        list: &NetworkList,
        caller: Caller,
        pod: &Pod,
        addresses: &[&str],
    ) {
        let netns = &pod.container.netns;
        for entry in entries(list) {
            match entry["type"].as_str().map(ours).unwrap_or_default() {
                "portmap" if caller.maps_ports() => self.serves(caller, pod, addresses),
                "portmap" => self.nobody_answers(addresses),
                "bandwidth" => is_limited(&entry, caller, pod),
                "tuning" => is_tuned(&entry, caller, pod),
                "firewall" => {
                    netns.reach(Transport::Tcp, OUT_V4, 80).by("out");
                }
                _ => {}
            }
        }
    }

    #[track_caller]
    fn serves(&self, caller: Caller, pod: &Pod, addresses: &[&str]) {
        let has_ipv6 = caller.maps_ipv6() && pod.addresses().iter().any(|ip| ip.contains(':'));
        for address in addresses.iter().filter(|address| has_ipv6 || !address.contains(':')) {
            for transport in Transport::ALL {
                self.b.host.reach(transport, address, PORT).by("web");
                if !address.starts_with("127.") {
                    self.b.out.reach(transport, address, PORT).by("web");
                }
            }
        }
    }

    #[track_caller]
    fn nobody_answers(&self, addresses: &[&str]) {
        for address in addresses.iter().filter(|address| !address.starts_with("127.")) {
            self.b.out.cannot_reach(Transport::Tcp, address, PORT);
        }
    }

    /// CHECK, which every runtime may call from 0.4.0 on; and that of `restore`, which asks our plugins
    /// whatever the list's version.
    #[track_caller]
    fn check(&self, list: &NetworkList, pod: &Pod) {
        let checked = || calls(pod, "CHECK").len();
        let before = checked();
        let outcome = self.runner.check(list, &pod.conf);
        let version = list.cni_version.as_str();
        if version.is_empty() || version < "0.4.0" {
            let error = outcome.expect_err("CHECK came with 0.4.0").to_string();
            assert!(error.contains("does not support the CHECK command"), "{error}");
        } else {
            outcome.unwrap_or_else(|error| panic!("CHECK: {error}"));
        }
        let asked = checked() - before;
        let asks = version >= "0.4.0" && !list.disable_check;
        let ours = entries(list).iter().filter(|entry| is_ours(entry)).count();
        assert_eq!(asked, if asks { ours } else { 0 });
        let told = run(Command::new(env!("CARGO_BIN_EXE_cni-chain"))
            .args(["restore", "--dry-run", "--exit-code"])
            .env("CNI_PATH", PLUGINS)
            .stdin(Stdio::null()));
        println!("{told}");
    }

    /// What was shown, and of which list.
    fn tell(&self, file: &str, list: &NetworkList, caller: Caller) {
        let (project, _) = file.split_once('/').expect("a directory per project");
        let version = if list.cni_version.is_empty() { "none" } else { &list.cni_version };
        let plugins = entries(list);
        let plugins: Vec<&str> = plugins
            .iter()
            .filter(|entry| is_ours(entry))
            .filter_map(|e| e["type"].as_str())
            .collect();
        if plugins.is_empty() {
            return;
        }
        let checks = if list.cni_version.as_str() >= "0.4.0" { "CHECK, " } else { "" };
        let what =
            format!("{file} as {} calls it: ADD, {checks}ADD again, DEL twice", caller.name());
        let mut compat =
            Compat::of(&format!("conflist of {project}"), &format!("CNI {version}"), self.b);
        if self.b.implementation == Implementation::Ours && wants_iptables(list) {
            compat = compat.on("iptables-nft");
        }
        compat.works(&plugins.join(", "), &what);
    }
}

impl Pod {
    /// The addresses of its interface, as `ip` has them.
    fn addresses(&self) -> Vec<String> {
        let Self { container, conf, .. } = self;
        let links = listed(&format!("ip -n {} -j addr show dev {}", container.id, conf.ifname));
        let of_link = links[0]["addr_info"].as_array().into_iter().flatten();
        let global = of_link.filter(|address| address["scope"] == "global");
        let text = |address: &Value| {
            format!("{}/{}", address["local"].as_str().unwrap_or_default(), address["prefixlen"])
        };
        let mut all: Vec<String> = global.map(text).collect();
        all.sort();
        all
    }

    /// The other end of its interface.
    pub(super) fn host_end(&self) -> String {
        let own = link(&self.container.id, &self.conf.ifname).expect("an interface");
        let is_it = |link: &&Value| link["ifindex"] == own["link_index"];
        let on_host = links("");
        let link = on_host.iter().find(is_it).expect("a veth has another end");
        link["ifname"].as_str().expect("a name").to_owned()
    }

    pub(super) fn netns(&self) -> &Namespace {
        &self.container.netns
    }
}

/// A list as it is shipped.
pub(super) fn load(file: &str) -> Result<NetworkList, ConfError> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/lists/conflists");
    NetworkList::from_file(&directory.join(file))
}

/// nerdctl removes by itself what the bridge plugin leaves of a container whose namespace is gone: rules
/// that name the container, and the chain of `ipMasq`. (It does so for IPv4; its networks have no IPv6.)
fn clean_up_as_nerdctl(id: &str) {
    sh(&format!(
        "for program in iptables ip6tables; do
            for table in nat filter mangle; do
                $program-save -t $table | grep -e '^-A .*{id}' | sed 's/^-A/-D/' | while read -r rule; do
                    eval \"$program -t $table $rule\"
                done
            done
            $program-save -t nat | sed -n 's/^:\\(CNI-[0-9a-f]\\{{24\\}}\\) .*/\\1/p' | while read -r chain; do
                $program -t nat -F $chain && $program -t nat -X $chain
            done
        done"
    ));
}

/// The plugin behind a name of [`OURS`].
fn ours(name: &str) -> &'static str {
    OURS.iter().find(|(own, _)| *own == name).map_or("", |(_, plugin)| plugin)
}

fn is(entry: &Value, plugin: &str) -> bool {
    entry["type"].as_str().is_some_and(|name| ours(name) == plugin)
}

fn is_ours(entry: &Value) -> bool {
    entry["type"].as_str().is_some_and(|name| !ours(name).is_empty())
}

fn entries(list: &NetworkList) -> Vec<Value> {
    let list: Value = serde_json::from_slice(list.bytes()).expect("JSON");
    list["plugins"].as_array().expect("a list").clone()
}

/// Whether an entry has keys that only iptables can carry out.
fn wants_iptables(list: &NetworkList) -> bool {
    let has_option = |words: &Value| {
        let words = words.as_array().into_iter().flatten().filter_map(Value::as_str);
        words.into_iter().any(|word| word.starts_with('-'))
    };
    let wants = |entry: &Value| {
        !entry["externalSetMarkChain"].is_null() || has_option(&entry["conditionsV4"])
    };
    entries(list).iter().any(wants)
}

/// What our plugins were called with for a container.
fn calls(pod: &Pod, command: &str) -> Vec<spy::Call> {
    let all = spy::calls(Path::new(PLUGINS)).into_iter();
    let own = all.filter(|call| {
        call.command == command && call.env["CNI_CONTAINERID"] == pod.conf.container_id
    });
    own.filter(|call| !ours(&call.plugin).is_empty()).collect()
}

/// Each of ours returns the result of the plugin before it with what it has made itself, in the version that
/// was asked for; and that is what there is.
#[track_caller]
fn returns_what_was_made(list: &NetworkList, caller: Caller, pod: &Pod) {
    let version = if list.cni_version.is_empty() { "0.1.0" } else { &list.cni_version };
    let adds = calls(pod, "ADD");
    assert_eq!(adds.len(), entries(list).iter().filter(|entry| is_ours(entry)).count());
    for call in adds {
        let (given, returned) = (call.stdin(), call.stdout);
        let returned: Value = serde_json::from_str(&returned).expect("a result");
        let given = &given["prevResult"];
        assert_eq!(returned["cniVersion"], version, "{}", call.plugin);
        for key in ["ips", "ip4", "ip6", "routes"] {
            assert_eq!(returned[key], given[key], "{}: {key}", call.plugin);
        }
        let mut expected = given["interfaces"].clone();
        if call.plugin == "bandwidth"
            && let (Some(ifb), Some(expected)) = (tc::ifbs().pop(), expected.as_array_mut())
        {
            let mac = link("", &ifb).expect("an IFB")["address"].clone();
            expected.push(json!({ "name": ifb, "mac": mac }));
        }
        if call.plugin == "tuning" && caller.wants_a_mac() {
            let of_container = expected.as_array_mut().into_iter().flatten();
            for interface in of_container.filter(|one| one["sandbox"] == pod.conf.netns) {
                interface["mac"] = json!(MAC);
            }
        }
        assert_eq!(returned["interfaces"], expected, "{}", call.plugin);
    }

    let interfaces = pod.result["interfaces"].as_array().into_iter().flatten();
    for interface in interfaces.filter(|one| one["mac"] != "0") {
        let namespace = if interface["sandbox"] == pod.conf.netns { &pod.container.id } else { "" };
        let name = interface["name"].as_str().expect("a name");
        let there = link(namespace, name).unwrap_or_else(|| panic!("{name} in {namespace:?}"));
        let mac = interface.get("mac").filter(|mac| *mac != "");
        assert!(mac.is_none_or(|mac| *mac == there["address"]), "{interface} is {there}");
    }
    let ips = pod.result["ips"].as_array().into_iter().flatten();
    let mut told: Vec<&str> = ips.filter_map(|ip| ip["address"].as_str()).collect();
    told.extend(["ip4", "ip6"].iter().filter_map(|key| pod.result[key]["ip"].as_str()));
    told.sort_unstable();
    assert_eq!(told, pod.addresses());
}

#[track_caller]
fn is_limited(entry: &Value, caller: Caller, pod: &Pod) {
    let of_entry = |key: &str| entry[key].as_u64();
    let (ingress, egress) = match (of_entry("ingressRate"), of_entry("egressRate")) {
        (None, None) => caller.limits(),
        of_list => of_list,
    };
    // In bytes, as tc has it.
    assert_eq!(tc::rate(&pod.host_end()), ingress.map(|rate| rate / 8), "into the container");
    let ifb = tc::ifbs().pop();
    let rate = ifb.and_then(|ifb| tc::rate(&ifb));
    assert_eq!(rate, egress.map(|rate| rate / 8), "out of it");
}

#[track_caller]
fn is_tuned(entry: &Value, caller: Caller, pod: &Pod) {
    for (key, value) in entry["sysctl"].as_object().into_iter().flatten() {
        let name = key.trim_start_matches("net.").replace('.', "/");
        let name = name.replace("IFNAME", &pod.conf.ifname);
        assert_eq!(Some(pod.netns().read_sysctl(&name).as_str()), value.as_str(), "{key}");
    }
    if caller.wants_a_mac() {
        let own = link(&pod.container.id, &pod.conf.ifname).expect("an interface");
        assert_eq!(own["address"], MAC);
    }
}

/// What ADD of each of ours was called with, once more.
#[track_caller]
fn add_again(pod: &Pod) {
    for call in calls(pod, "ADD") {
        let mut plugin = Command::new(Path::new(PLUGINS).join(&call.plugin));
        let output = cni_testbox::feed(plugin.envs(&call.env), &call.stdin_text);
        let [returned, before] = [&output, &call.stdout]
            .map(|text| serde_json::from_str::<Value>(text).expect("a result"));
        assert_eq!(returned, before, "{}", call.plugin);
    }
}
