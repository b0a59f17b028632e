//! `"onConflict": "fail"` where the Go plugin has the port.

use serde_json::json;

use crate::takeover::{by_go, by_go_on_legacy, go_maps_with_nftables};
use cni_testbox::{
    Attachment, HOST_V4, HOST_V6, HOST2_V4, Implementation, Mapping, Network, TestBox, at, both,
    cases, portmap,
};

cases! {
    fail_sees_the_go_plugins_nftables_table, backends;
    fail_sees_the_go_plugins_chains, backends;
    fail_sees_the_go_plugins_chains_of_the_other_iptables, ours;
}

fn careful(number: u8) -> Network {
    Network::dual(number).with(json!({ "onConflict": "fail" }))
}

/// ADD of any of these ports is refused and changes nothing; what is free is mapped, and the holder
/// itself is taken over.
fn refused(b: &TestBox, old: &Attachment, new: &Attachment, ports: &[Vec<Mapping>], owner: &str) {
    let before = b.ruleset();
    for wanted in ports {
        let add = portmap("ADD", new).mappings(wanted).run(b);
        add.expect_error_with(102, &["8080", owner]);
        assert_eq!(b.ruleset(), before);
    }
    b.out.is_served(8080, "old");
    b.map(new, &both(8090, 80));
    b.out.is_served(8090, "new");
    // The holder's own is no conflict, nor is another network of its container.
    b.map(old, &both(8080, 80));
    b.out.is_served(8080, "old");
    portmap("CHECK", old).mappings(&both(8080, 80)).run(b).expect_silence();
}

fn overlapping() -> [Vec<Mapping>; 3] {
    [both(8080, 80), at(both(8080, 80), HOST_V4), at(both(8080, 80), HOST_V6)]
}

fn fail_sees_the_go_plugins_nftables_table(b: &TestBox) {
    let (old, new) = (b.web(&careful(1), "old"), b.web(&careful(1), "new"));
    for v4 in [true, false] {
        go_maps_with_nftables(b, &old, 8080, v4);
    }
    refused(b, &old, &new, &overlapping(), "old");
    // A rule for one address is in the way on that address, and where all are wanted.
    b.unmap(&old, &both(8080, 80));
    go_maps_with_nftables(b, &old, 9999, true);
    let target = old.v4();
    b.nft(&format!(
        "add rule ip cni_hostport hostports ip daddr {HOST_V4} tcp dport 8080 dnat to {target}:80 comment \"old\""
    ));
    for wanted in [both(8080, 80), at(both(8080, 80), HOST_V4)] {
        portmap("ADD", &new).mappings(&wanted).run(b).expect_error_with(102, &["8080", "old"]);
    }
    b.map(&new, &at(both(8080, 80), HOST2_V4));
}

fn fail_sees_the_go_plugins_chains(b: &TestBox) {
    let (old, new) = (b.web(&careful(1), "old"), b.web(&careful(1), "new"));
    by_go("ADD", &old, 8080);
    refused(b, &old, &new, &overlapping(), "net1/old/eth0");
}

fn fail_sees_the_go_plugins_chains_of_the_other_iptables(b: &TestBox) {
    assert_eq!(b.implementation, Implementation::Ours);
    let (old, new) = (b.web(&careful(1), "old"), b.web(&careful(1), "new"));
    by_go_on_legacy(&old, 8080);
    for backend in ["nftables", "iptables"] {
        let add = portmap("ADD", &new).mappings(&both(8080, 80)).set("backend", backend);
        add.run(b).expect_error_with(102, &["8080", "net1/old/eth0"]);
    }
}
