//! The `bandwidth` binary.

#![cfg_attr(target_env = "gnu", no_main)]

cni_common::plugin_main!(cni_bandwidth::Bandwidth);
