//! What each key of the configuration does, in every protocol version: set by ADD, found by
//! CHECK, given back by DEL.

use cni_testbox::{Call, TestBox, cases, sh};

use crate::allowlist::allowlist;
use crate::support::{DATA_DIR, Link, container, files, link, result, sysctl, tuning};

/// Versions with interfaces in the result; CHECK exists from the third on.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// ADD, CHECK and DEL of `keys` in every version. `expected` tells from what was there before
/// what must be there after ADD.
#[track_caller]
fn set_and_given_back(b: &TestBox, keys: &str, args: &str, expected: impl Fn(Link) -> Link) {
    for version in VERSIONS {
        let call = |command| in_version(version, command, keys).env("CNI_ARGS", args);
        let before = link("c1", "eth0");
        let result = call("ADD").run(b).success().json();
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
            assert_eq!(call("CHECK").run(b).success().stdout, "");
        }
        assert_eq!(call("DEL").run(b).success().stdout, "");
        assert_eq!(link("c1", "eth0"), before, "{version}");
        assert_eq!(files(DATA_DIR), [""; 0]);
    }
}

fn in_version(version: &str, command: &str, keys: &str) -> Call {
    let result = result(version, "/run/netns/c1", "eth0");
    tuning(command, keys).set("cniVersion", version).set("prevResult", result)
}

fn in_args(keys: &str) -> String {
    format!(r#""args":{{"cni":{{{keys}}}}}"#)
}

cases! {
    sysctls, ours;
    promisc, ours;
    promisc_false_changes_nothing, ours;
    mtu, ours;
    tx_queue_len, ours;
    allmulti, ours;
    mac_from_each_source, ours;
    mac_sources_in_their_order, ours;
    everything_at_once_in_another_directory, ours;
    allowlist_denies_and_allows, ours;
    duplicates_are_refused, ours;
    integers_are_values_too, ours;
}

fn sysctls(b: &TestBox) {
    container("c1", "eth0");
    let path = "ipv4/conf/all/log_martians";
    let keys = r#""sysctl":{"net.ipv4.conf.all.log_martians":"1"}"#;
    for version in VERSIONS {
        let call = |command| in_version(version, command, keys);
        assert_eq!(sysctl("c1", path), "0");
        let result = call("ADD").run(b).success().json();
        assert_eq!(sysctl("c1", path), "1");
        assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:99");
        if version >= "0.4.0" {
            call("CHECK").run(b).success();
        }
        call("DEL").run(b).success();
        assert_eq!(sysctl("c1", path), "0");
    }
}

fn promisc(b: &TestBox) {
    container("c1", "eth0");
    let expected = |before| Link { promisc: true, ..before };
    set_and_given_back(b, r#""promisc":true"#, "", expected);
    set_and_given_back(b, &in_args(r#""promisc":true"#), "", expected);
}

fn promisc_false_changes_nothing(b: &TestBox) {
    container("c1", "eth0");
    set_and_given_back(b, r#""promisc":false"#, "", |before| before);
}

fn mtu(b: &TestBox) {
    container("c1", "eth0");
    let expected = |before| Link { mtu: 1454, ..before };
    set_and_given_back(b, r#""mtu":1454"#, "", expected);
    set_and_given_back(b, &in_args(r#""mtu":1454"#), "", expected);
}

fn tx_queue_len(b: &TestBox) {
    container("c1", "eth0");
    let expected = |qlen| move |before| Link { qlen, ..before };
    set_and_given_back(b, r#""txQLen":20000"#, "", expected(20_000));
    set_and_given_back(b, &in_args(r#""txQLen":20000"#), "", expected(20_000));
    set_and_given_back(b, r#""txQLen":0"#, "", expected(0));
}

fn allmulti(b: &TestBox) {
    container("c1", "eth0");
    let expected = |before| Link { allmulti: true, ..before };
    set_and_given_back(b, r#""allmulti":true"#, "", expected);
    set_and_given_back(b, &in_args(r#""allmulti":true"#), "", expected);
    set_and_given_back(b, r#""allmulti":false"#, "", |before| before);
    sh("ip -n c1 link set eth0 allmulticast on");
    set_and_given_back(b, r#""allmulti":false"#, "", |before| Link { allmulti: false, ..before });
}

fn mac_from_each_source(b: &TestBox) {
    container("c1", "eth0");
    let expected = |before| Link { mac: "c2:11:22:33:44:55".into(), ..before };
    let mac = r#""mac":"c2:11:22:33:44:55""#;
    set_and_given_back(b, mac, "", expected);
    set_and_given_back(b, &in_args(mac), "", expected);
    set_and_given_back(b, "", "IgnoreUnknown=true;MAC=c2:11:22:33:44:55", expected);
    let runtime = format!(r#""capabilities":{{"mac":true}},"RuntimeConfig":{{{mac}}}"#);
    set_and_given_back(b, &runtime, "", expected);
}

fn mac_sources_in_their_order(b: &TestBox) {
    container("c1", "eth0");
    let mac = |last: u8| format!(r#""mac":"02:00:00:00:00:{last:02}""#);
    let expected =
        |last: u8| move |before| Link { mac: format!("02:00:00:00:00:{last:02}"), ..before };
    let args = "MAC=02:00:00:00:00:02";
    let runtime = format!(r#"{},"runtimeConfig":{{{}}}"#, mac(1), mac(3));
    set_and_given_back(b, &mac(1), args, expected(2));
    set_and_given_back(b, &runtime, args, expected(3));
    set_and_given_back(b, &format!("{runtime},{}", in_args(&mac(4))), args, expected(4));
}

fn everything_at_once_in_another_directory(b: &TestBox) {
    container("c1", "eth0");
    let keys = r#""mac":"c2:11:22:33:44:55","promisc":true,"mtu":4000,"txQLen":20000,"dataDir":"/run/other/dir""#;
    tuning("ADD", keys).run(b).success();
    let expected = Link {
        mac: "c2:11:22:33:44:55".into(),
        mtu: 4000,
        qlen: 20_000,
        promisc: true,
        allmulti: false,
    };
    assert_eq!(link("c1", "eth0"), expected);
    assert_eq!(files("/run/other/dir"), ["c1@eth0.state"]);
    assert_eq!(files(DATA_DIR), [""; 0]);
    tuning("CHECK", keys).run(b).success();
    tuning("DEL", keys).run(b).success();
    let after = link("c1", "eth0");
    assert_eq!((after.mtu, after.qlen, after.promisc), (1500, 1000, false));
    assert_ne!(after.mac, expected.mac);
    assert_eq!(files("/run/other/dir"), [""; 0]);
}

fn allowlist_denies_and_allows(b: &TestBox) {
    container("c1", "eth0");
    let keys = r#""sysctl":{"net.ipv4.conf.all.log_martians":"1"}"#;
    allowlist("^net\\.ipv4\\.conf\\.other\\.[a-z_]*$\n");
    tuning("ADD", keys).run(b).expect_error_with(
        7,
        &["net.ipv4.conf.all.log_martians", "is not allowed", "allowlist.conf"],
    );
    tuning("DEL", keys).run(b).success();
    assert_eq!(sysctl("c1", "ipv4/conf/all/log_martians"), "0");
    allowlist("^net\\.ipv4\\.conf\\.all\\.[a-z_]*$\n");
    tuning("ADD", keys).run(b).success();
    assert_eq!(sysctl("c1", "ipv4/conf/all/log_martians"), "1");
}

fn duplicates_are_refused(b: &TestBox) {
    container("c1", "eth0");
    for keys in [
        r#""sysctl":{"net.core.somaxconn":"1","net.core.somaxconn":"2"}"#,
        r#""sysctl":{"net.core.somaxconn":"1","net/core/somaxconn":"2"}"#,
        r#""args":{"cni":{"sysctl":{"net.ipv4.conf.IFNAME.arp_filter":"1","net.ipv4.conf.eth0.arp_filter":"0"}}}"#,
    ] {
        tuning("ADD", keys).run(b).expect_error_with(7, &["duplicated", "remove one"]);
        tuning("CHECK", keys).run(b).expect_error_with(7, &["duplicated"]);
        tuning("DEL", keys).run(b).success();
    }
}

fn integers_are_values_too(b: &TestBox) {
    container("c1", "eth0");
    tuning("ADD", r#""sysctl":{"net.core.somaxconn":601}"#).run(b).success();
    assert_eq!(sysctl("c1", "core/somaxconn"), "601");
}
