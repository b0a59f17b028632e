//! A kernel that lacks a module: ADD and STATUS name it, and the demo does. These tests are not in boxes, because the
//! kernel itself runs modprobe, outside.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cni_testbox::{attempt, eventually_within};

use crate::require_guest;

const PROGRAM: &str = env!("CARGO_BIN_EXE_cni-chain");

/// Where it is forbidden to load a module; the guest's own.
const FORBIDDEN: &str = "/etc/modprobe.d/cni-chain-test.conf";

/// What this project makes the kernel load, and what that needs.
const OURS: [&str; 10] =
    ["nft_", "nf_", "xt_", "sch_", "cls_", "act_", "ifb", "veth", "bridge", "br_netfilter"];

/// What portmap's first ADD has the kernel load.
const OTHERS: [&str; 5] = ["nft_chain_nat", "nft_ct", "nft_nat", "nft_fib_inet", "nft_masq"];

macro_rules! missing {
    ($($module:ident: $($plugin:literal)*;)+) => {
        $(#[test]
        fn $module() {
            is_named(stringify!($module), &[$($plugin),*]);
        })+
    };
}

// Which plugin's STATUS names it. The demo, whose chain has all plugins, names each.
missing! {
    nf_tables: "portmap" "firewall";
    nft_chain_nat: "portmap";
    nft_ct: "portmap" "firewall";
    nft_fib_inet: "portmap" "firewall";
    nft_nat: "portmap";
    nft_masq: "portmap";
    ifb: "bandwidth";
    sch_tbf: "bandwidth";
    sch_ingress: "bandwidth";
    cls_u32: "bandwidth";
    act_mirred: "bandwidth";
    veth: ;
    bridge: ;
}

#[track_caller]
fn is_named(module: &str, plugins: &[&str]) {
    require_guest();
    fs::write(FORBIDDEN, format!("install {module} /bin/false\n")).expect("the guest's own /etc");
    unload_until_absent(module);
    // The others by one call, what needs the forbidden one excepted: the kernel takes longer (see guest/inside).
    attempt(&format!("modprobe --all --quiet {}", OTHERS.join(" ")));
    assert!(!is_loaded(module), "{module} is forbidden");
    let demo = Command::new(PROGRAM).arg("demo").stdin(Stdio::null()).output().expect("run it");
    let said = String::from_utf8_lossy(&demo.stderr);
    assert!(!demo.status.success(), "the demo does without {module}");
    assert!(named(&said, module), "the demo does not name {module}: {said}");
    for plugin in ["portmap", "firewall", "bandwidth"] {
        let (succeeded, said) = status(plugin);
        if plugins.contains(&plugin) {
            assert!(!succeeded && said.contains("\"code\": 50"), "{plugin}: {said}");
            assert!(named(&said, module), "STATUS of {plugin} does not name {module}: {said}");
        } else {
            assert!(succeeded, "{plugin}: {said}");
        }
    }
    fs::remove_file(FORBIDDEN).expect("it was written above");
    let demo = Command::new(PROGRAM).arg("demo").stdin(Stdio::null()).output().expect("run it");
    assert!(demo.status.success(), "{}", String::from_utf8_lossy(&demo.stderr));
}

/// As the operator is told to load it, by itself.
fn named(said: &str, module: &str) -> bool {
    said.contains(&format!("load the module {module} (modprobe {module})"))
}

/// Modules that are not in use, over and over: the kernel clears the demo's namespaces up in its own time.
#[track_caller]
fn unload_until_absent(module: &str) {
    eventually_within(Duration::from_secs(20), &format!("{module} is unloaded"), || {
        let loaded = fs::read_to_string("/proc/modules").expect("/proc is mounted");
        for name in loaded.lines().filter_map(|line| line.split(' ').next()) {
            if OURS.iter().any(|prefix| name.starts_with(prefix)) {
                // One that is in use stays.
                attempt(&format!("rmmod {name}"));
            }
        }
        !is_loaded(module)
    });
}

fn is_loaded(module: &str) -> bool {
    Path::new("/sys/module").join(module).exists()
}

/// Whether STATUS succeeds, and what it says.
#[track_caller]
fn status(plugin: &str) -> (bool, String) {
    let keys = if plugin == "bandwidth" {
        r#""ingressRate":1000000,"ingressBurst":1000000"#
    } else {
        r#""backend":"nftables""#
    };
    let input = format!(r#"{{"cniVersion":"1.1.0","name":"net1","type":"{plugin}",{keys}}}"#);
    let mut process = Command::new(binary(plugin))
        .env_clear()
        .env("CNI_COMMAND", "STATUS")
        .env("CNI_PATH", "/usr/lib/cni")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cargo build --workspace makes it");
    process.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let output = process.wait_with_output().expect("it ends");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn binary(plugin: &str) -> PathBuf {
    Path::new(PROGRAM).with_file_name(plugin)
}
