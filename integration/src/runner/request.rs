//! What a plugin reads on stdin: its entry of the list, and what the runtime adds to it.

use cni_common::cni::protocol::ValidAttachment;
use cni_common::cni::protocol::json::{Json, Object};

use super::conflist::{NetworkList, PluginConf};

/// One attachment as the caller describes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuntimeConf {
    /// The container ID.
    pub container_id: String,
    /// The path of the container's network namespace; empty when it is gone.
    pub netns: String,
    /// The interface name inside the container.
    pub ifname: String,
    /// `CNI_ARGS`, in the order they are passed.
    pub args: Vec<(String, String)>,
    /// Data by capability. A plugin sees what its entry declares, and nothing else.
    pub capability_args: Object,
}

impl RuntimeConf {
    /// The text of `CNI_ARGS`.
    pub(crate) fn cni_args(&self) -> String {
        let pairs: Vec<String> =
            self.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(";")
    }
}

/// The configuration for ADD, DEL and CHECK.
pub(crate) fn for_attachment(
    list: &NetworkList,
    plugin: &PluginConf,
    prev_result: Option<&Json>,
    conf: &RuntimeConf,
) -> Json {
    let mut request = for_network(list, plugin);
    if let Some(prev_result) = prev_result {
        request.set("prevResult", prev_result.clone());
    }
    let granted: Object = plugin
        .capabilities
        .iter()
        .filter_map(|name| Some((name.clone(), conf.capability_args.get_exact(name)?.clone())))
        .collect();
    // Without data libcni leaves alone what the file may say.
    if !granted.is_empty() {
        request.set("runtimeConfig", granted);
    }
    request.into()
}

/// The configuration for GC. Without `valid` it says nothing about attachments.
pub(crate) fn for_gc(
    list: &NetworkList,
    plugin: &PluginConf,
    valid: Option<&[ValidAttachment]>,
) -> Json {
    let mut request = for_network(list, plugin);
    if let Some(valid) = valid {
        let valid: Vec<Json> = valid.iter().map(attachment).collect();
        request.set("cni.dev/valid-attachments", valid.clone());
        // The spelling of an earlier spec, which libcni still sends.
        request.set("cni.dev/attachments", valid);
    }
    request.into()
}

/// The configuration for STATUS.
pub(crate) fn for_status(list: &NetworkList, plugin: &PluginConf) -> Json {
    for_network(list, plugin).into()
}

fn for_network(list: &NetworkList, plugin: &PluginConf) -> Object {
    let mut request = plugin.object.clone();
    request.set("name", list.name.as_str());
    request.set("cniVersion", list.cni_version.as_str());
    request
}

fn attachment(valid: &ValidAttachment) -> Json {
    let mut object = Object::default();
    object.push("containerID", valid.container_id.as_str());
    object.push("ifname", valid.ifname.as_str());
    object.into()
}
