//! The `tuning` binary.

#![no_main]

cni_common::plugin_main!(cni_tuning::Tuning);
