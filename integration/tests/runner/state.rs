//! DEL, CHECK, GC and STATUS, and the cache between them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cni_chain::{NetworkList, RuntimeConf, ValidAttachment};
use cni_testbox::spy::Call;
use serde_json::{Value, json};

use crate::spies::{Stage, conf, fails, list, object, parse, says};

const FILE: &str = "net-c1-eth0";

fn result() -> Value {
    json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/c1"}],
        "ips": [{"address": "10.0.0.2/24", "interface": 0}]})
}

fn cached(network: &str, container_id: &str, ifname: &str) -> Value {
    json!({"kind": "cniCacheV1", "containerId": container_id, "config": BASE64.encode("{}"),
        "ifName": ifname, "networkName": network, "result": result()})
}

fn prev_results(calls: &[Call]) -> Vec<Value> {
    calls.iter().map(|call| call.stdin()["prevResult"].clone()).collect()
}

#[test]
fn rs40_what_is_remembered() {
    let stage = Stage::new(&["a"]);
    stage.tell("a", &json!({"ADD": says(&result())}));
    let text = r#"{ "name":"net", "cniVersion":"1.0.0",  "plugins":[{"type":"a"}] }"#;
    let list = NetworkList::from_bytes(text.as_bytes()).expect("valid");
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let capability_args = json!({"portMappings": [{"HostPort": 8080, "ContainerPort": 80}],
        "undeclared": {"big": u64::MAX}});
    let conf = RuntimeConf {
        args: vec![pair("K8S_POD_NAME", "web"), pair("IgnoreUnknown", "1")],
        capability_args: object(&capability_args),
        ..conf()
    };
    stage.runner().add(&list, &conf).expect("added");

    assert_eq!(stage.remembered(), [FILE], "and no draft");
    let results = stage.cache_dir().join("results");
    let mode = |path: &std::path::Path| {
        fs::metadata(path).expect("it exists").permissions().mode() & 0o7777
    };
    assert_eq!((mode(&results), mode(&results.join(FILE))), (0o700, 0o600));
    let content: Value =
        serde_json::from_slice(&fs::read(results.join(FILE)).expect("the file")).expect("JSON");
    assert_eq!(
        content,
        json!({
            "kind": "cniCacheV1", "containerId": "c1", "ifName": "eth0", "networkName": "net",
            "netns": "/run/netns/c1", "config": BASE64.encode(text),
            "cniArgs": [["K8S_POD_NAME", "web"], ["IgnoreUnknown", "1"]],
            "capabilityArgs": capability_args, "result": result(),
        })
    );
    let found = stage.runner().cache().attachment("net", &conf).expect("readable").expect("there");
    assert_eq!(found.conf, conf);
    assert_eq!(found.config, text.as_bytes());
}

#[test]
fn rs40_empty_parts_are_left_out_and_a_name_needs_all_three() {
    let stage = Stage::new(&["a"]);
    stage.tell("a", &json!({"ADD": says(&result())}));
    let list = list("1.0.0", &["a"]);
    let conf = RuntimeConf { netns: String::new(), ..conf() };
    stage.runner().add(&list, &conf).expect("added");
    let text = fs::read(stage.cache_dir().join("results").join(FILE)).expect("the file");
    let content: Value = serde_json::from_slice(&text).expect("JSON");
    for key in ["netns", "cniArgs", "capabilityArgs"] {
        assert_eq!(content.get(key), None, "{key}");
    }
    for conf in [
        RuntimeConf { container_id: String::new(), ..conf.clone() },
        RuntimeConf { ifname: "../../x".into(), ..conf.clone() },
    ] {
        let error = stage.runner().check(&list, &conf).expect_err("no file name").to_string();
        assert!(error.contains("cache file path requires network name"), "{error}");
        assert!(stage.runner().del(&list, &conf).is_ok(), "DEL needs no cache");
    }
}

#[test]
fn rs40_a_second_add_replaces_the_first() {
    let stage = Stage::new(&["a"]);
    let list = list("1.0.0", &["a"]);
    stage.runner().add(&list, &conf()).expect("added");
    stage.tell("a", &json!({"ADD": says(&result())}));
    stage.runner().add(&list, &conf()).expect("added again");
    assert_eq!(stage.remembered(), [FILE]);
    stage.runner().check(&list, &conf()).expect("checked");
    assert_eq!(stage.calls()[2].stdin()["prevResult"], result());
}

#[test]
fn rs41_each_attachment_has_its_own_file() {
    let stage = Stage::new(&["a"]);
    let (net, mut other) = (list("1.0.0", &["a"]), list("1.0.0", &["a"]));
    other.name = "other".into();
    let eth1 = RuntimeConf { ifname: "eth1".into(), ..conf() };
    for (list, conf) in [(&net, &conf()), (&net, &eth1), (&other, &conf())] {
        stage.runner().add(list, conf).expect("added");
    }
    assert_eq!(stage.remembered(), ["net-c1-eth0", "net-c1-eth1", "other-c1-eth0"]);
    stage.runner().del(&net, &eth1).expect("deleted");
    assert_eq!(stage.remembered(), ["net-c1-eth0", "other-c1-eth0"]);
}

#[test]
fn rs42_del_runs_in_reverse_with_the_cached_result() {
    let stage = Stage::new(&["a", "b", "c"]);
    stage.tell("c", &json!({"ADD": says(&result())}));
    let list = list("0.4.0", &["a", "b", "c"]);
    stage.runner().add(&list, &conf()).expect("added");
    stage.forget_calls();
    stage.runner().del(&list, &conf()).expect("deleted");
    assert_eq!(stage.order(), ["c DEL", "b DEL", "a DEL"]);
    let converted = json!({"cniVersion": "0.4.0", "dns": {},
        "interfaces": [{"name": "eth0", "sandbox": "/run/netns/c1"}],
        "ips": [{"version": "4", "address": "10.0.0.2/24", "interface": 0}]});
    assert_eq!(prev_results(&stage.calls()), vec![converted; 3]);
    assert!(stage.remembered().is_empty());
}

#[test]
fn rs42_del_before_0_4_0_has_no_result() {
    for version in ["", "0.2.0", "0.3.1"] {
        let stage = Stage::new(&["a"]);
        stage.runner().add(&list(version, &["a"]), &conf()).expect("added");
        stage.forget_calls();
        stage.runner().del(&list(version, &["a"]), &conf()).expect("deleted");
        assert_eq!(prev_results(&stage.calls()), [Value::Null], "{version}");
        assert!(stage.remembered().is_empty(), "{version}");
    }
    let stage = Stage::new(&["a"]);
    let error = stage.runner().del(&list("abc", &["a"]), &conf()).expect_err("no version");
    assert!(error.to_string().contains("invalid cniVersion"), "{error}");
    assert!(stage.order().is_empty());
}

#[test]
fn rs42_del_stops_at_the_first_failure_and_keeps_the_cache() {
    let stage = Stage::new(&["a", "b", "c"]);
    stage.tell("b", &json!({"DEL": fails(11, "busy")}));
    let list = list("1.0.0", &["a", "b", "c"]);
    stage.runner().add(&list, &conf()).expect("added");
    stage.forget_calls();
    let error = stage.runner().del(&list, &conf()).expect_err("b fails");
    assert_eq!(error.to_string(), r#"plugin type="b" failed (delete): busy"#);
    assert_eq!(error.code(), Some(11));
    assert_eq!(stage.order(), ["c DEL", "b DEL"]);
    assert_eq!(stage.remembered(), [FILE]);
}

#[test]
fn rs42_del_judges_no_input() {
    let stage = Stage::new(&["a"]);
    let odd = RuntimeConf { container_id: "a/b".into(), ifname: "x y".into(), ..conf() };
    stage.runner().del(&list("1.0.0", &["a"]), &odd).expect("the plugin's business");
    assert_eq!(stage.calls()[0].env["CNI_CONTAINERID"], "a/b");
}

#[test]
fn rs43_an_unusable_cache_fails_check_but_not_del() {
    let unconvertible = json!({"kind": "cniCacheV1", "containerId": "c1", "ifName": "eth0",
        "networkName": "net", "config": "", "result": {"cniVersion": "5.0.0"}})
    .to_string();
    for content in ["", "{", "[]", "garbage", r#"{"cniVersion":"5.0.0"}"#, &unconvertible] {
        let stage = Stage::new(&["a", "b"]);
        let list = list("1.0.0", &["a", "b"]);
        stage.remember(FILE, content);
        let error = stage.runner().check(&list, &conf()).expect_err(content).to_string();
        assert!(error.starts_with(r#"failed to get network "net" cached result: "#), "{error}");
        assert!(stage.order().is_empty(), "{content}");
        stage.runner().del(&list, &conf()).expect(content);
        assert_eq!(prev_results(&stage.calls()), [Value::Null, Value::Null], "{content}");
        assert!(stage.remembered().is_empty(), "{content}");
    }
}

#[test]
fn rs43_an_unusable_cache_is_removed_even_if_del_fails() {
    let stage = Stage::new(&["a"]);
    stage.tell("a", &json!({"DEL": fails(11, "busy")}));
    stage.remember(FILE, "garbage");
    stage.runner().del(&list("1.0.0", &["a"]), &conf()).expect_err("the plugin fails");
    assert!(stage.remembered().is_empty());
}

#[test]
fn rs43_a_fifo_is_no_cache_file_and_is_not_waited_for() {
    let (done, outcome) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let stage = Stage::new(&["a"]);
        stage.remember("net-c2-eth0", &cached("net", "c2", "eth0").to_string());
        let fifo = stage.cache_dir().join("results").join(FILE);
        let status = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo, of coreutils");
        assert!(status.success());
        let (list, cache) = (list("1.0.0", &["a"]), stage.runner().cache());
        assert_eq!(cache.attachments(None).expect("readable").len(), 1);
        let error = stage.runner().check(&list, &conf()).expect_err("a FIFO").to_string();
        assert!(error.contains(FILE) && error.contains("no regular file"), "{error}");
        stage.runner().del(&list, &conf()).expect("DEL goes without it");
        assert!(!fifo.exists());
        done.send(()).expect("the test waits");
    });
    outcome.recv_timeout(Duration::from_secs(20)).expect("it waits for a writer, or failed");
}

#[test]
fn rs44_a_bare_result_is_a_cache_file_too() {
    let stage = Stage::new(&["a"]);
    stage.remember(FILE, r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24"}}"#);
    stage.runner().check(&list("1.0.0", &["a"]), &conf()).expect("checked");
    assert_eq!(
        prev_results(&stage.calls()),
        [json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]})]
    );
    let found = stage.runner().cache().attachment("net", &conf()).expect("readable");
    assert_eq!(found, None, "it does not say what ADD was given");
}

#[test]
fn rs45_check() {
    let stage = Stage::new(&["a", "b", "c"]);
    for version in ["", "0.3.1"] {
        let error = stage.runner().check(&list(version, &["a"]), &conf()).expect_err(version);
        assert_eq!(
            error.to_string(),
            format!("configuration version {version:?} does not support the CHECK command")
        );
    }
    stage.runner().check(&list("abc", &["a"]), &conf()).expect_err("no version");
    let disabled = parse(&json!({"cniVersion": "1.0.0", "name": "net", "disableCheck": true,
        "plugins": [{"type": "a"}]}));
    stage.runner().check(&disabled, &conf()).expect("disabled");
    assert!(stage.order().is_empty());

    let three = list("1.0.0", &["a", "b", "c"]);
    stage.runner().check(&three, &conf()).expect("checked");
    assert_eq!(stage.order(), ["a CHECK", "b CHECK", "c CHECK"]);
    assert_eq!(prev_results(&stage.calls()), [Value::Null, Value::Null, Value::Null]);

    stage.forget_calls();
    stage.tell("b", &json!({"CHECK": fails(100, "gone")}));
    let error = stage.runner().check(&three, &conf()).expect_err("b fails");
    assert_eq!((error.to_string().as_str(), error.code()), ("gone", Some(100)));
    assert_eq!(stage.order(), ["a CHECK", "b CHECK"]);
}

#[test]
fn rs46_a_second_del_succeeds() {
    let stage = Stage::new(&["a"]);
    stage.tell("a", &json!({"ADD": says(&result())}));
    let list = list("1.0.0", &["a"]);
    stage.runner().add(&list, &conf()).expect("added");
    stage.runner().del(&list, &conf()).expect("deleted");
    stage.runner().del(&list, &conf()).expect("deleted again");
    assert_eq!(stage.order(), ["a ADD", "a DEL", "a DEL"]);
    assert_eq!(prev_results(&stage.calls()), [Value::Null, result(), Value::Null]);
}

#[test]
fn rs47_the_configurations_version_changed_since_add() {
    let stage = Stage::new(&["a"]);
    stage.tell("a", &json!({"ADD": says(&result())}));
    stage.runner().add(&list("1.0.0", &["a"]), &conf()).expect("added");
    stage.forget_calls();
    stage.runner().check(&list("0.4.0", &["a"]), &conf()).expect("converted");
    assert_eq!(
        prev_results(&stage.calls())[0]["ips"],
        json!([{"version": "4", "interface": 0, "address": "10.0.0.2/24"}])
    );
    let error = stage.runner().check(&list("0.5.0", &["a"]), &conf()).expect_err("no version");
    assert!(error.to_string().contains("failed to get network"), "{error}");
}

#[test]
fn rs48_gc_that_is_disabled_does_nothing() {
    let stage = Stage::new(&["a"]);
    stage.remember(FILE, &cached("net", "c1", "eth0").to_string());
    let disabled = parse(&json!({"cniVersion": "1.1.0", "name": "net", "disableGC": "true",
        "plugins": [{"type": "a"}]}));
    stage.runner().gc(&disabled, None).expect("disabled");
    assert!(stage.order().is_empty());
    assert_eq!(stage.remembered(), [FILE]);
}

#[test]
fn rs48_gc_deletes_what_is_stale_and_asks_the_plugins() {
    let stage = Stage::new(&["a", "b"]);
    let mut forgotten = cached("net", "c1", "eth0");
    forgotten["netns"] = json!("/run/netns/gone");
    forgotten["cniArgs"] = json!([["A", "1"]]);
    forgotten["capabilityArgs"] = json!({"mac": "02::1"});
    stage.remember(FILE, &forgotten.to_string());
    for name in ["net-c1-eth1", "net-c2-eth0", "other-c1-eth0"] {
        let parts: Vec<&str> = name.split('-').collect();
        stage.remember(name, &cached(parts[0], parts[1], parts[2]).to_string());
    }
    let list = parse(&json!({"cniVersion": "1.1.0", "name": "net",
        "plugins": [{"type": "a", "capabilities": {"mac": true}}, {"type": "b"}]}));
    let valid = [("c1", "eth1"), ("c2", "eth0")]
        .map(|(id, ifname)| ValidAttachment { container_id: id.into(), ifname: ifname.into() });
    stage.runner().gc(&list, Some(&valid)).expect("collected");

    assert_eq!(stage.order(), ["b DEL", "a DEL", "a GC", "b GC"]);
    assert_eq!(stage.remembered(), ["net-c1-eth1", "net-c2-eth0", "other-c1-eth0"]);
    let calls = stage.calls();
    for (name, expected) in [
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/run/netns/gone"),
        ("CNI_ARGS", "A=1"),
    ] {
        assert_eq!(calls[1].env[name], expected, "{name}");
        assert_eq!(calls[2].env[name], "", "{name}");
    }
    assert_eq!(calls[1].stdin()["runtimeConfig"], json!({"mac": "02::1"}));
    assert_eq!(calls[1].stdin()["prevResult"]["ips"], result()["ips"]);
    let attachments = json!([{"containerID": "c1", "ifname": "eth1"},
        {"containerID": "c2", "ifname": "eth0"}]);
    assert_eq!(
        calls[2].stdin(),
        json!({"type": "a", "capabilities": {"mac": true}, "name": "net", "cniVersion": "1.1.0",
            "cni.dev/valid-attachments": attachments, "cni.dev/attachments": attachments})
    );
}

#[test]
fn rs48_gc_without_a_list_of_valid_attachments() {
    let stage = Stage::new(&["a"]);
    stage.remember(FILE, &cached("net", "c1", "eth0").to_string());
    stage.runner().gc(&list("1.1.0", &["a"]), None).expect("collected");
    assert_eq!(stage.order(), ["a DEL", "a GC"], "everything is stale");
    assert_eq!(
        stage.calls()[1].stdin(),
        json!({"type": "a", "name": "net", "cniVersion": "1.1.0"}),
        "and the plugins are not told"
    );
    stage.forget_calls();
    stage.runner().gc(&list("1.1.0", &["a"]), Some(&[])).expect("collected");
    assert_eq!(stage.calls()[0].stdin()["cni.dev/valid-attachments"], json!([]));
}

#[test]
fn rs48_gc_goes_on_and_reports_everything() {
    let stage = Stage::new(&["a", "b"]);
    stage.tell("a", &json!({"DEL": fails(11, "busy"), "GC": fails(12, "also busy")}));
    stage.remember(FILE, &cached("net", "c1", "eth0").to_string());
    stage.remember("net-c2-eth0", &cached("net", "c2", "eth0").to_string());
    let error = stage.runner().gc(&list("1.1.0", &["a", "b"]), None).expect_err("a fails");
    assert_eq!(
        error.to_string(),
        "failed to delete stale attachment c1 eth0: plugin type=\"a\" failed (delete): busy\n\
         failed to delete stale attachment c2 eth0: plugin type=\"a\" failed (delete): busy\n\
         failed to GC plugin a: also busy"
    );
    assert_eq!(error.code(), Some(11));
    assert_eq!(stage.order(), ["b DEL", "a DEL", "b DEL", "a DEL", "a GC", "b GC"]);
    assert_eq!(stage.remembered(), [FILE, "net-c2-eth0"]);
}

#[test]
fn rs48_gc_before_1_1_0_only_deletes() {
    let stage = Stage::new(&["a"]);
    stage.remember(FILE, &cached("net", "c1", "eth0").to_string());
    stage.runner().gc(&list("1.0.0", &["a"]), None).expect("collected");
    assert_eq!(stage.order(), ["a DEL"]);
}

#[test]
fn rs49_status() {
    let stage = Stage::new(&["a", "b", "c"]);
    for version in ["", "1.0.0", "abc"] {
        stage.runner().status(&list(version, &["a"])).expect(version);
    }
    assert!(stage.order().is_empty());

    stage.tell("b", &json!({"STATUS": fails(50, "no backend")}));
    let list = parse(&json!({"cniVersion": "1.1.0", "name": "net",
        "plugins": [{"type": "a", "capabilities": {"mac": true}}, {"type": "b"}, {"type": "c"}]}));
    let error = stage.runner().status(&list).expect_err("b fails");
    assert_eq!((error.to_string().as_str(), error.code()), ("no backend", Some(50)));
    assert_eq!(stage.order(), ["a STATUS", "b STATUS"]);
    let call = &stage.calls()[0];
    assert_eq!(
        call.stdin(),
        json!({"type": "a", "capabilities": {"mac": true}, "name": "net", "cniVersion": "1.1.0"})
    );
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"] {
        assert_eq!(call.env[name], "", "{name}");
    }
}

#[test]
fn rs50_listing_attachments() {
    let stage = Stage::new(&[]);
    let cache = stage.runner().cache();
    assert!(cache.attachments(None).expect("no directory").is_empty());

    stage.remember("net-c1-eth0", &cached("net", "c1", "eth0").to_string());
    stage.remember("net-c1-eth1", &cached("net", "c1", "eth1").to_string());
    stage.remember("net-c2-eth0", &cached("net", "c2", "eth0").to_string());
    // One whose file name only looks like it.
    stage.remember("x-c1-y-eth0", &cached("x", "c1-y", "eth0").to_string());
    stage.remember("a-bare-result", &result().to_string());
    stage.remember("b-garbage-eth0", "{");
    stage.remember("c-other-kind", r#"{"kind":"cniCacheV2","networkName":"net","ifName":"i"}"#);
    stage.remember("d-no-ifname", &cached("net", "c9", "").to_string());
    stage.remember("e-no-network", &cached("", "c9", "eth0").to_string());
    stage.remember(".draft", &cached("net", "c9", "eth0").to_string());
    fs::create_dir(stage.cache_dir().join("results/f-a-directory")).expect("a directory");

    let listed = |id: Option<&str>| -> Vec<String> {
        let found = cache.attachments(id).expect("readable");
        found
            .iter()
            .map(|found| {
                format!("{} {} {}", found.network, found.conf.container_id, found.conf.ifname)
            })
            .collect()
    };
    assert_eq!(listed(None), ["net c1 eth0", "net c1 eth1", "net c2 eth0", "x c1-y eth0"]);
    assert_eq!(listed(Some("c1")), ["net c1 eth0", "net c1 eth1"]);
    assert!(listed(Some("c3")).is_empty());
}
