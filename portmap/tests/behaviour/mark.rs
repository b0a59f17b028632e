//! The mark of masquerading: who gets it, and that nobody misses it.

use cni_testbox::{
    Attachment, Call, HOST_V4, HOST_V6, Network, PORTMAP_TABLE, TestBox, Transport, both, cases,
    portmap, run, tool,
};
use serde_json::json;

use crate::repair::OLDER_GUARD;

cases! {
    only_what_may_be_masqueraded_is_marked, ours;
    networks_of_several_prefix_lengths, ours;
    a_table_of_an_older_version, ours;
    a_source_that_somebody_removed, ours;
}

/// A client from outside is spared the mark and the lookups behind it.
fn only_what_may_be_masqueraded_is_marked(b: &TestBox) {
    let network = Network::dual(1);
    let (web, neighbour) = (b.web(&network, "web"), b.web(&network, "neighbour"));
    b.map(&web, &both(8080, 80));
    b.nft(
        "table inet seen {
            chain outside { type filter hook forward priority 0; iifname ext0 meta mark != 0 counter; }
            chain inside { type filter hook forward priority 0; iifname br1 meta mark & 0x2000 != 0 counter; }
        }",
    );
    let marked = |chain: &str| {
        let listing = run(tool("nft").args(["list", "chain", "inet", "seen", chain]));
        !listing.contains("packets 0")
    };
    for host in [HOST_V4, HOST_V6] {
        b.out.reach(Transport::Tcp, host, 8080).by("web");
    }
    assert!(!marked("outside") && !marked("inside"), "{}", b.ruleset());
    is_masqueraded(&web);
    neighbour.container.netns.reach(Transport::Tcp, HOST_V4, 8080).by("web");
    assert!(!marked("outside") && marked("inside"), "{}", b.ruleset());
}

/// That the container reaches itself by the host's addresses.
#[track_caller]
fn is_masqueraded(web: &Attachment) {
    for host in [HOST_V4, HOST_V6] {
        for transport in Transport::ALL {
            web.container.netns.reach(transport, host, 8080).by("web");
        }
    }
}

/// /24 and /64, and with masqAll /0.
fn networks_of_several_prefix_lengths(b: &TestBox) {
    let (first, second) = (Network::dual(1), Network::dual(2).with(json!({ "masqAll": true })));
    let web = b.web(&first, "web");
    b.map(&web, &both(8080, 80));
    let hidden = b.web(&second, "hidden");
    b.map(&hidden, &both(8081, 80));
    let everything = || {
        is_masqueraded(&web);
        b.out.reach(Transport::Tcp, HOST_V4, 8081).by("hidden").seen_as(&second.gateway_v4());
        b.out.reach(Transport::Tcp, HOST_V6, 8081).by("hidden").seen_as(&second.gateway_v6());
        for (attachment, port) in [(&web, 8080), (&hidden, 8081)] {
            portmap("CHECK", attachment).mappings(&both(port, 80)).run(b).expect_silence();
        }
    };
    everything();
    // In whatever order, and again.
    b.map(&web, &both(8080, 80));
    everything();
    b.unmap(&hidden, &both(8081, 80));
    Call::of_network("portmap", "GC", &second.name).valid(&[]).run(b).expect_silence();
    let ruleset = b.ruleset();
    assert!(!ruleset.contains("elements = { 0.0.0.0 }"), "a source that nobody needs: {ruleset}");
    assert!(ruleset.contains("elements = { 10.88.1.0 }"), "{ruleset}");
    is_masqueraded(&web);
    b.map(&hidden, &both(8081, 80));
    everything();
}

/// It marks whatever comes, knows of no sources, and has a chain for each masquerade set: the first ADD,
/// of whoever, puts this version's in their place.
fn a_table_of_an_older_version(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    let older = "flush chain TABLE hostports
        add rule TABLE hostports meta mark & 0x2000 == 0x2000 goto lookups
        add rule TABLE hostports meta mark set meta mark | 0x2000
        add rule TABLE hostports jump lookups
        add rule TABLE hostports meta mark set meta mark & 0xffffdfff
        flush chain TABLE sources
        delete chain TABLE sources
        delete set TABLE sources4_24
        delete set TABLE sources6_64
        flush chain TABLE postrouting
        delete chain TABLE postrouting
        flush chain TABLE translated
        delete chain TABLE translated
        add chain TABLE unmark { type nat hook postrouting priority srcnat - 4; }
        add rule TABLE unmark UNMARK4
        add rule TABLE unmark UNMARK6
        add chain TABLE masquerade4_24 { type nat hook postrouting priority srcnat - 5; }
        add rule TABLE masquerade4_24 MARKED ip saddr & 255.255.255.0 . ip daddr @masquerade4_24 masquerade
        add chain TABLE masquerade4_8 { type nat hook postrouting priority srcnat - 5; }
        add rule TABLE masquerade4_8 MARKED ip saddr & 255.0.0.0 . ip daddr @masquerade4_8 masquerade
        add chain TABLE masquerade6_64 { type nat hook postrouting priority srcnat - 5; }
        add rule TABLE masquerade6_64 MARKED ip6 saddr & ffff:ffff:ffff:ffff:: . ip6 daddr @masquerade6_64 masquerade";
    let older = format!("{older}\n{OLDER_GUARD}")
        .replace("TABLE", &format!("inet {PORTMAP_TABLE}"))
        .replace("UNMARK4", "MARKED meta l4proto { tcp, udp, sctp } ip daddr . meta l4proto . th dport @targets4 CLEAR")
        .replace("UNMARK6", "MARKED meta l4proto { tcp, udp, sctp } ip6 daddr . meta l4proto . th dport @targets6 CLEAR")
        .replace("MARKED", "meta mark & 0x2000 == 0x2000 ct status dnat")
        .replace("CLEAR", "meta mark set meta mark & 0xffffdfff");
    b.nft(&older);
    is_masqueraded(&web);
    let check = || portmap("CHECK", &web).mappings(&both(8080, 80)).run(b);
    check().expect_error_with(100, &["an older version's layout"]);
    let status = Call::of_network("portmap", "STATUS", "net1").run(b);
    status.expect_silence();
    assert!(status.stderr.contains("an older version's layout, which works"), "{status}");
    let other = b.web(&Network::dual(2), "other");
    let add = portmap("ADD", &other).mappings(&both(8081, 80)).run(b);
    add.expect_result();
    assert!(add.stderr.contains("had the layout of an older version"), "{add}");
    assert!(!add.stderr.contains("another program"), "{add}");
    let ruleset = b.ruleset();
    assert!(ruleset.contains("jump sources"), "{ruleset}");
    assert!(
        !ruleset.contains("chain unmark") && !ruleset.contains("chain masquerade"),
        "{ruleset}"
    );
    is_masqueraded(&web);
    b.host.reach(Transport::Tcp, "127.0.0.1", 8080).by("web");
    check().expect_silence();
}

fn a_source_that_somebody_removed(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    let check = || portmap("CHECK", &web).mappings(&both(8080, 80)).run(b);
    check().expect_silence();
    b.nft(&format!("flush set inet {PORTMAP_TABLE} sources4_24"));
    check().expect_error_with(100, &["sources4_24", "10.88.1.0"]);
    b.map(&web, &both(8080, 80));
    check().expect_silence();
    is_masqueraded(&web);
}
