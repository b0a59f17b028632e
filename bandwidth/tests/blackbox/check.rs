//! CHECK finds whatever is missing, down or different, and nothing where all is well.

use crate::testbox::{Call, Container, Plugin, boxed, ifbs, run};

boxed! {
    everything_that_can_be_missing
    everything_that_can_differ
    nothing_configured
    limits_of_the_go_plugin
}

fn limited(command: &str, container: &Container) -> Call {
    Call::new(command, container).ingress(8_000_000, 800_000).egress(8_000_000, 800_000)
}

fn spoil(commands: &[&str]) {
    let container = Container::new("c1", 1);
    for command in commands {
        limited("ADD", &container).ok();
        limited("CHECK", &container).ok();
        let ifb = ifbs().remove(0);
        run(&command.replace("IFB", &ifb));
        let check = limited("CHECK", &container).run(Plugin::Ours);
        check.fails_with(100, "not as ADD made them");
        check.fails_with(100, "cni-chain restore");
        // ADD mends it.
        limited("ADD", &container).ok();
        limited("CHECK", &container).ok();
        limited("DEL", &container).ok();
    }
}

fn everything_that_can_be_missing() {
    spoil(&[
        "tc qdisc del dev veth1 root",
        "tc qdisc del dev veth1 clsact",
        "tc filter del dev veth1 ingress",
        "tc qdisc del dev IFB root",
        "ip link del IFB",
        "ip link set IFB down",
        "ip link set IFB alias net/other/eth0; ip link del IFB",
        "ip link set IFB alias ''",
    ]);
}

fn everything_that_can_differ() {
    spoil(&[
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
    ]);
}

fn nothing_configured() {
    let container = Container::new("c1", 1);
    Call::new("CHECK", &container).ok();
    let call = Call::new("CHECK", &container).without("prevResult");
    call.run(Plugin::Ours).fails_with(7, "must be called as chained plugin");
}

/// After the binaries were changed, before the next ADD.
fn limits_of_the_go_plugin() {
    let container = Container::new("c1", 1);
    limited("ADD", &container).run(Plugin::Go).success();
    limited("CHECK", &container).ok();
    Call::new("CHECK", &container).ingress(8_000_000, 800_000).ok();
    let faster = Call::new("CHECK", &container).ingress(9_000_000, 800_000);
    faster.egress(8_000_000, 800_000).run(Plugin::Ours).fails_with(100, "not as ADD made them");
    for command in [
        "tc qdisc del dev veth1 root",
        "tc qdisc del dev veth1 ingress",
        "tc filter del dev veth1 ingress",
        "tc qdisc del dev IFB root",
        "ip link del IFB",
        "ip link set IFB down",
    ] {
        run("ip link del veth1; ip netns del c1");
        limited("DEL", &container).ok();
        let container = Container::new("c1", 1);
        limited("ADD", &container).run(Plugin::Go).success();
        limited("CHECK", &container).ok();
        run(&command.replace("IFB", &ifbs().remove(0)));
        limited("CHECK", &container).run(Plugin::Ours).fails_with(100, "not as ADD made them");
    }
    limited("ADD", &container).ok();
    limited("CHECK", &container).ok();
}
