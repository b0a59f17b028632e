//! `route_localnet`: where it is set, and that its guard is never missing for long.

use std::net::SocketAddr;

use cni_testbox::{
    Call, HOST_V4, Implementation, Network, OUT_V4, TestBox, Transport, both, cases, ip, portmap,
    run, sh, tool,
};
use serde_json::json;

cases! {
    a_forged_loopback_source_is_dropped, backends;
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
    let gateway = network.gateway_v4();
    attacker.container.netns.write_sysctl("ipv4/conf/all/route_localnet", "1");
    b.host.write_sysctl(&format!("ipv4/conf/{}/route_localnet", network.bridge()), "1");
    let watch = || {
        b.nft(
            "table ip seen {
                chain in {
                    type filter hook input priority 0;
                    iifname br1 ip saddr 127.0.0.0/8 counter
                }
            }",
        );
    };
    watch();
    let seen = || {
        let listing = run(tool("nft").args(["list", "table", "ip", "seen"]));
        !listing.contains("packets 0")
    };
    // An address that is no interface's, which the kernel checks by itself.
    let forge = || {
        let forger = attacker.container.netns.asker_from("127.0.0.2");
        forger.cannot_reach(Transport::Udp, &gateway, 9999);
    };
    // Without the guard such packets arrive, so what is not seen below is the guard's work.
    forge();
    assert!(seen(), "the attack does not work here at all");
    b.map(&web, &both(8080, 80));
    sh("nft delete table ip seen");
    watch();
    forge();
    assert!(!seen(), "a packet from 127.0.0.2 came in by the bridge");
    b.host.reach(Transport::Tcp, "127.0.0.1", 8080).by("web");
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
