//! The firewall with a real firewalld on a bus of the box's own.

use std::fs;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use cni_testbox::{Firewalld, HOST_V4, Network, OUT_V4, TestBox, Transport, cases, firewall, tcp};

cases! {
    addresses_become_sources_of_the_zone, once;
    check_believes_the_answer, once_defect("the answer is not looked at");
    a_source_of_another_zone_is_a_conflict, ours;
    an_unknown_zone_is_named, ours;
    a_late_del_spares_the_new_owner, once_defect("sources have no owner");
    a_dead_bus_fails_add_and_not_del, once_defect("DEL fails as well");
    firewalld_that_stopped_fails_add_and_not_del, once;
    a_silent_bus_is_not_taken_for_none, ours;
    an_add_that_cannot_be_remembered_changes_nothing, ours;
    a_changed_address_leaves_no_source, ours;
    isolation_holds_beside_firewalld, ours;
}

const BUS: &str = "/run/dbus/system_bus_socket";

fn keys() -> Value {
    json!({ "backend": "firewalld" })
}

fn sources(firewalld: &Firewalld, zone: &str) -> Vec<String> {
    let text = firewalld.cmd(&[&format!("--zone={zone}"), "--list-sources"]);
    text.split_whitespace().map(str::to_owned).collect()
}

fn addresses_become_sources_of_the_zone(b: &TestBox) {
    let firewalld = Firewalld::start();
    let web = b.web(&Network::dual(1), "web");
    b.out.serve("out", 80);
    web.container.netns.cannot_reach(Transport::Tcp, OUT_V4, 80);
    // No backend named: firewalld runs.
    b.admit(&web, &json!({}));
    assert_eq!(
        sources(&firewalld, "trusted"),
        [format!("{}/32", web.v4()), format!("{}/128", web.v6())]
    );
    b.map(&web, &[tcp(8080, 80)]);
    web.container.netns.reach(Transport::Tcp, OUT_V4, 80).by("out");
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
    b.admit(&web, &json!({}));
    b.inspect(&web, &json!({})).expect_silence();
    b.dismiss(&web, &json!({}));
    b.dismiss(&web, &json!({}));
    assert!(sources(&firewalld, "trusted").is_empty());
    let internal = json!({ "backend": "firewalld", "firewalldZone": "internal" });
    b.admit(&web, &internal);
    assert_eq!(sources(&firewalld, "internal").len(), 2);
    b.dismiss(&web, &internal);
    assert!(sources(&firewalld, "internal").is_empty());
}

fn check_believes_the_answer(b: &TestBox) {
    let firewalld = Firewalld::start();
    let web = b.web(&Network::dual(1), "web");
    b.admit(&web, &keys());
    b.inspect(&web, &keys()).expect_silence();
    firewalld.reload();
    let words = ["source", "is missing from firewalld's zone trusted"];
    b.inspect(&web, &keys()).expect_error_with(100, &words);
    b.admit(&web, &keys());
    b.inspect(&web, &keys()).expect_silence();
}

fn a_source_of_another_zone_is_a_conflict(b: &TestBox) {
    let firewalld = Firewalld::start();
    let web = b.web(&Network::dual(1), "web");
    let v6 = format!("{}/128", web.v6());
    firewalld.cmd(&["--zone=internal", &format!("--add-source={v6}")]);
    let before = b.ruleset();
    let add = firewall("ADD", &web).keys(&keys());
    add.run(b).expect_error_with(101, &[&v6, "bound to zone internal", "--remove-source"]);
    assert!(sources(&firewalld, "trusted").is_empty(), "the IPv4 address went again");
    assert_eq!(sources(&firewalld, "internal"), [v6], "somebody else's binding stays");
    assert!(!b.ruleset().contains("web/eth0"), "{before}");
}

fn an_unknown_zone_is_named(b: &TestBox) {
    let _firewalld = Firewalld::start();
    let web = b.web(&Network::dual(1), "web");
    let keys = json!({ "backend": "firewalld", "firewalldZone": "nosuch" });
    let words = ["no zone \"nosuch\"", "--new-zone=nosuch"];
    firewall("ADD", &web).keys(&keys).run(b).expect_error_with(7, &words);
    assert!(!b.ruleset().contains("web/eth0"));
    b.dismiss(&web, &keys);
}

fn a_late_del_spares_the_new_owner(b: &TestBox) {
    let firewalld = Firewalld::start();
    let network = Network::dual(1).single_address();
    let old = b.web(&network, "old");
    b.admit(&old, &keys());
    old.leave();
    let new = b.web(&network, "new");
    b.admit(&new, &keys());
    b.dismiss(&old, &keys());
    assert_eq!(sources(&firewalld, "trusted").len(), 2);
    b.inspect(&new, &keys()).expect_silence();
}

fn a_dead_bus_fails_add_and_not_del(b: &TestBox) {
    let mut firewalld = Firewalld::start();
    let web = b.web(&Network::dual(1), "web");
    b.admit(&web, &keys());
    firewalld.stop();
    firewalld.kill_bus();
    let (_, text) = firewall("ADD", &web).keys(&keys()).run(b).expect_error();
    assert!(text.contains("firewalld"), "{text}");
    b.dismiss(&web, &keys());
    assert!(!b.ruleset().contains("web/eth0"));
}

fn firewalld_that_stopped_fails_add_and_not_del(b: &TestBox) {
    let mut firewalld = Firewalld::start();
    let web = b.web(&Network::dual(1), "web");
    b.admit(&web, &keys());
    firewalld.stop();
    firewall("ADD", &web).keys(&keys()).run(b).expect_error();
    b.dismiss(&web, &keys());
}

/// firewalld may be behind it, so nobody can say where the addresses are, or have to be.
fn a_silent_bus_is_not_taken_for_none(b: &TestBox) {
    let mut firewalld = Firewalld::start();
    let web = b.web(&Network::dual(1), "web");
    b.admit(&web, &json!({}));
    firewalld.stop();
    firewalld.kill_bus();
    // Its table has an owner while it runs.
    let before = b.ruleset();
    fs::remove_file(BUS).expect("the dead bus's socket");
    // Nobody accepts: after the first calls it takes no connection more.
    b.host.write_sysctl("core/somaxconn", "1");
    let silent = UnixListener::bind(BUS).expect("a socket in its place");
    let words = ["cannot reach firewalld", "does not answer"];
    for command in ["ADD", "CHECK", "DEL"] {
        firewall(command, &web).run(b).expect_error_with(11, &words);
        assert_eq!(b.ruleset(), before, "{command}");
    }
    drop(silent);
    b.dismiss(&web, &json!({}));
    assert!(!b.ruleset().contains("web/eth0"));
}

fn an_add_that_cannot_be_remembered_changes_nothing(b: &TestBox) {
    let firewalld = Firewalld::start();
    let web = b.web(&Network::dual(1), "web");
    fs::create_dir_all("/run/cni").expect("a directory of the box");
    fs::write("/run/cni/firewall", "").expect("a file in the directory's place");
    let before = b.ruleset();
    let add = firewall("ADD", &web).keys(&keys());
    add.run(b).expect_error_with(5, &["cannot remember", "/run/cni/firewall"]);
    assert_eq!(b.ruleset(), before);
    assert!(sources(&firewalld, "trusted").is_empty());
}

fn a_changed_address_leaves_no_source(b: &TestBox) {
    let firewalld = Firewalld::start();
    let mut web = b.web(&Network::dual(1), "web");
    b.admit(&web, &keys());
    web.result["ips"][0]["address"] = "10.88.1.77/24".into();
    b.admit(&web, &keys());
    let expected = ["10.88.1.77/32".to_owned(), format!("{}/128", web.v6())];
    let mut found = sources(&firewalld, "trusted");
    found.sort();
    assert_eq!(found, expected);
    b.dismiss(&web, &keys());
    assert!(sources(&firewalld, "trusted").is_empty());
}

fn isolation_holds_beside_firewalld(b: &TestBox) {
    let _firewalld = Firewalld::start();
    let (one, two) = (Network::dual(1), Network::dual(2));
    let [web, near, far] = [b.web(&one, "web"), b.web(&one, "near"), b.web(&two, "far")];
    b.host.serve("host", 80);
    let keys = json!({ "backend": "firewalld", "ingressPolicy": "isolated" });
    for attachment in [&web, &near, &far] {
        b.admit(attachment, &keys);
    }
    b.map(&web, &[tcp(8080, 80)]);
    for (asker, address) in [(&near, web.v4()), (&far, web.v4()), (&far, web.v6())] {
        asker.container.netns.cannot_reach(Transport::Tcp, &address, 80);
    }
    far.container.netns.cannot_reach(Transport::Tcp, &one.gateway_v4(), 80);
    far.container.netns.reach(Transport::Tcp, &two.gateway_v4(), 80).by("host");
    far.container.netns.reach(Transport::Tcp, HOST_V4, 8080).by("web");
    b.inspect(&web, &keys).expect_silence();
}
