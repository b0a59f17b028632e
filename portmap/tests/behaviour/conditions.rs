//! Conditions and mark bits, and exactly which traffic is masqueraded.

use serde_json::json;

use cni_testbox::{
    Attachment, Call, HOST_V4, HOST_V6, Network, OUT_V4, OUT_V6, TestBox, Transport, both, cases,
    portmap, run, tool,
};

cases! {
    conditions_gate_their_own_network_only, ours;
    negated_conditions_and_lists, ours;
    conditions_on_the_interface_and_the_mark, ours;
    conditional_mappings_are_checked_and_removed, ours;
    a_network_with_its_own_mark_bit, ours;
    service_traffic_between_neighbours_keeps_its_source, ours;
    a_foreign_rule_on_the_mark_bit_never_sees_it, ours;
}

fn outside_only() -> serde_json::Value {
    json!({
        "conditionsV4": ["ip", "saddr", OUT_V4],
        "conditionsV6": ["ip6", "saddr", OUT_V6],
    })
}

fn conditions_gate_their_own_network_only(b: &TestBox) {
    let gated = b.web(&Network::dual(1).with(outside_only()), "gated");
    let open = b.web(&Network::dual(2), "open");
    b.map(&gated, &both(8080, 80));
    b.map(&open, &both(8081, 80));
    b.out.is_served(8080, "gated");
    b.out.is_served(8081, "open");
    b.host.is_not_served(8080);
    b.host.is_served(8081, "open");
    open.container.netns.is_not_served(8080);
    gated.container.netns.is_served(8081, "open");
}

fn negated_conditions_and_lists(b: &TestBox) {
    let conditions = json!({
        "conditionsV4": ["ip", "saddr", "!=", "{", "10.88.0.0/16,", "192.0.2.1", "}"],
        "conditionsV6": ["ip6 saddr { 2001:db8:100::2, 2001:db8:100::/64 }"],
    });
    let web = b.web(&Network::dual(1).with(conditions), "web");
    let pod = b.web(&Network::dual(2), "pod");
    b.map(&web, &both(8080, 80));
    b.out.is_served(8080, "web");
    pod.container.netns.is_not_served(8080);
}

fn conditions_on_the_interface_and_the_mark(b: &TestBox) {
    let conditions = json!({
        "conditionsV4": ["iifname", "ext*", "meta", "mark", "&", "0xff", "==", "0x7"],
        "conditionsV6": ["iifname", "ext0"],
    });
    let web = b.web(&Network::dual(1).with(conditions), "web");
    b.map(&web, &both(8080, 80));
    b.out.cannot_reach(Transport::Tcp, HOST_V4, 8080);
    b.out.reach(Transport::Tcp, HOST_V6, 8080).by("web");
    b.nft(
        "table ip marker {
            chain early { type filter hook prerouting priority raw; meta mark set 0x107; }
        }",
    );
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web").seen_as(OUT_V4);
    b.host.cannot_reach(Transport::Tcp, HOST_V4, 8080);
}

fn conditional_mappings_are_checked_and_removed(b: &TestBox) {
    let web = b.web(&Network::dual(1).with(outside_only()), "web");
    let check = || portmap("CHECK", &web).mappings(&both(8080, 80)).run(b);
    b.map(&web, &both(8080, 80));
    let before = b.ruleset();
    check().expect_silence();
    b.map(&web, &both(8080, 80));
    assert_eq!(b.ruleset(), before, "ADD twice is ADD once");
    b.unmap(&web, &both(8080, 80));
    assert!(b.portmap_elements().is_empty());
    check().expect_error_with(100, &["8080", "missing"]);
    gc_leaves_nothing(b, &web);
}

fn gc_leaves_nothing(b: &TestBox, web: &Attachment) {
    let valid = json!([]);
    // The table's guard stays as long as this is set.
    b.host.write_sysctl(&format!("ipv4/conf/{}/route_localnet", web.network.bridge()), "0");
    Call::of_network("portmap", "GC", &web.network.name)
        .set("cni.dev/valid-attachments", valid)
        .run(b)
        .expect_success();
    assert_eq!(run(tool("nft").args(["list", "tables"])).matches("cni_portmap").count(), 0);
}

fn a_network_with_its_own_mark_bit(b: &TestBox) {
    let network = Network::dual(1).with(json!({ "markMasqBit": 5 }));
    let web = b.web(&network, "web");
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        b.out.reach(transport, HOST_V4, 8080).by("web").seen_as(OUT_V4);
        b.host.reach(transport, "127.0.0.1", 8080).by("web").seen_as(&network.gateway_v4());
        web.container
            .netns
            .reach(transport, HOST_V4, 8080)
            .by("web")
            .seen_as(&network.gateway_v4());
        web.container
            .netns
            .reach(transport, HOST_V6, 8080)
            .by("web")
            .seen_as(&network.gateway_v6());
    }
    portmap("CHECK", &web).mappings(&both(8080, 80)).run(b).expect_silence();
    assert!(b.ruleset().contains("0x00000020"), "the mark is bit 5's");
    b.unmap(&web, &both(8080, 80));
    assert!(b.portmap_elements().is_empty());
}

/// A Service (any other program's DNAT) may lead one pod to its neighbour's port. Only traffic
/// that came through a mapped port is portmap's to masquerade, also when the numbers are equal.
fn service_traffic_between_neighbours_keeps_its_source(b: &TestBox) {
    // Answers of a neighbour cross the bridge; without this they would bypass the translation.
    b.host.bridge_netfilter(true);
    let network = Network::dual(1);
    let (web, pod) = (b.web(&network, "web"), b.web(&network, "pod"));
    let (v4, v6) = (web.v4(), web.v6());
    b.nft(&format!(
        "table inet services {{
            chain prerouting {{ type nat hook prerouting priority dstnat;
                ip daddr 10.96.0.10 meta l4proto {{ tcp, udp }} th dport 8080 dnat ip to {v4}:80
                ip6 daddr fd96::10 meta l4proto {{ tcp, udp }} th dport 8080 dnat ip6 to [{v6}]:80
            }}
        }}"
    ));
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        let client = &pod.container.netns;
        client.reach(transport, "10.96.0.10", 8080).by("web").seen_as(&pod.v4());
        client.reach(transport, "fd96::10", 8080).by("web").seen_as(&pod.v6());
        client.reach(transport, HOST_V4, 8080).by("web").seen_as(&network.gateway_v4());
        client.reach(transport, HOST_V6, 8080).by("web").seen_as(&network.gateway_v6());
    }
}

/// The Go plugin's rules stay on an upgraded node for ever, and netavark has one like them.
fn a_foreign_rule_on_the_mark_bit_never_sees_it(b: &TestBox) {
    for program in ["iptables", "ip6tables"] {
        let rule =
            ["-w", "-t", "nat", "-I", "POSTROUTING", "-m", "mark", "--mark", "0x2000/0x2000"];
        run(tool(program).args(rule).args(["-j", "MASQUERADE"]));
    }
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        b.out.reach(transport, HOST_V4, 8080).by("web").seen_as(OUT_V4);
        b.out.reach(transport, HOST_V6, 8080).by("web").seen_as(OUT_V6);
    }
}
