//! STATUS, errors of a call, and what a call executes.

use std::fs;

use cni_testbox::{TestBox, cases, sh};

use serde_json::Value;

use crate::support::{DATA_DIR, container, files, link, of, sysctl, tuning};

cases! {
    what_add_needs, ours;
    status_probes, ours;
    status_fails_only_where_add_would, ours;
    one_program_is_executed, ours;
    interface_names_with_a_slash_are_refused, ours;
}

fn what_add_needs(b: &TestBox) {
    container("c1", "eth0");
    tuning("ADD", r#""mtu":1400"#)
        .set("prevResult", Value::Null)
        .run(b)
        .expect_error_with(7, &["Required prevResult missing"]);
    of("c1", "nope0", "ADD", r#""mtu":1400"#).run(b).expect_error_with(3, &["nope0"]);
    tuning("ADD", r#""mtu":1400"#)
        .env("CNI_NETNS", "/run/netns/no")
        .run(b)
        .expect_error_with(8, &["/run/netns/no"]);
    tuning("ADD", "")
        .env("CNI_ARGS", "FOO=bar")
        .run(b)
        .expect_error_with(4, &["unknown args", "FOO=bar"]);
    tuning("ADD", "").env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD=a=b").run(b).success();
    // A sysctl needs no interface.
    let keys = r#""sysctl":{"net.core.somaxconn":"601"}"#;
    for command in ["ADD", "CHECK"] {
        of("c1", "nope0", command, keys).run(b).success();
        assert_eq!(sysctl("c1", "core/somaxconn"), "601");
    }
    of("c1", "nope0", "DEL", keys).run(b).success();
    assert_ne!(sysctl("c1", "core/somaxconn"), "601");
    assert_eq!(files(DATA_DIR), [""; 0]);
}

fn status_probes(b: &TestBox) {
    container("c1", "eth0");
    let status = |keys: &str| tuning("STATUS", keys);
    status("").run(b).success();
    assert_eq!(files(DATA_DIR), [""; 0]);
    status(r#""mtu":10"#).run(b).expect_error_with(7, &["mtu must be"]);
    fs::write("/run/file", "").expect("write");
    status(r#""mtu":1400,"dataDir":"/run/file""#)
        .run(b)
        .expect_error_with(50, &["/run/file", "dataDir"]);
    status(r#""mtu":1400,"dataDir":"/proc/nowhere/dir""#)
        .run(b)
        .expect_error_with(50, &["/proc/nowhere", "dataDir"]);
    sh("mount -t tmpfs tmpfs /proc/sys");
    status(r#""mtu":1400"#).run(b).expect_error_with(50, &["/proc/sys/net"]);
}

fn status_fails_only_where_add_would(b: &TestBox) {
    container("c1", "eth0");
    sh("mkdir -p /etc/cni/tuning; echo '[a' >/etc/cni/tuning/allowlist.conf; touch /run/file");
    for (keys, word) in [
        (r#""mtu":1400"#, "allowlist.conf"),
        (r#""dataDir":"/run/file""#, "/run/file"),
        ("", "allowlist.conf"),
    ] {
        tuning("ADD", keys).run(b).success();
        let outcome = tuning("STATUS", keys).run(b);
        outcome.expect_silence();
        assert!(outcome.stderr.contains("warning") && outcome.stderr.contains(word), "{outcome}");
        tuning("DEL", keys).run(b).expect_silence();
    }
    let keys = r#""sysctl":{"net.core.somaxconn":"601"}"#;
    assert!(!tuning("ADD", keys).run(b).succeeded());
    tuning("STATUS", keys).run(b).expect_error_with(50, &["allowlist.conf"]);
}

fn one_program_is_executed(b: &TestBox) {
    container("c1", "eth0");
    let keys = r#""sysctl":{"net.core.somaxconn":"601"},"mtu":1400,"mac":"c2:11:22:33:44:55""#;
    for command in ["ADD", "CHECK", "DEL"] {
        let trace = ["strace", "-f", "-o", "/run/trace", "-e", "trace=execve,execveat"];
        tuning(command, keys).under(&trace).run(b).success();
        let trace = fs::read_to_string("/run/trace").expect("trace");
        assert_eq!(trace.matches("execve").count(), 1, "{command}: {trace}");
    }
    assert_eq!(link("c1", "eth0").mtu, 1500);
}

fn interface_names_with_a_slash_are_refused(b: &TestBox) {
    container("c1", "eth0");
    tuning("ADD", r#""mtu":1400"#)
        .env("CNI_IFNAME", "eth/0")
        .run(b)
        .expect_error_with(4, &["interface name contains /"]);
}
