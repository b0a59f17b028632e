//! The `firewall` binary.

#![no_main]

cni_common::plugin_main!(cni_firewall::Firewall::new());
