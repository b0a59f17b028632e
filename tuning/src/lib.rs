//! The `tuning` CNI meta plugin. This release holds its place in a chain and refuses ADD.

#![forbid(unsafe_code)]

use cni_common::protocol::unavailable::{PluginName, Unavailable};

/// The name of this plugin.
#[derive(Debug)]
pub struct Name;

impl PluginName for Name {
    const NAME: &'static str = "tuning";
}

/// The plugin.
pub type Tuning = Unavailable<Name>;
