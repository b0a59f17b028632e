//! The allowlist file on a node.

use std::fs;

use cni_testbox::{TestBox, cases, sh};

use crate::support::{container, of, sysctl, tuning};

const KEYS: &str = r#""sysctl":{"net.core.somaxconn":"601"}"#;
const STRICT: &str = r#""allowlistStrict":true,"sysctl":{"net.core.somaxconn":"601"}"#;

/// Writes the node's allowlist.
pub(crate) fn allowlist(content: &str) {
    fs::create_dir_all("/etc/cni/tuning").expect("directory");
    fs::write("/etc/cni/tuning/allowlist.conf", content).expect("allowlist");
}

cases! {
    patterns_are_anchored_and_cover_both_spellings, ours;
    nothing_else_is_restricted, ours;
    strict_mode_needs_the_file, ours;
    a_link_to_nothing_allows_nothing, ours;
    all_interfaces_are_no_interface, ours;
    bad_patterns_name_their_line, ours;
}

fn patterns_are_anchored_and_cover_both_spellings(b: &TestBox) {
    container("c1", "eth0");
    let slashes = r#""sysctl":{"net/core/somaxconn":"601"}"#;
    let args = r#""args":{"cni":{"sysctl":{"net.core.somaxconn":"601"}}}"#;
    for too_little in ["somax", "net\\.core", "core\\.somaxconn$", ""] {
        allowlist(too_little);
        for keys in [KEYS, slashes, args] {
            tuning("ADD", keys).run(b).expect_error_with(
                7,
                &["somaxconn", "is not allowed", "/etc/cni/tuning/allowlist.conf"],
            );
        }
    }
    allowlist("^net\\.core\\.somaxconn$\r\n");
    for keys in [KEYS, slashes, args] {
        tuning("ADD", keys).run(b).success();
        tuning("CHECK", keys).run(b).success();
        tuning("DEL", keys).run(b).success();
    }
}

fn nothing_else_is_restricted(b: &TestBox) {
    container("c1", "eth0");
    allowlist("");
    tuning("ADD", r#""mtu":1400"#).run(b).success();
    tuning("DEL", r#""mtu":1400"#).run(b).success();
}

fn strict_mode_needs_the_file(b: &TestBox) {
    container("c1", "eth0");
    tuning("ADD", STRICT)
        .run(b)
        .expect_error_with(7, &["net.core.somaxconn", "allowlistStrict", "allowlist.conf"]);
    tuning("STATUS", STRICT).run(b).expect_error_with(50, &["allowlist.conf"]);
    assert_ne!(sysctl("c1", "core/somaxconn"), "601");
    allowlist("net.core.*");
    tuning("STATUS", STRICT).run(b).success();
    tuning("ADD", STRICT).run(b).success();
    tuning("DEL", STRICT).run(b).success();
    tuning("ADD", KEYS).run(b).success();
}

fn a_link_to_nothing_allows_nothing(b: &TestBox) {
    container("c1", "eth0");
    let missing = ["allowlist.conf", "make it a text file"];
    allowlist("");
    sh("ln -sf gone /etc/cni/tuning/allowlist.conf");
    tuning("ADD", KEYS).run(b).expect_error_with(5, &missing);
    tuning("STATUS", KEYS).run(b).expect_error_with(50, &missing);
    sh("rm -r /etc/cni/tuning; ln -s gone /etc/cni/tuning");
    tuning("ADD", KEYS).run(b).expect_error_with(5, &missing);
    assert_ne!(sysctl("c1", "core/somaxconn"), "601");
    // A list is not asked where nothing is to be set, nor by DEL.
    tuning("ADD", r#""mtu":1400"#).run(b).success();
    tuning("DEL", KEYS).run(b).success();
}

fn all_interfaces_are_no_interface(b: &TestBox) {
    container("c1", "eth0");
    allowlist("^net\\.ipv4\\.conf\\.IFNAME\\.[a-z_]*$");
    let keys = r#""sysctl":{"net.ipv4.conf.IFNAME.arp_filter":"1"}"#;
    for ifname in ["all", "default"] {
        let path = format!("ipv4/conf/{ifname}/arp_filter");
        for command in ["ADD", "CHECK"] {
            of("c1", ifname, command, keys)
                .run(b)
                .expect_error_with(4, &["CNI_IFNAME", ifname, "IFNAME"]);
        }
        of("c1", ifname, "DEL", keys).run(b).success();
        assert_eq!(sysctl("c1", &path), "0");
        let literal = format!(r#""sysctl":{{"net.ipv4.conf.{ifname}.arp_filter":"1"}}"#);
        tuning("ADD", &literal).run(b).expect_error_with(7, &["is not allowed"]);
    }
    tuning("ADD", keys).run(b).success();
}

fn bad_patterns_name_their_line(b: &TestBox) {
    container("c1", "eth0");
    allowlist("net.core.*\n[a\n");
    tuning("ADD", KEYS)
        .run(b)
        .expect_error_with(7, &["line 2 of /etc/cni/tuning/allowlist.conf", "[a"]);
    tuning("STATUS", KEYS).run(b).expect_error_with(50, &["line 2 of"]);
    tuning("DEL", KEYS).run(b).success();
}
