//! What the Go plugin kept is honoured.

use std::fs;

use cni_testbox::Implementation::Go;
use cni_testbox::{TestBox, cases, sh};

use crate::support::{DATA_DIR, container, files, link, tuning};

const MTU: &str = r#""mtu":1400"#;

cases! {
    the_go_plugins_backup_is_honoured, ours;
    the_host_is_left_alone, ours;
}

fn the_go_plugins_backup_is_honoured(b: &TestBox) {
    container("c1", "eth0");
    let keys = r#""mtu":1400,"mac":"c2:11:22:33:44:55","promisc":true"#;
    let before = link("c1", "eth0");
    tuning("ADD", keys).run_as(Go).success();
    assert_eq!(files(DATA_DIR), ["c1_eth0.json"]);
    tuning("DEL", keys).run(b).success();
    assert_eq!(link("c1", "eth0"), before);
    assert_eq!(files(DATA_DIR), [""; 0]);

    tuning("ADD", keys).run_as(Go).success();
    tuning("ADD", r#""mtu":1300,"allmulti":true"#).run(b).success();
    tuning("DEL", keys).run(b).success();
    assert_eq!(link("c1", "eth0"), before);
    assert_eq!(files(DATA_DIR), [""; 0]);
}

fn the_host_is_left_alone(b: &TestBox) {
    container("c1", "eth0");
    // The Go plugin's backup does not say which namespace it is of.
    sh("ip link add eth0 type veth peer name eth9 && mkdir -p /run/cni/tuning");
    fs::write(format!("{DATA_DIR}/c1_eth0.json"), r#"{"mtu":1300}"#).expect("backup");
    let host = |command| tuning(command, MTU).env("CNI_NETNS", "/proc/1/ns/net");
    host("ADD").run(b).expect_error_with(8, &["should not be the same"]);
    host("DEL").run(b).expect_error_with(8, &["should not be the same"]);
    assert!(sh("ip link show eth0").contains("mtu 1500"));
    assert_eq!(files(DATA_DIR), [""; 0]);
}
