//! Which settings this host's containers get back when they go, and whose they are. Reads only.

use std::path::Path;

use cni_common::cni::protocol::CniError;

use crate::backend;
use crate::config::DEFAULT_DATA_DIR;
use crate::setting::Setting;

/// A setting that tuning has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The tag of its owner, `network/containerID/ifname`.
    pub owner: String,
    /// A path below `/proc/sys`, as in `net/core/somaxconn`, or a key of tuning's configuration such as `mtu`.
    pub setting: String,
    /// What it was before, and will be after DEL.
    pub original: String,
}

/// Every setting whose original is kept in the usual directory.
///
/// # Errors
/// The directory is there and cannot be read.
pub fn installed() -> Result<Vec<Installed>, CniError> {
    let all = backend::all_originals(Path::new(DEFAULT_DATA_DIR))?;
    let of_owner = |(owner, settings): (String, Vec<Setting>)| {
        settings.into_iter().map(move |setting| {
            let (setting, original) = setting.in_words();
            Installed { owner: owner.clone(), setting, original }
        })
    };
    Ok(all.into_iter().flat_map(of_owner).collect())
}
