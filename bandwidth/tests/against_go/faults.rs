//! The faults of the Go plugin (Debian's 1.1.1): each case fails on it and passes on ours.

use cni_testbox::{Call, Implementation, TestBox, bandwidth, cases, sh, tc};
use serde_json::json;

use crate::support::{container_of, fails_on_go_only, host_v4, inside, limited};

cases! {
    a_second_add_is_an_update, ours;
    a_removed_limit_does_not_black_hole, ours;
    a_refused_add_leaves_nothing, ours;
    del_with_an_invalid_config, ours;
    two_interfaces_of_a_container, ours;
    check_sees_a_missing_limit, ours;
    check_sees_a_missing_redirect, ours;
    check_sees_a_missing_egress_limit, ours;
    check_sees_an_ifb_that_is_down, ours;
    check_without_limits, ours;
    a_burst_below_a_frame, ours;
    a_burst_below_a_microsecond, ours;
    a_queue_that_wraps, ours;
    a_burst_that_wraps, ours;
    a_queue_that_grows_with_the_burst, ours;
    an_existing_clsact, ours;
    no_limits_and_no_result, ours;
    a_host_end_that_nobody_named, ours;
    leaks_are_collected, ours;
    status_is_answered, ours;
}

fn a_second_add_is_an_update(b: &TestBox) {
    fails_on_go_only(|implementation| {
        let container = container_of(b, implementation);
        limited("ADD", &container).run_as(implementation).success();
        limited("ADD", &container).ingress(16_000_000, 800_000).run_as(implementation).success();
        assert_eq!(tc::rate(&container.host_end()), Some(2_000_000));
    });
}

fn a_removed_limit_does_not_black_hole(b: &TestBox) {
    fails_on_go_only(|implementation| {
        let container = container_of(b, implementation);
        limited("ADD", &container).run_as(implementation).success();
        limited("DEL", &container).run_as(implementation).success();
        inside(&container, &format!("ping -c 1 -W 2 {}", host_v4(&container)));
    });
}

fn a_refused_add_leaves_nothing(b: &TestBox) {
    fails_on_go_only(|implementation| {
        let container = container_of(b, implementation);
        let (before, call) = (tc::ifbs(), limited("ADD", &container).egress(4, 8));
        call.run_as(implementation).expect_error();
        assert_eq!((tc::rate(&container.host_end()), tc::ifbs()), (None, before));
    });
}

fn del_with_an_invalid_config(b: &TestBox) {
    fails_on_go_only(|implementation| {
        let container = container_of(b, implementation);
        let before = tc::ifbs();
        limited("ADD", &container).run_as(implementation).success();
        limited("DEL", &container).set("ingressBurst", 0).run_as(implementation).success();
        assert_eq!(tc::ifbs(), before);
    });
}

fn two_interfaces_of_a_container(b: &TestBox) {
    fails_on_go_only(|implementation| {
        let first = container_of(b, implementation);
        let second = first
            .container
            .pair(if implementation == Implementation::Go { 11 } else { 12 }, "eth1");
        limited("ADD", &first).run_as(implementation).success();
        limited("ADD", &second).run_as(implementation).success();
        limited("DEL", &second).run_as(implementation).success();
        limited("CHECK", &first).run_as(implementation).success();
    });
}

/// `spoil` gets the veth and the IFB.
fn check_sees(b: &TestBox, spoil: impl Fn(&str, &str) -> String) {
    fails_on_go_only(|implementation| {
        let container = container_of(b, implementation);
        let before = tc::ifbs();
        limited("ADD", &container).run_as(implementation).success();
        limited("CHECK", &container).run_as(implementation).success();
        let ifb = tc::ifbs().into_iter().find(|name| !before.contains(name)).expect("an IFB");
        sh(&spoil(&container.host_end(), &ifb));
        limited("CHECK", &container).run_as(implementation).expect_error();
    });
}

fn check_sees_a_missing_limit(b: &TestBox) {
    check_sees(b, |veth, _| format!("tc qdisc del dev {veth} root"));
}

fn check_sees_a_missing_redirect(b: &TestBox) {
    check_sees(b, |veth, _| format!("tc filter del dev {veth} ingress"));
}

fn check_sees_a_missing_egress_limit(b: &TestBox) {
    check_sees(b, |_, ifb| {
        format!("tc qdisc del dev {ifb} root; tc qdisc add dev {ifb} root pfifo")
    });
}

fn check_sees_an_ifb_that_is_down(b: &TestBox) {
    check_sees(b, |_, ifb| format!("ip link set {ifb} down"));
}

fn check_without_limits(b: &TestBox) {
    fails_on_go_only(|implementation| {
        let container = container_of(b, implementation);
        bandwidth("CHECK", &container).run_as(implementation).success();
    });
}

fn a_burst_below_a_frame(b: &TestBox) {
    fails_on_go_only(|implementation| {
        let container = container_of(b, implementation);
        bandwidth("ADD", &container).ingress(800_000, 8_000).run_as(implementation).success();
        sh(&format!("ping -c 1 -W 2 -s 1372 {}", container.v4()));
    });
}

fn a_burst_below_a_microsecond(b: &TestBox) {
    fails_on_go_only(|implementation| {
        let container = container_of(b, implementation);
        bandwidth("ADD", &container)
            .ingress(100_000_000_000, 80_000)
            .run_as(implementation)
            .success();
    });
}

/// CRI-O's placeholder: the queue wraps to less than a segment, and nothing much passes.
fn a_queue_that_wraps(b: &TestBox) {
    fails_on_go_only(|implementation| {
        let container = container_of(b, implementation);
        let limits = bandwidth("ADD", &container).set("honorRuntimeBurst", true);
        limits.ingress(1_000_000, 34_359_738_359).run_as(implementation).success();
        // `tc` prints the limit itself where it is too small against the bucket.
        let bucket = tc::tbf(&container.host_end()).expect("a bucket");
        assert_ne!(bucket["limit"], json!(3_123), "{bucket}");
        let text = sh(&format!("tc -r qdisc show dev {}", container.host_end()));
        let limit = text.split_whitespace().skip_while(|word| *word != "limit").nth(1);
        let limit = limit.and_then(|limit| limit.trim_end_matches('b').parse::<u64>().ok());
        assert!(limit.is_none_or(|limit| limit >= 65_536), "{text}");
    });
}

/// containerd's placeholder: the bucket in ticks wraps.
fn a_burst_that_wraps(b: &TestBox) {
    fails_on_go_only(|implementation| {
        let container = container_of(b, implementation);
        let mut call = bandwidth("ADD", &container);
        call = call.ingress(1_000_000, 4_294_967_295);
        call.run_as(implementation).success();
        let burst =
            tc::tbf(&container.host_end()).expect("a bucket")["burst"].as_u64().expect("a burst");
        // Any 2 s: 250 kB. What passes at once must be a small part of it.
        assert!(burst * 20 <= 250_000, "a bucket of {burst} bytes");
        assert_eq!(tc::rate(&container.host_end()), Some(125_000));
    });
}

fn a_queue_that_grows_with_the_burst(b: &TestBox) {
    fails_on_go_only(|implementation| {
        let container = container_of(b, implementation);
        bandwidth("ADD", &container)
            .ingress(10_000_000, 10_000_000)
            .run_as(implementation)
            .success();
        let text = sh(&format!("tc -r qdisc show dev {}", container.host_end()));
        // With Go the queue is longer than the bucket, and `tc` prints how long a packet waits
        // beyond it; a queue shorter than the bucket has no such time.
        assert!(!text.contains("lat 25ms"), "{text}");
    });
}

fn an_existing_clsact(b: &TestBox) {
    fails_on_go_only(|implementation| {
        let container = container_of(b, implementation);
        sh(&format!("tc qdisc add dev {} clsact", container.host_end()));
        limited("ADD", &container).run_as(implementation).success();
    });
}

fn no_limits_and_no_result(b: &TestBox) {
    fails_on_go_only(|implementation| {
        let container = container_of(b, implementation);
        let (_, text) = bandwidth("ADD", &container)
            .without("prevResult")
            .run_as(implementation)
            .expect_error();
        assert!(text.contains("must be called as chained plugin"));
    });
}

fn a_host_end_that_nobody_named(b: &TestBox) {
    fails_on_go_only(|implementation| {
        let container = container_of(b, implementation);
        let previous = json!({ "cniVersion": "1.0.0", "interfaces": [{ "name": "lo" }] });
        limited("ADD", &container).set("prevResult", previous).run_as(implementation).success();
        assert_eq!(tc::rate(&container.host_end()), Some(1_000_000));
    });
}

fn leaks_are_collected(b: &TestBox) {
    fails_on_go_only(|implementation| {
        let container = container_of(b, implementation);
        let before = tc::ifbs();
        limited("ADD", &container).run_as(implementation).success();
        let mut made = tc::ifbs();
        made.retain(|ifb| !before.contains(ifb));
        assert_eq!(made.len(), 1);
        let gc = Call::of_network("bandwidth", "GC", "net");
        let id = container.container.id.clone();
        // The last handle keeps the namespace alive.
        drop(container);
        sh(&format!("ip netns del {id}"));
        gc.set("cni.dev/valid-attachments", json!([])).run_as(implementation).success();
        assert!(!tc::ifbs().contains(&made[0]));
    });
}

fn status_is_answered(b: &TestBox) {
    fails_on_go_only(|implementation| {
        let container = container_of(b, implementation);
        limited("STATUS", &container).set("cniVersion", "1.1.0").run_as(implementation).success();
    });
}
