//! The real binary on a real kernel, beside Debian's Go plugin.
//!
//! Every test runs in network, mount and process namespaces of its own (`harness`), so nothing of
//! it touches the machine. Needs root and the Debian packages `containernetworking-plugins`,
//! `iproute2`, `strace` and `util-linux`; a missing one fails the test.

#[macro_use]
mod harness;

mod allowlist;
mod configurations;
mod faults;
mod faults_of_go;
mod hostile;
mod originals;
mod protocol;
