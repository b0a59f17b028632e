//! Other programs' disciplines and filters on the same veth.

use serde_json::json;

use crate::testbox::{Call, Container, Plugin, boxed, ifbs, listed, run};

boxed! {
    a_foreign_clsact_and_its_filters
    a_foreign_ingress_qdisc
    a_foreign_filter_on_our_hooks
    a_foreign_root_qdisc
    a_failed_add_leaves_nothing
}

fn limited(command: &str, container: &Container) -> Call {
    Call::new(command, container).ingress(8_000_000, 800_000).egress(8_000_000, 800_000)
}

/// What `tc` lists of filters that are not ours.
fn foreign(hook: &str) -> Vec<serde_json::Value> {
    let mut filters = listed(&format!("tc -j filter show dev veth1 {hook}"));
    filters.retain(|filter| filter["pref"].as_u64().is_some_and(|pref| pref < 48_000));
    filters
}

fn add_foreign_filters() {
    run("ip link add agent type ifb; ip link set agent up");
    // Linux lists u32 filters of one priority at both hooks, wherever they are.
    for (hook, priority) in [("ingress", 1), ("egress", 2)] {
        run(&format!(
            "tc filter add dev veth1 {hook} protocol ip prio {priority} u32 match ip dst 192.0.2.0/24 \
             action mirred egress redirect dev agent"
        ));
    }
}

fn a_foreign_clsact_and_its_filters() {
    let container = Container::new("c1", 1);
    run("tc qdisc add dev veth1 clsact");
    for with_filters in [false, true] {
        if with_filters {
            add_foreign_filters();
        }
        let before = (foreign("ingress"), foreign("egress"));
        for subnets in [json!([]), json!(["10.0.0.0/8"])] {
            let call =
                |command| limited(command, &container).set("unshapedSubnets", subnets.clone());
            call("ADD").ok();
            call("ADD").ok();
            call("CHECK").ok();
            assert_eq!((foreign("ingress"), foreign("egress")), before);
            call("DEL").ok();
            assert_eq!((foreign("ingress"), foreign("egress")), before);
            assert_eq!(container.qdiscs()[1]["kind"], "clsact", "it was there before");
        }
    }
}

fn a_foreign_ingress_qdisc() {
    let container = Container::new("c1", 1);
    run("tc qdisc add dev veth1 ingress");
    limited("ADD", &container).ok();
    limited("CHECK", &container).ok();
    limited("DEL", &container).ok();
    assert_eq!(container.qdiscs()[1]["kind"], "ingress");
    run(
        "tc filter add dev veth1 ingress prio 5 protocol ip u32 match ip dst 192.0.2.0/24 flowid 1:7",
    );
    limited("ADD", &container).ok();
    limited("DEL", &container).ok();
    assert_eq!(foreign("ingress").len(), 3, "a filter, its hash table, its classifier");
    // It has no hook for what goes into the container.
    let subnets = limited("ADD", &container).set("shapedSubnets", json!(["10.0.0.0/8"]));
    subnets.run(Plugin::Ours).fails_with(101, "let that program use clsact");
    assert_eq!((foreign("ingress").len(), ifbs().len()), (3, 0));
    run("tc filter del dev veth1 ingress");
    subnets.ok();
    limited("DEL", &container).ok();
}

fn a_foreign_filter_on_our_hooks() {
    let container = Container::new("c1", 1);
    limited("ADD", &container).ok();
    add_foreign_filters();
    limited("DEL", &container).ok();
    assert_eq!(foreign("ingress").len(), 3);
    assert!(container.filters("ingress").iter().all(|filter| filter["pref"] == json!(1)));
    assert_eq!(ifbs(), ["agent"]);
}

fn a_foreign_root_qdisc() {
    let container = Container::new("c1", 1);
    run("tc qdisc add dev veth1 root handle 7: pfifo limit 10");
    limited("ADD", &container)
        .run(Plugin::Ours)
        .fails_with(101, "veth1 has a pfifo qdisc with handle 7: that another program set up");
    assert_eq!((container.qdiscs().len(), ifbs().len()), (1, 0));
    // What comes out does not touch it.
    Call::new("ADD", &container).egress(8_000_000, 800_000).ok();
    Call::new("DEL", &container).ok();
    assert_eq!(container.qdiscs()[0]["kind"], "pfifo");
}

fn a_failed_add_leaves_nothing() {
    let container = Container::new("c1", 1);
    // A filter of another kind at our priority: the last step of ADD is refused.
    run("tc qdisc add dev veth1 clsact");
    run(
        "tc filter add dev veth1 ingress prio 48387 protocol ip u32 match ip dst 192.0.2.1 flowid 1:9 \
         action mirred egress mirror dev lo",
    );
    limited("ADD", &container).run(Plugin::Ours).fails_with(101, "redirect the traffic of veth1");
    assert_eq!(ifbs(), Vec::<String>::new());
    assert_eq!(container.ingress_rate(), None);
    assert_eq!(container.filters("ingress").len(), 1);
}
