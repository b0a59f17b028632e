//! The `cni-chain` command.

#![forbid(unsafe_code)]

fn main() {}
