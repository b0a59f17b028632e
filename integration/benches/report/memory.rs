//! How much memory a process has had at most, by the kernel's word at its end. `ru_maxrss` would count what the
//! process had before its exec, which is this program's.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use cni_testbox::Call;
use cni_testbox::tracee::{STOPPED, seize};
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// In KiB: the most that one process of a call had resident, the plugin or what it ran.
pub(super) fn peak(call: &Call, program: &Path, command: &str) -> u64 {
    let mut process = call.clone().command(command).under(&STOPPED).process(program);
    process.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = process.spawn().expect("a shell");
    let options =
        Options::PTRACE_O_TRACEEXIT | Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK;
    let leader = seize(&child, options);
    // More than a pipe holds waits for its reader, who waits for us.
    let (stdin, input) = (child.stdin.take().expect("a pipe"), call.input());
    let feeding = std::thread::spawn(move || {
        let _ = std::io::Write::write_all(&mut { stdin }, &input);
    });
    let peak = follow(leader);
    feeding.join().expect("the feeding thread");
    // It has been waited for already.
    let _ = child.wait();
    peak
}

fn follow(leader: Pid) -> u64 {
    let mut most = 0;
    loop {
        let status = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL)).expect("the plugin");
        match status {
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) if pid == leader => {
                return most;
            }
            WaitStatus::PtraceEvent(pid, _, event) => {
                if event == Event::PTRACE_EVENT_EXIT as i32 {
                    most = most.max(high_water(pid));
                }
                let _ = ptrace::cont(pid, None);
            }
            WaitStatus::Stopped(pid, signal) => {
                let _ = ptrace::cont(pid, signal);
            }
            _ => {}
        }
    }
}

/// As in `VmHWM:      1540 kB`.
fn high_water(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
