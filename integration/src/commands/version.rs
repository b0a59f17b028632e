//! `cni-chain version`: where the plugins are and which versions they have.

use std::path::PathBuf;

use crate::cli::PluginDirOptions;
use crate::runner::exec;
use crate::runner::plugins::{self, MetaPlugin};

/// The report.
pub(super) fn report(options: &PluginDirOptions) -> String {
    let dirs = plugins::search_path(&options.dirs);
    let mut report = format!("cni-chain v{}\n", env!("CARGO_PKG_VERSION"));
    for plugin in MetaPlugin::ALL {
        report += &describe(plugin.as_str(), &dirs);
    }
    report
}

fn describe(plugin: &str, dirs: &[PathBuf]) -> String {
    let path = match exec::find(plugin, dirs) {
        Ok(path) => path,
        Err(error) => return format!("{plugin}: {error}\n"),
    };
    let banner = exec::banner(&path, plugins::DEADLINE).unwrap_or_else(|error| error.to_string());
    let mut report = format!("{plugin}: {}\n", path.display());
    for line in banner.lines() {
        report += "    ";
        report += line;
        report += "\n";
    }
    report
}
