//! A table of ours that nft has listed and loaded again, as nftables.service does with a saved ruleset.

use cni_testbox::{
    Call, HOST_V4, HOST_V6, Network, TestBox, Transport, both, cases, feed, portmap, run, tool,
};
use serde_json::{Value, json};

cases! {
    a_reloaded_table_is_sound, ours;
    reloaded_conditions_are_sound, ours;
}

fn reload() {
    let listing = run(tool("nft").args(["list", "ruleset"]));
    run(tool("nft").args(["flush", "ruleset"]));
    feed(tool("nft").args(["-f", "-"]), &listing);
}

fn a_reloaded_table_is_sound(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    reload();
    assert!(b.ruleset().contains("cni-chain layout 2"), "{}", b.ruleset());
    portmap("CHECK", &web).mappings(&both(8080, 80)).run(b).expect_silence();
    let status = Call::of_network("portmap", "STATUS", "net1").run(b);
    status.expect_silence();
    assert!(!status.stderr.contains("warning"), "{status}");
    for transport in Transport::ALL {
        for host in [HOST_V4, HOST_V6] {
            b.out.reach(transport, host, 8080).by("web");
        }
    }
    // Nothing is restored that was not lost.
    let other = b.web(&Network::dual(2), "other");
    let outcome = portmap("ADD", &other).mappings(&both(8081, 80)).run(b);
    outcome.expect_result();
    assert!(!outcome.stderr.contains("restored"), "{outcome}");
    b.unmap(&web, &both(8080, 80));
    b.out.cannot_reach(Transport::Tcp, HOST_V4, 8080);
}

/// Each form that nft puts into other expressions than the words suggest.
fn reloaded_conditions_are_sound(b: &TestBox) {
    let forms: [(&str, Value, Value); 7] = [
        ("bytes", json!(["ip saddr 0.0.0.0/0"]), json!(["ip6 saddr ::/0"])),
        ("prefix", json!(["ip saddr 198.51.0.0/16"]), json!(["ip6 saddr 2001:db8::/32"])),
        ("odd", json!(["ip saddr 198.48.0.0/12"]), json!(["ip6 saddr 2001:d00::/24"])),
        ("not", json!(["ip saddr != 203.0.113.0/24"]), json!(["ip6 saddr != 2001:db8:203::/48"])),
        (
            "pair",
            json!(["ip saddr 198.51.100.2 ip daddr 198.51.100.1"]),
            json!(["ip6 saddr 2001:db8:100::2 ip6 daddr 2001:db8:100::1"]),
        ),
        ("names", json!(["iifname ext*"]), json!(["iifname ext0"])),
        ("mark", json!(["meta mark & 0xf0 == 0x0"]), json!(["meta mark != 0x7"])),
    ];
    for (number, (name, v4, v6)) in (1..).zip(forms) {
        let keys = json!({ "conditionsV4": v4, "conditionsV6": v6 });
        let web = b.web(&Network::dual(number).named(name).with(keys), name);
        let mappings = both(8000 + u16::from(number), 80);
        b.map(&web, &mappings);
        let check = || portmap("CHECK", &web).mappings(&mappings).run(b).expect_silence();
        let ask = || {
            for host in [HOST_V4, HOST_V6] {
                b.out.reach(Transport::Tcp, host, 8000 + u16::from(number)).by(name);
            }
        };
        check();
        ask();
        reload();
        check();
        ask();
    }
}
