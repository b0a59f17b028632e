//! Programs of iptables that do not say all.

use cni_testbox::{Network, TestBox, cases, firewall, sh, stubs};
use serde_json::json;

cases! {
    a_table_that_is_not_whole_is_no_empty_table, iptables_only;
    what_others_do_in_the_table_is_no_obstacle, iptables_only;
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
