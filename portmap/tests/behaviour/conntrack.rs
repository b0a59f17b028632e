//! UDP has no end of connection: a flow the kernel still knows must not outlive the mapping it
//! was made for, and nobody else's flow may suffer for it.

use std::net::SocketAddr;

use cni_testbox::{
    FAR_V4, HOST_V4, HOST_V6, HOST2_V4, Mapping, Network, OUT_V4, TestBox, Transport, both, cases,
    ip, udp,
};

cases! {
    a_client_that_was_too_early_is_served_after_add;
    a_client_is_switched_to_the_new_container;
    a_client_is_switched_among_many_ports;
    a_client_is_switched_by_add_alone, go_defect(
        "rules are appended, so the older container is served until it is deleted"
    );
    no_flow_outlives_its_mapping, go_defect(
        "conntrack is touched on ADD only: after DEL a flow goes on to the old container"
    );
    a_flow_to_a_remote_port_of_the_same_number_survives, go_defect(
        "every UDP flow with that destination port is deleted, whatever its address"
    );
    a_flow_to_another_address_of_the_host_survives, go_defect(
        "every UDP flow with that destination port is deleted, whatever hostIP says"
    );
}

/// The client's fixed source port.
const CLIENT: u16 = 40_000;

fn a_client_that_was_too_early_is_served_after_add(b: &TestBox) {
    track_connections(b);
    let web = b.web(&Network::dual(1), "web");
    for (host, client) in [(HOST_V4, CLIENT), (HOST_V6, CLIENT + 1)] {
        let flow = b.out.udp_flow(client, host, 5353);
        flow.cannot_reach();
        b.map(&web, &[udp(5353, 80)]);
        flow.reach().by("web");
        b.unmap(&web, &[udp(5353, 80)]);
    }
}

fn a_client_is_switched_to_the_new_container(b: &TestBox) {
    let network = Network::dual(1);
    let (old, new) = (b.web(&network, "old"), b.web(&network, "new"));
    b.map(&old, &[udp(5353, 80)]);
    let flows = [b.out.udp_flow(CLIENT, HOST_V4, 5353), b.out.udp_flow(CLIENT + 1, HOST_V6, 5353)];
    for flow in &flows {
        flow.reach().by("old");
    }
    b.unmap(&old, &[udp(5353, 80)]);
    b.map(&new, &[udp(5353, 80)]);
    for flow in &flows {
        flow.reach().by("new");
    }
}

fn a_client_is_switched_among_many_ports(b: &TestBox) {
    let network = Network::dual(1);
    let (old, new) = (b.web(&network, "old"), b.web(&network, "new"));
    let many: Vec<Mapping> = (0..50).flat_map(|i| both(5300 + i, 80)).collect();
    b.map(&old, &many);
    let flows = [b.out.udp_flow(CLIENT, HOST_V4, 5300), b.out.udp_flow(CLIENT + 1, HOST_V6, 5349)];
    for flow in &flows {
        flow.reach().by("old");
    }
    b.unmap(&old, &many);
    b.map(&new, &many);
    for flow in &flows {
        flow.reach().by("new");
    }
    for port in [5300, 5325, 5349] {
        b.out.reach(Transport::Tcp, HOST_V4, port).by("new");
        b.out.reach(Transport::Tcp, HOST_V6, port).by("new");
    }
}

/// The old container's DEL is still to come.
fn a_client_is_switched_by_add_alone(b: &TestBox) {
    let network = Network::dual(1);
    let (old, new) = (b.web(&network, "old"), b.web(&network, "new"));
    b.map(&old, &[udp(5353, 80)]);
    let flows = [b.out.udp_flow(CLIENT, HOST_V4, 5353), b.out.udp_flow(CLIENT + 1, HOST_V6, 5353)];
    for flow in &flows {
        flow.reach().by("old");
    }
    b.map(&new, &[udp(5353, 80)]);
    for flow in &flows {
        flow.reach().by("new");
    }
    b.unmap(&old, &[udp(5353, 80)]);
    for flow in &flows {
        flow.reach().by("new");
    }
}

fn no_flow_outlives_its_mapping(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &[udp(5353, 80)]);
    let flows = [b.out.udp_flow(CLIENT, HOST_V4, 5353), b.out.udp_flow(CLIENT + 1, HOST_V6, 5353)];
    for flow in &flows {
        flow.reach().by("web");
    }
    let translated = format!("sport={CLIENT} dport=5353 src={}", web.v4());
    assert!(knows(b, &translated));
    b.unmap(&web, &[udp(5353, 80)]);
    for client in [CLIENT, CLIENT + 1] {
        assert!(!knows(b, &format!("sport={client} dport=5353")), "the flow is still known");
    }
    for flow in &flows {
        flow.cannot_reach();
    }
}

fn a_flow_to_a_remote_port_of_the_same_number_survives(b: &TestBox) {
    track_connections(b);
    let far = b.far();
    far.serve("dns", 53);
    let network = Network::dual(1);
    let (web, pod) = (b.web(&network, "web"), b.web(&network, "pod"));
    let query = pod.container.netns.udp_flow(CLIENT, FAR_V4, 53);
    query.reach().by("dns");
    let flow = format!("src={} dst={FAR_V4} sport={CLIENT} dport=53", pod.v4());
    assert!(knows(b, &flow), "connection tracking is on and saw the question");
    b.map(&web, &[udp(53, 80)]);
    assert!(knows(b, &flow), "ADD ended somebody else's flow");
    b.unmap(&web, &[udp(53, 80)]);
    assert!(knows(b, &flow), "DEL ended somebody else's flow");
    query.reach().by("dns");
}

fn a_flow_to_another_address_of_the_host_survives(b: &TestBox) {
    track_connections(b);
    let web = b.web(&Network::dual(1), "web");
    b.host.serve_at("host", SocketAddr::new(ip(HOST2_V4), 5353));
    b.out.udp_flow(CLIENT, HOST2_V4, 5353).reach().by("host");
    let flow = format!("src={OUT_V4} dst={HOST2_V4} sport={CLIENT} dport=5353");
    assert!(knows(b, &flow), "connection tracking is on and saw the question");
    b.map(&web, &[udp(5353, 80).at(HOST_V4)]);
    b.out.reach(Transport::Udp, HOST_V4, 5353).by("web");
    assert!(knows(b, &flow), "ADD ended a flow to another address");
    b.unmap(&web, &[udp(5353, 80).at(HOST_V4)]);
    assert!(knows(b, &flow), "DEL ended a flow to another address");
}

/// The kernel tracks connections only where some rule asks for their state, and before ADD there
/// may be none: a case about what was known before needs one of its own.
fn track_connections(b: &TestBox) {
    b.nft(
        "table inet tracking {
            chain prerouting {
                type filter hook prerouting priority filter
                ct state new counter
            }
            chain output {
                type filter hook output priority filter
                ct state new counter
            }
        }",
    );
}

/// Whether connection tracking knows a UDP flow whose description contains `text`.
fn knows(b: &TestBox, text: &str) -> bool {
    let flows = [b.flows("ipv4", "udp"), b.flows("ipv6", "udp")].concat();
    flows.iter().any(|flow| flow.contains(text))
}
