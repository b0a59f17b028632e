//! `explain`: what each plugin of a list would do, with nothing touched.
//!
//! Each plugin's own plan is carried out by a backend that only writes down; `example` is the container
//! and the host that this is told for, `report` how it is told.

mod example;
mod report;

use cni_common::cni::log::Log;
use cni_common::cni::netns::OwnNetns;
use cni_common::cni::protocol::json::Json;
use cni_common::cni::protocol::{CniError, CniResult, NetworkConfig};
use cni_common::cni::{Attachment, AttachmentRequest, Explanation, Surroundings};

use crate::runner::plugins::MetaPlugin;
use crate::runner::{NetworkList, PluginConf, RuntimeConf, request};

pub(crate) use example::Scene;
pub(crate) use report::{json, text};

/// What one entry of a list would do.
#[derive(Debug)]
pub(crate) struct Explained {
    /// As `plugins[1] (portmap)`.
    pub(crate) entry: String,
    pub(crate) told: Told,
    /// What ADD would warn of.
    pub(crate) warnings: Vec<String>,
}

/// What there is to tell.
#[derive(Debug)]
pub(crate) enum Told {
    Done(Explanation),
    /// ADD would fail.
    Refused(CniError),
    /// It makes the interface, and is taken for granted.
    Given,
    /// It is another's, and unknown.
    Unknown,
}

/// What every plugin would do, in their order. `backend` is for entries that name none.
pub(crate) fn explain(
    list: &NetworkList,
    conf: &RuntimeConf,
    scene: &Scene,
    backend: Option<&str>,
) -> Vec<Explained> {
    let mut result = scene.result.clone();
    let mut all = Vec::new();
    for (index, plugin) in list.plugins.iter().enumerate() {
        let log = Log::keeping();
        let entry = format!("plugins[{index}] ({})", plugin.plugin_type);
        let (told, warnings) = match MetaPlugin::by_type(&plugin.plugin_type) {
            None if index == 0 => (Told::Given, Vec::new()),
            None => (Told::Unknown, Vec::new()),
            Some(ours) => {
                let asked = with_backend(plugin, ours, backend);
                let call = call(list, &asked, conf, &result, log);
                match call.and_then(|call| told(ours, &call, &scene.around)) {
                    Ok((explanation, warnings)) => {
                        result.clone_from(&explanation.result);
                        (Told::Done(explanation), warnings)
                    }
                    Err(error) => (Told::Refused(error), Vec::new()),
                }
            }
        };
        let is_refused = matches!(told, Told::Refused(_));
        all.push(Explained { entry, told, warnings });
        if is_refused {
            // The runtime ends there, too.
            break;
        }
    }
    all
}

/// The entry with a backend, if it has that and names none.
fn with_backend(plugin: &PluginConf, ours: MetaPlugin, backend: Option<&str>) -> PluginConf {
    let mut asked = plugin.clone();
    let has = match ours {
        MetaPlugin::Portmap => backend.is_some_and(|name| name != "firewalld"),
        MetaPlugin::Firewall => true,
        MetaPlugin::Bandwidth | MetaPlugin::Tuning => false,
    };
    let named = plugin.object.get("backend").and_then(Json::as_str).is_some_and(|n| !n.is_empty());
    if let Some(backend) = backend.filter(|_| has && !named) {
        asked.object.set("backend", backend);
    }
    asked
}

/// What the plugin's process would be called with.
fn call(
    list: &NetworkList,
    plugin: &PluginConf,
    conf: &RuntimeConf,
    result: &CniResult,
    log: Log,
) -> Result<AttachmentRequest, CniError> {
    let bare = request::for_attachment(list, plugin, None, conf);
    let version = NetworkConfig::from_stdin(bare.to_string().as_bytes())?.version()?;
    let stdin = request::for_attachment(list, plugin, Some(&result.to_json(version)?), conf);
    let config = NetworkConfig::from_stdin(stdin.to_string().as_bytes())?;
    config.validate_common()?;
    let attachment = Attachment {
        network: list.name.clone(),
        container_id: conf.container_id.clone(),
        ifname: conf.ifname.clone(),
    };
    Ok(AttachmentRequest {
        attachment,
        netns: conf.netns.clone(),
        own_netns: OwnNetns::of_lasting_process(),
        args: conf.cni_args(),
        config,
        log,
    })
}

fn told(
    plugin: MetaPlugin,
    call: &AttachmentRequest,
    around: &Surroundings,
) -> Result<(Explanation, Vec<String>), CniError> {
    let explanation = match plugin {
        MetaPlugin::Portmap => cni_portmap::explain::explain(call, around),
        MetaPlugin::Bandwidth => cni_bandwidth::explain::explain(call, around),
        MetaPlugin::Tuning => cni_tuning::explain::explain(call, around),
        MetaPlugin::Firewall => cni_firewall::explain::explain(call, around),
    }?;
    Ok((explanation, call.log.warnings()))
}
