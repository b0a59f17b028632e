//! `br_netfilter` is loaded while containers run, as by the first pod of a node or by dockerd: from then on, what goes
//! from port to port of a bridge passes the rules for IP, too.

use cni_testbox::{
    HOST_V4, HOST_V6, Network, TestBox, Transport, attempt, both, cases, portmap, sh,
};
use serde_json::json;

use crate::require_guest;

cases! {
    br_netfilter_is_loaded_late, backends;
}

fn br_netfilter_is_loaded_late(b: &TestBox) {
    require_guest();
    // Of an earlier test.
    attempt("rmmod br_netfilter");
    let policy = json!({ "ingressPolicy": "same-bridge" });
    let network = Network::dual(1);
    let [web, neighbour] = ["web", "neighbour"].map(|id| b.web(&network, id));
    let stranger = b.web(&Network::dual(2), "stranger");
    let all = [&web, &neighbour, &stranger];
    for container in all {
        b.admit(container, &policy);
    }
    b.map(&web, &both(8080, 80));
    let is_as_it_should_be = || {
        b.out.is_served(8080, "web");
        for transport in Transport::ALL {
            for (client, host) in all.iter().flat_map(|one| [(one, HOST_V4), (one, HOST_V6)]) {
                client.container.netns.reach(transport, host, 8080).by("web");
            }
        }
        for address in [web.v4(), web.v6()] {
            neighbour.container.netns.reach(Transport::Tcp, &address, 80).by("web");
            stranger.container.netns.cannot_reach(Transport::Tcp, &address, 80);
        }
        portmap("CHECK", &web).mappings(&both(8080, 80)).run(b).expect_silence();
        for container in all {
            b.inspect(container, &policy).expect_silence();
        }
    };
    is_as_it_should_be();
    sh("modprobe br_netfilter");
    assert_eq!(b.host.read_sysctl("bridge/bridge-nf-call-iptables"), "1");
    is_as_it_should_be();
    b.unmap(&web, &both(8080, 80));
    b.out.is_not_served(8080);
}
