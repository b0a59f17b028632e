//! What a person sees of each command, kept as files in `screens/`: on terminals of 80 and 120 columns, and
//! where there is none.

use std::fs;
use std::path::Path;
use std::process::Command;

use cni_testbox::{TestBox, cases, run, sh, tool};

use crate::restore::{Node, PORT};

cases! {
    screens, ours;
}

const BAD_LIST: &str = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"firewall","ingressPolicy":"open"},
    {"type":"bridge"},{"type":"portmap","snatt":true,"markMasqBit":77},{"type":"no-such"}]}"#;
const EXPLAINED: &str = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","isGateway":true},
    {"type":"tuning","sysctl":{"net.core.somaxconn":"512"}},
    {"type":"bandwidth","ingressRate":8000000,"ingressBurst":800000},
    {"type":"portmap","backend":"iptables","capabilities":{"portMappings":true}}]}"#;

fn screens(b: &TestBox) {
    let node = Node::new(b);
    let id = |letter: &str| letter.repeat(64);
    node.add("web", PORT);
    node.add(&id("a")[..12], PORT + 1);
    b.host.serve("program", PORT + 2);
    b.nft("table ip site { chain early { type nat hook prerouting priority -110; tcp dport 8080 dnat to 192.0.2.1; }; }");
    fs::write("/run/bad.conflist", BAD_LIST).expect("a file");
    fs::write("/run/explained.conflist", EXPLAINED).expect("a file");
    let mut differing = Vec::new();
    let mut look = |name: &str, arguments: &[&str]| {
        differing.extend(difference(name, &taken(&node.cni_chain(arguments))));
    };
    look("help", &["--help"]);
    look("help-explain", &["explain", "--help"]);
    look("show", &["show"]);
    look("show-port", &["show", "8080"]);
    look("status", &["status", "/run/explained.conflist"]);
    look("lint", &["lint", "/run/bad.conflist"]);
    look("explain", &["explain", "/run/explained.conflist", "-p", "8080:80"]);
    look("purge", &["purge", "--all", "--dry-run"]);
    run(tool("nft").args(["delete", "table", "inet", "cni_portmap"]));
    look("restore", &["restore", "--dry-run"]);
    run(tool("ip").args(["netns", "del", "web"]));
    look("gc", &["gc", "podnet", "--dry-run"]);
    assert!(differing.is_empty(), "screens differ: {}", differing.join(", "));
}

/// A command's screens, each under its heading.
fn taken(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    let variables = command.get_envs().filter_map(|(name, value)| {
        Some(format!("{}={}", name.to_string_lossy(), value?.to_string_lossy()))
    });
    let line = format!(
        "env -u COLUMNS -u NO_COLOR {} {} 2>&1",
        variables.collect::<Vec<_>>().join(" "),
        words.join(" ")
    );
    let on_terminal = |columns: u16| {
        // A terminal of its own, whose line ends are two characters. One without rows has no columns either.
        let screen = sh(&format!(
            "script -qec \"stty rows 24 cols {columns} && TERM=xterm {line}\" /dev/null < /dev/null || true"
        ));
        format!("=== a terminal of {columns} columns\n{}", screen.replace("\r\n", "\n"))
    };
    let without = format!("=== no terminal\n{}", sh(&format!("{line} || true")));
    let screens = [on_terminal(80), on_terminal(120), without].concat();
    without_chance(&screens)
}

/// Without what is new each time: names of veths, process IDs. Colours are shown as letters.
fn without_chance(text: &str) -> String {
    let mut words = String::new();
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        while let Some(at) = rest.find("veth") {
            let end = at + 4;
            let hex = rest[end..].chars().take_while(char::is_ascii_hexdigit).count();
            words += &rest[..end];
            words += &"x".repeat(hex);
            rest = &rest[end + hex..];
        }
        words += rest;
    }
    let pid = std::process::id().to_string();
    let directory = Path::new(env!("CARGO_BIN_EXE_cni-chain")).parent().expect("a directory");
    let words = words.replace(&directory.display().to_string(), "PLUGINS");
    words.replace(&format!("({pid})"), "(PID)").replace('\x1b', "ESC")
}

/// The name if a screen is not as it was kept, which is printed then.
fn difference(name: &str, screen: &str) -> Option<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/e2e/screens/{name}.txt"));
    if fs::read_to_string(file).is_ok_and(|kept| kept == screen) {
        return None;
    }
    println!("<<<SCREEN {name}\n{screen}SCREEN>>>");
    Some(name.to_owned())
}
