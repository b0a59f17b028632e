//! The `bandwidth` binary.

#![no_main]

cni_common::plugin_main!(cni_bandwidth::Bandwidth);
