//! What a person sees of each command, kept as files in `screens/`: on terminals of 80 and 120 columns, and
//! where there is none.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use cni_testbox::{HOST_V4, Implementation, OUT_V4, TestBox, cases, eventually, run, sh, tool};

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

/// Where this test has our plugins: lines are broken by the length of what they name, so the checkout's path may not
/// be in them.
const PLUGINS: &str = "/run/plugins";

fn screens(b: &TestBox) {
    let mut node = Node::new(b);
    symlink(&node.plugin_dirs[0], PLUGINS).expect("a link");
    node.plugin_dirs[0] = PLUGINS.into();
    let id = |letter: &str| letter.repeat(64);
    node.add_without_listener("web", PORT);
    listen_in("web");
    node.add(&id("a")[..12], PORT + 1);
    b.host.serve("program", PORT + 2);
    let mut differing = plugins_help();
    let from_outside = ["trace", "8080/tcp", "--to", HOST_V4, "--from", OUT_V4];
    differing.extend(difference("trace", &taken(&node.cni_chain(&from_outside))));
    b.nft("table ip site { chain early { type nat hook prerouting priority -110; tcp dport 8080 dnat to 192.0.2.1; }; }");
    fs::write("/run/bad.conflist", BAD_LIST).expect("a file");
    fs::write("/run/explained.conflist", EXPLAINED).expect("a file");
    let mut look = |name: &str, arguments: &[&str]| {
        differing.extend(difference(name, &taken(&node.cni_chain(arguments))));
    };
    look("help", &["--help"]);
    for command in ["explain", "restore", "trace"] {
        look(&format!("help-{command}"), &[command, "--help"]);
    }
    look("trace-stopped", &from_outside);
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

/// A server of a name that is the same in each run, on port 80.
fn listen_in(container: &str) {
    sh(&format!("ip netns exec {container} python3 -m http.server 80 --bind :: >/dev/null 2>&1 &"));
    eventually("somebody listens", || {
        sh(&format!("ip netns exec {container} ss -Hltn")).contains(":80 ")
    });
}

fn plugins_help() -> Vec<String> {
    let look = |name: &str| {
        let mut command = Command::new(Implementation::Ours.plugin(name));
        difference(&format!("help-{name}"), &taken(command.arg("--help")))
    };
    ["portmap", "bandwidth", "tuning", "firewall"].into_iter().filter_map(look).collect()
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
    without_process_ids(&words).replace('\x1b', "ESC")
}

/// A number alone in brackets is a process.
fn without_process_ids(text: &str) -> String {
    let mut parts = text.split('(');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |words, part| {
        let is_number =
            |number: &str| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit());
        match part.split_once(')') {
            Some((number, rest)) if is_number(number) => format!("{words}(PID){rest}"),
            _ => format!("{words}({part}"),
        }
    })
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
