//! The plugins of this collection: their names, where they are, and which binary is one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use cni_common::cni::plugin::COLLECTION;

use super::exec;

/// A plugin of this collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaPlugin {
    /// Host ports.
    Portmap,
    /// Limits.
    Bandwidth,
    /// Sysctls and link attributes.
    Tuning,
    /// Accept rules and isolation.
    Firewall,
}

impl MetaPlugin {
    /// In the order in which people list them.
    pub const ALL: [Self; 4] = [Self::Portmap, Self::Bandwidth, Self::Tuning, Self::Firewall];

    /// The name of its binary.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Portmap => "portmap",
            Self::Bandwidth => "bandwidth",
            Self::Tuning => "tuning",
            Self::Firewall => "firewall",
        }
    }

    /// Which plugin an entry's `type` promises. Some install it under a name of their own, such as
    /// `buildkit-cni-firewall`.
    #[must_use]
    pub fn by_type(plugin_type: &str) -> Option<Self> {
        plugin_type.rsplit('-').next()?.parse().ok()
    }

    /// Whether a binary is this plugin and of this collection.
    pub(crate) fn is_at(self, path: &Path) -> bool {
        let Ok(text) = exec::version_text(path, DEADLINE) else { return false };
        let mut lines = text.lines();
        let banner = format!("CNI {self} plugin v");
        lines.next().is_some_and(|line| line.starts_with(&banner))
            && lines.any(|line| line == COLLECTION)
    }
}

impl fmt::Display for MetaPlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for MetaPlugin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|plugin| plugin.as_str() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            format!("it must be one of {names}")
        })
    }
}

/// How long a program may take to say what it is. One that is no CNI plugin may do anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

const USUAL_DIRS: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];

/// The directories asked for, else those where plugins usually are.
pub(crate) fn search_path(asked_for: &[String]) -> Vec<PathBuf> {
    let given: Vec<PathBuf> =
        asked_for.iter().filter(|dir| !dir.is_empty()).map(PathBuf::from).collect();
    if !given.is_empty() {
        return given;
    }
    let own = std::env::current_exe().ok();
    let own = own.iter().filter_map(|program| program.parent().map(Path::to_owned));
    own.chain(USUAL_DIRS.map(PathBuf::from)).filter(|dir| dir.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_promise_a_plugin() {
        for (plugin_type, plugin) in [
            ("portmap", Some(MetaPlugin::Portmap)),
            ("buildkit-cni-firewall", Some(MetaPlugin::Firewall)),
            ("bridge", None),
            ("portmapper", None),
            ("", None),
        ] {
            assert_eq!(MetaPlugin::by_type(plugin_type), plugin, "{plugin_type}");
        }
    }
}
