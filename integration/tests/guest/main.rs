//! What needs another kernel than the builder's: links and qdiscs that it may not have, modules that are loaded late
//! or are missing. `./dev kernels --suites` runs this in a guest; `cargo test` does not.
//!
//! Modules are the kernel's and no box's: one test at a time.

mod age;
mod links;
mod loss;
mod modules;
mod netfilter_of_bridges;
mod queue;
mod vrf;

use std::fs;

/// Fails wherever modules are not a guest's.
#[track_caller]
fn require_guest() {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    let is_guest = mounts.lines().any(|line| line.starts_with("exchange /run/guest 9p "));
    assert!(is_guest, "this is no guest: ./dev kernels --suites runs this test");
}
