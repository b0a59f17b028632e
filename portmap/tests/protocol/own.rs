//! What portmap alone has of the protocol; the numbers are those of the conformance list.

use cni_testbox::{Subject, TestBox, cases};
use serde_json::json;

use crate::SAMPLE;

cases! {
    ps30_what_a_runtime_gives_to_others, ours;
    ps49_ps72_old_results_and_gos_key_spelling_are_mapped, ours;
    ps68_the_plugins_own_namespace_can_be_meant, ours;
}

fn ps30_what_a_runtime_gives_to_others(b: &TestBox) {
    let s = Subject::new(b, &SAMPLE);
    let stdin = s.config(&json!({
        "capabilities": {"snat": true, "portMappings": true},
        "runtimeConfig": {"portMappings": null, "bandwidth": {"IngressRate": 1}, "other": 5}
    }));
    s.call("ADD", stdin).run(b).expect_result();
}

/// The elements of portmap's map `name`, or nothing where there is no such map.
fn elements(b: &TestBox, name: &str) -> String {
    let ruleset = b.nft_list_all();
    let map = ruleset.split(&format!("map {name} {{")).nth(1).unwrap_or_default();
    map.split('}').take(2).collect()
}

fn ps49_ps72_old_results_and_gos_key_spelling_are_mapped(b: &TestBox) {
    let s = Subject::new(b, &SAMPLE);
    let previous = json!({
        "cniVersion": "0.2.0",
        "ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1",
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}]},
        "ip6": {"ip": "fd00::2/64"},
        "dns": {"nameservers": ["10.0.0.1"], "search": ["example"]}
    });
    let mapping = json!([{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]);
    let stdin = s.config(&json!({
        "cniVersion": "0.2.0",
        "prevResult": previous,
        "RuntimeConfig": {"PortMappings": mapping}
    }));
    assert_eq!(s.call("ADD", stdin.clone()).run(b).expect_result(), previous);
    assert!(elements(b, "by_port4").contains("tcp . 8080"), "{}", b.ruleset());
    assert!(elements(b, "by_port4").contains("10.0.0.2 . 80"), "{}", b.ruleset());
    assert!(elements(b, "by_port6").contains("fd00::2 . 80"), "{}", b.ruleset());
    s.call("DEL", stdin).run(b).expect_silence();
    assert!(!b.ruleset().contains("8080"));
}

fn ps68_the_plugins_own_namespace_can_be_meant(b: &TestBox) {
    let s = Subject::new(b, &SAMPLE);
    let good = || s.working(&json!({}));
    let own = |command| s.call(command, good()).env("CNI_NETNS", "/proc/self/ns/net");
    for overriding in ["1", "true", "TRUE"] {
        own("ADD").env("CNI_NETNS_OVERRIDE", overriding).run(b).expect_result();
        own("CHECK").run(b).expect_silence();
        own("DEL").env("CNI_NETNS_OVERRIDE", overriding).run(b).expect_silence();
    }
    // DEL releases the host's side even where it is refused.
    s.call("ADD", good()).run(b).expect_result();
    own("DEL").run(b).expect_refusal();
    assert!(!b.ruleset().contains("net/c1/eth0"));
}
