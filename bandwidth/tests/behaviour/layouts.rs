//! What another version of the plugin made. (What b302888 made is taken over in `integration/tests/e2e`.)

use cni_testbox::{Call, TestBox, bandwidth, cases, newer, sh, tc};
use serde_json::json;

use crate::support::{assert_clean, limited};

cases! {
    newer_limits_are_left_alone, ours;
}

/// Each with an IFB, and without one.
fn newer_limits_are_left_alone(b: &TestBox) {
    let container = b.pair("c1", 1);
    let veth = container.host_end();
    let tag = "net/c1/eth0";
    let other = b.pair("c2", 2);
    let ingress = |command: &str| bandwidth(command, &container).ingress(8_000_000, 800_000);
    for of in [&(|command: &str| limited(command, &container)) as &dyn Fn(&str) -> Call, &ingress] {
        of("ADD").run(b).success();
        newer::number_alias(&veth, tag);
        for ifb in tc::ifbs() {
            newer::number_alias(&ifb, tag);
        }
        let calls = [
            of("ADD"),
            of("ADD").set("shapedSubnets", json!(["10.0.0.0/8"])),
            bandwidth("ADD", &container),
            of("CHECK"),
            of("DEL"),
            bandwidth("DEL", &container).without("prevResult"),
            of("DEL").env("CNI_NETNS", ""),
            Call::of_network("bandwidth", "GC", &container.network.name).valid(&[]),
        ];
        b.refuses_what_is_newer(11, &["interface ", "left alone"], &calls);
        // What others have is no reason to refuse anything.
        for command in ["ADD", "CHECK", "DEL"] {
            limited(command, &other).run(b).success();
        }
        let valid = Call::of_network("bandwidth", "GC", &container.network.name);
        valid.valid(&[&container]).run(b).success();
        Call::of_network("bandwidth", "STATUS", &container.network.name).run(b).success();
        // Back to what this version knows.
        for link in tc::ifbs().iter().chain([&veth]) {
            sh(&format!("ip link set {link} alias {tag}"));
        }
        of("DEL").run(b).success();
        assert_clean(&container);
    }
}
