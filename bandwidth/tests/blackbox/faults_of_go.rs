//! The faults of the Go plugin (Debian's 1.1.1): each case fails on it and passes on ours.

use serde_json::json;

use crate::testbox::{
    Call, Container, Plugin, attempt, boxed, bucket, fails_on_go_only, ifbs, rate_of, run,
};

boxed! {
    a_second_add_is_an_update
    a_removed_limit_does_not_black_hole
    a_refused_add_leaves_nothing
    del_with_an_invalid_config
    two_interfaces_of_a_container
    check_sees_a_missing_limit
    check_sees_a_missing_redirect
    check_sees_a_missing_egress_limit
    check_sees_an_ifb_that_is_down
    check_without_limits
    a_burst_below_a_frame
    a_burst_below_a_microsecond
    a_queue_that_wraps
    a_burst_that_wraps
    a_queue_that_grows_with_the_burst
    an_existing_clsact
    no_limits_and_no_result
    a_host_end_that_nobody_named
    leaks_are_collected
    status_is_answered
}

fn limited(command: &str, container: &Container) -> Call {
    Call::new(command, container).ingress(8_000_000, 800_000).egress(8_000_000, 800_000)
}

fn a_second_add_is_an_update() {
    fails_on_go_only(|plugin| {
        let container = Container::of(plugin);
        limited("ADD", &container).run(plugin).success();
        limited("ADD", &container).ingress(16_000_000, 800_000).run(plugin).success();
        assert_eq!(container.ingress_rate(), Some(2_000_000));
    });
}

fn a_removed_limit_does_not_black_hole() {
    fails_on_go_only(|plugin| {
        let container = Container::of(plugin);
        limited("ADD", &container).run(plugin).success();
        limited("DEL", &container).run(plugin).success();
        container.run(&format!("ping -c 1 -W 2 {}", container.host_v4()));
    });
}

fn a_refused_add_leaves_nothing() {
    fails_on_go_only(|plugin| {
        let container = Container::of(plugin);
        let (before, call) = (ifbs(), limited("ADD", &container).egress(4, 8));
        call.run(plugin).error();
        assert_eq!((container.ingress_rate(), ifbs()), (None, before));
    });
}

fn del_with_an_invalid_config() {
    fails_on_go_only(|plugin| {
        let container = Container::of(plugin);
        let before = ifbs();
        limited("ADD", &container).run(plugin).success();
        limited("DEL", &container).set("ingressBurst", 0).run(plugin).success();
        assert_eq!(ifbs(), before);
    });
}

fn two_interfaces_of_a_container() {
    fails_on_go_only(|plugin| {
        let first = Container::of(plugin);
        let second =
            Container::attach(&first.id, "eth1", if plugin == Plugin::Go { 11 } else { 12 });
        limited("ADD", &first).run(plugin).success();
        limited("ADD", &second).run(plugin).success();
        limited("DEL", &second).run(plugin).success();
        limited("CHECK", &first).run(plugin).success();
    });
}

/// `spoil` gets the veth and the IFB.
fn check_sees(spoil: impl Fn(&str, &str) -> String) {
    fails_on_go_only(|plugin| {
        let container = Container::of(plugin);
        let before = ifbs();
        limited("ADD", &container).run(plugin).success();
        limited("CHECK", &container).run(plugin).success();
        let ifb = ifbs().into_iter().find(|name| !before.contains(name)).expect("an IFB");
        run(&spoil(&container.veth, &ifb));
        limited("CHECK", &container).run(plugin).error();
    });
}

fn check_sees_a_missing_limit() {
    check_sees(|veth, _| format!("tc qdisc del dev {veth} root"));
}

fn check_sees_a_missing_redirect() {
    check_sees(|veth, _| format!("tc filter del dev {veth} ingress"));
}

fn check_sees_a_missing_egress_limit() {
    check_sees(|_, ifb| format!("tc qdisc del dev {ifb} root; tc qdisc add dev {ifb} root pfifo"));
}

fn check_sees_an_ifb_that_is_down() {
    check_sees(|_, ifb| format!("ip link set {ifb} down"));
}

fn check_without_limits() {
    fails_on_go_only(|plugin| {
        let container = Container::of(plugin);
        Call::new("CHECK", &container).run(plugin).success();
    });
}

fn a_burst_below_a_frame() {
    fails_on_go_only(|plugin| {
        let container = Container::of(plugin);
        Call::new("ADD", &container).ingress(800_000, 8_000).run(plugin).success();
        run(&format!("ping -c 1 -W 2 -s 1372 {}", container.own_v4()));
    });
}

fn a_burst_below_a_microsecond() {
    fails_on_go_only(|plugin| {
        let container = Container::of(plugin);
        Call::new("ADD", &container).ingress(100_000_000_000, 80_000).run(plugin).success();
    });
}

/// CRI-O's placeholder: the queue wraps to less than a segment, and nothing much passes.
fn a_queue_that_wraps() {
    fails_on_go_only(|plugin| {
        let container = Container::of(plugin);
        let limits = Call::new("ADD", &container).set("honorRuntimeBurst", true);
        limits.ingress(1_000_000, 34_359_738_359).run(plugin).success();
        // `tc` prints the limit itself where it is too small against the bucket.
        let bucket = bucket(&container.veth).expect("a bucket");
        assert_ne!(bucket["limit"], json!(3_123), "{bucket}");
        let text = run(&format!("tc -r qdisc show dev {}", container.veth));
        let limit = text.split_whitespace().skip_while(|word| *word != "limit").nth(1);
        let limit = limit.and_then(|limit| limit.trim_end_matches('b').parse::<u64>().ok());
        assert!(limit.is_none_or(|limit| limit >= 65_536), "{text}");
    });
}

/// containerd's placeholder: the bucket in ticks wraps.
fn a_burst_that_wraps() {
    fails_on_go_only(|plugin| {
        let container = Container::of(plugin);
        let mut call = Call::new("ADD", &container);
        call = call.ingress(1_000_000, 4_294_967_295);
        call.run(plugin).success();
        let burst = bucket(&container.veth).expect("a bucket")["burst"].as_u64().expect("a burst");
        // Any 2 s: 250 kB. What passes at once must be a small part of it.
        assert!(burst * 20 <= 250_000, "a bucket of {burst} bytes");
        assert_eq!(rate_of(&container.veth), Some(125_000));
    });
}

fn a_queue_that_grows_with_the_burst() {
    fails_on_go_only(|plugin| {
        let container = Container::of(plugin);
        Call::new("ADD", &container).ingress(10_000_000, 10_000_000).run(plugin).success();
        let text = run(&format!("tc -r qdisc show dev {}", container.veth));
        // With Go the queue is longer than the bucket, and `tc` prints how long a packet waits
        // beyond it; a queue shorter than the bucket has no such time.
        assert!(!text.contains("lat 25ms"), "{text}");
    });
}

fn an_existing_clsact() {
    fails_on_go_only(|plugin| {
        let container = Container::of(plugin);
        run(&format!("tc qdisc add dev {} clsact", container.veth));
        limited("ADD", &container).run(plugin).success();
    });
}

fn no_limits_and_no_result() {
    fails_on_go_only(|plugin| {
        let container = Container::of(plugin);
        let (_, text) = Call::new("ADD", &container).without("prevResult").run(plugin).error();
        assert!(text.contains("must be called as chained plugin"));
    });
}

fn a_host_end_that_nobody_named() {
    fails_on_go_only(|plugin| {
        let container = Container::of(plugin);
        let previous = json!({ "cniVersion": "1.0.0", "interfaces": [{ "name": "lo" }] });
        limited("ADD", &container).set("prevResult", previous).run(plugin).success();
        assert_eq!(container.ingress_rate(), Some(1_000_000));
    });
}

fn leaks_are_collected() {
    fails_on_go_only(|plugin| {
        let container = Container::of(plugin);
        let before = ifbs();
        limited("ADD", &container).run(plugin).success();
        let mut made = ifbs();
        made.retain(|ifb| !before.contains(ifb));
        assert_eq!(made.len(), 1);
        assert!(attempt(&format!("ip netns del {}", container.id)).status.success());
        let gc = limited("GC", &container).set("cniVersion", "1.1.0");
        gc.set("cni.dev/valid-attachments", json!([])).run(plugin).success();
        assert!(!ifbs().contains(&made[0]));
    });
}

fn status_is_answered() {
    fails_on_go_only(|plugin| {
        let container = Container::of(plugin);
        Call::new("STATUS", &container).set("cniVersion", "1.1.0").run(plugin).success();
    });
}
