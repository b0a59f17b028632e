//! CHECK finds whatever is missing, down or different, and nothing where all is well.

use cni_testbox::{TestBox, bandwidth, cases, sh, tc};

use crate::support::limited;

cases! {
    everything_that_can_be_missing, ours;
    everything_that_can_differ, ours;
    nothing_configured, ours;
}

fn spoil(b: &TestBox, commands: &[&str]) {
    let container = b.pair("c1", 1);
    for command in commands {
        limited("ADD", &container).run(b).success();
        limited("CHECK", &container).run(b).success();
        let ifb = tc::ifbs().remove(0);
        sh(&command.replace("IFB", &ifb));
        let check = limited("CHECK", &container).run(b);
        check.expect_error_with(100, &["not as ADD made them"]);
        check.expect_error_with(100, &["cni-chain restore"]);
        // ADD mends it.
        limited("ADD", &container).run(b).success();
        limited("CHECK", &container).run(b).success();
        limited("DEL", &container).run(b).success();
    }
}

fn everything_that_can_be_missing(b: &TestBox) {
    spoil(
        b,
        &[
            "tc qdisc del dev veth1 root",
            "tc qdisc del dev veth1 clsact",
            "tc filter del dev veth1 ingress",
            "tc qdisc del dev IFB root",
            "ip link del IFB",
            "ip link set IFB down",
            "ip link set IFB alias net/other/eth0; ip link del IFB",
            "ip link set IFB alias ''",
        ],
    );
}

fn everything_that_can_differ(b: &TestBox) {
    spoil(
        b,
        &[
            "tc qdisc change dev veth1 root handle b0: tbf rate 9mbit burst 100000 limit 81920",
            "tc qdisc change dev veth1 root handle b0: tbf rate 8mbit burst 100001 limit 81920",
            "tc qdisc change dev veth1 root handle b0: tbf rate 8mbit burst 100000 limit 81921",
            "tc qdisc change dev IFB root handle b0: tbf rate 9mbit burst 100000 limit 81920",
            "tc qdisc replace dev IFB root pfifo",
            "ip link add x type ifb; tc filter del dev veth1 ingress; tc filter add dev veth1 ingress \
         prio 48387 protocol all u32 match u32 0 0 action mirred egress redirect dev x; ip link del x",
            "tc filter del dev veth1 ingress; tc filter add dev veth1 ingress prio 48387 protocol all u32 \
         match u32 0 0 action mirred egress mirror dev IFB",
            "tc filter del dev veth1 ingress; tc filter add dev veth1 ingress prio 48387 protocol all u32 \
         match ip src 10.0.0.0/8 action mirred egress redirect dev IFB",
        ],
    );
}

fn nothing_configured(b: &TestBox) {
    let container = b.pair("c1", 1);
    bandwidth("CHECK", &container).run(b).success();
    let call = bandwidth("CHECK", &container).without("prevResult");
    call.run(b).expect_error_with(7, &["must be called as chained plugin"]);
}
