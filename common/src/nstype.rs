//! What kind of namespace a file stands for (`NS_GET_NSTYPE`, `ioctl_ns(2)`).
//!
//! The only unsafe call of the project: nothing but this ioctl tells a network namespace from a
//! mount or UTS namespace that somebody bind-mounted to the same kind of path.
#![expect(unsafe_code, reason = "an ioctl without arguments; std and nix have no safe form of it")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

nix::ioctl_none_bad!(ns_get_nstype, nix::request_code_none!(0xb7, 0x3));

/// Whether the file is a network namespace. `ENOTTY` for a file that is no namespace at all.
pub(crate) fn is_network_namespace(file: &File) -> io::Result<bool> {
    const CLONE_NEWNET: i32 = 0x4000_0000;
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the request neither
    // reads nor writes memory of ours.
    let kind = unsafe { ns_get_nstype(file.as_raw_fd()) }?;
    Ok(kind == CLONE_NEWNET)
}
