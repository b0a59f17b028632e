//! STATUS, errors of a call, and what a call executes.

use std::fs;

use crate::harness::{DATA_DIR, files, link, ours, sh, sysctl};

in_box! {
    fn status_probes() {
        let status = |keys: &str| ours("STATUS", keys).with(|c| c.version = "1.1.0".into());
        status("").ok();
        assert_eq!(files(DATA_DIR), [""; 0]);
        status(r#""mtu":10"#).fails(7, &["mtu must be"]);
        fs::write("/run/file", "").expect("write");
        status(r#""dataDir":"/run/file""#).fails(50, &["/run/file", "dataDir"]);
        status(r#""dataDir":"/proc/nowhere/dir""#).fails(50, &["/proc/nowhere", "dataDir"]);
        sh("mount -t tmpfs tmpfs /proc/sys");
        status("").fails(50, &["/proc/sys/net"]);
    }

    fn what_add_needs() {
        ours("ADD", r#""mtu":1400"#)
            .with(|c| c.prev_result = Some("null".into()))
            .fails(7, &["Required prevResult missing"]);
        ours("ADD", r#""mtu":1400"#).of("c1", "nope0").fails(3, &["nope0"]);
        ours("ADD", r#""mtu":1400"#).with(|c| c.netns = "/run/netns/no".into()).fails(8, &["/run/netns/no"]);
        ours("ADD", "").with(|c| c.args = "FOO=bar".into()).fails(4, &["unknown args", "FOO=bar"]);
        ours("ADD", "").with(|c| c.args = "IgnoreUnknown=1;K8S_POD=a=b".into()).ok();
        // A sysctl needs no interface.
        let keys = r#""sysctl":{"net.core.somaxconn":"601"}"#;
        for command in ["ADD", "CHECK"] {
            ours(command, keys).of("c1", "nope0").ok();
            assert_eq!(sysctl("c1", "core/somaxconn"), "601");
        }
        ours("DEL", keys).of("c1", "nope0").ok();
        assert_ne!(sysctl("c1", "core/somaxconn"), "601");
        assert_eq!(files(DATA_DIR), [""; 0]);
    }

    fn check_names_every_drift_and_no_other() {
        let keys = r#""sysctl":{"net.core.somaxconn":"601","net.ipv4.ip_forward":"1"},"txQLen":7,"promisc":true,"allmulti":false"#;
        ours("ADD", keys).ok();
        ours("CHECK", keys).ok();
        sh("ip -n c1 link set eth0 txqueuelen 8 promisc off allmulticast on");
        crate::harness::set_sysctl("c1", "core/somaxconn", "600");
        let outcome = ours("CHECK", keys).run();
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
        ours("CHECK", keys).fails(100, &["there is no interface eth0"]);
    }

    fn integers_are_values_too() {
        ours("ADD", r#""sysctl":{"net.core.somaxconn":601}"#).ok();
        assert_eq!(sysctl("c1", "core/somaxconn"), "601");
    }

    fn one_program_is_executed() {
        let keys = r#""sysctl":{"net.core.somaxconn":"601"},"mtu":1400,"mac":"c2:11:22:33:44:55""#;
        for command in ["ADD", "CHECK", "DEL"] {
            let trace = ["strace", "-f", "-o", "/run/trace", "-e", "trace=execve,execveat"];
            ours(command, keys).under(&trace).ok();
            let trace = fs::read_to_string("/run/trace").expect("trace");
            assert_eq!(trace.matches("execve").count(), 1, "{command}: {trace}");
        }
        assert_eq!(link("c1", "eth0").mtu, 1500);
    }
}
