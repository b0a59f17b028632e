//! Entries in a network's file.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use cni_testbox::bare_cases;
use serde_json::Value;

use crate::host::{fails, files, identity, succeeds, with_go_plugins};

bare_cases! {
    entries_go_in_and_out_and_every_other_byte_stays;
    a_file_that_cannot_take_entries_stays_and_nothing_is_installed;
    what_somebody_changed_is_not_taken_out;
    a_file_that_moved_is_named;
}

const FILE: &str = "/etc/cni/net.d/10-odd.conflist";
const ODD: &str = "\n{\"plugins\" :[\n\t   { \"ipam\":{\"type\":\"host-local\",\"subnet\":\"10.9.0.0/24\"}\t,\"type\" : \"bridge\" }\n  ,\n\t {\"type\":\"istio-cni\"} ]\r\n , \"cniVersion\":\"1.0.0\", \"name\" : \"odd\"   }  \n\n";
const ALL: [&str; 5] =
    ["install", "--append", "portmap,bandwidth,tuning,firewall", "--conflist", FILE];

fn with_odd_file() {
    with_go_plugins();
    fs::create_dir_all("/etc/cni/net.d").expect("a copy");
    fs::write(FILE, ODD).expect("a copy");
    fs::set_permissions(FILE, Permissions::from_mode(0o640)).expect("ours");
    chown(FILE, Some(1000), Some(1001)).expect("ours");
}

fn types() -> Vec<String> {
    let list: Value = serde_json::from_slice(&fs::read(FILE).expect("there")).expect("JSON");
    let plugins = list["plugins"].as_array().expect("a list");
    plugins.iter().map(|entry| entry["type"].as_str().expect("a type").to_owned()).collect()
}

/// Everything of a file but its inode and time, which a rename changes.
fn shape(path: &str) -> (u32, u32, Vec<u8>) {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path).expect(path);
    (metadata.mode(), metadata.uid() * 10_000 + metadata.gid(), fs::read(path).expect(path))
}

fn entries_go_in_and_out_and_every_other_byte_stays() {
    with_odd_file();
    let before = shape(FILE);
    let dir = files("/opt/cni/bin");
    let said = succeeds(&[&ALL[..], &["--dry-run"]].concat());
    assert!(
        said.contains(&format!("{FILE} would get portmap, bandwidth, firewall, tuning")),
        "{said}"
    );
    assert_eq!((shape(FILE), files("/opt/cni/bin")), (before.clone(), dir));
    let said = succeeds(&ALL);
    assert!(
        said.contains(&format!("{FILE} has portmap, bandwidth, firewall, tuning now")),
        "{said}"
    );
    assert_eq!(types(), ["bridge", "portmap", "bandwidth", "firewall", "tuning", "istio-cni"]);
    let (mode, owner, text) = shape(FILE);
    assert_eq!((mode, owner), (before.0, before.1));
    let text = String::from_utf8(text).expect("UTF-8");
    let (beginning, end) = ODD.split_once("}\n  ,").expect("between the entries");
    assert!(text.starts_with(&format!("{beginning}}},\n\t   {{ \"type\": \"portmap\"")), "{text}");
    assert!(text.ends_with(&format!("}} }}\n  ,{end}")), "{text}");
    // No runtime of ours is called istio-cni; nothing else is wrong with it.
    let said = fails(&["lint", FILE]);
    assert!(said.contains("network odd: 1 error, 0 warnings"), "{said}");

    let once = identity(Path::new(FILE));
    let said = succeeds(&ALL);
    assert_eq!(said.matches("has an entry already").count(), 4, "{said}");
    assert_eq!(identity(Path::new(FILE)), once);

    let said = succeeds(&["uninstall", "--dry-run"]);
    assert!(
        said.contains(&format!("{FILE} would lose portmap, bandwidth, firewall, tuning")),
        "{said}"
    );
    assert_eq!(identity(Path::new(FILE)), once);
    succeeds(&["uninstall"]);
    assert_eq!(shape(FILE), before);
    let left: Vec<String> = files("/etc/cni/net.d").into_keys().collect();
    assert_eq!(left, ["10-odd.conflist"]);
    assert!(!Path::new("/opt/cni/bin/.cni-chain-install.json").exists());
}

fn a_file_that_cannot_take_entries_stays_and_nothing_is_installed() {
    with_odd_file();
    let dir = files("/opt/cni/bin");
    for bad in [
        "{",
        "{\"name\":\"n\",\"plugins\":[]}",
        "{\"name\":\"n\",\"plugins\":[{\"type\":\"portmap\"}]}",
    ] {
        fs::write(FILE, bad).expect("a copy");
        let said = fails(&ALL);
        assert!(said.contains(FILE), "{said}");
        assert_eq!(fs::read_to_string(FILE).expect("there"), bad);
        assert_eq!(files("/opt/cni/bin"), dir);
    }
    fs::remove_file(FILE).expect("there");
    assert!(fails(&ALL).contains("there is no"));
    assert_eq!(files("/opt/cni/bin"), dir);
}

fn what_somebody_changed_is_not_taken_out() {
    with_odd_file();
    // By a link, as some distributions have it: the file behind it is changed, and the link stays.
    fs::rename(FILE, "/etc/cni/odd").expect("a copy");
    symlink("/etc/cni/odd", FILE).expect("a link");
    succeeds(&ALL);
    assert!(fs::symlink_metadata(FILE).expect("there").is_symlink());
    let text = fs::read_to_string("/etc/cni/odd").expect("there");
    let changed = text.replace("\"portMappings\": true", "\"portMappings\": true, \"x\": true");
    fs::write("/etc/cni/odd", &changed).expect("a copy");
    let dir = files("/opt/cni/bin");
    let said = fails(&["uninstall"]);
    assert!(
        said.contains("the entry of portmap in /etc/cni/odd is not as it was put there"),
        "{said}"
    );
    assert_eq!(
        (fs::read_to_string("/etc/cni/odd").expect("there"), files("/opt/cni/bin")),
        (changed, dir)
    );
    // White space is no change.
    let value: Value = serde_json::from_str(&text).expect("JSON");
    fs::write("/etc/cni/odd", format!("{value:#}")).expect("a copy");
    succeeds(&["uninstall"]);
    assert_eq!(types(), ["bridge", "istio-cni"]);
}

/// As an installer in a container sees it, and the host's uninstall does not.
fn a_file_that_moved_is_named() {
    with_odd_file();
    let moved = "/srv/host/10-odd.conflist";
    cni_testbox::sh("mount -t tmpfs tmpfs /srv && mkdir /srv/host");
    fs::copy(FILE, moved).expect("a copy");
    succeeds(&["install", "--append", "portmap", "--conflist", moved]);
    fs::copy(moved, FILE).expect("a copy");
    cni_testbox::sh("umount /srv");
    let said = fails(&["uninstall"]);
    assert!(said.contains(&format!("there is no {moved}: say with --conflist")), "{said}");
    succeeds(&["uninstall", "--conflist", FILE]);
    assert_eq!(fs::read_to_string(FILE).expect("there"), ODD);
}
