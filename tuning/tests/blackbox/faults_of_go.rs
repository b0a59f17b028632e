//! What the Go plugin gets wrong and ours does not. Each test shows both, so that a fault which
//! is no more does not stay on record.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::harness::{
    Call, DATA_DIR, Plugin, container, files, go, link, ours, set_sysctl, sh, sysctl,
};

/// Writing the first resets the second.
const PAIR: &str =
    r#""sysctl":{"net.ipv4.ip_forward":"1","net.ipv4.conf.all.accept_redirects":"1"}"#;

fn pair_ends_wrong(plugin: Plugin) -> bool {
    set_sysctl("c1", "ipv4/ip_forward", "0");
    Call::new(plugin, "ADD", PAIR).ok();
    let wrong = sysctl("c1", "ipv4/conf/all/accept_redirects") != "1";
    Call::new(plugin, "DEL", PAIR).ok();
    wrong
}

fn mode(path: &str) -> u32 {
    fs::metadata(path).expect("metadata").permissions().mode() & 0o777
}

in_box! {
    fn sysctls_in_random_order() {
        for run in 0..40 {
            assert!(!pair_ends_wrong(Plugin::Ours), "run {run}");
        }
        // One time in eight, as measured.
        assert!((0..400).any(|_| pair_ends_wrong(Plugin::Go)));
    }

    fn sysctls_are_not_given_back() {
        let keys = r#""sysctl":{"net.core.somaxconn":"601","net.ipv4.conf.IFNAME.arp_filter":"1"}"#;
        let before = sysctl("c1", "core/somaxconn");
        ours("ADD", keys).ok();
        assert_eq!(sysctl("c1", "core/somaxconn"), "601");
        ours("DEL", keys).ok();
        assert_eq!(sysctl("c1", "core/somaxconn"), before);
        assert_eq!(sysctl("c1", "ipv4/conf/eth0/arp_filter"), "0");
        go("ADD", keys).ok();
        go("DEL", keys).ok();
        assert_eq!(sysctl("c1", "core/somaxconn"), "601");
    }

    fn a_repeated_add_destroys_the_originals() {
        let keys = r#""mac":"c2:11:22:33:44:55","mtu":1400,"promisc":true,"allmulti":true"#;
        let before = link("c1", "eth0");
        let repeated = |plugin| {
            for command in ["ADD", "ADD", "DEL"] {
                Call::new(plugin, command, keys).ok();
            }
            link("c1", "eth0")
        };
        assert_eq!(repeated(Plugin::Ours), before);
        let left = repeated(Plugin::Go);
        assert_eq!((left.mac.as_str(), left.mtu), ("c2:11:22:33:44:55", 1400));
        assert!(left.promisc && left.allmulti);
    }

    fn check_compares_spellings() {
        for keys in [
            r#""mac":"C2-11-22-33-44-55""#,
            r#""sysctl":{"net.ipv4.ip_local_port_range":"30000 40000"}"#,
            r#""sysctl":{"net.ipv4.conf.IFNAME.arp_filter":"1"}"#,
            r#""sysctl":{"net.ipv4.ip_local_reserved_ports":"3001,3000"}"#,
            r#""sysctl":{"net.core.somaxconn":"0x200"}"#,
        ] {
            for (plugin, as_it_should_be) in [(Plugin::Ours, true), (Plugin::Go, false)] {
                Call::new(plugin, "ADD", keys).ok();
                let outcome = Call::new(plugin, "CHECK", keys).run();
                assert_eq!(outcome.succeeded(), as_it_should_be, "{plugin:?} {keys}");
                Call::new(plugin, "DEL", keys).ok();
            }
        }
    }

    fn check_minds_promiscuity_that_nobody_configured() {
        let keys = r#""mtu":1400"#;
        sh("ip -n c1 link set eth0 promisc on");
        for (plugin, as_it_should_be) in [(Plugin::Ours, true), (Plugin::Go, false)] {
            Call::new(plugin, "ADD", keys).ok();
            let outcome = Call::new(plugin, "CHECK", keys).run();
            assert_eq!(outcome.succeeded(), as_it_should_be, "{plugin:?}");
            Call::new(plugin, "DEL", keys).ok();
        }
    }

    fn check_stops_at_the_first_drift() {
        let keys = r#""sysctl":{"net.core.somaxconn":"601"},"mac":"c2:11:22:33:44:55","mtu":1400"#;
        let drifted = |plugin| {
            Call::new(plugin, "ADD", keys).ok();
            set_sysctl("c1", "core/somaxconn", "600");
            sh("ip -n c1 link set eth0 mtu 1300 address 02:00:00:00:00:07");
            let outcome = Call::new(plugin, "CHECK", keys).run();
            assert!(!outcome.succeeded());
            Call::new(plugin, "DEL", keys).ok();
            let named = |what: &&str| outcome.stdout.contains(*what);
            ["somaxconn", "02:00:00:00:00:07", "1300"].iter().filter(|what| named(what)).count()
        };
        assert_eq!(drifted(Plugin::Ours), 3);
        assert_eq!(drifted(Plugin::Go), 1);
    }

    fn sysctls_from_args_alone_are_a_panic() {
        let keys = r#""args":{"cni":{"sysctl":{"net.core.somaxconn":"601"}}}"#;
        ours("ADD", keys).ok();
        assert_eq!(sysctl("c1", "core/somaxconn"), "601");
        ours("DEL", keys).ok();
        let outcome = go("ADD", keys).run();
        assert_eq!(outcome.status, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains("nil map"), "{outcome:?}");
    }

    fn directories_are_closed_to_everybody() {
        ours("ADD", r#""mtu":1400"#).ok();
        assert_eq!((mode("/run/cni"), mode(DATA_DIR)), (0o755, 0o700));
        ours("DEL", r#""mtu":1400"#).ok();
        fs::remove_dir_all("/run/cni").expect("a fresh start");
        go("ADD", r#""mtu":1400"#).ok();
        assert_eq!(mode("/run/cni"), 0o600);
    }

    fn a_failed_add_leaves_half_of_it() {
        let keys = r#""sysctl":{"net.core.somaxconn":"601"},"mac":"c2:11:22:33:44:55","mtu":65000"#;
        // A device on top of another takes no larger MTU than that.
        sh("ip -n c1 link add link eth0 name m0 type macvlan || true");
        let lower = sh("ip -n c1 -br link").contains("m0");
        assert!(lower, "this kernel has no macvlan");
        let before = (sysctl("c1", "core/somaxconn"), link("c1", "m0"));
        ours("ADD", keys).of("c1", "m0").fails(101, &["cannot set mtu of m0 to 65000"]);
        assert_eq!((sysctl("c1", "core/somaxconn"), link("c1", "m0")), before);
        assert_eq!(files(DATA_DIR), [""; 0]);
        assert!(!go("ADD", keys).of("c1", "m0").run().succeeded());
        assert_eq!(sysctl("c1", "core/somaxconn"), "601");
        assert_eq!(link("c1", "m0").mac, "c2:11:22:33:44:55");
    }

    fn backups_of_what_is_gone_stay_for_ever() {
        for (plugin, left) in [(Plugin::Ours, 0), (Plugin::Go, 2)] {
            container("gone", "eth0");
            Call::new(plugin, "ADD", r#""mtu":1400"#).of("gone", "eth0").ok();
            sh("ip netns del gone; for i in 1 2 3 4 5 6 7 8 9; do ip link show hgone >/dev/null 2>&1 || break; sleep 0.2; done");
            Call::new(plugin, "DEL", r#""mtu":1400"#).of("gone", "eth0").ok();
            container("bare", "eth0");
            Call::new(plugin, "ADD", r#""mtu":1400"#).of("bare", "eth0").ok();
            sh("ip link del hbare");
            Call::new(plugin, "DEL", r#""mtu":1400"#).of("bare", "eth0").ok();
            sh("ip netns del bare");
            assert_eq!(files(DATA_DIR).len(), left, "{plugin:?}");
        }
    }

    fn corrupt_backups_stay_for_ever() {
        ours("ADD", r#""mtu":1400"#).ok();
        fs::write(format!("{DATA_DIR}/c1@eth0.state"), "{").expect("corrupt it");
        let outcome = ours("DEL", r#""mtu":1400"#).ok();
        assert!(outcome.stderr.contains("c1@eth0.state is of no use"), "{outcome:?}");
        assert_eq!(files(DATA_DIR), [""; 0]);
        go("ADD", r#""mtu":1300"#).ok();
        fs::write(format!("{DATA_DIR}/c1_eth0.json"), "{").expect("corrupt it");
        assert_eq!(go("DEL", r#""mtu":1300"#).ok().stderr, "");
        assert_eq!(files(DATA_DIR), ["c1_eth0.json"]);
    }

    fn bad_args_fail_del() {
        let bad = |plugin| Call::new(plugin, "DEL", r#""mtu":1400"#).with(|c| c.args = "FOO".into());
        bad(Plugin::Ours).ok();
        assert!(!bad(Plugin::Go).run().succeeded());
    }

    fn results_repeat_the_spelling_and_touch_the_host() {
        let add = |plugin| {
            let call = Call::new(plugin, "ADD", r#""mac":"C2-11-22-33-44-55","mtu":1400"#).with(|call| {
                call.prev_result = Some(
                    r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01"},
                       {"name":"eth0","mac":"02:00:00:00:00:02","mtu":1500,"x":1,"sandbox":"/run/netns/c1"}],
                       "y":{"z":[1]}}"#.into(),
                );
            });
            call.ok().json()
        };
        let result = add(Plugin::Ours);
        assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:01");
        assert!(result["interfaces"][0]["mtu"].is_null());
        assert_eq!(result["interfaces"][1]["mac"], "c2:11:22:33:44:55");
        assert_eq!(result["interfaces"][1]["mtu"], 1400);
        assert_eq!((&result["interfaces"][1]["x"], &result["y"]["z"][0]), (&1.into(), &1.into()));
        let result = add(Plugin::Go);
        assert_eq!(result["interfaces"][0]["mac"], "C2-11-22-33-44-55");
    }

    fn dotted_interfaces_are_out_of_reach() {
        container("dots", "eth0.100");
        let path = "ipv4/conf/eth0.100/arp_filter";
        for key in [
            "net.ipv4.conf.IFNAME.arp_filter",
            "net/ipv4/conf/eth0.100/arp_filter",
            "net.ipv4.conf.eth0/100.arp_filter",
        ] {
            let keys = format!(r#""sysctl":{{"{key}":"1"}}"#);
            ours("ADD", &keys).of("dots", "eth0.100").ok();
            assert_eq!(sysctl("dots", path), "1", "{key}");
            ours("CHECK", &keys).of("dots", "eth0.100").ok();
            ours("DEL", &keys).of("dots", "eth0.100").ok();
            assert_eq!(sysctl("dots", path), "0", "{key}");
            assert!(!go("ADD", &keys).of("dots", "eth0.100").run().succeeded(), "{key}");
        }
    }

    fn values_out_of_range_are_bare_errors() {
        for (keys, words) in [
            (r#""mtu":10"#, "mtu must be"),
            (r#""mtu":-5"#, "mtu must be"),
            (r#""txQLen":-1"#, "txQLen must be"),
            (r#""mac":"01:00:5e:00:00:01""#, "unicast"),
            (r#""sysctl":{"net.core.somaxconn":"abc"}"#, "/proc/sys/net/core/somaxconn"),
        ] {
            let outcome = ours("ADD", keys).run();
            assert!(!outcome.succeeded() && outcome.stdout.contains(words), "{outcome:?}");
        }
        let outcome = go("ADD", r#""mtu":10"#).run();
        assert_eq!(outcome.json()["msg"], "invalid argument");
        // The queue length is not even looked at.
        go("ADD", r#""txQLen":-1"#).ok();
    }
}
