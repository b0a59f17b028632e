//! Getting into the box: the program executes itself again in fresh namespaces, and does nothing
//! there before it has seen that they are fresh.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::tool::require;
use crate::{Implementation, TestBox, cgroups, machine, stretched};

/// Holds the namespaces of the process outside. The variable alone proves nothing: see
/// [`Surroundings::refuse_unless_fresh`].
const IN_BOX: &str = "IN_BOX";

/// A test's whole life may take this long before it counts as hung, if `BOX_SECONDS` does not say
/// another time: a run that is asked to take long has to.
const HANG: Duration = Duration::from_mins(5);

/// What every box has of its own.
const NAMESPACES: [&str; 5] = ["net", "mnt", "pid", "ipc", "uts"];

/// Runs `case` in a box of its own and fails as it fails. `test` is the test's full path.
pub fn in_box(test: &str, implementation: Implementation, case: impl FnOnce(&TestBox)) {
    match env::var(IN_BOX) {
        Ok(outside) => {
            refuse_the_machine(&outside);
            case(&TestBox::furnish(implementation));
        }
        Err(_) => repeat_in_box(test),
    }
}

/// The same in a box without addresses, routes and clients, where not even loopback is up.
pub fn in_bare_box(test: &str, case: impl FnOnce()) {
    match env::var(IN_BOX) {
        Ok(outside) => {
            refuse_the_machine(&outside);
            machine::make_read_only();
            case();
        }
        Err(_) => repeat_in_box(test),
    }
}

/// Executes this program again in a box, and returns when it is there: for a benchmark, which
/// furnishes the host itself.
pub fn enter_box() {
    let Ok(outside) = env::var(IN_BOX) else {
        let mut command = Command::new("unshare");
        lead_into_a_box(&mut command).args(env::args_os().skip(1));
        panic!("cannot run unshare (apt package util-linux): {}", command.exec());
    };
    refuse_the_machine(&outside);
    machine::make_read_only();
}

fn refuse_the_machine(outside: &str) {
    if let Err(reason) = Surroundings::look().refuse_unless_fresh(outside) {
        panic!("{IN_BOX} is set, but this is no box: {reason}; unset {IN_BOX}");
    }
}

/// What this process can see of where it is.
struct Surroundings {
    /// As `net:[4026531840]`, in the order of [`NAMESPACES`].
    namespaces: Vec<String>,
    process: u32,
    /// Whether a mount would be seen outside.
    shares_mounts: bool,
    /// Interfaces that are up; in a new namespace not even loopback is.
    links_up: Vec<String>,
    /// Lines of `/proc/net/route`, the heading among them.
    route_lines: usize,
    /// Lines of `/proc/net/if_inet6`, one per address.
    address_lines: usize,
}

impl Surroundings {
    fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let links = getifaddrs().expect("the kernel lists interfaces");
        let up = links.filter(|link| link.flags.contains(InterfaceFlags::IFF_UP));
        Self {
            namespaces: own_namespaces(),
            process: std::process::id(),
            shares_mounts: read("/proc/self/mountinfo").contains(" shared:"),
            links_up: up.map(|link| link.interface_name).collect(),
            route_lines: read("/proc/net/route").lines().count(),
            address_lines: read("/proc/net/if_inet6").lines().count(),
        }
    }

    /// Furnishing mounts over directories and writes sysctls, so a variable left in somebody's
    /// environment must never make a test do that to a machine. Every sign of a fresh box has to be
    /// there.
    fn refuse_unless_fresh(&self, outside: &str) -> Result<(), String> {
        let outside: Vec<&str> = outside.split(' ').collect();
        if outside.len() != NAMESPACES.len() {
            return Err("its value does not name the namespaces outside".into());
        }
        for ((kind, outer), own) in NAMESPACES.iter().zip(&outside).zip(&self.namespaces) {
            if !(outer.starts_with(&format!("{kind}:[")) && outer.ends_with(']')) {
                return Err(format!("its value names no {kind} namespace"));
            }
            if outer == own {
                return Err(format!("the {kind} namespace is the one outside"));
            }
        }
        if self.process != 1 {
            return Err("the test is not the first process of a process namespace".into());
        }
        if self.shares_mounts {
            return Err("what is mounted here would be seen outside".into());
        }
        if let Some(link) = self.links_up.first() {
            return Err(format!("the network namespace is in use: {link} is up"));
        }
        if self.route_lines > 1 || self.address_lines > 0 {
            return Err("the network namespace has addresses or routes already".into());
        }
        Ok(())
    }
}

/// Prints why the implementation cannot pass the case. With `E2E_VERIFY_DEFECTS=1` the case runs
/// and must fail, so that a defect which is no more does not stay on record.
pub fn known_defect(
    test: &str,
    implementation: Implementation,
    case: impl FnOnce(&TestBox),
    reason: &str,
) {
    println!("known defect of the Go plugin, nothing asserted: {reason}");
    if env::var_os("E2E_VERIFY_DEFECTS").is_none() {
        return;
    }
    in_box(test, implementation, |b| must_fail(reason, || case(b)));
}

/// A fault of the Go plugin that a case shows beside ours: it must fail on it.
#[track_caller]
pub fn must_fail(what: &str, case: impl FnOnce()) {
    let passed = catch_unwind(AssertUnwindSafe(case)).is_ok();
    assert!(!passed, "this passes, the defect is gone: {what}");
    println!("so much for what must fail: {what}");
}

fn repeat_in_box(test: &str) {
    let (_, name) = test.split_once("::").expect("a path inside this test binary");
    for program in ["timeout", "unshare"] {
        require(program);
    }
    let most = env::var("BOX_SECONDS").unwrap_or_else(|_| stretched(HANG).as_secs().to_string());
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", &most, "unshare"]);
    let output = lead_into_a_box(&mut command)
        .args(["--exact", name, "--nocapture", "--include-ignored", "--test-threads=1"])
        .stdin(Stdio::null())
        .output()
        .expect("start unshare");
    cgroups::remove_left();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    println!("{stdout}\n{stderr}");
    assert!(
        !stderr.contains("unshare failed: Operation not permitted"),
        "making a box needs root: run these tests as root"
    );
    assert!(output.status.code() != Some(124), "{name} hung for {most} seconds");
    assert!(
        output.status.success() && stdout.contains("test result: ok. 1 passed"),
        "{name} failed in its box ({})",
        output.status
    );
}

/// `unshare`'s options and this program, appended to a command that begins with `unshare`.
fn lead_into_a_box(unshare: &mut Command) -> &mut Command {
    unshare
        .args(["--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"])
        .args(["--mount-proc", "--propagation", "private"])
        .arg(env::current_exe().expect("the path of this program"))
        .env(IN_BOX, own_namespaces().join(" "))
}

fn own_namespaces() -> Vec<String> {
    let read = |kind: &&str| {
        let link = fs::read_link(format!("/proc/self/ns/{kind}")).expect("/proc is mounted");
        link.display().to_string()
    };
    NAMESPACES.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTSIDE: &str = "net:[1] mnt:[1] pid:[1] ipc:[1] uts:[1]";

    fn fresh() -> Surroundings {
        Surroundings {
            namespaces: NAMESPACES.map(|kind| format!("{kind}:[2]")).to_vec(),
            process: 1,
            shares_mounts: false,
            links_up: Vec::new(),
            route_lines: 1,
            address_lines: 0,
        }
    }

    #[test]
    fn only_a_fresh_box_is_furnished() {
        assert_eq!(fresh().refuse_unless_fresh(OUTSIDE), Ok(()));
        for stray in ["", "1", "true", "net:[1]", "net: mnt: pid: ipc: uts:"] {
            assert!(fresh().refuse_unless_fresh(stray).is_err(), "{stray:?}");
        }
        for kind in NAMESPACES {
            let shared = OUTSIDE.replace(&format!("{kind}:[1]"), &format!("{kind}:[2]"));
            assert!(fresh().refuse_unless_fresh(&shared).is_err(), "{kind}");
        }
        for machine in [
            Surroundings { process: 4711, ..fresh() },
            Surroundings { shares_mounts: true, ..fresh() },
            Surroundings { links_up: vec!["lo".into()], ..fresh() },
            Surroundings { route_lines: 2, ..fresh() },
            Surroundings { address_lines: 1, ..fresh() },
        ] {
            assert!(machine.refuse_unless_fresh(OUTSIDE).is_err());
        }
        // Wherever the test binary itself was started is no box.
        assert!(Surroundings::look().refuse_unless_fresh(OUTSIDE).is_err());
    }
}
