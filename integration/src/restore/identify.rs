//! Which plugins of a chain are of this collection.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use cni_common::cni::protocol::plugin::COLLECTION;

use super::report::Step;
use crate::exec;

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
    /// All of them.
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

/// Which plugin an entry's `type` promises. Some install it under a name of their own, such as
/// `buildkit-cni-firewall`.
#[must_use]
pub fn by_type(plugin_type: &str) -> Option<MetaPlugin> {
    plugin_type.rsplit('-').next()?.parse().ok()
}

/// A program that is no CNI plugin may do anything when it is asked what it is.
const DEADLINE: Duration = Duration::from_secs(10);

/// Finds binaries, and asks each once whether it is of this collection.
#[derive(Debug)]
pub struct Identifier<'a> {
    dirs: &'a [PathBuf],
    known: RefCell<HashMap<String, Result<PathBuf, Step>>>,
}

impl<'a> Identifier<'a> {
    /// One that looks in these directories.
    #[must_use]
    pub fn new(dirs: &'a [PathBuf]) -> Self {
        Self { dirs, known: RefCell::default() }
    }

    /// The binary of a type, if its ADD may be repeated; otherwise what that means here.
    pub fn identify(&self, plugin_type: &str) -> Result<PathBuf, Step> {
        let mut known = self.known.borrow_mut();
        known.entry(plugin_type.to_owned()).or_insert_with(|| self.look(plugin_type)).clone()
    }

    fn look(&self, plugin_type: &str) -> Result<PathBuf, Step> {
        let path = exec::find(plugin_type, self.dirs).map_err(|error| {
            Step::Failed(format!("{error}; name the runtime's plugin directory with --plugin-dir"))
        })?;
        if by_type(plugin_type).is_some_and(|plugin| is_ours(&path, plugin)) {
            return Ok(path);
        }
        Err(Step::Skipped(format!(
            "{} is not cni-chain's, and running its ADD twice may fail or duplicate rules; add the \
             container again, or install cni-chain's plugin",
            path.display()
        )))
    }
}

fn is_ours(path: &Path, plugin: MetaPlugin) -> bool {
    let Ok(text) = exec::version_text(path, DEADLINE) else { return false };
    let mut lines = text.lines();
    let named =
        lines.next().is_some_and(|line| line.starts_with(&format!("CNI {plugin} plugin v")));
    named && lines.any(|line| line == COLLECTION)
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
            assert_eq!(by_type(plugin_type), plugin, "{plugin_type}");
        }
    }
}
