//! Which network and which container are meant.

use std::path::Path;

use anyhow::{anyhow, bail};

use super::given;
use crate::cli::{ConfOptions, NetworkOptions};
use crate::runner::{Cache, CachedAttachment, ConfError, NetworkList, container_id};

const DEFAULT_CONF_DIR: &str = "/etc/cni/net.d";

/// A network's configuration. A path has a slash or a configuration file's extension; anything
/// else is a name.
pub(super) fn load(options: &ConfOptions) -> anyhow::Result<NetworkList> {
    find(options)?.map_err(|missing| anyhow!(missing))
}

/// A network whose configuration may be gone: its attachments are remembered with theirs.
pub(super) struct Network {
    pub(super) name: String,
    list: Option<NetworkList>,
}

impl Network {
    /// The network, if its configuration or one attachment to it is found.
    pub(super) fn find(options: &NetworkOptions, cache: &Cache) -> anyhow::Result<Self> {
        match find(&options.conf)? {
            Ok(list) => Ok(Self { name: list.name.clone(), list: Some(list) }),
            Err(missing) => {
                let name = options.conf.network.clone();
                let remembered = cache.attachments(None).unwrap_or_default();
                if remembered.iter().any(|attachment| attachment.network == name) {
                    return Ok(Self { name, list: None });
                }
                bail!("{missing}")
            }
        }
    }

    /// Its present configuration.
    pub(super) fn list(&self) -> Option<&NetworkList> {
        self.list.as_ref()
    }

    /// The configuration for an attachment to it: the present one, or that of its ADD.
    pub(super) fn list_for(&self, attachment: &CachedAttachment) -> anyhow::Result<NetworkList> {
        match &self.list {
            Some(list) => Ok(list.clone()),
            None => Ok(attachment.list()?),
        }
    }
}

/// The outer error ends it; the inner one says that there is no such network.
fn find(options: &ConfOptions) -> anyhow::Result<Result<NetworkList, String>> {
    let network = options.network.as_str();
    let is_path = network.contains('/')
        || [".conflist", ".conf", ".json"].iter().any(|extension| network.ends_with(extension));
    if is_path {
        return Ok(Ok(NetworkList::from_file(Path::new(network))?));
    }
    let dir = Path::new(given(options.conf_dir.as_ref()).unwrap_or(DEFAULT_CONF_DIR));
    match NetworkList::load(dir, network) {
        Err(error @ (ConfError::NoConfigs(_) | ConfError::NotFound(..))) => Ok(Err(format!(
            "{error}; choose the directory with --conf-dir or NETCONFPATH, or name a file"
        ))),
        list => Ok(Ok(list?)),
    }
}

/// The container ID that begins with `text`, among those that attachments are remembered of. One
/// that is none's beginning stays as it is: what it names may be remembered nowhere.
pub(super) fn complete_id(
    text: &str,
    attachments: &[CachedAttachment],
    network: Option<&str>,
) -> anyhow::Result<String> {
    let of_network = attachments
        .iter()
        .filter(|attachment| network.is_none_or(|network| network == attachment.network));
    let ids = of_network.map(|attachment| attachment.conf.container_id.as_str());
    container_id::complete(text, ids)
}
