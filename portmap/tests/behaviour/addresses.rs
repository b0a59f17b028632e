//! `hostIP`: which of the host's addresses a mapping answers at.

use std::net::SocketAddrV4;

use cni_testbox::{
    HOST_V4, HOST_V6, HOST2_V4, HOST2_V6, Mapping, Network, OUT_V4, TestBox, Transport, at, both,
    cases, eventually, tcp,
};

cases! {
    one_ipv4_address;
    one_ipv6_address;
    any_ipv4_address;
    any_ipv6_address;
    v4_mapped_address_means_ipv4;
    loopback_answers_to_the_host;
    loopback_does_not_answer_to_outside, go_defect(
        "PREROUTING translates what arrives from outside for 127.0.0.1 before routing drops it"
    );
    two_addresses_of_one_port_for_two_containers;
    a_specific_address_beats_any_address_added_after_it;
    a_specific_address_beats_any_address_added_before_it, go_defect(
        "rules are appended, so the mapping added first wins, whatever its address"
    );
    sctp_is_translated;
}

fn one_ipv4_address(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &at(both(8080, 80), HOST_V4));
    for transport in Transport::ALL {
        for client in [&b.out, &b.host, &web.container.netns] {
            client.reach(transport, HOST_V4, 8080).by("web");
            for other in [HOST2_V4, HOST_V6, HOST2_V6] {
                client.cannot_reach(transport, other, 8080);
            }
        }
        b.host.cannot_reach(transport, "127.0.0.1", 8080);
    }
}

fn one_ipv6_address(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &at(both(8080, 80), HOST_V6));
    for transport in Transport::ALL {
        for client in [&b.out, &b.host, &web.container.netns] {
            client.reach(transport, HOST_V6, 8080).by("web");
            for other in [HOST2_V6, HOST_V4, HOST2_V4] {
                client.cannot_reach(transport, other, 8080);
            }
        }
    }
}

fn any_ipv4_address(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &at(both(8080, 80), "0.0.0.0"));
    for transport in Transport::ALL {
        for address in [HOST_V4, HOST2_V4, &web.network.gateway_v4()] {
            b.out.reach(transport, address, 8080).by("web");
        }
        b.host.reach(transport, "127.0.0.1", 8080).by("web");
        b.out.cannot_reach(transport, HOST_V6, 8080);
    }
}

fn any_ipv6_address(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &at(both(8080, 80), "::"));
    for transport in Transport::ALL {
        for address in [HOST_V6, HOST2_V6, &web.network.gateway_v6()] {
            b.out.reach(transport, address, 8080).by("web");
        }
        b.out.cannot_reach(transport, HOST_V4, 8080);
    }
}

fn v4_mapped_address_means_ipv4(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &at(both(8080, 80), &format!("::ffff:{HOST_V4}")));
    for transport in Transport::ALL {
        b.out.reach(transport, HOST_V4, 8080).by("web");
        b.out.cannot_reach(transport, HOST2_V4, 8080);
        b.out.cannot_reach(transport, HOST_V6, 8080);
    }
}

fn loopback_answers_to_the_host(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &at(both(8080, 80), "127.0.0.1"));
    for transport in Transport::ALL {
        b.host.reach(transport, "127.0.0.1", 8080).by("web");
        b.host.cannot_reach(transport, "127.0.0.2", 8080);
        for address in [HOST_V4, HOST_V6] {
            b.host.cannot_reach(transport, address, 8080);
            b.out.cannot_reach(transport, address, 8080);
            web.container.netns.cannot_reach(transport, address, 8080);
        }
    }
}

/// The outside client sends packets for 127.0.0.1 to the host's link-layer address.
fn loopback_does_not_answer_to_outside(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.aim_loopback_at_the_host(&b.out, HOST_V4);
    b.map(&web, &[at(both(8080, 80), "127.0.0.1"), both(8081, 80)].concat());
    for transport in Transport::ALL {
        b.host.reach(transport, "127.0.0.1", 8080).by("web");
        b.out.cannot_reach(transport, "127.0.0.1", 8080);
        b.out.cannot_reach(transport, "127.0.0.1", 8081);
        b.out.reach(transport, HOST_V4, 8081).by("web");
    }
}

fn two_addresses_of_one_port_for_two_containers(b: &TestBox) {
    let network = Network::dual(1);
    let (one, two) = (b.web(&network, "one"), b.web(&network, "two"));
    b.map(&one, &[at(both(8080, 80), HOST_V4), at(both(8080, 80), HOST_V6)].concat());
    b.map(&two, &[at(both(8080, 80), HOST2_V4), at(both(8080, 80), HOST2_V6)].concat());
    for transport in Transport::ALL {
        for client in [&b.out, &b.host, &one.container.netns, &two.container.netns] {
            for (address, server) in
                [(HOST_V4, "one"), (HOST_V6, "one"), (HOST2_V4, "two"), (HOST2_V6, "two")]
            {
                client.reach(transport, address, 8080).by(server);
            }
        }
    }
}

fn a_specific_address_beats_any_address_added_after_it(b: &TestBox) {
    let network = Network::dual(1);
    let (specific, any) = (b.web(&network, "specific"), b.web(&network, "any"));
    b.map(&specific, &[at(both(8080, 80), HOST_V4), at(both(8080, 80), HOST_V6)].concat());
    b.map(&any, &both(8080, 80));
    expect_specific_before_any(b);
}

fn a_specific_address_beats_any_address_added_before_it(b: &TestBox) {
    let network = Network::dual(1);
    let (specific, any) = (b.web(&network, "specific"), b.web(&network, "any"));
    b.map(&any, &both(8080, 80));
    b.map(&specific, &[at(both(8080, 80), HOST_V4), at(both(8080, 80), HOST_V6)].concat());
    expect_specific_before_any(b);
}

fn expect_specific_before_any(b: &TestBox) {
    for transport in Transport::ALL {
        for client in [&b.out, &b.host] {
            client.reach(transport, HOST_V4, 8080).by("specific");
            client.reach(transport, HOST_V6, 8080).by("specific");
            client.reach(transport, HOST2_V4, 8080).by("any");
            client.reach(transport, HOST2_V6, 8080).by("any");
        }
    }
}

fn sctp_is_translated(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &[Mapping::sctp(9000, 90), tcp(9000, 80)]);
    let target = SocketAddrV4::new(HOST_V4.parse().expect("IPv4"), 9000);
    b.out.send_sctp_init(OUT_V4, 4000, target);
    let original = format!("src={OUT_V4} dst={HOST_V4} sport=4000 dport=9000");
    let reply = format!("src={} dst={OUT_V4} sport=90 dport=4000", web.v4());
    eventually("the SCTP packet is translated", || {
        let flows = b.flows("ipv4", "sctp");
        flows.iter().any(|flow| flow.contains(&original) && flow.contains(&reply))
    });
    b.out.reach(Transport::Tcp, HOST_V4, 9000).by("web");
}
