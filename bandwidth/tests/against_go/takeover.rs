//! Attachments of the Go plugin that are this plugin's to check, to take over and to remove.

use cni_testbox::{Call, Implementation, TestBox, attempt, bandwidth, cases, sh, tc};
use serde_json::json;

use crate::support::{assert_clean, inside, limited, redirect, u32_filters};

cases! {
    limits_of_the_go_plugin_pass_check, ours;
    gc_removes_ifbs_of_go_that_nothing_leads_to, ours;
    go_s_attachment_is_taken_over, ours;
    go_s_attachment_is_removed, ours;
    go_s_attachment_is_removed_under_another_network_name, ours;
    go_s_other_attachment_is_left_alone, ours;
}

/// After the binaries were changed, before the next ADD.
fn limits_of_the_go_plugin_pass_check(b: &TestBox) {
    let container = b.pair("c1", 1);
    limited("ADD", &container).run_as(Implementation::Go).success();
    limited("CHECK", &container).run(b).success();
    bandwidth("CHECK", &container).ingress(8_000_000, 800_000).run(b).success();
    let faster = bandwidth("CHECK", &container).ingress(9_000_000, 800_000);
    faster.egress(8_000_000, 800_000).run(b).expect_error_with(100, &["not as ADD made them"]);
    for command in [
        "tc qdisc del dev veth1 root",
        "tc qdisc del dev veth1 ingress",
        "tc filter del dev veth1 ingress",
        "tc qdisc del dev IFB root",
        "ip link del IFB",
        "ip link set IFB down",
    ] {
        sh("ip link del veth1; ip netns del c1");
        limited("DEL", &container).run(b).success();
        let container = b.pair("c1", 1);
        limited("ADD", &container).run_as(Implementation::Go).success();
        limited("CHECK", &container).run(b).success();
        sh(&command.replace("IFB", &tc::ifbs().remove(0)));
        limited("CHECK", &container).run(b).expect_error_with(100, &["not as ADD made them"]);
    }
    limited("ADD", &container).run(b).success();
    limited("CHECK", &container).run(b).success();
}

fn gc_removes_ifbs_of_go_that_nothing_leads_to(b: &TestBox) {
    let (kept, gone) = (b.pair("c1", 1), b.pair("c2", 2));
    limited("ADD", &kept).run_as(Implementation::Go).success();
    limited("ADD", &gone).run_as(Implementation::Go).success();
    let [redirect, idle] = [redirect(&kept.host_end()), redirect(&gone.host_end())]
        .map(|name| name.expect("a redirect"));
    sh("ip link del veth2");
    // As far as an ADD of the Go plugin gets before it sends anything there.
    sh("ip link add bwp0123456789ab type ifb");
    let gc = Call::of_network("bandwidth", "GC", "net2");
    gc.set("cni.dev/valid-attachments", json!([])).run(b).success();
    let left = tc::ifbs();
    assert!(left.contains(&redirect) && !left.contains(&idle), "{left:?}");
    assert!(left.contains(&"bwp0123456789ab".to_owned()), "{left:?}");
    inside(&kept, "ping -c 1 -W 5 10.9.1.1");
}

fn go_s_attachment_is_taken_over(b: &TestBox) {
    let container = b.pair("c1", 1);
    limited("ADD", &container).run_as(Implementation::Go).success();
    let theirs = tc::ifbs();
    limited("ADD", &container).run(b).success();
    assert_eq!(tc::ifbs().len(), 1);
    assert_ne!(tc::ifbs(), theirs);
    assert_eq!(u32_filters(&container.host_end(), "ingress").len(), 1);
    limited("CHECK", &container).run(b).success();
    limited("DEL", &container).run(b).success();
    assert_clean(&container);
}

fn go_s_attachment_is_removed(b: &TestBox) {
    let container = b.pair("c1", 1);
    limited("ADD", &container).run_as(Implementation::Go).success();
    limited("DEL", &container).run(b).success();
    assert_clean(&container);
    // What its own DEL leaves drops everything; an ADD of ours puts an end to that.
    limited("ADD", &container).run_as(Implementation::Go).success();
    limited("DEL", &container).run_as(Implementation::Go).success();
    assert!(!attempt("ip netns exec c1 ping -c 1 -W 1 10.9.1.1").status.success());
    limited("ADD", &container).run(b).success();
    inside(&container, "ping -c 1 -W 5 10.9.1.1");
}

fn go_s_attachment_is_removed_under_another_network_name(b: &TestBox) {
    let container = b.pair("c1", 1);
    limited("ADD", &container).run_as(Implementation::Go).success();
    limited("DEL", &container).set("name", "renamed").run(b).success();
    assert_clean(&container);
}

fn go_s_other_attachment_is_left_alone(b: &TestBox) {
    let first = b.pair("c1", 1);
    let second = first.container.pair(2, "eth1");
    limited("ADD", &first).run_as(Implementation::Go).success();
    limited("ADD", &second).run(b).success();
    assert_eq!(tc::ifbs().len(), 2);
    limited("DEL", &second).run(b).success();
    assert_eq!(tc::ifbs().len(), 1);
    sh("ip link del veth2");
    limited("DEL", &second).env("CNI_NETNS", "").run(b).success();
    assert_eq!(redirect(&first.host_end()).as_ref(), tc::ifbs().first());
    inside(&first, "ping -c 1 -W 5 10.9.1.1");
}
