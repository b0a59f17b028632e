//! `route_localnet`: where it is set, and that its guard is never missing for long.

use std::net::SocketAddr;

use cni_testbox::{
    Call, HOST_V4, Implementation, Network, OUT_V4, TestBox, Transport, both, cases, ip, portmap,
    run, sh, tool,
};
use serde_json::json;

cases! {
    a_forged_loopback_source_is_dropped, backends;
    what_nobody_tracks_is_dropped_as_well, backends;
    a_neighbour_that_translates_to_the_loopback_goes_on, backends;
    an_uplink_is_left_alone, go_defect("route_localnet is set on whatever leads to the container");
    a_guard_that_was_flushed_comes_back_with_del, backends;
    a_guard_that_was_flushed_comes_back_with_add, backends;
}

/// A host with a private service, a mapped container, and an attacker on its bridge.
struct Scene {
    web: cni_testbox::Attachment,
    attacker: cni_testbox::Attachment,
}

impl Scene {
    fn new(b: &TestBox) -> Self {
        b.host.serve_at("private", SocketAddr::new(ip("127.0.0.1"), 9999));
        let network = Network::dual(1);
        let (web, attacker) = (b.web(&network, "web"), b.web(&network, "attacker"));
        b.aim_loopback_at_the_host(&attacker.container.netns, &network.gateway_v4());
        b.map(&web, &both(8080, 80));
        Self { web, attacker }
    }

    fn is_closed(&self) {
        for transport in Transport::ALL {
            self.attacker.container.netns.cannot_reach(transport, "127.0.0.1", 9999);
        }
    }

    fn is_open(&self) {
        self.attacker.container.netns.reach(Transport::Tcp, "127.0.0.1", 9999).by("private");
    }
}

fn flush(b: &TestBox) {
    match b.implementation {
        Implementation::IptablesLegacy | Implementation::IptablesNft => {
            sh("iptables -t raw -F && iptables -t raw -X")
        }
        Implementation::Ours | Implementation::Go => run(tool("nft").args(["flush", "ruleset"])),
    };
}

fn a_forged_loopback_source_is_dropped(b: &TestBox) {
    let network = Network::dual(1);
    let (web, attacker) = (b.web(&network, "web"), b.web(&network, "attacker"));
    open_bridge(b, &network);
    forged_sources_arrive(b, &network, &attacker, true);
    b.map(&web, &both(8080, 80));
    forged_sources_arrive(b, &network, &attacker, false);
    b.host.reach(Transport::Tcp, "127.0.0.1", 8080).by("web");
}

/// NAT's chains do not see packets without connection tracking.
fn what_nobody_tracks_is_dropped_as_well(b: &TestBox) {
    let network = Network::dual(1);
    let (web, attacker) = (b.web(&network, "web"), b.web(&network, "attacker"));
    let forger = b.web(&network, "forger");
    b.nft(
        "table ip skip {
            chain early { type filter hook prerouting priority -310; iifname br1 udp dport 9999 notrack; }
        }",
    );
    open_bridge(b, &network);
    b.aim_loopback_at_the_host(&attacker.container.netns, &network.gateway_v4());
    let attack = || attacker.container.netns.cannot_reach(Transport::Udp, "127.0.0.1", 9999);
    for mapped in [false, true] {
        if mapped {
            b.map(&web, &both(8080, 80));
        }
        forged_sources_arrive(b, &network, &forger, !mapped);
        assert_eq!(arrives(b, "ip daddr 127.0.0.0/8", attack), !mapped, "mapped: {mapped}");
    }
    b.host.reach(Transport::Tcp, "127.0.0.1", 8080).by("web");
}

/// As kube2iam and the agents of clouds answer containers by a server on 127.0.0.1.
fn a_neighbour_that_translates_to_the_loopback_goes_on(b: &TestBox) {
    let network = Network::dual(1);
    let (web, pod) = (b.web(&network, "web"), b.web(&network, "pod"));
    b.host.serve_at("metadata", SocketAddr::new(ip("127.0.0.1"), 9999));
    open_bridge(b, &network);
    b.nft(
        "table ip agent {
            chain prerouting {
                type nat hook prerouting priority dstnat;
                iifname br1 ip daddr 169.254.169.254 meta l4proto { tcp, udp } th dport 80 dnat to 127.0.0.1:9999
            }
        }",
    );
    let works = || {
        for transport in Transport::ALL {
            pod.container.netns.reach(transport, "169.254.169.254", 80).by("metadata");
        }
    };
    works();
    b.map(&web, &both(8080, 80));
    works();
    b.unmap(&web, &both(8080, 80));
    works();
}

fn open_bridge(b: &TestBox, network: &Network) {
    b.host.write_sysctl(&format!("ipv4/conf/{}/route_localnet", network.bridge()), "1");
}

/// From an address that is no interface's, which the kernel checks by itself. That such packets arrive
/// without the guard makes it the guard's work that they do not with it.
fn forged_sources_arrive(
    b: &TestBox,
    network: &Network,
    forger: &cni_testbox::Attachment,
    expected: bool,
) {
    let gateway = network.gateway_v4();
    forger.container.netns.write_sysctl("ipv4/conf/all/route_localnet", "1");
    let forge = || {
        let asker = forger.container.netns.asker_from("127.0.0.2");
        asker.cannot_reach(Transport::Udp, &gateway, 9999);
    };
    let arrived = arrives(b, "ip saddr 127.0.0.0/8", forge);
    assert_eq!(arrived, expected, "packets from 127.0.0.2 that came in by the bridge");
}

/// Whether anything that matches comes in by the bridge and is delivered meanwhile.
fn arrives(b: &TestBox, matching: &str, meanwhile: impl FnOnce()) -> bool {
    b.nft(&format!(
        "table ip seen {{
            chain in {{
                type filter hook input priority 0;
                iifname br1 {matching} counter
            }}
        }}"
    ));
    meanwhile();
    let listing = run(tool("nft").args(["list", "table", "ip", "seen"]));
    sh("nft delete table ip seen");
    !listing.contains("packets 0")
}

/// A macvlan's container is reached by the uplink itself.
fn an_uplink_is_left_alone(b: &TestBox) {
    sh(&format!("ip route add default via {OUT_V4} dev ext0"));
    b.out.serve("web", 80);
    let pod = b.web(&Network::dual(1), "pod");
    let mut web = b.container("web").join(&Network::v4(2), "eth0");
    web.result = json!({ "cniVersion": "1.0.0",
        "interfaces": [{ "name": "eth0", "sandbox": web.container.netns.path() }],
        "ips": [{ "address": format!("{OUT_V4}/24"), "interface": 0 }] });
    let outcome = portmap("ADD", &web).mappings(&both(8080, 80)).run(b);
    outcome.expect_result();
    assert_eq!(b.host.read_sysctl("ipv4/conf/ext0/route_localnet"), "0");
    assert!(outcome.stderr.contains("127.0.0.1"), "{outcome}");
    assert!(outcome.stderr.contains("ext0"), "{outcome}");
    pod.container.netns.reach(Transport::Tcp, HOST_V4, 8080).by("web");
    portmap("CHECK", &web).mappings(&both(8080, 80)).run(b).expect_silence();
    b.unmap(&web, &both(8080, 80));
}

fn a_guard_that_was_flushed_comes_back_with_del(b: &TestBox) {
    let scene = Scene::new(b);
    scene.is_closed();
    flush(b);
    scene.is_open();
    let check = portmap("CHECK", &scene.web).mappings(&both(8080, 80)).run(b);
    check.expect_error_with(100, &[]);
    let status = Call::of_network("portmap", "STATUS", "net1").run(b);
    status.expect_silence();
    assert!(status.stderr.contains("route_localnet"), "{status}");
    b.unmap(&scene.web, &both(8080, 80));
    scene.is_closed();
    let status = Call::of_network("portmap", "STATUS", "net1").run(b);
    assert!(!status.stderr.contains("route_localnet"), "{status}");
}

/// Also one that maps nothing.
fn a_guard_that_was_flushed_comes_back_with_add(b: &TestBox) {
    let scene = Scene::new(b);
    b.unmap(&scene.web, &both(8080, 80));
    flush(b);
    scene.is_open();
    portmap("CHECK", &scene.web).run(b).expect_error_with(100, &["route_localnet"]);
    portmap("ADD", &scene.web).run(b).expect_result();
    scene.is_closed();
    portmap("CHECK", &scene.web).run(b).expect_silence();
}
