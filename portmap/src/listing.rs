//! What is mapped on this host: each mapping, whose it is and where it is. Reads only.

use cni_common::cni::protocol::CniError;
use cni_common::cni::{Failure as _, failure::unreachable_nft};
use cni_common::kernel::nft::{Nft, open_nft_if_any};

use crate::backend::{iptables, nftables};
use crate::plan::Mapping;

/// A mapping that the kernel holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// What leads where.
    pub mapping: Mapping,
    /// The tag of its owner, `network/containerID/ifname`; over-long parts end in `~` and a digest.
    pub owner: String,
    /// Where it is, as in `nftables` or `iptables-nft (IPv4)`.
    pub place: String,
    /// The tag of the attachment that it waits for: a newer one that has the port.
    pub held_by: Option<String>,
}

/// Every mapping with an owner's name on it, in `nf_tables` and in either kind of iptables, where the
/// Go plugin's have the same form.
///
/// # Errors
/// A table that is there cannot be read.
pub fn installed() -> Result<Vec<Installed>, CniError> {
    const READING: &str = "cannot read the port mappings";
    let mut nft = open_nft_if_any().map_err(unreachable_nft)?;
    let mut all = Vec::new();
    if let Some(nft) = &mut nft {
        let found = nftables::installed(nft).map_err(|error| error.into_cni(READING))?;
        all.extend(found.into_iter().map(|((mapping, owner), held_by)| Installed {
            mapping,
            owner,
            place: "nftables".to_owned(),
            held_by,
        }));
    }
    let nft = nft.as_mut().map(|nft| nft as &mut dyn Nft);
    let places = iptables::that_may_have(nft, &[iptables::TOP_CHAIN.to_owned()]);
    for place in places.map_err(|error| error.into_cni(READING))? {
        let found = iptables::installed(place).map_err(|error| error.into_cni(READING))?;
        all.extend(found.into_iter().map(|((mapping, owner), held_by)| Installed {
            mapping,
            owner,
            place: place.to_string(),
            held_by,
        }));
    }
    Ok(all)
}
