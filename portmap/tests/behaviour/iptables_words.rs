//! Conditions in iptables' words, however people spell them.

use cni_testbox::{
    HOST_V4, HOST2_V4, Network, OUT_V4, OUT_V6, TestBox, Transport, at, both, cases, portmap,
};
use serde_json::{Value, json};

cases! {
    a_destination_beside_a_host_address_serves, iptables_only;
    an_argument_with_a_blank_is_one_argument, iptables_only;
    check_passes_right_after_add_however_it_is_spelled, iptables_only;
    check_notices_a_condition_that_changed, iptables_only;
}

/// The Go plugin's README has such a network.
fn a_destination_beside_a_host_address_serves(b: &TestBox) {
    let keys = json!({ "conditionsV4": ["-d", HOST_V4] });
    let web = b.web(&Network::v4(1).with(keys), "web");
    let mappings = [at(both(8080, 80), HOST_V4), at(both(8081, 80), HOST2_V4)].concat();
    b.map(&web, &mappings);
    portmap("CHECK", &web).mappings(&mappings).run(b).expect_silence();
    for transport in Transport::ALL {
        b.out.reach(transport, HOST_V4, 8080).by("web");
        b.out.cannot_reach(transport, HOST2_V4, 8080);
        b.out.cannot_reach(transport, HOST_V4, 8081);
        b.out.cannot_reach(transport, HOST2_V4, 8081);
    }
    b.unmap(&web, &mappings);
    b.out.cannot_reach(Transport::Tcp, HOST_V4, 8080);
}

fn an_argument_with_a_blank_is_one_argument(b: &TestBox) {
    let keys = json!({ "conditionsV4": ["-m", "comment", "--comment", "two \"quoted\" words"] });
    let web = b.web(&Network::v4(1).with(keys), "web");
    b.map(&web, &both(8080, 80));
    portmap("CHECK", &web).mappings(&both(8080, 80)).run(b).expect_silence();
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
    b.unmap(&web, &both(8080, 80));
    b.out.cannot_reach(Transport::Tcp, HOST_V4, 8080);
}

fn check_passes_right_after_add_however_it_is_spelled(b: &TestBox) {
    let spellings: [(Value, Value); 14] = [
        (json!(["-s", OUT_V4]), json!(["-s", OUT_V6])),
        (json!(["!", "-s", "192.0.2.1"]), json!(["!", "-s", "2001:db8:9::1"])),
        (json!(["--source", "198.51.100.0/24"]), json!(["--src", "2001:DB8:100::2"])),
        (json!(["--in-interface", "ext0"]), json!(["-i", "ext+"])),
        (json!(["-s", "198.51.100.0/255.255.255.0"]), json!(["-s", "2001:db8:100::7/64"])),
        (json!(["-s", "198.51.100.7/24"]), json!(["-s", "2001:0db8:0100::/48"])),
        (json!(["-m", "mark", "!", "--mark", "1"]), json!(["-m", "mark", "--mark", "0x0/0xf"])),
        (json!(["-s", "198.51.100.2,192.0.2.1"]), json!(["-s", "2001:db8:100::2,2001:db8::1"])),
        (
            json!(["-m", "iprange", "--src-range", "198.51.100.1-198.51.100.9"]),
            json!(["-m", "iprange", "--src-range", "2001:db8:100::1-2001:db8:100::9"]),
        ),
        (
            json!(["-m", "limit", "--limit", "100/second"]),
            json!(["-m", "limit", "--limit", "6000/min"]),
        ),
        (json!(["--destination", HOST_V4]), json!(["--dst", "2001:db8:100::1"])),
        (json!(["!", "-i", "lo"]), json!(["!", "--in-interface", "lo"])),
        (
            json!(["-m", "conntrack", "--ctstate", "NEW"]),
            json!(["-m", "conntrack", "--ctstate", "RELATED,NEW"]),
        ),
        (json!(["-s", "0.0.0.0/0"]), json!(["-s", "::/0"])),
    ];
    for (number, (v4, v6)) in (1..).zip(spellings) {
        let keys = json!({ "conditionsV4": v4, "conditionsV6": v6 });
        let name = format!("web{number}");
        let web = b.web(&Network::dual(number).with(keys.clone()), &name);
        let mappings = both(8000 + u16::from(number), 80);
        b.map(&web, &mappings);
        println!("{keys}");
        portmap("CHECK", &web).mappings(&mappings).run(b).expect_silence();
        b.out.reach(Transport::Tcp, HOST_V4, 8000 + u16::from(number)).by(&name);
        b.unmap(&web, &mappings);
        b.out.cannot_reach(Transport::Tcp, HOST_V4, 8000 + u16::from(number));
    }
}

fn check_notices_a_condition_that_changed(b: &TestBox) {
    let with = |source: &str| Network::v4(1).with(json!({ "conditionsV4": ["--source", source] }));
    let mut web = b.web(&with("198.51.100.0/24"), "web");
    b.map(&web, &both(8080, 80));
    portmap("CHECK", &web).mappings(&both(8080, 80)).run(b).expect_silence();
    web.network = with("192.0.2.0/24");
    let check = portmap("CHECK", &web).mappings(&both(8080, 80)).run(b);
    check.expect_error_with(100, &["192.0.2.0/24"]);
}
