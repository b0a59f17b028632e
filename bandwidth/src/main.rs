//! The `bandwidth` binary.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cni_common::run(&cni_bandwidth::Bandwidth)
}
