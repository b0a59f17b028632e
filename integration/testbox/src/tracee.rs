//! A plugin that `ptrace(2)` follows from its exec on.

use std::process::Child;

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// For [`Call::under`](crate::Call::under): stops itself, so that it can be seized, and becomes the plugin.
pub const STOPPED: [&str; 3] = ["sh", "-c", "kill -STOP $$; exec \"$0\" \"$@\""];

/// Seizes a child that was started under [`STOPPED`], with what it makes, and lets it go on. It ends with this thread,
/// whose tracee it is.
pub fn seize(child: &Child, options: Options) -> Pid {
    let leader = Pid::from_raw(child.id().cast_signed());
    let stopped = waitpid(leader, Some(WaitPidFlag::WUNTRACED)).expect("wait for the shell");
    assert_eq!(stopped, WaitStatus::Stopped(leader, Signal::SIGSTOP));
    let options = options | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::seize(leader, options).expect("seize the shell");
    kill(leader, Signal::SIGCONT).expect("let the shell go on");
    leader
}
