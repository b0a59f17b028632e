//! Which addresses this host lets through, whose they are, and who is kept apart. Reads only.

use std::collections::HashMap;
use std::net::IpAddr;

use cni_common::cni::Failure as _;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::CniError;

use crate::backend::{iptables, nftables};
use crate::filter::Filter;
use crate::held::Held;
use crate::host::Host;

/// An address that is let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The address, without a prefix length.
    pub address: IpAddr,
    /// The tag of its owner, `network/containerID/ifname`.
    pub owner: String,
    /// Where it is let through, as in `nftables` or `iptables-nft`.
    pub place: String,
    /// The bridge and the policy that keep the owner apart, if it asked for that.
    pub isolation: Option<(String, String)>,
}

/// Every address with an owner's name on it, in our table and in either kind of iptables. firewalld's
/// sources are in our table, too.
///
/// # Errors
/// A table that is there cannot be read.
pub fn installed() -> Result<Vec<Installed>, CniError> {
    const READING: &str = "cannot read the firewall rules";
    let log = Log::disabled();
    let mut host = Host::open_leniently(&log)?;
    let mut held: Vec<(String, Held)> = Vec::new();
    if let Some(nft) = host.nft_if_any() {
        let found = nftables::installed(nft).map_err(|error| error.into_cni(READING))?;
        held.push(("nftables".to_owned(), found));
    }
    for (version, variant) in host.filters().map_err(|error| error.into_cni(READING))? {
        let dump =
            host.filter.read_ours(version, variant).map_err(|error| error.into_cni(READING))?;
        held.push((variant.to_string(), iptables::installed(&Filter::of_plugins(dump))));
    }
    let members: HashMap<String, (String, String)> =
        held.iter().flat_map(|(_, held)| held.members.iter().cloned()).collect();
    let of_place = |(place, held): (String, Held)| {
        let members = &members;
        held.admitted.into_iter().map(move |(address, owner)| {
            let isolation = members.get(&owner).cloned();
            Installed { address, owner, place: place.clone(), isolation }
        })
    };
    Ok(held.into_iter().flat_map(of_place).collect())
}
