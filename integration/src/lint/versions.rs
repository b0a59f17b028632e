//! Whether each entry's plugin is there and knows the list's version.

use std::path::PathBuf;

use super::Weight;
use crate::runner::{NetworkList, PluginConf, Runner, exec, plugins};

pub(super) fn remarks(
    list: &NetworkList,
    plugin: &PluginConf,
    dirs: &[PathBuf],
) -> Vec<(Weight, String)> {
    let path = match exec::find(&plugin.plugin_type, dirs) {
        Ok(path) => path,
        Err(error) => return vec![(Weight::Error, error.to_string())],
    };
    match unknown(list, plugin, dirs) {
        Ok(None) => Vec::new(),
        Ok(Some(what)) => vec![(Weight::Error, what)],
        Err(error) => {
            vec![(Weight::Error, format!("{} does not tell its versions: {error}", path.display()))]
        }
    }
}

/// What to tell of a plugin that does not know the list's version.
pub(crate) fn unknown(
    list: &NetworkList,
    plugin: &PluginConf,
    dirs: &[PathBuf],
) -> Result<Option<String>, String> {
    let path = exec::find(&plugin.plugin_type, dirs).map_err(|error| error.to_string())?;
    let wanted = if list.cni_version.is_empty() { "0.1.0" } else { &list.cni_version };
    let mut runner = Runner::new(dirs.to_vec(), PathBuf::new());
    runner.deadline = Some(plugins::DEADLINE);
    let known = runner.version(&plugin.plugin_type).map_err(|error| error.to_string())?;
    let is_known = known.iter().any(|version| version == wanted);
    Ok((!is_known).then(|| {
        format!(
            "{} does not know cniVersion {wanted:?} of this list: it knows {}",
            path.display(),
            known.join(", ")
        )
    }))
}
