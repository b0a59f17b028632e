//! The `portmap` binary.

#![no_main]

cni_common::plugin_main!(cni_portmap::Portmap);
