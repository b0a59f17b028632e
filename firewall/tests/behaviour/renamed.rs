//! A network that is called otherwise than at ADD: what was made for a container's interface is still
//! that interface's.

use serde_json::{Value, json};

use cni_testbox::{Attachment, Call, Firewalld, Network, TestBox, cases, firewall};

cases! {
    del_on_nftables_finds_what_another_name_admitted, ours;
    del_on_iptables_finds_what_another_name_admitted, backends;
    del_finds_sources_and_chains_of_others_that_another_name_made, ours;
    add_on_nftables_replaces_what_another_name_admitted, ours;
    add_on_iptables_replaces_what_another_name_admitted, backends;
    frames_of_isolated_ports_follow_the_interface, ours;
}

const POLICIES: [&str; 3] = ["open", "same-bridge", "isolated"];

fn keys(backend: &str, policy: &str) -> Value {
    json!({ "backend": backend, "ingressPolicy": policy })
}

/// The attachment as a runtime knows it once its network has another name.
fn renamed(attachment: &Attachment) -> Attachment {
    let mut renamed = attachment.clone();
    renamed.network = renamed.network.named("renamed");
    renamed
}

/// DEL that is told nothing but the owner.
fn dismiss_unknown(b: &TestBox, attachment: &Attachment, keys: &Value) {
    let del = firewall("DEL", attachment).keys(keys).without("prevResult");
    del.env("CNI_NETNS", "").run(b).expect_silence();
}

fn collect(b: &TestBox, network: &str, keys: &Value, valid: &[&Attachment]) {
    Call::of_network("firewall", "GC", network).keys(keys).valid(valid).run(b).expect_success();
}

fn del_finds(b: &TestBox, backend: &str) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    for policy in POLICIES {
        let keys = keys(backend, policy);
        b.admit(&other, &keys);
        let without = b.ruleset();
        b.admit(&web, &keys);
        let with = b.ruleset();
        // GC of the new name has nothing here, and GC of the old one knows who is alive.
        collect(b, "renamed", &keys, &[]);
        collect(b, "net1", &keys, &[&web, &other]);
        assert_eq!(b.ruleset(), with, "{policy}: GC");
        b.inspect(&renamed(&web), &keys).expect_silence();
        b.dismiss(&renamed(&web), &keys);
        assert_eq!(b.ruleset(), without, "{policy}: DEL");
        b.admit(&web, &keys);
        dismiss_unknown(b, &renamed(&web), &keys);
        assert_eq!(b.ruleset(), without, "{policy}: DEL without prevResult");
        b.inspect(&other, &keys).expect_silence();
        b.dismiss(&other, &keys);
    }
}

fn del_on_nftables_finds_what_another_name_admitted(b: &TestBox) {
    del_finds(b, "nftables");
}

fn del_on_iptables_finds_what_another_name_admitted(b: &TestBox) {
    del_finds(b, "iptables");
}

fn add_replaces(b: &TestBox, backend: &str) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    for policy in POLICIES {
        let keys = keys(backend, policy);
        b.admit(&other, &keys);
        let without = b.ruleset();
        b.admit(&web, &keys);
        let told = b.admit(&renamed(&web), &keys).stderr;
        assert!(!told.contains("taken over"), "{policy}: {told}");
        assert!(!b.ruleset().contains("net1/web/eth0"), "{policy}: {}", b.ruleset());
        b.inspect(&renamed(&web), &keys).expect_silence();
        let with = b.ruleset();
        // It is an attachment to the new name by now.
        collect(b, "net1", &keys, &[&other]);
        assert_eq!(b.ruleset(), with, "{policy}: GC of the old name");
        collect(b, "renamed", &keys, &[&web]);
        assert_eq!(b.ruleset(), with, "{policy}: GC of the new name");
        collect(b, "renamed", &keys, &[]);
        assert_eq!(b.ruleset(), without, "{policy}: GC of the new name without it");
        b.inspect(&other, &keys).expect_silence();
        b.dismiss(&other, &keys);
    }
}

fn add_on_nftables_replaces_what_another_name_admitted(b: &TestBox) {
    add_replaces(b, "nftables");
}

fn add_on_iptables_replaces_what_another_name_admitted(b: &TestBox) {
    add_replaces(b, "iptables");
}

fn del_finds_sources_and_chains_of_others_that_another_name_made(b: &TestBox) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    b.nft("table inet filter { chain forward { type filter hook forward priority 0; policy drop; }; }");
    let chain = json!({ "family": "inet", "table": "filter", "chain": "forward" });
    let named = json!({ "backend": "nftables", "nftablesForwardChains": [chain] });
    b.admit(&other, &named);
    let without = b.ruleset();
    for again in [&web, &renamed(&web)] {
        b.admit(&web, &named);
        b.admit(again, &named);
        b.inspect(again, &named).expect_silence();
        dismiss_unknown(b, &renamed(&web), &named);
        assert_eq!(b.ruleset(), without, "a named chain");
    }
    b.dismiss(&other, &named);

    let firewalld = Firewalld::start();
    let zone = json!({ "backend": "firewalld" });
    let sources = || firewalld.cmd(&["--zone=trusted", "--list-sources"]);
    b.admit(&other, &zone);
    let without = sources();
    for again in [&web, &renamed(&web)] {
        b.admit(&web, &zone);
        b.admit(again, &zone);
        b.inspect(again, &zone).expect_silence();
        dismiss_unknown(b, &renamed(&web), &zone);
        assert_eq!(sources(), without, "firewalld");
    }
    b.inspect(&other, &zone).expect_silence();
}

/// With `br_netfilter`, isolation has a table of the bridge family.
fn frames_of_isolated_ports_follow_the_interface(b: &TestBox) {
    b.host.bridge_netfilter(true);
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    for backend in ["nftables", "iptables"] {
        let isolated = keys(backend, "isolated");
        b.admit(&other, &isolated);
        let without = b.nft_list("bridge cni_firewall");
        for again in [&web, &renamed(&web)] {
            b.admit(&web, &isolated);
            b.admit(again, &isolated);
            b.inspect(again, &isolated).expect_silence();
            b.inspect(&renamed(&web), &isolated).expect_silence();
            dismiss_unknown(b, &renamed(&web), &isolated);
            assert_eq!(b.nft_list("bridge cni_firewall"), without, "{backend}");
        }
        b.inspect(&other, &isolated).expect_silence();
        b.dismiss(&other, &isolated);
        assert!(!b.nft_list_all().contains("table bridge cni_firewall"), "{backend}");
    }
    b.host.bridge_netfilter(false);
}
