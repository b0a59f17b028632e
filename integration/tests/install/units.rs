//! systemd's units. No systemd runs in a box: a program in its place writes down what it is asked.

use std::fs;
use std::path::Path;
use std::process::Command;

use cni_testbox::{bare_cases, stubs};

use crate::host::{DIR, cni_chain, fails, succeeds, with_go_plugins};

bare_cases! {
    units_run_what_was_installed_and_go_with_it;
}

const UNITS: [&str; 2] = ["cni-chain-restore-watch.service", "cni-chain-restore.service"];
const ASKED: &str = "/run/asked";

fn asked_for() -> String {
    let asked = fs::read_to_string(ASKED).unwrap_or_default();
    let _ = fs::remove_file(ASKED);
    asked
}

#[track_caller]
fn run(mut command: Command, path: &str) -> String {
    let output = command.env("PATH", path).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

fn units_run_what_was_installed_and_go_with_it() {
    with_go_plugins();
    let said = fails(&["install", "--systemd"]);
    assert!(said.contains("systemd does not run on this host"), "{said}");
    fs::create_dir_all("/run/systemd/system").expect("a copy");
    let path = stubs(&["systemctl"], &format!("echo \"$@\" >> {ASKED}"));
    let unit = |name: &str| Path::new("/etc/systemd/system").join(name);

    let said = run(cni_chain(&["install", "--systemd", "--dry-run"]), &path);
    assert!(said.contains("would be installed: cni-chain-restore-watch.service"), "{said}");
    assert!(!unit(UNITS[0]).exists() && asked_for().is_empty());

    let said = run(cni_chain(&["install", "--systemd"]), &path);
    assert!(said.contains("installed and enabled cni-chain-restore-watch.service"), "{said}");
    for name in UNITS {
        let text = fs::read_to_string(unit(name)).expect("a unit");
        assert!(text.contains(&format!("ExecStart={DIR}/cni-chain restore")), "{text}");
    }
    let asked = asked_for();
    let expected = format!("daemon-reload\nenable {0} {1}\nrestart {0}\n", UNITS[0], UNITS[1]);
    assert_eq!(asked, expected);
    let said = run(cni_chain(&["install", "--systemd"]), &path);
    assert!(said.contains("units are there already") && asked_for().is_empty(), "{said}");

    // Another place, another path.
    succeeds(&["uninstall", "--bin-dir", DIR, "--dry-run"]);
    run(cni_chain(&["install", "--systemd", "--bin-dir", "/opt/other"]), &path);
    let text = fs::read_to_string(unit(UNITS[0])).expect("a unit");
    assert!(text.contains("ExecStart=/opt/other/cni-chain restore --watch"), "{text}");
    asked_for();

    run(cni_chain(&["uninstall", "--bin-dir", "/opt/other"]), &path);
    assert!(UNITS.iter().all(|name| !unit(name).exists()));
    assert_eq!(asked_for(), format!("disable --now {} {}\ndaemon-reload\n", UNITS[0], UNITS[1]));
}
