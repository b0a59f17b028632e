//! How packets wait, as far as it is the same on every kernel. What `fq_codel` does is in the guests' tests.

use cni_testbox::{TestBox, attempt, bandwidth, cases, sh, tc};

use crate::support::{assert_clean, limited};

cases! {
    one_queue_for_all, ours;
    fq_codel_is_made_or_missed, ours;
    another_program_s_queue, ours;
    a_queue_of_no_such_name, ours;
}

/// Whether this kernel has it, by a tool that is not ours.
fn kernel_has_fq_codel() -> bool {
    sh("ip link add probe type ifb");
    let has = attempt("tc qdisc add dev probe root fq_codel").status.success();
    sh("ip link del probe");
    has
}

fn one_queue_for_all(b: &TestBox) {
    let container = b.pair("c1", 1);
    let call = |command| limited(command, &container).set("queue", "fifo");
    // Twice: made, and changed in place.
    for _ in 0..2 {
        call("ADD").run(b).success();
        call("CHECK").run(b).success();
        for link in [container.host_end(), tc::ifbs()[0].clone()] {
            assert_eq!(tc::queue(&link), None);
            assert_eq!(tc::rate(&link), Some(1_000_000));
        }
    }
    limited("CHECK", &container).run(b).success();
    call("DEL").run(b).success();
    assert_clean(&container);
}

/// Asked for by name, it is there, or ADD and STATUS say that it cannot be and how it could; and without being asked
/// for, it is there where it can be.
fn fq_codel_is_made_or_missed(b: &TestBox) {
    let container = b.pair("c1", 1);
    let call = |command| limited(command, &container).set("queue", "fq_codel");
    let (veth, has) = (container.host_end(), kernel_has_fq_codel());
    let status = call("STATUS").set("cniVersion", "1.1.0").run(b);
    let module = "load the module sch_fq_codel (modprobe sch_fq_codel)";
    if has {
        status.success();
        call("ADD").run(b).success();
        call("CHECK").run(b).success();
        for link in [veth.clone(), tc::ifbs()[0].clone()] {
            assert_eq!(tc::queue(&link).expect("a queue")["kind"], "fq_codel");
        }
    } else {
        status.expect_error_with(50, &[module]);
        call("ADD").run(b).expect_error_with(101, &[module]);
        assert_clean(&container);
    }
    limited("STATUS", &container).set("cniVersion", "1.1.0").run(b).success();
    limited("ADD", &container).run(b).success();
    limited("CHECK", &container).run(b).success();
    assert_eq!(tc::queue(&veth).is_some(), has);
    if !has {
        assert_eq!(tc::tbf(&veth).expect("a bucket")["limit"], 81_920, "as with fifo");
    }
    call("DEL").run(b).success();
    assert_clean(&container);
}

/// What somebody put into the bucket stays there, and is in the way only of who insists on another.
fn another_program_s_queue(b: &TestBox) {
    let container = b.pair("c1", 1);
    let into = |command| bandwidth(command, &container).ingress(8_000_000, 800_000);
    into("ADD").run(b).success();
    let veth = container.host_end();
    sh(&format!("tc qdisc replace dev {veth} parent b0:1 handle 5: pfifo limit 7"));
    let theirs = || tc::queue(&veth).expect("theirs")["handle"].clone();
    for queue in ["fifo", "default"] {
        let call = |command| {
            if queue == "fifo" { into(command).set("queue", queue) } else { into(command) }
        };
        call("ADD").run(b).success();
        call("CHECK").run(b).success();
        assert_eq!(theirs(), "5:", "{queue}");
    }
    let insists = into("ADD").set("queue", "fq_codel").run(b);
    insists.expect_error_with(101, &["another program", &veth, "parent b0:1"]);
    assert_eq!(theirs(), "5:");
    assert_eq!(tc::rate(&veth), Some(1_000_000));
    into("DEL").run(b).success();
    assert_clean(&container);
}

fn a_queue_of_no_such_name(b: &TestBox) {
    let container = b.pair("c1", 1);
    let refused = limited("ADD", &container).set("queue", "cake").run(b);
    refused.expect_error_with(7, &["unrecognized queue \"cake\"", "fq_codel", "fifo"]);
    assert_clean(&container);
}
