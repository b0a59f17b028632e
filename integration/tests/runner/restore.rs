//! `restore`: which plugins run again, with what, and what is said about it.

use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cni_chain::restore::presence::{NamedNamespaces, Presence};
use cni_chain::restore::{Part, Restorer, Summary};
use cni_chain::{MetaPlugin, RuntimeConf};
use cni_common::cni::protocol::CniResult;
use cni_testbox::spy::Call;
use serde_json::{Value, json};

use crate::spies::{Stage, fails, says};

const ALL: [&str; 5] = ["bridge", "portmap", "bandwidth", "tuning", "firewall"];

/// A stage whose plugins say they are of this collection and find nothing missing.
fn stage() -> Stage {
    let stage = Stage::new(&ALL);
    for plugin in ALL {
        stage.tell(plugin, &answers(plugin, &json!({})));
    }
    stage
}

/// What a plugin of ours says to `--version`, and these answers.
fn answers(plugin: &str, others: &Value) -> Value {
    let mut answers = others.clone();
    answers[""] = json!({"stdout": format!("CNI {plugin} plugin v2.0.0\nPart of cni-chain\n")});
    answers
}

/// Lets a plugin miss something.
fn miss(stage: &Stage, plugin: &str) {
    stage.tell(plugin, &answers(plugin, &json!({"CHECK": fails(100, "it is not there")})));
}

fn entries() -> Vec<Value> {
    vec![
        json!({"type": "bridge", "ipam": {}}),
        json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": false}),
        json!({"type": "bandwidth", "capabilities": {"bandwidth": true}}),
        json!({"type": "tuning"}),
        json!({"type": "firewall"}),
    ]
}

fn result(version: &str) -> Value {
    json!({"cniVersion": version, "ips": [{"address": "10.0.0.2/24"}],
        "interfaces": [{"name": "eth0", "sandbox": "/run/netns/c1"}, {"name": "bwp1"}]})
}

/// A cache file's content, for an attachment to `network` with a host port.
fn cached(network: &str, container_id: &str, port: u16) -> Value {
    cached_list(
        &json!({"cniVersion": "1.0.0", "name": network, "plugins": entries()}),
        container_id,
        port,
    )
}

fn cached_list(list: &Value, container_id: &str, port: u16) -> Value {
    json!({
        "kind": "cniCacheV1", "containerId": container_id, "ifName": "eth0",
        "networkName": list["name"], "netns": format!("/run/netns/{container_id}"),
        "config": BASE64.encode(list.to_string()),
        "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAME", "web"]],
        "capabilityArgs": {
            "portMappings": [{"HostPort": port, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}],
            "undeclared": true},
        "result": result("1.0.0"),
    })
}

/// Remembers an attachment whose ADD ended so many seconds after the epoch.
fn remember(stage: &Stage, name: &str, content: &Value, seconds: u64) {
    let path = stage.remember(name, &content.to_string());
    let file = File::options().write(true).open(path).expect("the file");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    file.set_modified(time).expect("a time");
}

fn restorer(stage: &Stage) -> Restorer {
    let mut restorer = Restorer::new(stage.runner());
    restorer.look = |conf, _, _| Presence::There(conf.netns.clone());
    restorer.grace = Duration::ZERO;
    restorer
}

/// The lines of a round, and its summary.
fn run(restorer: &Restorer) -> (Vec<String>, Summary) {
    let mut lines = Vec::new();
    let summary = restorer.run(|report| lines.push(report.to_string())).expect("a cache");
    (lines, summary)
}

/// Calls with a command, as `PLUGIN COMMAND CONTAINER`.
fn calls(stage: &Stage) -> Vec<String> {
    let of_containers = |call: &Call| {
        (!call.command.is_empty())
            .then(|| format!("{} {} {}", call.plugin, call.command, call.env["CNI_CONTAINERID"]))
    };
    stage.calls().iter().filter_map(of_containers).collect()
}

fn the_call(stage: &Stage, plugin: &str, command: &str) -> Call {
    let mut calls = stage.calls();
    calls.retain(|call| call.plugin == plugin && call.command == command);
    assert_eq!(calls.len(), 1, "{plugin} {command}");
    calls.remove(0)
}

#[test]
fn only_what_check_misses_is_added_again_in_the_chains_order() {
    let stage = stage();
    remember(&stage, "net-c1-eth0", &cached("net", "c1", 8080), 1);
    miss(&stage, "portmap");
    miss(&stage, "firewall");
    let (lines, summary) = run(&restorer(&stage));
    assert_eq!(lines, ["net/c1/eth0: restored portmap, firewall"]);
    assert_eq!(summary.to_string(), "attachments: 1 restored");
    assert_eq!(summary.failed(), 0);
    assert_eq!(
        calls(&stage),
        [
            "portmap CHECK c1",
            "portmap ADD c1",
            "bandwidth CHECK c1",
            "firewall CHECK c1",
            "firewall ADD c1",
        ]
    );
}

#[test]
fn add_gets_what_libcni_would_give_it() {
    let stage = stage();
    remember(&stage, "net-c1-eth0", &cached("net", "c1", 8080), 1);
    miss(&stage, "portmap");
    miss(&stage, "firewall");
    run(&restorer(&stage));

    let add = the_call(&stage, "portmap", "ADD");
    assert_eq!(
        add.stdin(),
        json!({
            "type": "portmap", "capabilities": {"portMappings": true}, "snat": false,
            "name": "net", "cniVersion": "1.0.0", "prevResult": result("1.0.0"),
            "runtimeConfig": {"portMappings":
                [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]},
            // Nobody in the cache has that port: whoever has it must keep it.
            "onConflict": "fail",
        })
    );
    for (name, value) in [
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web"),
        ("CNI_PATH", stage.plugin_dir().to_str().expect("UTF-8")),
    ] {
        assert_eq!(add.env[name], value, "{name}");
    }
    assert_eq!(
        the_call(&stage, "firewall", "ADD").stdin(),
        json!({"type": "firewall", "name": "net", "cniVersion": "1.0.0",
            "prevResult": result("1.0.0")})
    );
    let check = the_call(&stage, "portmap", "CHECK").stdin();
    assert_eq!(check.get("onConflict"), None);
    assert_eq!(check["prevResult"], result("1.0.0"));
}

#[test]
fn a_sound_node_is_only_looked_at_and_the_cache_stays() {
    let stage = stage();
    remember(&stage, "net-c1-eth0", &cached("net", "c1", 8080), 1);
    let path = stage.cache_dir().join("results/net-c1-eth0");
    let before = (fs::read(&path).expect("a file"), fs::metadata(&path).expect("it").modified());
    let (lines, summary) = run(&restorer(&stage));
    assert_eq!(lines, ["net/c1/eth0: nothing missing"]);
    assert_eq!(summary.to_string(), "attachments: 1 with nothing missing");
    assert!(!summary.is_news());
    assert_eq!(calls(&stage), ["portmap CHECK c1", "bandwidth CHECK c1", "firewall CHECK c1"]);
    miss(&stage, "portmap");
    stage.tell(
        "portmap",
        &answers(
            "portmap",
            &json!({"CHECK": fails(100, "gone"),
        "ADD": says(&json!({"cniVersion": "1.0.0", "ips": []}))}),
        ),
    );
    assert_eq!(run(&restorer(&stage)).0, ["net/c1/eth0: restored portmap"]);
    let after = (fs::read(&path).expect("a file"), fs::metadata(&path).expect("it").modified());
    assert_eq!(before.0, after.0);
    assert_eq!(before.1.expect("a time"), after.1.expect("a time"));
    assert_eq!(stage.remembered(), ["net-c1-eth0"]);
}

#[test]
fn the_oldest_attachment_comes_first() {
    let stage = stage();
    for (id, port) in [("c1", 30), ("c2", 10), ("c3", 20)] {
        remember(&stage, &format!("net-{id}-eth0"), &cached("net", id, port), port.into());
    }
    miss(&stage, "portmap");
    let (lines, _) = run(&restorer(&stage));
    assert_eq!(lines, ["c2", "c3", "c1"].map(|id| format!("net/{id}/eth0: restored portmap")));
}

#[test]
fn a_port_stays_with_its_newest_owner() {
    let stage = stage();
    remember(&stage, "net-new-eth0", &cached("net", "new", 8080), 20);
    remember(&stage, "net-old-eth0", &cached("net", "old", 8080), 10);
    remember(
        &stage,
        "net-mid-eth0",
        &{
            let mut two = cached("net", "mid", 8080);
            let other = json!({"HostPort": 8081, "ContainerPort": 81, "Protocol": "tcp"});
            two["capabilityArgs"]["portMappings"].as_array_mut().expect("a list").push(other);
            two
        },
        15,
    );
    miss(&stage, "portmap");
    let only_portmap =
        Restorer { parts: vec![Part::Plugin(MetaPlugin::Portmap)], ..restorer(&stage) };
    let (lines, _) = run(&only_portmap);
    assert_eq!(
        lines,
        [
            "net/new/eth0: restored portmap",
            "net/mid/eth0: restored portmap; host port 8080/tcp is net/new/eth0's, which is newer",
            "net/old/eth0: restored portmap; host port 8080/tcp is net/new/eth0's, which is newer",
        ]
    );
    let ports = |mappings: &Value| -> Vec<u64> {
        let port = |mapping: &Value| mapping.get("hostPort").or(mapping.get("HostPort"))?.as_u64();
        mappings.as_array().expect("a list").iter().filter_map(port).collect()
    };
    let adds: Vec<(String, Vec<u64>, Value)> = stage
        .calls()
        .iter()
        .filter(|call| call.command == "ADD")
        .map(|call| {
            let stdin = call.stdin();
            let asked = ports(&stdin["runtimeConfig"]["portMappings"]);
            (call.env["CNI_CONTAINERID"].clone(), asked, stdin["onConflict"].clone())
        })
        .collect();
    let add =
        |id: &str, ports: &[u64], on_conflict: Value| (id.to_owned(), ports.to_vec(), on_conflict);
    assert_eq!(
        adds,
        [
            // What nobody newer wants, and then the rest, for which it waits.
            add("new", &[8080], json!("fail")),
            add("mid", &[8081], json!("fail")),
            add("mid", &[8080, 8081], json!("wait")),
            add("old", &[8080], json!("wait")),
        ]
    );
}

/// CHECK says that nothing is wrong but that somebody else has the port.
#[test]
fn who_waits_already_is_left_alone() {
    let stage = stage();
    let mut old = cached("net", "old", 8080);
    let other = json!({"HostPort": 9090, "ContainerPort": 80, "Protocol": "tcp"});
    old["capabilityArgs"]["portMappings"].as_array_mut().expect("a list").push(other);
    remember(&stage, "net-old-eth0", &old, 1);
    remember(&stage, "net-new-eth0", &cached("net", "new", 8080), 2);
    // Of the other port nobody newer is known.
    for (held, outcome) in [(8080, "nothing missing"), (9090, "restored portmap")] {
        let mapping = format!("*:{held}/tcp -> 10.0.0.2:80");
        let error = json!({"code": 102, "msg": format!("host port mapping {mapping} is not served"),
            "details": format!("held: {mapping} by net/new/eth0")});
        let error = json!({"stdout": error.to_string(), "exit": 1});
        stage.tell("portmap", &answers("portmap", &json!({"CHECK": error})));
        let theirs = "host port 8080/tcp is net/new/eth0's, which is newer";
        assert_eq!(
            run(&restorer(&stage)).0,
            [
                "net/new/eth0: restored portmap".to_owned(),
                format!("net/old/eth0: {outcome}; {theirs}")
            ]
        );
    }
}

fn only_old(conf: &RuntimeConf, result: &CniResult, _: &NamedNamespaces) -> Presence {
    assert_eq!(result.ips.len(), 1);
    match conf.container_id.as_str() {
        "old" => Presence::There(conf.netns.clone()),
        _ => Presence::Gone("it left".to_owned()),
    }
}

#[test]
fn a_container_that_is_gone_owns_no_port_and_gets_nothing() {
    let stage = stage();
    remember(&stage, "net-new-eth0", &cached("net", "new", 8080), 20);
    remember(&stage, "net-old-eth0", &cached("net", "old", 8080), 10);
    miss(&stage, "portmap");
    let mut restorer = restorer(&stage);
    restorer.look = only_old;
    let (lines, summary) = run(&restorer);
    assert_eq!(
        lines,
        [
            "net/old/eth0: restored portmap",
            "net/new/eth0: gone: it left; unless its runtime cleans up, \
             `cni-chain del net \"\" --container-id new --ifname eth0` does",
        ]
    );
    assert_eq!(summary.to_string(), "attachments: 1 restored, 1 gone");
    assert!(calls(&stage).iter().all(|call| call.ends_with(" old")));
}

#[test]
fn the_namespace_is_where_it_was_found() {
    let stage = stage();
    let mut content = cached("net", "c1", 8080);
    content.as_object_mut().expect("an object").remove("netns");
    remember(&stage, "net-c1-eth0", &content, 1);
    miss(&stage, "firewall");
    let mut restorer = restorer(&stage);
    restorer.look = |_, _, _| Presence::There("/run/netns/found".to_owned());
    run(&restorer);
    assert_eq!(the_call(&stage, "firewall", "ADD").env["CNI_NETNS"], "/run/netns/found");
}

#[test]
fn lists_older_than_check_are_checked_all_the_same() {
    for (version, prev) in [
        (
            Some("0.3.1"),
            json!({"cniVersion": "0.3.1", "interfaces": result("1.0.0")["interfaces"],
            "ips": [{"version": "4", "address": "10.0.0.2/24"}], "dns": {}}),
        ),
        (None, json!({"cniVersion": "0.1.0", "ip4": {"ip": "10.0.0.2/24"}, "dns": {}})),
    ] {
        let stage = stage();
        let mut list = json!({"name": "net", "plugins": entries()});
        if let Some(version) = version {
            list["cniVersion"] = json!(version);
        }
        remember(&stage, "net-c1-eth0", &cached_list(&list, "c1", 1), 1);
        miss(&stage, "firewall");
        assert_eq!(run(&restorer(&stage)).0, ["net/c1/eth0: restored firewall"]);
        let check = the_call(&stage, "firewall", "CHECK").stdin();
        assert_eq!(check["cniVersion"], "0.4.0");
        assert_eq!(check["prevResult"]["cniVersion"], "0.4.0");
        let add = the_call(&stage, "firewall", "ADD").stdin();
        assert_eq!(add["cniVersion"], version.unwrap_or_default());
        assert_eq!(add["prevResult"], prev);
    }
}

#[test]
fn other_peoples_plugins_are_left_alone() {
    let stage = stage();
    remember(&stage, "net-c1-eth0", &cached("net", "c1", 8080), 1);
    for plugin in ["portmap", "bandwidth", "firewall"] {
        miss(&stage, plugin);
    }
    // As the Go plugin, which takes no arguments; as another one of the same version; and a name
    // that does not fit.
    let banner = "CNI portmap plugin v1.9.1\nCNI protocol versions supported: 1.0.0\n";
    stage.tell("portmap", &json!({"": {"stderr": banner}, "CHECK": fails(100, "x")}));
    let version = "CNI bandwidth plugin v2.0.0\n";
    stage.tell("bandwidth", &json!({"": {"stdout": version}, "CHECK": fails(100, "x")}));
    stage.tell("firewall", &answers("portmap", &json!({"CHECK": fails(100, "x")})));
    let (lines, summary) = run(&restorer(&stage));
    assert_eq!(lines.len(), 1);
    for plugin in ["portmap", "bandwidth", "firewall"] {
        let path = stage.plugin_dir().join(plugin);
        let text = format!("{plugin} skipped: {} is not cni-chain's", path.display());
        assert!(lines[0].contains(&text), "{lines:?}");
    }
    assert_eq!(summary.to_string(), "attachments: 1 skipped");
    assert_eq!(calls(&stage), Vec::<String>::new());
}

#[test]
fn each_binary_is_asked_once_what_it_is() {
    let stage = stage();
    for id in ["c1", "c2"] {
        remember(&stage, &format!("net-{id}-eth0"), &cached("net", id, 8080), 1);
    }
    run(&restorer(&stage));
    let asked = stage.calls().iter().filter(|call| call.command.is_empty()).count();
    assert_eq!(asked, 3, "portmap, bandwidth, firewall; not bridge, not tuning");
}

#[test]
fn a_plugin_under_a_name_of_its_own() {
    let stage = Stage::new(&["buildkit-cni-firewall"]);
    let instructions = answers("firewall", &json!({"CHECK": fails(100, "x")}));
    stage.tell("buildkit-cni-firewall", &instructions);
    let list = json!({"cniVersion": "1.0.0", "name": "buildkit",
        "plugins": [{"type": "bridge"}, {"type": "buildkit-cni-firewall"}]});
    remember(&stage, "buildkit-c1-eth0", &cached_list(&list, "c1", 1), 1);
    assert_eq!(run(&restorer(&stage)).0, ["buildkit/c1/eth0: restored firewall"]);
}

#[test]
fn one_failure_does_not_stop_the_rest() {
    let stage = stage();
    remember(&stage, "net-c1-eth0", &cached("net", "c1", 8080), 1);
    remember(&stage, "net-c2-eth0", &cached("net", "c2", 8081), 2);
    miss(&stage, "firewall");
    let error = json!({"code": 11, "msg": "start firewalld", "details": "no answer"}).to_string();
    stage.tell(
        "portmap",
        &answers(
            "portmap",
            &json!({"CHECK": fails(100, "x"),
        "ADD": {"stdout": error, "exit": 1}}),
        ),
    );
    fs::remove_file(stage.plugin_dir().join("bandwidth")).expect("a link");
    let (lines, summary) = run(&restorer(&stage));
    assert_eq!(lines.len(), 2);
    for (line, id) in lines.iter().zip(["c1", "c2"]) {
        let start = format!(
            "net/{id}/eth0: restored firewall; portmap failed: start firewalld; no answer; bandwidth \
             failed: failed to find plugin \"bandwidth\" in path ["
        );
        assert!(line.starts_with(&start) && line.ends_with("with --plugin-dir"), "{line}");
    }
    assert_eq!((summary.failed(), summary.to_string().as_str()), (2, "attachments: 2 failed"));
}

#[test]
fn a_port_of_somebody_unknown_is_not_taken() {
    let stage = stage();
    remember(&stage, "net-c1-eth0", &cached("net", "c1", 8080), 1);
    let msg = "host port mapping *:8080/tcp -> 10.0.0.9:80 belongs to attachment x/y/eth0: delete \
               that attachment, choose another host port, or remove \"onConflict\": \"fail\"";
    stage.tell(
        "portmap",
        &answers(
            "portmap",
            &json!({"CHECK": fails(100, "x"),
        "ADD": fails(102, msg)}),
        ),
    );
    let failed = "net/c1/eth0: portmap failed: host port mapping *:8080/tcp -> 10.0.0.9:80 belongs to \
                  attachment x/y/eth0, which the cache knows nothing of, and stays there: if that \
                  container is gone, `cni-chain purge --container-id y` removes what it has";
    let (lines, summary) = run(&restorer(&stage));
    assert_eq!(lines, [failed]);
    assert_eq!(summary.failed(), 1);
    // Nor where somebody older wants it as well, unless it is that one who has it.
    let adds = |stage: &Stage| -> Vec<Value> {
        let adds = stage
            .calls()
            .into_iter()
            .filter(|call| call.command == "ADD" && call.env["CNI_CONTAINERID"] == "c1");
        adds.map(|call| call.stdin()["onConflict"].clone()).collect()
    };
    remember(&stage, "net-c0-eth0", &cached("net", "c0", 8080), 0);
    assert_eq!(run(&restorer(&stage)).0[0], failed);
    assert_eq!(adds(&stage), ["fail", "fail"]);
    remember(&stage, "x-y-eth0", &cached("x", "y", 8080), 0);
    run(&restorer(&stage));
    assert_eq!(adds(&stage), ["fail", "fail", "fail", "replace"]);
}

#[test]
fn files_that_cannot_be_used_are_named_and_the_rest_goes_on() {
    let stage = stage();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut content = cached("net", "bad", 1);
        change(&mut content);
        content.to_string()
    };
    let unknown_version = json!({"cniVersion": "9.9.9", "name": "net", "plugins": entries()});
    for (name, content, reason) in [
        ("net-a-eth0", "{".to_owned(), "results/net-a-eth0: "),
        ("net-b-eth0", String::new(), "results/net-b-eth0: "),
        ("net-c-eth0", with(&|v| v["config"] = json!("?")), "config is no base64"),
        ("net-d-eth0", with(&|v| v["config"] = json!("")), "error parsing configuration list"),
        ("net-e-eth0", with(&|v| v["containerId"] = json!("")), "containerId is missing"),
        ("net-f-eth0", with(&|v| v["result"] = Value::Null), "it holds no result of ADD"),
        ("net-g-eth0", with(&|v| v["result"]["cniVersion"] = json!("7.0.0")), "7.0.0"),
        (
            "net-h-eth0",
            with(&|v| v["config"] = json!(BASE64.encode(unknown_version.to_string()))),
            "cniVersion \"9.9.9\" is none that plugins know",
        ),
    ] {
        let path = stage.remember(name, &content);
        remember(&stage, "net-c1-eth0", &cached("net", "c1", 8080), 1);
        let (mut lines, summary) = run(&restorer(&stage));
        lines.retain(|line| line != "net/c1/eth0: nothing missing");
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("failed: ") && lines[0].contains(reason), "{lines:?}");
        assert_eq!(summary.to_string(), "attachments: 1 failed, 1 with nothing missing", "{name}");
        fs::remove_file(path).expect("a file");
    }
}

#[test]
fn files_of_other_kinds_are_no_failures() {
    let stage = stage();
    stage.remember("net-a-eth0", &result("1.0.0").to_string());
    stage.remember(".draft", "{");
    fs::create_dir(stage.cache_dir().join("results/dir")).expect("a directory");
    let single = json!({"cniVersion": "1.0.0", "name": "single", "type": "macvlan"});
    remember(&stage, "single-c-eth0", &cached_list(&single, "c", 1), 2);
    let loopback = json!({"cniVersion": "0.3.1", "name": "cni-loopback",
        "plugins": [{"type": "loopback"}]});
    remember(&stage, "cni-loopback-c-lo", &cached_list(&loopback, "c", 1), 1);
    let (mut lines, summary) = run(&restorer(&stage));
    lines.sort();
    let path = stage.cache_dir().join("results/net-a-eth0");
    assert_eq!(
        lines,
        [
            format!(
                "{}: skipped: it is no attachment in libcni's present format; recreate its container",
                path.display()
            ),
            "cni-loopback/c/eth0: none of the plugins to restore".to_owned(),
            "single/c/eth0: none of the plugins to restore".to_owned(),
        ]
    );
    assert_eq!(summary.to_string(), "attachments: 1 skipped, 2 with none of the plugins");
    assert_eq!(summary.failed(), 0);
}

#[test]
fn only_what_is_asked_for() {
    let stage = stage();
    for (network, id, port) in [("net", "c1", 1), ("net", "c2", 2), ("lan", "c1", 3)] {
        remember(&stage, &format!("{network}-{id}-eth0"), &cached(network, id, port), port.into());
    }
    stage.remember("lan-bad-eth0", "{");
    for plugin in ALL {
        miss(&stage, plugin);
    }
    let asked = |restorer: Restorer| {
        stage.forget_calls();
        let (lines, _) = run(&restorer);
        let mut names: Vec<String> =
            lines.iter().map(|line| line.split_once(": ").expect("a name").0.to_owned()).collect();
        names.retain(|name| !name.ends_with("lan-bad-eth0"));
        (names, lines.len())
    };
    let by_network = Restorer { network: Some("net".into()), ..restorer(&stage) };
    assert_eq!(asked(by_network), (vec!["net/c1/eth0".into(), "net/c2/eth0".into()], 2));
    let by_container = Restorer { container_id: Some("c1".into()), ..restorer(&stage) };
    assert_eq!(asked(by_container), (vec!["net/c1/eth0".into(), "lan/c1/eth0".into()], 2));
    let by_both = Restorer {
        network: Some("lan".into()),
        container_id: Some("bad".into()),
        ..restorer(&stage)
    };
    assert_eq!(asked(by_both), (vec![], 1), "the file that cannot be read may be the one meant");

    let mut only = Restorer { container_id: Some("c2".into()), ..restorer(&stage) };
    only.parts = [MetaPlugin::Tuning, MetaPlugin::Bandwidth].map(Part::Plugin).to_vec();
    asked(only);
    assert_eq!(
        calls(&stage),
        ["bandwidth CHECK c2", "bandwidth ADD c2", "tuning CHECK c2", "tuning ADD c2"]
    );
}

#[test]
fn what_is_not_asked_for_owns_its_port_all_the_same() {
    let stage = stage();
    remember(&stage, "net-old-eth0", &cached("net", "old", 8080), 1);
    remember(&stage, "lan-new-eth0", &cached("lan", "new", 8080), 2);
    miss(&stage, "portmap");
    let restorer = Restorer { network: Some("net".into()), ..restorer(&stage) };
    assert_eq!(
        run(&restorer).0,
        ["net/old/eth0: nothing missing; host port 8080/tcp is lan/new/eth0's, which is newer"]
    );
}

#[test]
fn a_dry_run_asks_and_adds_nothing() {
    let stage = stage();
    remember(&stage, "net-c1-eth0", &cached("net", "c1", 8080), 1);
    miss(&stage, "portmap");
    miss(&stage, "bandwidth");
    let (lines, summary) = run(&Restorer { dry_run: true, ..restorer(&stage) });
    assert_eq!(
        lines,
        ["net/c1/eth0: would restore portmap, bandwidth\n    portmap: it is not there\n    \
          bandwidth: it is not there"]
    );
    assert_eq!(summary.to_string(), "attachments: 1 to restore");
    assert_eq!(
        calls(&stage),
        ["portmap CHECK c1", "bandwidth CHECK c1", "tuning CHECK c1", "firewall CHECK c1"]
    );
}

#[test]
fn a_dry_run_tells_what_only_an_option_restores() {
    let stage = stage();
    remember(&stage, "net-c1-eth0", &cached("net", "c1", 8080), 1);
    miss(&stage, "tuning");
    let (lines, summary) = run(&Restorer { dry_run: true, ..restorer(&stage) });
    assert_eq!(
        lines,
        [
            "net/c1/eth0: nothing missing\n    tuning: it is not there\n        left alone; `cni-chain \
          restore --plugin tuning` sets it again"
        ]
    );
    assert_eq!(summary.to_string(), "attachments: 1 with nothing missing");
    assert!(run(&restorer(&stage)).0 == ["net/c1/eth0: nothing missing"], "and no other run asks");
    let dry = Restorer {
        dry_run: true,
        parts: vec![Part::Plugin(MetaPlugin::Portmap)],
        ..restorer(&stage)
    };
    assert_eq!(run(&dry).0, ["net/c1/eth0: nothing missing"]);
}

#[test]
fn advice_to_run_what_runs_is_left_out() {
    let stage = stage();
    remember(&stage, "net-c1-eth0", &cached("net", "c1", 8080), 1);
    let found = "2 mappings are missing: element { a } is missing from map m (and 1 more); run \
                 cni-chain restore to put them back";
    let details = "element { b } is missing from map m";
    let error = json!({"code": 100, "msg": found, "details": details}).to_string();
    stage.tell("portmap", &answers("portmap", &json!({"CHECK": {"stdout": error, "exit": 1}})));
    let (lines, _) = run(&Restorer { dry_run: true, ..restorer(&stage) });
    assert_eq!(
        lines,
        [
            "net/c1/eth0: would restore portmap\n    portmap: 2 mappings are missing\n        missing \
          from map m: a, b"
        ]
    );
}

#[test]
fn what_a_runtime_deletes_meanwhile_is_taken_back() {
    let stage = stage();
    remember(&stage, "net-c1-eth0", &cached("net", "c1", 8080), 1);
    miss(&stage, "portmap");
    miss(&stage, "firewall");
    let path = stage.cache_dir().join("results/net-c1-eth0");
    let mut lines = Vec::new();
    let summary = restorer(&stage).run(|report| {
        lines.push(report.to_string());
        // DEL ends right after ADD.
        let _ = fs::remove_file(&path);
    });
    assert_eq!(
        lines,
        [
            "net/c1/eth0: restored portmap, firewall",
            "net/c1/eth0: deleted meanwhile; removed again: portmap, firewall",
        ]
    );
    assert_eq!(summary.expect("a cache").failed(), 0);
    assert_eq!(calls(&stage)[5..], ["firewall DEL c1", "portmap DEL c1"]);
    let del = the_call(&stage, "portmap", "DEL").stdin();
    assert_eq!(del["prevResult"], result("1.0.0"));
}

#[test]
fn what_is_added_again_meanwhile_is_left_to_its_own_add() {
    let stage = stage();
    remember(&stage, "net-c1-eth0", &cached("net", "c1", 8080), 1);
    miss(&stage, "portmap");
    restorer(&stage)
        .run(|_| remember(&stage, "net-c1-eth0", &cached("net", "c1", 8080), 2))
        .expect("a cache");
    assert!(!calls(&stage).iter().any(|call| call.contains("DEL")), "{:?}", calls(&stage));
}

#[test]
fn what_is_deleted_before_its_turn_is_not_added() {
    let stage = stage();
    remember(&stage, "net-c1-eth0", &cached("net", "c1", 8080), 1);
    remember(&stage, "net-c2-eth0", &cached("net", "c2", 8081), 2);
    miss(&stage, "portmap");
    let path = stage.cache_dir().join("results/net-c2-eth0");
    let mut lines = Vec::new();
    restorer(&stage)
        .run(|report| {
            lines.push(report.to_string());
            let _ = fs::remove_file(&path);
        })
        .expect("a cache");
    assert_eq!(
        lines,
        [
            "net/c1/eth0: restored portmap",
            "net/c2/eth0: portmap skipped: it was deleted or added again meanwhile",
        ]
    );
    assert!(!calls(&stage).contains(&"portmap ADD c2".to_owned()));
}

#[test]
fn the_command_says_what_it_did_by_lines_and_status() {
    let stage = stage();
    let restore = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cni-chain"));
        command.arg("restore").args(arguments).env("CNI_PATH", stage.plugin_dir());
        let output = command.arg("--cache-dir").arg(stage.cache_dir()).output().expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let nothing = (Some(0), "no attachments\n".to_owned(), String::new());
    assert_eq!(restore(&[]), nothing, "no cache at all");

    // Its namespace is nowhere.
    remember(&stage, "net-no-such-container-eth0", &cached("net", "no-such-container", 1), 1);
    let gone = "net/no-such-container/eth0: gone: there is no network namespace at \
                /run/netns/no-such-container; unless its runtime cleans up, `cni-chain del net \"\" \
                --container-id no-such-container --ifname eth0` does\nattachments: 1 gone\n";
    assert_eq!(restore(&[]), (Some(0), gone.to_owned(), String::new()));
    assert_eq!(restore(&["--quiet"]), (Some(0), String::new(), String::new()));

    let bad = stage.remember("net-bad-eth0", "{");
    let (status, stdout, stderr) = restore(&["-q"]);
    assert_eq!(status, Some(1));
    assert!(stdout.starts_with(&format!("{}: failed: ", bad.display())), "{stdout}");
    assert!(stdout.ends_with("attachments: 1 failed, 1 gone\n"), "{stdout}");
    assert_eq!(stderr, "cni-chain: 1 attachment could not be restored; its line says why\n");

    fs::remove_file(&bad).expect("a file");
    assert_eq!(restore(&["-q", "--exit-code"]).0, Some(0), "nothing is missing");

    let (status, _, stderr) = restore(&["--plugin", "bridge"]);
    assert_eq!(status, Some(2));
    assert!(stderr.contains("portmap, bandwidth, tuning, firewall"), "{stderr}");
}
