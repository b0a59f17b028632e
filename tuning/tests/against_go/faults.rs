//! What the Go plugin gets wrong and ours does not. Each case shows both, so that a fault which
//! is no more does not stay on record.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use cni_testbox::Implementation::{Go, Ours};
use cni_testbox::{Implementation, Namespace, TestBox, cases, sh};
use serde_json::json;

use crate::support::{DATA_DIR, container, files, link, of, sysctl, tuning};

/// Writing the first resets the second.
const PAIR: &str =
    r#""sysctl":{"net.ipv4.ip_forward":"1","net.ipv4.conf.all.accept_redirects":"1"}"#;

fn pair_ends_wrong(plugin: Implementation) -> bool {
    Namespace::named("c1").write_sysctl("ipv4/ip_forward", "0");
    tuning("ADD", PAIR).run_as(plugin).success();
    let wrong = sysctl("c1", "ipv4/conf/all/accept_redirects") != "1";
    tuning("DEL", PAIR).run_as(plugin).success();
    wrong
}

fn mode(path: &str) -> u32 {
    fs::metadata(path).expect("metadata").permissions().mode() & 0o777
}

cases! {
    sysctls_in_random_order, ours;
    sysctls_are_not_given_back, ours;
    a_repeated_add_destroys_the_originals, ours;
    check_compares_spellings, ours;
    check_minds_promiscuity_that_nobody_configured, ours;
    check_stops_at_the_first_drift, ours;
    sysctls_from_args_alone_are_a_panic, ours;
    directories_are_closed_to_everybody, ours;
    a_failed_add_leaves_half_of_it, ours;
    backups_of_what_is_gone_stay_for_ever, ours;
    corrupt_backups_stay_for_ever, ours;
    bad_args_fail_del, ours;
    results_repeat_the_spelling_and_touch_the_host, ours;
    dotted_interfaces_are_out_of_reach, ours;
    values_out_of_range_are_bare_errors, ours;
}

fn sysctls_in_random_order(_: &TestBox) {
    container("c1", "eth0");
    for run in 0..40 {
        assert!(!pair_ends_wrong(Ours), "run {run}");
    }
    // One time in eight, as measured.
    assert!((0..400).any(|_| pair_ends_wrong(Go)));
}

fn sysctls_are_not_given_back(b: &TestBox) {
    container("c1", "eth0");
    let keys = r#""sysctl":{"net.core.somaxconn":"601","net.ipv4.conf.IFNAME.arp_filter":"1"}"#;
    let before = sysctl("c1", "core/somaxconn");
    tuning("ADD", keys).run(b).success();
    assert_eq!(sysctl("c1", "core/somaxconn"), "601");
    tuning("DEL", keys).run(b).success();
    assert_eq!(sysctl("c1", "core/somaxconn"), before);
    assert_eq!(sysctl("c1", "ipv4/conf/eth0/arp_filter"), "0");
    tuning("ADD", keys).run_as(Go).success();
    tuning("DEL", keys).run_as(Go).success();
    assert_eq!(sysctl("c1", "core/somaxconn"), "601");
}

fn a_repeated_add_destroys_the_originals(_: &TestBox) {
    container("c1", "eth0");
    let keys = r#""mac":"c2:11:22:33:44:55","mtu":1400,"promisc":true,"allmulti":true"#;
    let before = link("c1", "eth0");
    let repeated = |plugin| {
        for command in ["ADD", "ADD", "DEL"] {
            tuning(command, keys).run_as(plugin).success();
        }
        link("c1", "eth0")
    };
    assert_eq!(repeated(Ours), before);
    let left = repeated(Go);
    assert_eq!((left.mac.as_str(), left.mtu), ("c2:11:22:33:44:55", 1400));
    assert!(left.promisc && left.allmulti);
}

fn check_compares_spellings(_: &TestBox) {
    container("c1", "eth0");
    for keys in [
        r#""mac":"C2-11-22-33-44-55""#,
        r#""sysctl":{"net.ipv4.ip_local_port_range":"30000 40000"}"#,
        r#""sysctl":{"net.ipv4.conf.IFNAME.arp_filter":"1"}"#,
        r#""sysctl":{"net.ipv4.ip_local_reserved_ports":"3001,3000"}"#,
        r#""sysctl":{"net.core.somaxconn":"0x200"}"#,
    ] {
        for (plugin, as_it_should_be) in [(Ours, true), (Go, false)] {
            tuning("ADD", keys).run_as(plugin).success();
            let outcome = tuning("CHECK", keys).run_as(plugin);
            assert_eq!(outcome.succeeded(), as_it_should_be, "{plugin:?} {keys}");
            tuning("DEL", keys).run_as(plugin).success();
        }
    }
}

fn check_minds_promiscuity_that_nobody_configured(_: &TestBox) {
    container("c1", "eth0");
    let keys = r#""mtu":1400"#;
    sh("ip -n c1 link set eth0 promisc on");
    for (plugin, as_it_should_be) in [(Ours, true), (Go, false)] {
        tuning("ADD", keys).run_as(plugin).success();
        let outcome = tuning("CHECK", keys).run_as(plugin);
        assert_eq!(outcome.succeeded(), as_it_should_be, "{plugin:?}");
        tuning("DEL", keys).run_as(plugin).success();
    }
}

fn check_stops_at_the_first_drift(_: &TestBox) {
    container("c1", "eth0");
    let keys = r#""sysctl":{"net.core.somaxconn":"601"},"mac":"c2:11:22:33:44:55","mtu":1400"#;
    let drifted = |plugin| {
        tuning("ADD", keys).run_as(plugin).success();
        Namespace::named("c1").write_sysctl("core/somaxconn", "600");
        sh("ip -n c1 link set eth0 mtu 1300 address 02:00:00:00:00:07");
        let outcome = tuning("CHECK", keys).run_as(plugin);
        assert!(!outcome.succeeded());
        tuning("DEL", keys).run_as(plugin).success();
        let named = |what: &&str| outcome.stdout.contains(*what);
        ["somaxconn", "02:00:00:00:00:07", "1300"].iter().filter(|what| named(what)).count()
    };
    assert_eq!(drifted(Ours), 3);
    assert_eq!(drifted(Go), 1);
}

fn sysctls_from_args_alone_are_a_panic(b: &TestBox) {
    container("c1", "eth0");
    let keys = r#""args":{"cni":{"sysctl":{"net.core.somaxconn":"601"}}}"#;
    tuning("ADD", keys).run(b).success();
    assert_eq!(sysctl("c1", "core/somaxconn"), "601");
    tuning("DEL", keys).run(b).success();
    let outcome = tuning("ADD", keys).run_as(Go);
    assert_eq!(outcome.status, Some(2), "{outcome}");
    assert!(outcome.stderr.contains("nil map"), "{outcome}");
}

fn directories_are_closed_to_everybody(b: &TestBox) {
    container("c1", "eth0");
    tuning("ADD", r#""mtu":1400"#).run(b).success();
    assert_eq!((mode("/run/cni"), mode(DATA_DIR)), (0o755, 0o700));
    tuning("DEL", r#""mtu":1400"#).run(b).success();
    fs::remove_dir_all("/run/cni").expect("a fresh start");
    tuning("ADD", r#""mtu":1400"#).run_as(Go).success();
    assert_eq!(mode("/run/cni"), 0o600);
}

fn a_failed_add_leaves_half_of_it(b: &TestBox) {
    container("c1", "eth0");
    let keys = r#""sysctl":{"net.core.somaxconn":"601"},"mac":"c2:11:22:33:44:55","mtu":65000"#;
    // A device on top of another takes no larger MTU than that.
    sh("ip -n c1 link add link eth0 name m0 type macvlan || true");
    let lower = sh("ip -n c1 -br link").contains("m0");
    assert!(lower, "this kernel has no macvlan");
    let before = (sysctl("c1", "core/somaxconn"), link("c1", "m0"));
    of("c1", "m0", "ADD", keys).run(b).expect_error_with(101, &["cannot set mtu of m0 to 65000"]);
    assert_eq!((sysctl("c1", "core/somaxconn"), link("c1", "m0")), before);
    assert_eq!(files(DATA_DIR), [""; 0]);
    assert!(!of("c1", "m0", "ADD", keys).run_as(Go).succeeded());
    assert_eq!(sysctl("c1", "core/somaxconn"), "601");
    assert_eq!(link("c1", "m0").mac, "c2:11:22:33:44:55");
}

fn backups_of_what_is_gone_stay_for_ever(_: &TestBox) {
    container("c1", "eth0");
    for (plugin, left) in [(Ours, 0), (Go, 2)] {
        container("gone", "eth0");
        of("gone", "eth0", "ADD", r#""mtu":1400"#).run_as(plugin).success();
        sh(
            "ip netns del gone; for i in 1 2 3 4 5 6 7 8 9; do ip link show hgone >/dev/null 2>&1 || break; sleep 0.2; done",
        );
        of("gone", "eth0", "DEL", r#""mtu":1400"#).run_as(plugin).success();
        container("bare", "eth0");
        of("bare", "eth0", "ADD", r#""mtu":1400"#).run_as(plugin).success();
        sh("ip link del hbare");
        of("bare", "eth0", "DEL", r#""mtu":1400"#).run_as(plugin).success();
        sh("ip netns del bare");
        assert_eq!(files(DATA_DIR).len(), left, "{plugin:?}");
    }
}

fn corrupt_backups_stay_for_ever(b: &TestBox) {
    container("c1", "eth0");
    tuning("ADD", r#""mtu":1400"#).run(b).success();
    fs::write(format!("{DATA_DIR}/c1@eth0.state"), "{").expect("corrupt it");
    let outcome = tuning("DEL", r#""mtu":1400"#).run(b).success();
    assert!(outcome.stderr.contains("c1@eth0.state is of no use"), "{outcome}");
    assert_eq!(files(DATA_DIR), [""; 0]);
    tuning("ADD", r#""mtu":1300"#).run_as(Go).success();
    fs::write(format!("{DATA_DIR}/c1_eth0.json"), "{").expect("corrupt it");
    assert_eq!(tuning("DEL", r#""mtu":1300"#).run_as(Go).success().stderr, "");
    assert_eq!(files(DATA_DIR), ["c1_eth0.json"]);
}

fn bad_args_fail_del(_: &TestBox) {
    container("c1", "eth0");
    let bad = |plugin| tuning("DEL", r#""mtu":1400"#).env("CNI_ARGS", "FOO").run_as(plugin);
    bad(Ours).expect_silence();
    assert!(!bad(Go).succeeded());
}

fn results_repeat_the_spelling_and_touch_the_host(_: &TestBox) {
    container("c1", "eth0");
    let add = |plugin| {
        let result = json!({ "cniVersion": "1.0.0",
            "interfaces": [
                { "name": "eth0", "mac": "02:00:00:00:00:01" },
                { "name": "eth0", "mac": "02:00:00:00:00:02", "mtu": 1500, "x": 1,
                  "sandbox": "/run/netns/c1" }],
            "y": { "z": [1] } });
        let keys = r#""mac":"C2-11-22-33-44-55","mtu":1400"#;
        tuning("ADD", keys).set("prevResult", result).run_as(plugin).expect_result()
    };
    let result = add(Ours);
    assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:01");
    assert!(result["interfaces"][0]["mtu"].is_null());
    assert_eq!(result["interfaces"][1]["mac"], "c2:11:22:33:44:55");
    assert_eq!(result["interfaces"][1]["mtu"], 1400);
    assert_eq!((&result["interfaces"][1]["x"], &result["y"]["z"][0]), (&1.into(), &1.into()));
    let result = add(Go);
    assert_eq!(result["interfaces"][0]["mac"], "C2-11-22-33-44-55");
}

fn dotted_interfaces_are_out_of_reach(b: &TestBox) {
    container("c1", "eth0");
    container("dots", "eth0.100");
    let path = "ipv4/conf/eth0.100/arp_filter";
    for key in [
        "net.ipv4.conf.IFNAME.arp_filter",
        "net/ipv4/conf/eth0.100/arp_filter",
        "net.ipv4.conf.eth0/100.arp_filter",
    ] {
        let keys = format!(r#""sysctl":{{"{key}":"1"}}"#);
        of("dots", "eth0.100", "ADD", &keys).run(b).success();
        assert_eq!(sysctl("dots", path), "1", "{key}");
        of("dots", "eth0.100", "CHECK", &keys).run(b).success();
        of("dots", "eth0.100", "DEL", &keys).run(b).success();
        assert_eq!(sysctl("dots", path), "0", "{key}");
        assert!(!of("dots", "eth0.100", "ADD", &keys).run_as(Go).succeeded(), "{key}");
    }
}

fn values_out_of_range_are_bare_errors(b: &TestBox) {
    container("c1", "eth0");
    for (keys, words) in [
        (r#""mtu":10"#, "mtu must be"),
        (r#""mtu":-5"#, "mtu must be"),
        (r#""txQLen":-1"#, "txQLen must be"),
        (r#""mac":"01:00:5e:00:00:01""#, "unicast"),
        (r#""sysctl":{"net.core.somaxconn":"abc"}"#, "/proc/sys/net/core/somaxconn"),
    ] {
        let outcome = tuning("ADD", keys).run(b);
        assert!(!outcome.succeeded() && outcome.stdout.contains(words), "{outcome}");
    }
    let outcome = tuning("ADD", r#""mtu":10"#).run_as(Go);
    assert_eq!(outcome.json()["msg"], "invalid argument");
    // The queue length is not even looked at.
    tuning("ADD", r#""txQLen":-1"#).run_as(Go).success();
}
