//! Other programs' disciplines and filters on the same veth.

use cni_testbox::{TestBox, bandwidth, cases, sh, tc};
use serde_json::json;

use crate::support::{limited, u32_filters};

cases! {
    a_foreign_clsact_and_its_filters, ours;
    a_foreign_ingress_qdisc, ours;
    a_foreign_filter_on_our_clsact, ours;
    a_foreign_root_qdisc, ours;
    a_failed_add_leaves_nothing, ours;
}

/// What `tc` lists of filters that are not ours.
fn foreign(hook: &str) -> Vec<serde_json::Value> {
    let mut filters = tc::filters("veth1", hook);
    filters.retain(|filter| filter["pref"].as_u64().is_some_and(|pref| pref < 48_000));
    filters
}

fn add_foreign_filters() {
    sh("ip link add agent type ifb; ip link set agent up");
    // Linux lists u32 filters of one priority at both hooks, wherever they are.
    for (hook, priority) in [("ingress", 1), ("egress", 2)] {
        sh(&format!(
            "tc filter add dev veth1 {hook} protocol ip prio {priority} u32 match ip dst 192.0.2.0/24 \
             action mirred egress redirect dev agent"
        ));
    }
}

fn a_foreign_clsact_and_its_filters(b: &TestBox) {
    let container = b.pair("c1", 1);
    sh("tc qdisc add dev veth1 clsact");
    for with_filters in [false, true] {
        if with_filters {
            add_foreign_filters();
        }
        let before = (foreign("ingress"), foreign("egress"));
        for subnets in [json!([]), json!(["10.0.0.0/8"])] {
            let call =
                |command| limited(command, &container).set("unshapedSubnets", subnets.clone());
            call("ADD").run(b).success();
            call("ADD").run(b).success();
            call("CHECK").run(b).success();
            assert_eq!((foreign("ingress"), foreign("egress")), before);
            call("DEL").run(b).success();
            assert_eq!((foreign("ingress"), foreign("egress")), before);
            assert_eq!(
                tc::qdiscs(&container.host_end())[1]["kind"],
                "clsact",
                "it was there before"
            );
        }
    }
}

fn a_foreign_ingress_qdisc(b: &TestBox) {
    let container = b.pair("c1", 1);
    sh("tc qdisc add dev veth1 ingress");
    limited("ADD", &container).run(b).success();
    limited("CHECK", &container).run(b).success();
    limited("DEL", &container).run(b).success();
    assert_eq!(tc::qdiscs(&container.host_end())[1]["kind"], "ingress");
    sh(
        "tc filter add dev veth1 ingress prio 5 protocol ip u32 match ip dst 192.0.2.0/24 flowid 1:7",
    );
    limited("ADD", &container).run(b).success();
    limited("DEL", &container).run(b).success();
    assert_eq!(foreign("ingress").len(), 3, "a filter, its hash table, its classifier");
    // It has no hook for what goes into the container.
    let subnets = limited("ADD", &container).set("shapedSubnets", json!(["10.0.0.0/8"]));
    subnets.run(b).expect_error_with(101, &["let that program use clsact"]);
    assert_eq!((foreign("ingress").len(), tc::ifbs().len()), (3, 0));
    sh("tc filter del dev veth1 ingress");
    subnets.run(b).success();
    limited("DEL", &container).run(b).success();
}

fn a_foreign_filter_on_our_clsact(b: &TestBox) {
    let container = b.pair("c1", 1);
    limited("ADD", &container).run(b).success();
    add_foreign_filters();
    limited("DEL", &container).run(b).success();
    assert_eq!(foreign("ingress").len(), 3);
    assert!(
        u32_filters(&container.host_end(), "ingress")
            .iter()
            .all(|filter| filter["pref"] == json!(1))
    );
    assert_eq!(tc::ifbs(), ["agent"]);
}

fn a_foreign_root_qdisc(b: &TestBox) {
    let container = b.pair("c1", 1);
    sh("tc qdisc add dev veth1 root handle 7: pfifo limit 10");
    limited("ADD", &container).run(b).expect_error_with(
        101,
        &["veth1 has a pfifo qdisc with handle 7: that another program set up"],
    );
    assert_eq!((tc::qdiscs(&container.host_end()).len(), tc::ifbs().len()), (1, 0));
    // What comes out does not touch it.
    bandwidth("ADD", &container).egress(8_000_000, 800_000).run(b).success();
    bandwidth("DEL", &container).run(b).success();
    assert_eq!(tc::qdiscs(&container.host_end())[0]["kind"], "pfifo");
}

fn a_failed_add_leaves_nothing(b: &TestBox) {
    let container = b.pair("c1", 1);
    // A filter of another kind at our priority: the last step of ADD is refused.
    sh("tc qdisc add dev veth1 clsact");
    sh(
        "tc filter add dev veth1 ingress prio 48387 protocol ip u32 match ip dst 192.0.2.1 flowid 1:9 \
         action mirred egress mirror dev lo",
    );
    limited("ADD", &container).run(b).expect_error_with(101, &["redirect the traffic of veth1"]);
    assert_eq!(tc::ifbs(), Vec::<String>::new());
    assert_eq!(tc::rate(&container.host_end()), None);
    assert_eq!(u32_filters(&container.host_end(), "ingress").len(), 1);
}
