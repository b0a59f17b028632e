//! A plugin's way in, without the start-up of Rust's runtime.
//!
//! A plugin lives for a millisecond, and what std does before `fn main` was a fifth of it: it reads
//! `/proc/self/maps` to find the main thread's guard page, and gives the thread another stack to
//! report an overflow on. What a plugin needs of all that is done here: the three standard
//! descriptors are open, and a closed pipe is an error and not a signal.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::fs::File;
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
        extern "C" fn main(
            count: std::ffi::c_int,
            arguments: *const *const std::ffi::c_char,
        ) -> std::ffi::c_int {
            // SAFETY: these are what libc gives its `main`.
            unsafe { $crate::cni::entry::bare_main(&$plugin, count, arguments) }
        }
    };
}

/// Prepares the process and runs the plugin; the exit status.
///
/// # Safety
///
/// The arguments are those of a C program's `main` (C11, 5.1.2.2.1): so many strings.
#[expect(unsafe_code, reason = "without std's runtime, std has the arguments with glibc only")]
pub unsafe fn bare_main<P: Plugin>(
    plugin: &P,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    open_standard_descriptors();
    // Blocked, it stays pending, and the write fails. Children get an empty mask from std.
    let mut broken_pipe = SigSet::empty();
    broken_pipe.add(Signal::SIGPIPE);
    let _ = broken_pipe.thread_block();
    // No runtime gives one, but a person does.
    let first = (count > 1).then(|| {
        // SAFETY: there is a second string, and it stays.
        let argument = unsafe { CStr::from_ptr(*arguments.add(1)) };
        OsStr::from_bytes(argument.to_bytes())
    });
    c_int::from(run(plugin, first) != ExitCode::SUCCESS)
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
