//! Programs of iptables that do not say all, or take their time.

use cni_testbox::{
    IPTABLES_SAVES, Network, TestBox, cases, cut_saves, firewall, killed_while_restoring, sh, stubs,
};
use serde_json::json;

cases! {
    a_table_that_is_not_whole_is_no_empty_table, iptables_only;
    what_others_do_in_the_table_is_no_obstacle, iptables_only;
    a_restore_that_outlives_its_add_comes_before_del, iptables_only;
}

fn a_table_that_is_not_whole_is_no_empty_table(b: &TestBox) {
    let network = Network::dual(1);
    let (old, new) = (b.web(&network, "old"), b.web(&network, "new"));
    let isolated = json!({ "ingressPolicy": "isolated" });
    b.admit(&old, &isolated);
    let before = b.ruleset();
    for script in cut_saves("filter") {
        let path = stubs(&IPTABLES_SAVES, &script);
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

fn a_restore_that_outlives_its_add_comes_before_del(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let add = firewall("ADD", &web);
    killed_while_restoring(b, "firewall", add, || b.dismiss(&web, &json!({})));
    let left = b.ruleset();
    assert!(!left.contains("web/eth0"), "{left}");
}
