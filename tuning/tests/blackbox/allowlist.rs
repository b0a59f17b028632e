//! The allowlist file on a node.

use crate::harness::{allowlist, ours, sysctl};

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

    fn bad_patterns_name_their_line() {
        allowlist("net.core.*\n[a\n");
        ours("ADD", KEYS).fails(7, &["line 2 of /etc/cni/tuning/allowlist.conf", "[a"]);
        ours("STATUS", KEYS).with(|c| c.version = "1.1.0".into()).fails(50, &["line 2 of"]);
        ours("DEL", KEYS).ok();
    }
}
