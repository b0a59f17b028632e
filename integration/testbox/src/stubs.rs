//! Scripts in the places of other programs, mostly of those of iptables.

use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use crate::tool::sh;
use crate::{Call, TestBox, eventually};

/// The programs that print a table, whatever they are called.
pub const IPTABLES_SAVES: [&str; 6] = [
    "iptables-save",
    "ip6tables-save",
    "iptables-nft-save",
    "ip6tables-nft-save",
    "iptables-legacy-save",
    "ip6tables-legacy-save",
];
/// The programs that change a table.
pub const IPTABLES_RESTORES: [&str; 6] = [
    "iptables-restore",
    "ip6tables-restore",
    "iptables-nft-restore",
    "ip6tables-nft-restore",
    "iptables-legacy-restore",
    "ip6tables-legacy-restore",
];

/// Puts a script in front of programs of `/usr/sbin`, for calls with the `PATH` that is returned. The
/// script knows the program that it stands for as `$real`.
pub fn stubs(programs: &[&str], script: &str) -> String {
    const DIRECTORY: &str = "/run/stubs";
    std::fs::create_dir_all(DIRECTORY).expect("a directory on the box's own file system");
    for program in programs {
        let text = format!("#!/bin/sh\nreal=/usr/sbin/{program}\n{script}\n");
        std::fs::write(format!("{DIRECTORY}/{program}"), text).expect("write the script");
    }
    sh(&format!("chmod +x {DIRECTORY}/*"));
    format!("{DIRECTORY}:/usr/sbin:/usr/bin:/sbin:/bin")
}

/// Scripts for [`IPTABLES_SAVES`], none of which prints the whole table.
pub fn cut_saves(table: &str) -> [String; 6] {
    [
        "$real \"$@\" | grep -v COMMIT".to_owned(),
        "$real \"$@\" | head -n 3".to_owned(),
        "$real \"$@\" | head -c 200".to_owned(),
        format!("echo \"# Table \\`{table}' is incompatible, use 'nft' tool.\""),
        "echo".to_owned(),
        "true".to_owned(),
    ]
}

/// Runs a call and kills it while a slow restore of its is under way, as a runtime does that loses
/// patience: it kills the plugin, and nothing that the plugin started. `then` comes at once; this
/// returns when the restore has ended.
pub fn killed_while_restoring(b: &TestBox, plugin: &str, call: Call, then: impl FnOnce()) {
    let path = stubs(&IPTABLES_RESTORES, "touch /run/begun; sleep 1; exec $real \"$@\"");
    let call = call.set("backend", "iptables").env("PATH", &path);
    let mut process = call.process(&b.implementation.plugin(plugin));
    process.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = call.feed(process.spawn().expect("start it"));
    eventually("the restore has begun", || std::fs::exists("/run/begun").expect("look"));
    child.kill().expect("kill it");
    child.wait().expect("wait for it");
    then();
    sleep(Duration::from_millis(1500));
}
