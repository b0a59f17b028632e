//! What containerd has written to each plugin, byte for byte, given to the plugins again (`recorded/README.md`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use cni_testbox::spy::{self, Call};
use cni_testbox::{
    HOST_V4, HOST_V6, Implementation, Namespace, OUT_V4, TestBox, Transport, cases, sh, tc,
};

cases! {
    a_pod_of_containerd_1_6, ours;
    a_pod_of_containerd_2_1, ours;
}

const PLUGINS: [&str; 4] = ["portmap", "bandwidth", "tuning", "firewall"];

fn a_pod_of_containerd_1_6(b: &TestBox) {
    lives_again(b, "containerd-1.6.jsonl", &[]);
}

fn a_pod_of_containerd_2_1(b: &TestBox) {
    lives_again(b, "containerd-2.1.jsonl", &["STATUS"]);
}

/// Gives a call to its plugin again, which has to succeed; what it printed.
#[track_caller]
fn run_as(call: &Call, command: &str) -> String {
    let mut plugin = Command::new(Implementation::Ours.plugin(&call.plugin));
    plugin.envs(&call.env).env("CNI_COMMAND", command);
    cni_testbox::feed(&mut plugin, &call.stdin_text)
}

#[track_caller]
fn lives_again(b: &TestBox, file: &str, also: &[&str]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/recorded");
    let text = fs::read_to_string(directory.join(file)).expect("a recording");
    let calls = spy::recorded(&text);
    let of = |command| of_command(&calls, command);
    let add = of("ADD")[0];
    let netns = make_interfaces(add);
    netns.serve("web", 80);
    b.out.serve("out", 80);
    let before = b.state();
    for command in ["ADD", "DEL"].iter().chain(also) {
        let plugins: Vec<&str> = of(command).iter().map(|call| call.plugin.as_str()).collect();
        assert!(PLUGINS.iter().all(|plugin| plugins.contains(plugin)), "{command}: {plugins:?}");
    }

    for call in of("ADD") {
        let (result, given) = (run_as(call, "ADD"), call.stdin());
        let result: Value = serde_json::from_str(&result).expect("a result");
        assert_eq!(result["cniVersion"], given["cniVersion"]);
        assert_eq!(result["ips"], given["prevResult"]["ips"], "{}", call.plugin);
    }
    serves(b, &netns);
    // As libcni makes it of the same: with what ADD has returned, and all the rest. DEL's is so.
    let mut with_result = of("DEL");
    with_result.retain(|call| call.stdin().get("prevResult").is_some());
    assert!(with_result.len() >= PLUGINS.len());
    for call in with_result {
        assert_eq!(run_as(call, "CHECK"), "", "{}", call.plugin);
    }
    for call in of("STATUS") {
        assert_eq!(run_as(call, "STATUS"), "", "{}", call.plugin);
    }
    for call in of("ADD") {
        run_as(call, "ADD");
    }
    serves(b, &netns);
    // With the namespace and a result, and again without.
    for call in of("DEL") {
        assert_eq!(run_as(call, "DEL"), "", "{}", call.plugin);
    }
    b.out.is_not_served(8080);
    // Tables stay, without elements, and the bridge's route_localnet.
    let left = b.state();
    assert!(!left.contains(&add.env["CNI_CONTAINERID"]), "{left}");
    assert_eq!(own(&left), own(&before));
    assert_eq!(tc::ifbs(), [""; 0]);
}

/// What there is of links and of the setting that the pod has.
fn own(state: &str) -> Vec<&str> {
    let is_own = |line: &&str| line.starts_with("link ") || line.contains("somaxconn");
    state.lines().filter(is_own).collect()
}

fn of_command<'a>(calls: &'a [Call], command: &str) -> Vec<&'a Call> {
    calls.iter().filter(|call| call.command == command).collect()
}

/// The interfaces that the result before the first of ours tells of, with their names, MACs and addresses.
fn make_interfaces(call: &Call) -> Namespace {
    let result = &call.stdin()["prevResult"];
    let path = PathBuf::from(&call.env["CNI_NETNS"]);
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    let netns = Namespace::create(&name);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let [bridge, host, own] = [0, 1, 2].map(|index| &result["interfaces"][index]);
    let [bridge_name, host_name, own_name] = [bridge, host, own].map(|one| text(&one["name"]));
    let [bridge_mac, host_mac, own_mac] = [bridge, host, own].map(|one| text(&one["mac"]));
    assert_eq!(text(&own["sandbox"]), path.display().to_string());
    sh(&format!(
        "ip link add {bridge_name} address {bridge_mac} type bridge
         ip link set {bridge_name} up
         ip link add {host_name} address {host_mac} type veth peer name {own_name} netns {name} address {own_mac}
         ip link set {host_name} master {bridge_name} up
         ip -n {name} link set {own_name} up"
    ));
    for ip in result["ips"].as_array().expect("addresses") {
        let (address, gateway) = (text(&ip["address"]), text(&ip["gateway"]));
        let (_, length) = address.split_once('/').expect("a prefix length");
        let nodad = if gateway.contains(':') { "nodad" } else { "" };
        sh(&format!(
            "ip addr add {gateway}/{length} dev {bridge_name} {nodad}
             ip -n {name} addr add {address} dev {own_name} {nodad}
             ip -n {name} route add default via {gateway}"
        ));
    }
    netns
}

#[track_caller]
fn serves(b: &TestBox, netns: &Namespace) {
    for transport in Transport::ALL {
        b.out.reach(transport, HOST_V4, 8080).by("web").seen_as(OUT_V4);
        b.out.reach(transport, HOST_V6, 8080).by("web");
        b.host.reach(transport, "127.0.0.1", 8080).by("web");
    }
    b.host.reach(Transport::Tcp, "127.0.0.1", 8081).by("web");
    b.out.cannot_reach(Transport::Tcp, HOST_V4, 8081);
    netns.reach(Transport::Tcp, OUT_V4, 80).by("out");
    assert_eq!(netns.read_sysctl("core/somaxconn"), "511");
    assert_eq!(tc::rate(&tc::ifbs()[0]), Some(1_000_000), "8 Mbit/s out of the pod");
}
