//! What a mapping must never do: translate traffic that is not for the host, open the host's
//! loopback, or take a port from kube-proxy.

use std::net::SocketAddr;

use cni_testbox::{
    Call, FAR_V4, FAR_V6, HOST_V4, HOST_V6, Network, OUT_V4, TestBox, Transport, at, both, cases,
    ip, run, tool,
};

cases! {
    forwarded_traffic_is_never_translated;
    a_foreign_host_ip_is_never_translated;
    outside_cannot_reach_the_loopback_of_the_host;
    outside_cannot_reach_a_loopback_that_kube_proxy_opened, ours;
    a_container_cannot_reach_the_loopback_of_the_host, go_defect(
        "route_localnet is set on the bridge and nothing guards it (CVE-2020-8558 for containers)"
    );
    the_loopback_of_the_host_stays_closed_after_gc, backends;
    kube_proxy_in_iptables_wins;
    kube_proxy_in_nftables_wins_whoever_came_first, ours;
}

/// CVE-2025-67499.
fn forwarded_traffic_is_never_translated(b: &TestBox) {
    let far = b.far();
    far.serve("far", 8080);
    let (web, pod) = (b.web(&Network::dual(1), "web"), b.web(&Network::dual(2), "pod"));
    pod.container.netns.serve("pod8080", 8080);
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        for client in [&b.out, &b.host, &pod.container.netns, &web.container.netns] {
            client.reach(transport, FAR_V4, 8080).by("far");
            client.reach(transport, FAR_V6, 8080).by("far");
        }
        for client in [&b.out, &b.host, &web.container.netns] {
            client.reach(transport, &pod.v4(), 8080).by("pod8080");
            client.reach(transport, &pod.v6(), 8080).by("pod8080");
        }
        b.out.reach(transport, HOST_V4, 8080).by("web");
        b.out.reach(transport, HOST_V6, 8080).by("web");
    }
}

/// CVE-2025-67499 with a `hostIP` that is somebody else's address.
fn a_foreign_host_ip_is_never_translated(b: &TestBox) {
    let far = b.far();
    far.serve("far", 8080);
    let (web, pod) = (b.web(&Network::dual(1), "web"), b.web(&Network::dual(2), "pod"));
    b.map(&web, &[at(both(8080, 80), FAR_V4), at(both(8080, 80), FAR_V6)].concat());
    for transport in Transport::ALL {
        for client in [&b.out, &b.host, &pod.container.netns, &web.container.netns] {
            client.reach(transport, FAR_V4, 8080).by("far");
            client.reach(transport, FAR_V6, 8080).by("far");
            client.cannot_reach(transport, HOST_V4, 8080);
        }
    }
    // The mapping itself is alive: it serves once the address is the host's.
    run(tool("ip").args(["addr", "add", &format!("{FAR_V4}/32"), "dev", "lo"]));
    b.out.reach(Transport::Tcp, FAR_V4, 8080).by("web");
}

fn serve_on_loopback(b: &TestBox) {
    b.host.serve_at("private", SocketAddr::new(ip("127.0.0.1"), 9999));
    b.host.reach(Transport::Tcp, "127.0.0.1", 9999).by("private");
}

fn outside_cannot_reach_the_loopback_of_the_host(b: &TestBox) {
    serve_on_loopback(b);
    b.aim_loopback_at_the_host(&b.out, HOST_V4);
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        b.out.cannot_reach(transport, "127.0.0.1", 9999);
        b.host.reach(transport, "127.0.0.1", 9999).by("private");
    }
}

/// CVE-2020-8558: `route_localnet` on every interface, as kube-proxy sets it.
fn outside_cannot_reach_a_loopback_that_kube_proxy_opened(b: &TestBox) {
    serve_on_loopback(b);
    b.aim_loopback_at_the_host(&b.out, HOST_V4);
    b.host.write_sysctl("ipv4/conf/all/route_localnet", "1");
    for transport in Transport::ALL {
        // Without the guard the attack works, so the silence below is the guard's.
        b.out.reach(transport, "127.0.0.1", 9999).by("private").seen_as(OUT_V4);
    }
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        b.out.cannot_reach(transport, "127.0.0.1", 9999);
        b.host.reach(transport, "127.0.0.1", 9999).by("private");
        b.host.reach(transport, "127.0.0.1", 8080).by("web");
    }
}

fn a_container_cannot_reach_the_loopback_of_the_host(b: &TestBox) {
    serve_on_loopback(b);
    let network = Network::dual(1);
    let (web, neighbour) = (b.web(&network, "web"), b.web(&network, "neighbour"));
    for attacker in [&web, &neighbour] {
        b.aim_loopback_at_the_host(&attacker.container.netns, &network.gateway_v4());
    }
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        for attacker in [&web, &neighbour] {
            attacker.container.netns.cannot_reach(transport, "127.0.0.1", 9999);
        }
        b.host.reach(transport, "127.0.0.1", 9999).by("private");
    }
}

/// `route_localnet` stays on the bridge when nothing is mapped any more, and so does the guard.
fn the_loopback_of_the_host_stays_closed_after_gc(b: &TestBox) {
    serve_on_loopback(b);
    let network = Network::dual(1);
    let (web, neighbour) = (b.web(&network, "web"), b.web(&network, "neighbour"));
    let attacker = &neighbour.container.netns;
    b.aim_loopback_at_the_host(attacker, &network.gateway_v4());
    let route_localnet = format!("ipv4/conf/{}/route_localnet", network.bridge());
    b.map(&web, &both(8080, 80));
    b.unmap(&web, &both(8080, 80));
    Call::of_network("portmap", "GC", &network.name).valid(&[]).run(b).expect_silence();
    assert_eq!(b.host.read_sysctl(&route_localnet), "1", "or there would be nothing to guard");
    for transport in Transport::ALL {
        attacker.cannot_reach(transport, "127.0.0.1", 9999);
        b.host.reach(transport, "127.0.0.1", 9999).by("private");
    }
    // Without the guard the attack works, so the silence was the guard's.
    b.host.write_sysctl(&route_localnet, "0");
    Call::of_network("portmap", "GC", &network.name).valid(&[]).run(b).expect_silence();
    b.host.write_sysctl(&route_localnet, "1");
    for transport in Transport::ALL {
        attacker.reach(transport, "127.0.0.1", 9999).by("private");
    }
}

/// CVE-2019-9946: a service's rules come first, whether they are there before or after.
fn kube_proxy_in_iptables_wins(b: &TestBox) {
    let network = Network::dual(1);
    let (web, service) = (b.web(&network, "web"), b.web(&network, "service"));
    let service_rule = |insert: &str, port: u16| {
        for (program, target) in [
            ("iptables", format!("{}:80", service.v4())),
            ("ip6tables", format!("[{}]:80", service.v6())),
        ] {
            for protocol in ["tcp", "udp"] {
                run(tool(program)
                    .args(["-w", "-t", "nat", insert, "PREROUTING", "-p", protocol])
                    .args(["-m", "addrtype", "--dst-type", "LOCAL", "--dport", &port.to_string()])
                    .args(["-j", "DNAT", "--to-destination", &target]));
            }
        }
    };
    service_rule("-A", 8080);
    b.map(&web, &[both(8080, 80), both(8081, 80), both(8082, 80)].concat());
    service_rule("-I", 8081);
    for transport in Transport::ALL {
        for host in [HOST_V4, HOST_V6] {
            b.out.reach(transport, host, 8080).by("service");
            b.out.reach(transport, host, 8081).by("service");
            b.out.reach(transport, host, 8082).by("web");
        }
    }
}

fn kube_proxy_in_nftables_wins_whoever_came_first(b: &TestBox) {
    let network = Network::dual(1);
    let (web, service) = (b.web(&network, "web"), b.web(&network, "service"));
    let (v4, v6) = (service.v4(), service.v6());
    let services = |table: &str, port: u16| {
        let translate = format!(
            "fib daddr type local meta nfproto ipv4 tcp dport {port} dnat ip to {v4}:80
             fib daddr type local meta nfproto ipv4 udp dport {port} dnat ip to {v4}:80
             fib daddr type local meta nfproto ipv6 tcp dport {port} dnat ip6 to [{v6}]:80
             fib daddr type local meta nfproto ipv6 udp dport {port} dnat ip6 to [{v6}]:80"
        );
        b.nft(&format!(
            "table inet {table} {{
                chain prerouting {{ type nat hook prerouting priority dstnat; {translate}\n }}
                chain output {{ type nat hook output priority -100; {translate}\n }}
            }}"
        ));
    };
    services("before", 8080);
    b.map(&web, &[both(8080, 80), both(8081, 80), both(8082, 80)].concat());
    services("after", 8081);
    for transport in Transport::ALL {
        for client in [&b.out, &b.host] {
            for host in [HOST_V4, HOST_V6] {
                client.reach(transport, host, 8080).by("service");
                client.reach(transport, host, 8081).by("service");
                client.reach(transport, host, 8082).by("web");
            }
        }
    }
}
