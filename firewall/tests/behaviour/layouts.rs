//! What another version of the plugin made. (What b302888 made is taken over in `integration/tests/e2e`.)

use std::ops::Range;

use cni_testbox::{Attachment, Call, Network, TestBox, cases, firewall, newer, run, tool};
use serde_json::{Value, json};

cases! {
    a_newer_table_is_left_alone, ours;
    a_newer_table_of_bridges_is_left_alone, ours;
    newer_chains_are_left_alone, backends;
}

/// The DELs of the one that is admitted.
const OF_NAMED: Range<usize> = 5..7;

/// Every call but STATUS, of an attachment that is admitted and of one that is not yet.
fn calls(web: &Attachment, other: &Attachment, keys: &Value) -> Vec<Call> {
    let isolated = json!({ "backend": keys["backend"], "ingressPolicy": "same-bridge" });
    let gc = || Call::of_network("firewall", "GC", &web.network.name).keys(keys);
    vec![
        firewall("ADD", other).keys(keys),
        firewall("ADD", web).keys(keys),
        firewall("ADD", web).keys(&isolated),
        firewall("CHECK", web).keys(keys),
        firewall("CHECK", other).keys(keys),
        firewall("DEL", web).keys(keys),
        firewall("DEL", web).keys(keys).without("prevResult"),
        firewall("DEL", other).keys(keys),
        gc().valid(&[]),
        gc().valid(&[web]),
    ]
}

fn status(network: &Network, keys: &Value) -> [Call; 1] {
    [Call::of_network("firewall", "STATUS", &network.name).keys(keys)]
}

/// Whether or not the kernel refuses what an older ADD writes before it looks.
fn a_newer_table_is_left_alone(b: &TestBox) {
    const TABLE: &str = "inet cni_firewall";
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    let keys = json!({ "backend": "nftables" });
    b.admit(&web, &keys);
    let is_refused = |calls: &[Call]| {
        b.refuses_what_is_newer(11, &[TABLE, "left alone"], calls);
        b.refuses_what_is_newer(50, &[TABLE], &status(&network, &keys));
    };
    newer::renumber_table(TABLE);
    let mut calls = calls(&web, &other, &keys);
    // The DELs of one that the map of attachments names: it has another name in any newer layout.
    let of_named: Vec<Call> = calls.drain(OF_NAMED).collect();
    is_refused(&calls);
    newer::rename_set(TABLE, "attachments");
    is_refused(&calls);
    is_refused(&of_named);
}

fn a_newer_table_of_bridges_is_left_alone(b: &TestBox) {
    const TABLE: &str = "bridge cni_firewall";
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    b.host.bridge_netfilter(true);
    let keys = json!({ "backend": "nftables", "ingressPolicy": "isolated" });
    b.admit(&web, &keys);
    newer::renumber_table(TABLE);
    let calls = [firewall("ADD", &other).keys(&keys), firewall("CHECK", &web).keys(&keys)];
    b.refuses_what_is_newer(11, &[TABLE, "left alone"], &calls);
    let table = || run(tool("nft").args(["list", "table", "bridge", "cni_firewall"]));
    let before = table();
    let gc = Call::of_network("firewall", "GC", &network.name).keys(&keys).valid(&[]);
    for call in [firewall("DEL", &web).keys(&keys), gc] {
        call.run(b).expect_error_with(11, &[TABLE, "left alone"]);
        assert_eq!(table(), before);
    }
}

fn newer_chains_are_left_alone(b: &TestBox) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    let keys = json!({ "backend": "iptables" });
    b.admit(&web, &keys);
    newer::number_chains(["iptables", "ip6tables"], "filter", "CNI-FORWARD-LAYOUT-");
    b.refuses_what_is_newer(11, &["table filter of ", "left alone"], &calls(&web, &other, &keys));
    b.refuses_what_is_newer(50, &["table filter of "], &status(&network, &keys));
}
