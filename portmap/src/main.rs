//! The `portmap` binary.

#![forbid(unsafe_code)]

fn main() {}
