//! Each plugin's own reading of its entry: what it refuses, ADD would fail on.

use cni_bandwidth::Bandwidth;
use cni_common::cni::Plugin as _;
use cni_common::cni::protocol::{CniError, NetworkConfig};
use cni_firewall::Firewall;
use cni_portmap::Portmap;
use cni_tuning::Tuning;

use super::Weight;
use crate::runner::plugins::MetaPlugin;
use crate::runner::{NetworkList, PluginConf, RuntimeConf, request};

pub(super) fn remarks(
    plugin: MetaPlugin,
    list: &NetworkList,
    conf: &PluginConf,
) -> Vec<(Weight, String)> {
    let request = request::for_attachment(list, conf, None, &RuntimeConf::default());
    let outcome = NetworkConfig::from_stdin(request.to_string().as_bytes())
        .and_then(|config| config.version().map(|_| config))
        .and_then(|config| validate(plugin, &config));
    match outcome {
        Ok(()) => Vec::new(),
        Err(error) => vec![(Weight::Error, words(&error))],
    }
}

fn validate(plugin: MetaPlugin, config: &NetworkConfig) -> Result<(), CniError> {
    match plugin {
        MetaPlugin::Portmap => Portmap::validate(config),
        MetaPlugin::Bandwidth => Bandwidth::validate(config),
        MetaPlugin::Tuning => Tuning::validate(config),
        MetaPlugin::Firewall => Firewall::validate(config),
    }
}

fn words(error: &CniError) -> String {
    let details = &error.details;
    if details.is_empty() { error.msg.clone() } else { format!("{}: {details}", error.msg) }
}
