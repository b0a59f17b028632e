//! Who is served through a mapped port, and which client address the server sees.

use serde_json::json;

use cni_testbox::{
    HOST_V4, HOST_V6, Network, OUT_V4, OUT_V6, TestBox, Transport, both, cases, tcp, udp,
};

cases! {
    outside_is_served_with_its_own_address;
    host_is_served_at_its_own_address;
    host_is_served_at_127_0_0_1_and_127_0_0_2;
    host_is_served_from_any_loopback_source, go_defect(
        "only the source 127.0.0.1 is masqueraded, any other loopback source gets no answer"
    );
    ipv6_loopback_is_not_served;
    container_reaches_itself_through_its_host_port;
    neighbour_is_served_without_bridge_netfilter;
    neighbour_is_served_with_bridge_netfilter;
    container_on_another_bridge_is_served_with_its_own_address;
    without_snat_outside_and_host_are_served;
    without_snat_loopback_and_hairpin_are_not_served;
    masq_all_hides_the_outside_client, go_defect(
        "Debian's 1.1.1 does not know masqAll, which came with 1.2.0"
    );
    one_family_only;
    other_ports_and_protocols_are_not_mapped;
    tcp_and_udp_of_one_port_go_to_different_ports;
}

fn outside_is_served_with_its_own_address(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    for (host, _) in [(HOST_V4, OUT_V4), (HOST_V6, OUT_V6)] {
        b.out.cannot_reach(Transport::Tcp, host, 8080);
    }
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        b.out.reach(transport, HOST_V4, 8080).by("web").seen_as(OUT_V4);
        b.out.reach(transport, HOST_V6, 8080).by("web").seen_as(OUT_V6);
    }
    b.unmap(&web, &both(8080, 80));
    for host in [HOST_V4, HOST_V6] {
        b.out.cannot_reach(Transport::Tcp, host, 8080);
    }
}

fn host_is_served_at_its_own_address(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        for host in [HOST_V4, HOST_V6, &web.network.gateway_v4(), &web.network.gateway_v6()] {
            b.host.reach(transport, host, 8080).by("web");
        }
    }
}

fn host_is_served_at_127_0_0_1_and_127_0_0_2(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        for loopback in ["127.0.0.1", "127.0.0.2"] {
            let gateway = web.network.gateway_v4();
            b.host.reach(transport, loopback, 8080).by("web").seen_as(&gateway);
        }
    }
}

fn host_is_served_from_any_loopback_source(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        b.host.asker_from("127.0.0.5").reach(transport, "127.0.0.1", 8080).by("web");
    }
}

/// The kernel does not route a packet from `::1` off the host: documented, not a defect.
fn ipv6_loopback_is_not_served(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        b.host.cannot_reach(transport, "::1", 8080);
        b.host.reach(transport, HOST_V6, 8080).by("web");
    }
}

fn container_reaches_itself_through_its_host_port(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        for host in [HOST_V4, HOST_V6] {
            web.container.netns.reach(transport, host, 8080).by("web");
        }
    }
}

fn neighbour_is_served_without_bridge_netfilter(b: &TestBox) {
    neighbour_is_served(b, false);
}

fn neighbour_is_served_with_bridge_netfilter(b: &TestBox) {
    neighbour_is_served(b, true);
}

fn neighbour_is_served(b: &TestBox, bridge_netfilter: bool) {
    b.host.bridge_netfilter(bridge_netfilter);
    let network = Network::dual(1);
    let web = b.web(&network, "web");
    let neighbour = b.web(&network, "neighbour");
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        for host in [HOST_V4, HOST_V6, &network.gateway_v4(), &network.gateway_v6()] {
            neighbour.container.netns.reach(transport, host, 8080).by("web");
        }
    }
}

fn container_on_another_bridge_is_served_with_its_own_address(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let other = b.web(&Network::dual(2), "other");
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        for (host, own) in [(HOST_V4, other.v4()), (HOST_V6, other.v6())] {
            other.container.netns.reach(transport, host, 8080).by("web").seen_as(&own);
        }
    }
}

fn without_snat_outside_and_host_are_served(b: &TestBox) {
    let web = b.web(&Network::dual(1).with(json!({ "snat": false })), "web");
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        b.out.reach(transport, HOST_V4, 8080).by("web").seen_as(OUT_V4);
        b.out.reach(transport, HOST_V6, 8080).by("web").seen_as(OUT_V6);
        b.host.reach(transport, HOST_V4, 8080).by("web").seen_as(HOST_V4);
        b.host.reach(transport, HOST_V6, 8080).by("web").seen_as(HOST_V6);
    }
}

fn without_snat_loopback_and_hairpin_are_not_served(b: &TestBox) {
    let web = b.web(&Network::dual(1).with(json!({ "snat": false })), "web");
    b.map(&web, &both(8080, 80));
    let route_localnet = format!("ipv4/conf/{}/route_localnet", web.network.bridge());
    assert_eq!(b.host.read_sysctl(&route_localnet), "0", "not needed, so not set");
    for transport in Transport::ALL {
        b.host.cannot_reach(transport, "127.0.0.1", 8080);
        for host in [HOST_V4, HOST_V6] {
            web.container.netns.cannot_reach(transport, host, 8080);
            b.out.reach(transport, host, 8080).by("web");
        }
    }
}

fn masq_all_hides_the_outside_client(b: &TestBox) {
    let web = b.web(&Network::dual(1).with(json!({ "masqAll": true })), "web");
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        b.out.reach(transport, HOST_V4, 8080).by("web").seen_as(&web.network.gateway_v4());
        b.out.reach(transport, HOST_V6, 8080).by("web").seen_as(&web.network.gateway_v6());
        // Only what went through a mapped port is masqueraded.
        b.out.reach(transport, &web.v4(), 80).by("web").seen_as(OUT_V4);
        b.host.reach(transport, "127.0.0.1", 8080).by("web");
        web.container.netns.reach(transport, HOST_V4, 8080).by("web");
    }
}

fn one_family_only(b: &TestBox) {
    let four = b.web(&Network::v4(1), "four");
    let six = b.web(&Network::v6(2), "six");
    b.map(&four, &both(8084, 80));
    b.map(&six, &both(8086, 80));
    for transport in Transport::ALL {
        b.out.reach(transport, HOST_V4, 8084).by("four");
        b.out.cannot_reach(transport, HOST_V6, 8084);
        b.out.reach(transport, HOST_V6, 8086).by("six");
        b.out.cannot_reach(transport, HOST_V4, 8086);
    }
}

fn other_ports_and_protocols_are_not_mapped(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &[tcp(8080, 80)]);
    for host in [HOST_V4, HOST_V6] {
        b.out.reach(Transport::Tcp, host, 8080).by("web");
        b.out.cannot_reach(Transport::Udp, host, 8080);
        b.out.cannot_reach(Transport::Tcp, host, 8081);
        b.out.cannot_reach(Transport::Tcp, host, 80);
    }
}

fn tcp_and_udp_of_one_port_go_to_different_ports(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    web.container.netns.serve("second", 81);
    b.map(&web, &[tcp(8080, 80), udp(8080, 81)]);
    for host in [HOST_V4, HOST_V6] {
        b.out.reach(Transport::Tcp, host, 8080).by("web");
        b.out.reach(Transport::Udp, host, 8080).by("second");
    }
}
