//! `lint`: what is wrong with a conflist, before a container finds out.
//!
//! `keys` knows which keys do something, `order` which entries have to come before which, `reading`
//! has each plugin read its entry as ADD does, and `versions` asks the plugins for theirs.

mod keys;
mod order;
mod reading;
pub(crate) mod versions;

use std::path::PathBuf;

use cni_bandwidth::Bandwidth;
use cni_common::cni::Plugin as _;
use cni_firewall::Firewall;
use cni_portmap::Portmap;
use cni_tuning::Tuning;

use crate::runner::NetworkList;
use crate::runner::plugins::MetaPlugin;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// It works, and perhaps not as it was meant.
    Warning,
    /// ADD fails, or what was asked for does not happen.
    Error,
}

/// Something to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remark {
    pub(crate) weight: Weight,
    /// The entry, as `plugins[1] (portmap)`; none for the list itself.
    pub(crate) entry: Option<String>,
    pub(crate) text: String,
}

/// Everything there is to say about a list.
pub(crate) fn remarks(list: &NetworkList, plugin_dirs: &[PathBuf]) -> Vec<Remark> {
    let mut remarks = order::remarks(list);
    for (index, plugin) in list.plugins.iter().enumerate() {
        let entry = format!("plugins[{index}] ({})", plugin.plugin_type);
        let mut found = versions::remarks(list, plugin, plugin_dirs);
        if let Some(ours) = MetaPlugin::by_type(&plugin.plugin_type) {
            found.extend(keys::remarks(ours, plugin));
            found.extend(reading::remarks(ours, list, plugin));
        }
        remarks.extend(found.into_iter().map(|(weight, text)| Remark {
            weight,
            entry: Some(entry.clone()),
            text,
        }));
    }
    remarks
}

/// The keys of a plugin's entry that it reads.
fn own_keys(plugin: MetaPlugin) -> &'static [&'static str] {
    match plugin {
        MetaPlugin::Portmap => Portmap::KEYS,
        MetaPlugin::Bandwidth => Bandwidth::KEYS,
        MetaPlugin::Tuning => Tuning::KEYS,
        MetaPlugin::Firewall => Firewall::KEYS,
    }
}
