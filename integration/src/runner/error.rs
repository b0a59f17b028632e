//! Why an operation on a list failed.

use cni_common::cni::protocol::CniError;

use super::cache::CacheError;
use super::conflist::PluginConf;
use super::exec::ExecError;

/// Why an operation on a list failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A plugin failed in ADD or DEL; the rest of the list did not run.
    #[error("plugin {plugin} failed ({operation}): {error}")]
    Plugin {
        /// Its `type="…"`, and its `name="…"` if its entry has one.
        plugin: String,
        /// `add` or `delete`.
        operation: &'static str,
        /// The plugin's own words, where it had any.
        error: ExecError,
    },
    /// A plugin failed in CHECK, STATUS or VERSION.
    #[error("{0}")]
    Exec(ExecError),
    /// The list has no plugin to run.
    #[error("no plugin configs found")]
    NoPlugins,
    /// The list's version, which is older than 0.4.0.
    #[error("configuration version {0:?} does not support the CHECK command")]
    CheckUnsupported(String),
    /// The list's version is no version.
    #[error("invalid cniVersion of the network configuration: {0}")]
    Version(String),
    /// The result of an attachment to this network cannot be read or converted.
    #[error("failed to get network {0:?} cached result: {1}")]
    ReadCache(String, CacheError),
    /// The attachment to this network was made, but cannot be remembered: delete it.
    #[error("failed to set network {0:?} cached result: {1}")]
    WriteCache(String, CacheError),
    /// GC could not delete the attachment of this container ID and interface.
    #[error("failed to delete stale attachment {0} {1}: {2}")]
    StaleAttachment(String, String, Box<RunError>),
    /// The plugin of this type failed in GC.
    #[error("failed to GC plugin {0}: {1}")]
    Gc(String, ExecError),
    /// The plugin of this type does not support the list's version.
    #[error("plugin {0} does not support config version {1:?}")]
    Unsupported(String, String),
    /// Several failures, one a line.
    #[error("{}", lines(.0))]
    Several(Vec<RunError>),
}

impl RunError {
    /// The CNI error inside: a plugin's own, with its code, or that of a refused input. Of
    /// several failures, the first that has one.
    #[must_use]
    pub fn cni_error(&self) -> Option<&CniError> {
        match self {
            Self::Plugin { error, .. } | Self::Exec(error) | Self::Gc(_, error) => {
                error.cni_error()
            }
            Self::StaleAttachment(_, _, error) => error.cni_error(),
            Self::Several(errors) => errors.iter().find_map(Self::cni_error),
            _ => None,
        }
    }

    /// The code of [`RunError::cni_error`].
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        self.cni_error().map(|error| error.code.number())
    }

    pub(super) fn in_chain(plugin: &PluginConf, operation: &'static str, error: ExecError) -> Self {
        let PluginConf { plugin_type, name, .. } = plugin;
        let plugin = if name.is_empty() {
            format!("type={plugin_type:?}")
        } else {
            format!("type={plugin_type:?} name={name:?}")
        };
        Self::Plugin { plugin, operation, error }
    }

    pub(super) fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several(errors)),
        }
    }
}

fn lines(errors: &[RunError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
