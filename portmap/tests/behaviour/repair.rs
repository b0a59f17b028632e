//! Another program changed our table: CHECK refuses it, STATUS warns, and the next ADD puts it right, for
//! everybody.

use cni_testbox::{
    Attachment, Call, HOST_V4, HOST_V6, Network, PORTMAP_TABLE, TestBox, Transport, both, cases,
    nft, portmap,
};
use serde_json::json;

cases! {
    other_rules_of_the_same_number, ours;
    other_rules_in_the_guard, ours;
    the_guard_of_older_versions, ours;
    a_chain_at_another_priority, ours;
    a_networks_own_chain_at_another_priority, ours;
}

fn mapped(b: &TestBox) -> Attachment {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    web
}

/// Breaks the table by these commands, and lets another container's ADD repair it.
#[track_caller]
fn is_repaired(b: &TestBox, web: &Attachment, chain: &str, commands: &str) {
    let check = || portmap("CHECK", web).mappings(&both(8080, 80)).run(b);
    check().expect_silence();
    b.nft(&commands.replace("TABLE", &format!("inet {PORTMAP_TABLE}")));
    check().expect_error_with(100, &[chain]);
    let status = Call::of_network("portmap", "STATUS", "net1").run(b);
    status.expect_silence();
    assert!(status.stderr.contains(chain), "{status}");

    let other = b.web(&web.network, "other");
    let outcome = portmap("ADD", &other).mappings(&both(8081, 80)).run(b);
    outcome.expect_result();
    assert!(outcome.stderr.contains(chain), "{outcome}");
    check().expect_silence();
    for host in [HOST_V4, HOST_V6] {
        for transport in Transport::ALL {
            b.out.reach(transport, host, 8080).by("web");
        }
    }
}

fn other_rules_of_the_same_number(b: &TestBox) {
    let web = mapped(b);
    let broken = "flush chain TABLE prerouting
        add rule TABLE prerouting fib daddr type broadcast goto hostports";
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
    is_repaired(b, &web, "prerouting", broken);
}

fn other_rules_in_the_guard(b: &TestBox) {
    let web = mapped(b);
    let broken = "flush chain TABLE guard
        add rule TABLE guard iifname != lo ip daddr 127.0.0.0/8 accept
        add rule TABLE guard iifname != lo ip saddr 127.0.0.0/8 accept";
    is_repaired(b, &web, "guard", broken);
    // So does a DEL, with nothing left to map.
    b.nft(&broken.replace("TABLE", &format!("inet {PORTMAP_TABLE}")));
    b.unmap(&web, &both(8080, 80));
    assert!(!b.ruleset().contains("127.0.0.0/8 accept"), "{}", b.ruleset());
}

/// What makes the guard one filter chain, which saw every packet, as it was until 2026-11.
pub(crate) const OLDER_GUARD: &str = "flush chain TABLE guard
    delete chain TABLE guard
    flush chain TABLE guard_input
    delete chain TABLE guard_input
    add chain TABLE guard { type filter hook prerouting priority raw; }
    add rule TABLE guard ip daddr 127.0.0.0/8 iifname != lo drop
    add rule TABLE guard ip saddr 127.0.0.0/8 iifname != lo drop";

fn the_guard_of_older_versions(b: &TestBox) {
    let web = mapped(b);
    is_repaired(b, &web, "guard", OLDER_GUARD);
    assert!(!b.ruleset().contains("hook prerouting priority raw"), "{}", b.ruleset());
}

/// No chain can be moved: it has to go first.
fn a_chain_at_another_priority(b: &TestBox) {
    let web = mapped(b);
    let broken = "flush chain TABLE output
        delete chain TABLE output
        add chain TABLE output { type nat hook output priority 0; }";
    is_repaired(b, &web, "output", broken);
    b.host.reach(Transport::Tcp, "127.0.0.1", 8080).by("web");
}

/// Its ADD writes that chain in any case.
fn a_networks_own_chain_at_another_priority(b: &TestBox) {
    let network = Network::dual(1).with(json!({ "markMasqBit": 12 }));
    let web = b.web(&network, "web");
    b.map(&web, &both(8080, 80));
    let mut names = nft::chains(PORTMAP_TABLE).into_iter().map(|chain| chain.name.into_owned());
    let output = names.find(|name| name.starts_with("output_")).expect("the network's own chain");
    let (table, place) = (PORTMAP_TABLE, "type nat hook output priority 0");
    b.nft(&format!(
        "flush chain inet {table} {output}
        delete chain inet {table} {output}
        add chain inet {table} {output} {{ {place}; }}"
    ));
    let check = || portmap("CHECK", &web).mappings(&both(8080, 80)).run(b);
    check().expect_error_with(100, &[&output]);
    b.map(&web, &both(8080, 80));
    check().expect_silence();
    b.host.reach(Transport::Tcp, "127.0.0.1", 8080).by("web");
}
