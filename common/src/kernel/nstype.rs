//! What the kernel tells about namespaces by ioctl and socket option only (`ioctl_ns(2)`,
//! `<linux/sockios.h>`, `<asm/socket.h>`).
//!
//! The project's only unsafe calls of the kernel. Nothing but `NS_GET_NSTYPE` tells a network namespace
//! from a mount or UTS namespace that somebody bind-mounted to the same kind of path, and
//! `SIOCGSKNS` tells which one a thread is in without a walk through `/proc`, whose directories
//! the kernel makes anew for each process: a tenth of a short call. `SO_NETNS_COOKIE` is the only
//! name of a namespace that no later one gets.
#![expect(
    unsafe_code,
    reason = "std and nix have no safe form of these two ioctls and this option"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd as _};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{getsockopt, sockopt::GetStruct};

nix::ioctl_none_bad!(ns_get_nstype, nix::request_code_none!(0xb7, 0x3));
nix::ioctl_none_bad!(siocgskns, 0x894c);

const SO_NETNS_COOKIE: libc::c_int = 71;

#[derive(Clone, Copy, Debug)]
struct NetnsCookie;
// The macro's calls pass a buffer of the size that they state.
nix::getsockopt_impl!(NetnsCookie, libc::SOL_SOCKET, SO_NETNS_COOKIE, u64, GetStruct<u64>);

/// Whether the file is a network namespace. `ENOTTY` for a file that is no namespace at all.
pub(crate) fn is_network_namespace(file: &File) -> io::Result<bool> {
    const CLONE_NEWNET: i32 = 0x4000_0000;
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the request neither
    // reads nor writes memory of ours.
    let kind = unsafe { ns_get_nstype(file.as_raw_fd()) }?;
    Ok(kind == CLONE_NEWNET)
}

/// The network namespace of a socket, which is its maker's (Linux 4.10, `CAP_NET_ADMIN`).
pub(crate) fn of_socket(socket: &impl AsRawFd) -> io::Result<File> {
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the request neither
    // reads nor writes memory of ours. What it returns is a new descriptor that nobody else has.
    unsafe { Ok(File::from_raw_fd(siocgskns(socket.as_raw_fd())?)) }
}

/// The cookie of a socket's network namespace; `None` before Linux 5.14.
pub(crate) fn cookie_of_socket(socket: &impl AsFd) -> io::Result<Option<u64>> {
    match getsockopt(socket, NetnsCookie) {
        Ok(cookie) => Ok(Some(cookie)),
        Err(Errno::ENOPROTOOPT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
