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
    let wanted = if list.cni_version.is_empty() { "0.1.0" } else { &list.cni_version };
    let mut runner = Runner::new(dirs.to_vec(), PathBuf::new());
    runner.deadline = Some(plugins::DEADLINE);
    match runner.version(&plugin.plugin_type) {
        Ok(known) if known.iter().any(|version| version == wanted) => Vec::new(),
        Ok(known) => vec![(
            Weight::Error,
            format!(
                "{} does not know cniVersion {wanted:?} of this list: it knows {}",
                path.display(),
                known.join(", ")
            ),
        )],
        Err(error) => {
            vec![(Weight::Error, format!("{} does not tell its versions: {error}", path.display()))]
        }
    }
}
