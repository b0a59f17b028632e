//! Programs of iptables that do not say all, or take their time.

use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use cni_testbox::{Network, TestBox, cases, firewall, sh, stubs};
use serde_json::json;

cases! {
    a_table_that_is_not_whole_is_no_empty_table, iptables_only;
    what_others_do_in_the_table_is_no_obstacle, iptables_only;
    a_restore_that_outlives_its_add_comes_before_del, iptables_only;
}

const SAVES: [&str; 6] = [
    "iptables-save",
    "ip6tables-save",
    "iptables-nft-save",
    "ip6tables-nft-save",
    "iptables-legacy-save",
    "ip6tables-legacy-save",
];

fn a_table_that_is_not_whole_is_no_empty_table(b: &TestBox) {
    let network = Network::dual(1);
    let (old, new) = (b.web(&network, "old"), b.web(&network, "new"));
    let isolated = json!({ "ingressPolicy": "isolated" });
    b.admit(&old, &isolated);
    let before = b.ruleset();
    for script in [
        "$real \"$@\" | grep -v COMMIT",
        "$real \"$@\" | head -n 3",
        "$real \"$@\" | head -c 200",
        "echo \"# Table \\`filter' is incompatible, use 'nft' tool.\"",
        "true",
    ] {
        let path = stubs(&SAVES, script);
        for (command, attachment) in [("ADD", &new), ("CHECK", &old), ("DEL", &old)] {
            let call = firewall(command, attachment).keys(&isolated).env("PATH", &path);
            call.run(b).expect_error_with(101, &["cannot be used"]);
            assert_eq!(b.ruleset(), before, "{script}: {command}");
        }
    }
    b.dismiss(&old, &isolated);
    assert!(!b.ruleset().contains("old"), "{}", b.ruleset());
}

/// A rule that only counts is printed without a word behind its chain.
fn what_others_do_in_the_table_is_no_obstacle(b: &TestBox) {
    for program in ["iptables", "ip6tables"] {
        sh(&format!("{program} -A FORWARD; {program} -A INPUT"));
    }
    let web = b.web(&Network::dual(1), "web");
    b.admit(&web, &json!({}));
    b.inspect(&web, &json!({})).expect_silence();
    b.dismiss(&web, &json!({}));
    assert!(sh("iptables-save -t filter").contains("-A FORWARD\n"));
}

/// A runtime that loses patience kills the plugin, and nothing that the plugin started.
fn a_restore_that_outlives_its_add_comes_before_del(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let restores = ["iptables-restore", "ip6tables-restore"];
    let path = stubs(&restores, "touch /run/begun; sleep 1; exec $real \"$@\"");
    let add = firewall("ADD", &web).set("backend", "iptables").env("PATH", &path);
    let mut process = add.process(&b.implementation.plugin("firewall"));
    process.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = add.feed(process.spawn().expect("start it"));
    while !std::fs::exists("/run/begun").expect("look") {
        sleep(Duration::from_millis(5));
    }
    child.kill().expect("kill it");
    child.wait().expect("wait for it");
    b.dismiss(&web, &json!({}));
    sleep(Duration::from_millis(1500));
    let left = b.ruleset();
    assert!(!left.contains("web/eth0"), "{left}");
}
