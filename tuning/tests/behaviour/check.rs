//! CHECK names what has drifted, and only that.

use cni_testbox::{Namespace, TestBox, cases, sh};

use crate::faults::fails_under;
use crate::support::{container, tuning};

const TUNED: &str = r#""mtu":1400,"sysctl":{"net.core.somaxconn":"601"}"#;

cases! {
    check_names_every_drift_and_no_other, ours;
    check_does_not_take_a_fault_for_a_mismatch, ours;
}

fn check_names_every_drift_and_no_other(b: &TestBox) {
    container("c1", "eth0");
    let keys = r#""sysctl":{"net.core.somaxconn":"601","net.ipv4.ip_forward":"1"},"txQLen":7,"promisc":true,"allmulti":false"#;
    tuning("ADD", keys).run(b).success();
    tuning("CHECK", keys).run(b).success();
    sh("ip -n c1 link set eth0 txqueuelen 8 promisc off allmulticast on");
    Namespace::named("c1").write_sysctl("core/somaxconn", "600");
    let outcome = tuning("CHECK", keys).run(b);
    assert_eq!(outcome.json()["code"], 100);
    let msg = outcome.json()["msg"].as_str().expect("a message").to_owned();
    for part in [
        r#"/proc/sys/net/core/somaxconn is "600" instead of "601""#,
        "txQLen of eth0 is 8 instead of 7",
        "promisc of eth0 is off instead of on",
        "allmulti of eth0 is on instead of off",
    ] {
        assert!(msg.contains(part), "{part}: {msg}");
    }
    assert!(!msg.contains("ip_forward"), "{msg}");
    sh("ip link del hc1");
    tuning("CHECK", keys).run(b).expect_error_with(100, &["there is no interface eth0"]);
}

fn check_does_not_take_a_fault_for_a_mismatch(b: &TestBox) {
    container("c1", "eth0");
    tuning("ADD", TUNED).run(b).success();
    let check = tuning("CHECK", TUNED);
    fails_under(b, &check, "", "openat2:error=EMFILE", 11, &[]);
    fails_under(b, &check, "/proc/sys/net/core/somaxconn", "pread64:error=ENOMEM", 11, &[]);
    fails_under(
        b,
        &check,
        "/proc/sys/net/core/somaxconn",
        "pread64:error=EIO",
        101,
        &["somaxconn"],
    );
    Namespace::named("c1").write_sysctl("core/somaxconn", "600");
    check.run(b).expect_error_with(100, &["somaxconn"]);
}
