//! A plugin's way in, without the start-up of Rust's runtime.
//!
//! A plugin lives for a millisecond, and what std does before `fn main` was a fifth of it: it reads
//! `/proc/self/maps` to find the main thread's guard page, and gives the thread another stack to
//! report an overflow on. What a plugin needs of all that is done here: the three standard
//! descriptors are open, and a closed pipe is an error and not a signal.

use std::ffi::{OsStr, OsString, c_int};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{SigSet, Signal};

use crate::cni::{Plugin, run};

/// Defines the process's entry: `cni_common::plugin_main!(MyPlugin);`, in a crate that begins with `#![no_main]`.
#[macro_export]
macro_rules! plugin_main {
    ($plugin:expr) => {
        /// What libc calls.
        #[expect(unsafe_code, reason = "libc finds its `main` by this name, and there is one")]
        #[unsafe(no_mangle)]
        extern "C" fn main(words: std::ffi::c_int) -> std::ffi::c_int {
            $crate::cni::entry::bare_main(&$plugin, words)
        }
    };
}

/// Prepares the process and runs the plugin; the exit status. Of how many words the command line is, libc says.
pub fn bare_main<P: Plugin>(plugin: &P, words: c_int) -> c_int {
    open_standard_descriptors();
    // Blocked, it stays pending, and the write fails. Children get an empty mask from std.
    let mut broken_pipe = SigSet::empty();
    broken_pipe.add(Signal::SIGPIPE);
    let _ = broken_pipe.thread_block();
    i32::from(run(plugin, first_argument(words).as_deref()) != ExitCode::SUCCESS)
}

/// No runtime gives one, but a person does. Without std's runtime, std has the arguments with glibc only.
fn first_argument(words: c_int) -> Option<OsString> {
    if words < 2 {
        return None;
    }
    let line = fs::read("/proc/self/cmdline").ok()?;
    let argument = line.split(|byte| *byte == 0).nth(1)?;
    Some(OsStr::from_bytes(argument).to_owned())
}

/// Were one of them closed, the next file or socket would take its number, and what is meant for
/// the runtime would go there.
fn open_standard_descriptors() {
    let closed = |descriptor: &dyn AsFd| fcntl(descriptor.as_fd(), FcntlArg::F_GETFD).is_err();
    let standard: [&dyn AsFd; 3] = [&io::stdin(), &io::stdout(), &io::stderr()];
    for descriptor in standard {
        if closed(descriptor)
            && let Ok(null) = File::options().read(true).write(true).open("/dev/null")
        {
            // The lowest free number is this one. It is to stay open.
            std::mem::forget(null);
        }
    }
}
