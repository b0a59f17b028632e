//! Whether a plugin is asked a question that came with a later version than its list's.

use cni_common::cni::protocol::CniVersion;

use super::plugins::MetaPlugin;
use super::{ExecError, NetworkList, PluginConf, Runner, exec};

/// How a plugin of a list is asked.
#[derive(Debug)]
pub(crate) enum Asked {
    /// With its entry of this list.
    As(NetworkList),
    /// As above, in a version that its list does not have: it is one of ours, to which the version
    /// changes no meaning.
    AsNewer(NetworkList),
    /// It is another's, to which the command may be unknown; why, in words.
    Not(String),
}

impl Asked {
    /// How to ask `plugin` what is known since `since`.
    pub(crate) fn of(
        plugin: &PluginConf,
        list: &NetworkList,
        since: CniVersion,
        runner: &Runner,
    ) -> Result<Self, ExecError> {
        let path = exec::find(&plugin.plugin_type, &runner.plugin_dirs)?;
        if list.at_least(since) == Ok(true) {
            return Ok(Self::As(list.clone()));
        }
        let is_ours =
            MetaPlugin::by_type(&plugin.plugin_type).is_some_and(|plugin| plugin.is_at(&path));
        if is_ours {
            return Ok(Self::AsNewer(list.raised_to(since)));
        }
        let version = match list.cni_version.as_str() {
            "" => "none",
            version => version,
        };
        Ok(Self::Not(format!("that needs cniVersion {since}, and the list has {version}")))
    }
}
