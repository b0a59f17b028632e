//! The `firewall` binary.

#![cfg_attr(target_env = "gnu", no_main)]

cni_common::plugin_main!(cni_firewall::Firewall::new());
