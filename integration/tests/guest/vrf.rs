//! A host with a VRF, a routing table of its own for some interfaces.
//!
//! What asks whether an address is the host's, `fib daddr type local` as well as iptables' `addrtype`, knows the
//! addresses outside of VRFs.

use cni_testbox::{HOST_V4, Network, TestBox, Transport, batch, both, cases, firewall, portmap};

use crate::require_guest;

cases! {
    another_link_in_a_vrf, backends;
    uplink_and_containers_in_one_vrf, backends;
}

/// As a host has it whose management network is kept apart.
fn another_link_in_a_vrf(b: &TestBox) {
    require_guest();
    let far = b.far();
    batch(&[
        "link add management type vrf table 10",
        "link set management up",
        "link set far0 master management",
    ]);
    let web = b.web(&Network::dual(1), "web");
    firewall("ADD", &web).run(b).expect_result();
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        for client in [&b.out, &b.host, &web.container.netns] {
            client.reach(transport, HOST_V4, 8080).by("web");
        }
        far.cannot_reach(transport, "203.0.113.1", 8080);
    }
    portmap("CHECK", &web).mappings(&both(8080, 80)).run(b).expect_silence();
    b.unmap(&web, &both(8080, 80));
    b.out.is_not_served(8080);
}

/// docs/portmap.md says so: no port of such an address is served. Packets to the container itself pass.
fn uplink_and_containers_in_one_vrf(b: &TestBox) {
    require_guest();
    let web = b.web(&Network::dual(1), "web");
    batch(&[
        "link add red type vrf table 10",
        "link set red up",
        "link set ext0 master red",
        "link set br1 master red",
    ]);
    firewall("ADD", &web).run(b).expect_result();
    b.map(&web, &both(8080, 80));
    b.out.is_not_served(8080);
    for transport in Transport::ALL {
        b.out.reach(transport, &web.v4(), 80).by("web");
    }
    portmap("CHECK", &web).mappings(&both(8080, 80)).run(b).expect_silence();
    b.unmap(&web, &both(8080, 80));
    firewall("DEL", &web).run(b).expect_silence();
}
