//! A path that loses packets, and has others overtake them.

use cni_testbox::{HOST_V4, HOST_V6, Network, TestBox, Transport, both, cases, portmap, sh};

use crate::require_guest;

cases! {
    connections_over_a_path_with_loss, ours;
}

/// A packet that is sent again is translated as the first one was; what is lost before its connection is known makes
/// no entry that the next one would miss.
fn connections_over_a_path_with_loss(b: &TestBox) {
    require_guest();
    let web = b.web(&Network::dual(1), "web");
    web.container.netns.serve_echo(81);
    let mappings = [both(8080, 80), both(8081, 81)].concat();
    portmap("ADD", &web).mappings(&mappings).run(b).expect_result();
    lose("", 5);
    lose("ip netns exec out ", 7);
    let netem = "root netem delay 2ms 2ms reorder 25%";
    sh(&format!("tc qdisc add dev ext0 {netem}; tc -n out qdisc add dev ext0 {netem}"));
    let mut flow = b.out.tcp_flow(HOST_V4, 8081);
    for _ in 0..10 {
        for host in [HOST_V4, HOST_V6] {
            b.out.reach(Transport::Tcp, host, 8080).by("web");
        }
        flow.echo();
    }
    for inside in ["", "ip netns exec out "] {
        let lost = sh(&format!("{inside}nft list table netdev loss"));
        assert!(!lost.contains("counter packets 0 "), "nothing was lost: {lost}");
    }
    portmap("CHECK", &web).mappings(&mappings).run(b).expect_silence();
}

/// Of what arrives at ext0, every so many-th is lost. By count and not at random, because TCP waits for a minute where
/// it loses one packet five times.
#[track_caller]
fn lose(inside: &str, every: u32) {
    sh(&format!(
        "{inside}nft 'add table netdev loss; \
         add chain netdev loss path {{ type filter hook ingress device ext0 priority 0; }}; \
         add rule netdev loss path numgen inc mod {every} 0 counter drop'"
    ));
}
