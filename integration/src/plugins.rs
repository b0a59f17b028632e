//! Where the plugins are and which versions they have.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cni_chain::exec;

use crate::cli::PluginDirOptions;

/// The plugins of this collection.
const OURS: [&str; 4] = ["portmap", "bandwidth", "tuning", "firewall"];
const USUAL_DIRS: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];
/// A program that is no CNI plugin may do anything when it is asked for its banner.
const BANNER_DEADLINE: Duration = Duration::from_secs(10);

/// The directories asked for, else those where plugins usually are.
pub(crate) fn search_path(options: &PluginDirOptions) -> Vec<PathBuf> {
    let given: Vec<PathBuf> =
        options.dirs.iter().filter(|dir| !dir.is_empty()).map(PathBuf::from).collect();
    if !given.is_empty() {
        return given;
    }
    let own = std::env::current_exe().ok();
    let own = own.iter().filter_map(|program| program.parent().map(Path::to_owned));
    own.chain(USUAL_DIRS.map(PathBuf::from)).filter(|dir| dir.is_dir()).collect()
}

/// The report of `cni-chain version`.
pub(crate) fn versions(options: &PluginDirOptions) -> String {
    let dirs = search_path(options);
    let mut report = format!("cni-chain v{}\n", env!("CARGO_PKG_VERSION"));
    for plugin in OURS {
        report += &describe(plugin, &dirs);
    }
    report
}

fn describe(plugin: &str, dirs: &[PathBuf]) -> String {
    let path = match exec::find(plugin, dirs) {
        Ok(path) => path,
        Err(error) => return format!("{plugin}: {error}\n"),
    };
    let banner = exec::banner(&path, BANNER_DEADLINE).unwrap_or_else(|error| error.to_string());
    let mut report = format!("{plugin}: {}\n", path.display());
    for line in banner.lines() {
        report += "    ";
        report += line;
        report += "\n";
    }
    report
}
