//! Beside other programs that translate, mark and masquerade: whatever is none of our mappings passes
//! as if we were not there.

use serde_json::json;

use cni_testbox::{
    Attachment, HOST_V4, HOST_V6, Implementation, Network, OUT_V4, OUT_V6, TestBox, Transport,
    both, cases, ip, portmap,
};

cases! {
    others_by_the_same_bit_are_served_from_everywhere, ours;
    a_service_by_the_same_bit_is_masqueraded, ours;
    a_mark_that_a_packet_came_with_stays, ours;
    a_bit_of_kube_proxys_is_warned_of, backends;
}

/// From outside, from the host by its address and by 127.0.0.1, from the container itself and from
/// a neighbour.
fn served_from_everywhere(b: &TestBox, web: &Attachment, neighbour: &Attachment, port: u16) {
    let id = &web.container.id;
    for transport in Transport::ALL {
        for (host, client) in [(HOST_V4, OUT_V4), (HOST_V6, OUT_V6)] {
            b.out.reach(transport, host, port).by(id).seen_as(client);
            b.host.reach(transport, host, port).by(id);
            web.container.netns.reach(transport, host, port).by(id);
            neighbour.container.netns.reach(transport, host, port).by(id);
        }
        b.host.reach(transport, "127.0.0.1", port).by(id);
    }
}

/// The Go plugin's container, our iptables backend's, and one that rules of netavark's shape serve.
fn others_by_the_same_bit_are_served_from_everywhere(b: &TestBox) {
    let network = Network::dual(1);
    let [go, iptables, ours] = ["go", "iptables", "ours"].map(|id| b.web(&network, id));
    portmap("ADD", &go).mappings(&both(8080, 80)).run_as(Implementation::Go).expect_result();
    let by_iptables = |command| {
        portmap(command, &iptables).mappings(&both(8081, 80)).set("backend", json!("iptables"))
    };
    by_iptables("ADD").run(b).expect_result();
    let others = || {
        served_from_everywhere(b, &go, &ours, 8080);
        served_from_everywhere(b, &iptables, &go, 8081);
    };
    others();
    b.map(&ours, &both(8082, 80));
    others();
    served_from_everywhere(b, &ours, &go, 8082);
    b.map(&ours, &both(8082, 80));
    b.unmap(&ours, &both(8082, 80));
    others();
}

/// As kube-proxy does it, for a network whose `markMasqBit` is kube-proxy's.
fn a_service_by_the_same_bit_is_masqueraded(b: &TestBox) {
    let service = b.web(&Network::dual(1), "service");
    let (v4, v6) = (service.v4(), service.v6());
    for (family, target) in [("ip", format!("{v4}:80")), ("ip6", format!("[{v6}]:80"))] {
        b.nft(&format!(
            "table {family} proxy {{
                chain services {{
                    type nat hook prerouting priority dstnat;
                    tcp dport 30000 meta mark set meta mark | 0x4000 dnat to {target}
                }}
                chain masquerading {{
                    type nat hook postrouting priority srcnat;
                    meta mark & 0x4000 == 0x4000 masquerade
                }}
            }}"
        ));
    }
    let asked = || {
        for (host, gateway) in
            [(HOST_V4, service.network.gateway_v4()), (HOST_V6, service.network.gateway_v6())]
        {
            b.out.reach(Transport::Tcp, host, 30000).by("service").seen_as(&gateway);
        }
    };
    asked();
    let web = b.web(&Network::dual(2).with(json!({ "markMasqBit": 14 })), "web");
    b.map(&web, &both(8080, 80));
    asked();
    let neighbour = b.web(&Network::dual(2), "neighbour");
    for host in [HOST_V4, HOST_V6] {
        neighbour.container.netns.reach(Transport::Tcp, host, 8080).by("web");
    }
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web").seen_as(OUT_V4);
    b.unmap(&web, &both(8080, 80));
    asked();
}

/// The host's own server lets nobody in without the mark that an earlier chain gives.
fn a_mark_that_a_packet_came_with_stays(b: &TestBox) {
    b.host.serve_at("host", std::net::SocketAddr::new(ip(HOST_V4), 7000));
    b.nft(
        "table ip somebody {
            chain marking {
                type filter hook prerouting priority mangle;
                udp dport 7000 meta mark set 0x2001
                tcp dport 7000 meta mark set 0x2001
            }
            chain admission {
                type filter hook input priority filter;
                meta l4proto { tcp, udp } th dport 7000 meta mark != 0x2001 drop
            }
        }",
    );
    let asked = || {
        for transport in Transport::ALL {
            b.out.reach(transport, HOST_V4, 7000).by("host");
        }
    };
    asked();
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    asked();
}

fn a_bit_of_kube_proxys_is_warned_of(b: &TestBox) {
    for (number, bit, warned) in [(1, 14, true), (2, 12, false)] {
        let network = Network::dual(number).with(json!({ "markMasqBit": bit }));
        let web = b.web(&network, &format!("web{bit}"));
        let add = portmap("ADD", &web).mappings(&both(8080 + bit, 80)).run(b);
        add.expect_result();
        assert_eq!(add.stderr.contains("kube-proxy"), warned, "{add}");
    }
}
