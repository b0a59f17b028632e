//! What each key of the configuration does, in every protocol version: set by ADD, found by
//! CHECK, given back by DEL.

use crate::harness::{DATA_DIR, Seen, allowlist, files, link, ours, sysctl};

/// Versions with interfaces in the result; CHECK exists from the third on.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// ADD, CHECK and DEL of `keys` in every version. `expected` tells from what was there before
/// what must be there after ADD.
#[track_caller]
fn set_and_given_back(keys: &str, args: &str, expected: impl Fn(Seen) -> Seen) {
    for version in VERSIONS {
        let call = |command| {
            ours(command, keys).with(|call| {
                version.clone_into(&mut call.version);
                args.clone_into(&mut call.args);
            })
        };
        let before = link("c1", "eth0");
        let result = call("ADD").ok().json();
        let after = link("c1", "eth0");
        assert_eq!(after, expected(before.clone()), "{version}");
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["interfaces"].as_array().map(Vec::len), Some(1));
        assert_eq!(result["interfaces"][0]["name"], "eth0");
        assert_eq!(result["ips"][0]["address"], "10.0.0.2/24");
        if before.mac != after.mac {
            assert_eq!(result["interfaces"][0]["mac"], after.mac);
        }
        if version >= "0.4.0" {
            assert_eq!(call("CHECK").ok().stdout, "");
        }
        assert_eq!(call("DEL").ok().stdout, "");
        assert_eq!(link("c1", "eth0"), before, "{version}");
        assert_eq!(files(DATA_DIR), [""; 0]);
    }
}

fn in_args(keys: &str) -> String {
    format!(r#""args":{{"cni":{{{keys}}}}}"#)
}

in_box! {
    fn sysctls() {
        let path = "ipv4/conf/all/log_martians";
        let keys = r#""sysctl":{"net.ipv4.conf.all.log_martians":"1"}"#;
        for version in VERSIONS {
            let call = |command| ours(command, keys).with(|c| version.clone_into(&mut c.version));
            assert_eq!(sysctl("c1", path), "0");
            let result = call("ADD").ok().json();
            assert_eq!(sysctl("c1", path), "1");
            assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:99");
            if version >= "0.4.0" {
                call("CHECK").ok();
            }
            call("DEL").ok();
            assert_eq!(sysctl("c1", path), "0");
        }
    }

    fn promisc() {
        let expected = |before| Seen { promisc: true, ..before };
        set_and_given_back(r#""promisc":true"#, "", expected);
        set_and_given_back(&in_args(r#""promisc":true"#), "", expected);
    }

    fn promisc_false_changes_nothing() {
        set_and_given_back(r#""promisc":false"#, "", |before| before);
    }

    fn mtu() {
        let expected = |before| Seen { mtu: 1454, ..before };
        set_and_given_back(r#""mtu":1454"#, "", expected);
        set_and_given_back(&in_args(r#""mtu":1454"#), "", expected);
    }

    fn tx_queue_len() {
        let expected = |qlen| move |before| Seen { qlen, ..before };
        set_and_given_back(r#""txQLen":20000"#, "", expected(20_000));
        set_and_given_back(&in_args(r#""txQLen":20000"#), "", expected(20_000));
        set_and_given_back(r#""txQLen":0"#, "", expected(0));
    }

    fn allmulti() {
        let expected = |before| Seen { allmulti: true, ..before };
        set_and_given_back(r#""allmulti":true"#, "", expected);
        set_and_given_back(&in_args(r#""allmulti":true"#), "", expected);
        set_and_given_back(r#""allmulti":false"#, "", |before| before);
        crate::harness::sh("ip -n c1 link set eth0 allmulticast on");
        set_and_given_back(r#""allmulti":false"#, "", |before| Seen { allmulti: false, ..before });
    }

    fn mac_from_each_source() {
        let expected = |before| Seen { mac: "c2:11:22:33:44:55".into(), ..before };
        let mac = r#""mac":"c2:11:22:33:44:55""#;
        set_and_given_back(mac, "", expected);
        set_and_given_back(&in_args(mac), "", expected);
        set_and_given_back("", "IgnoreUnknown=true;MAC=c2:11:22:33:44:55", expected);
        let runtime = format!(r#""capabilities":{{"mac":true}},"RuntimeConfig":{{{mac}}}"#);
        set_and_given_back(&runtime, "", expected);
    }

    fn mac_sources_in_their_order() {
        let mac = |last: u8| format!(r#""mac":"02:00:00:00:00:{last:02}""#);
        let expected = |last: u8| move |before| Seen { mac: format!("02:00:00:00:00:{last:02}"), ..before };
        let args = "MAC=02:00:00:00:00:02";
        let runtime = format!(r#"{},"runtimeConfig":{{{}}}"#, mac(1), mac(3));
        set_and_given_back(&mac(1), args, expected(2));
        set_and_given_back(&runtime, args, expected(3));
        set_and_given_back(&format!("{runtime},{}", in_args(&mac(4))), args, expected(4));
    }

    fn everything_at_once_in_another_directory() {
        let keys = r#""mac":"c2:11:22:33:44:55","promisc":true,"mtu":4000,"txQLen":20000,"dataDir":"/run/other/dir""#;
        ours("ADD", keys).ok();
        let expected = Seen {
            mac: "c2:11:22:33:44:55".into(), mtu: 4000, qlen: 20_000, promisc: true, allmulti: false,
        };
        assert_eq!(link("c1", "eth0"), expected);
        assert_eq!(files("/run/other/dir"), ["c1@eth0.state"]);
        assert_eq!(files(DATA_DIR), [""; 0]);
        ours("CHECK", keys).ok();
        ours("DEL", keys).ok();
        let after = link("c1", "eth0");
        assert_eq!((after.mtu, after.qlen, after.promisc), (1500, 1000, false));
        assert_ne!(after.mac, expected.mac);
        assert_eq!(files("/run/other/dir"), [""; 0]);
    }

    fn allowlist_denies_and_allows() {
        let keys = r#""sysctl":{"net.ipv4.conf.all.log_martians":"1"}"#;
        allowlist("^net\\.ipv4\\.conf\\.other\\.[a-z_]*$\n");
        ours("ADD", keys).fails(7, &["net.ipv4.conf.all.log_martians", "is not allowed", "allowlist.conf"]);
        ours("DEL", keys).ok();
        assert_eq!(sysctl("c1", "ipv4/conf/all/log_martians"), "0");
        allowlist("^net\\.ipv4\\.conf\\.all\\.[a-z_]*$\n");
        ours("ADD", keys).ok();
        assert_eq!(sysctl("c1", "ipv4/conf/all/log_martians"), "1");
    }

    fn duplicates_are_refused() {
        for keys in [
            r#""sysctl":{"net.core.somaxconn":"1","net.core.somaxconn":"2"}"#,
            r#""sysctl":{"net.core.somaxconn":"1","net/core/somaxconn":"2"}"#,
            r#""args":{"cni":{"sysctl":{"net.ipv4.conf.IFNAME.arp_filter":"1","net.ipv4.conf.eth0.arp_filter":"0"}}}"#,
        ] {
            ours("ADD", keys).fails(7, &["duplicated", "remove one"]);
            ours("CHECK", keys).fails(7, &["duplicated"]);
            ours("DEL", keys).ok();
        }
    }

    fn interface_names_with_a_slash_are_refused() {
        ours("ADD", r#""mtu":1400"#)
            .with(|call| call.ifname = "eth/0".into())
            .fails(4, &["interface name contains /"]);
    }
}
