//! The allowlist file on a node.

use crate::harness::{allowlist, ours, sh, sysctl};

const KEYS: &str = r#""sysctl":{"net.core.somaxconn":"601"}"#;
const STRICT: &str = r#""allowlistStrict":true,"sysctl":{"net.core.somaxconn":"601"}"#;

in_box! {
    fn patterns_are_anchored_and_cover_both_spellings() {
        let slashes = r#""sysctl":{"net/core/somaxconn":"601"}"#;
        let args = r#""args":{"cni":{"sysctl":{"net.core.somaxconn":"601"}}}"#;
        for too_little in ["somax", "net\\.core", "core\\.somaxconn$", ""] {
            allowlist(too_little);
            for keys in [KEYS, slashes, args] {
                ours("ADD", keys).fails(7, &["somaxconn", "is not allowed", "/etc/cni/tuning/allowlist.conf"]);
            }
        }
        allowlist("^net\\.core\\.somaxconn$\r\n");
        for keys in [KEYS, slashes, args] {
            ours("ADD", keys).ok();
            ours("CHECK", keys).ok();
            ours("DEL", keys).ok();
        }
    }

    fn nothing_else_is_restricted() {
        allowlist("");
        ours("ADD", r#""mtu":1400"#).ok();
        ours("DEL", r#""mtu":1400"#).ok();
    }

    fn strict_mode_needs_the_file() {
        ours("ADD", STRICT).fails(7, &["net.core.somaxconn", "allowlistStrict", "allowlist.conf"]);
        ours("STATUS", STRICT).with(|c| c.version = "1.1.0".into()).fails(50, &["allowlist.conf"]);
        assert_ne!(sysctl("c1", "core/somaxconn"), "601");
        allowlist("net.core.*");
        ours("STATUS", STRICT).with(|c| c.version = "1.1.0".into()).ok();
        ours("ADD", STRICT).ok();
        ours("DEL", STRICT).ok();
        ours("ADD", KEYS).ok();
    }

    fn a_link_to_nothing_allows_nothing() {
        let missing = ["allowlist.conf", "make it a text file"];
        allowlist("");
        sh("ln -sf gone /etc/cni/tuning/allowlist.conf");
        ours("ADD", KEYS).fails(5, &missing);
        ours("STATUS", KEYS).with(|c| c.version = "1.1.0".into()).fails(50, &missing);
        sh("rm -r /etc/cni/tuning; ln -s gone /etc/cni/tuning");
        ours("ADD", KEYS).fails(5, &missing);
        assert_ne!(sysctl("c1", "core/somaxconn"), "601");
        // A list is not asked where nothing is to be set, nor by DEL.
        ours("ADD", r#""mtu":1400"#).ok();
        ours("DEL", KEYS).ok();
    }

    fn all_interfaces_are_no_interface() {
        allowlist("^net\\.ipv4\\.conf\\.IFNAME\\.[a-z_]*$");
        let keys = r#""sysctl":{"net.ipv4.conf.IFNAME.arp_filter":"1"}"#;
        for ifname in ["all", "default"] {
            let path = format!("ipv4/conf/{ifname}/arp_filter");
            for command in ["ADD", "CHECK"] {
                ours(command, keys).of("c1", ifname).fails(4, &["CNI_IFNAME", ifname, "IFNAME"]);
            }
            ours("DEL", keys).of("c1", ifname).ok();
            assert_eq!(sysctl("c1", &path), "0");
            let literal = format!(r#""sysctl":{{"net.ipv4.conf.{ifname}.arp_filter":"1"}}"#);
            ours("ADD", &literal).fails(7, &["is not allowed"]);
        }
        ours("ADD", keys).ok();
    }

    fn bad_patterns_name_their_line() {
        allowlist("net.core.*\n[a\n");
        ours("ADD", KEYS).fails(7, &["line 2 of /etc/cni/tuning/allowlist.conf", "[a"]);
        ours("STATUS", KEYS).with(|c| c.version = "1.1.0".into()).fails(50, &["line 2 of"]);
        ours("DEL", KEYS).ok();
    }
}
