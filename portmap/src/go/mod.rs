//! What the Go plugin of the same name made (1.0 to 1.9): found, judged and removed.
//!
//! Its nftables backend has tables of its own. Its iptables chains have the names of ours, so the
//! iptables backend removes both; here they are only judged.

mod chains;
mod table;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_common::cni::protocol::CniError;
use cni_common::cni::{Attachment, Failure as _, Finding, Holder, Stale};
use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{IptablesError, Variant};
use cni_common::kernel::nft::NftError;

use crate::backend::iptables::{GoRules, Place, TABLE, that_may_have};
use crate::host::Host;
use crate::plan::{Held, Mapping, Masquerade, Plan};

/// The Go plugin's tables and chains.
pub(crate) struct Go;

impl Holder<Host<'_>, Plan> for Go {
    fn name(&self) -> &'static str {
        "the Go plugin's rules"
    }

    /// Each family counts for itself: a host may have one kind of iptables for IPv4 and the other
    /// for IPv6.
    fn check(&self, host: &mut Host<'_>, plan: &Plan) -> Result<Finding, CniError> {
        let mut is_absent = true;
        let mut mismatches = Vec::new();
        for version in IpVersion::ALL {
            let Some(rules) = GoRules::new(plan, version) else { continue };
            // Rules left behind in one place do no harm to complete ones in another.
            let places = missing_by_place(host, plan, version, &rules)?;
            is_absent &= places.is_empty();
            mismatches.extend(places.into_iter().min_by_key(Vec::len).unwrap_or_else(|| {
                vec![format!("the Go plugin has no {version} rules of {}", plan.attachment.tag())]
            }));
        }
        Ok(if is_absent { Finding::Absent } else { Finding::of(mismatches) })
    }

    /// Never fails: what cannot be reached is said in a warning.
    fn remove(
        &self,
        host: &mut Host<'_>,
        attachment: &Attachment,
        known: Option<&Plan>,
    ) -> Result<(), CniError> {
        let log = host.log;
        let Ok(Some(nft)) = host.nft_if_any() else { return Ok(()) };
        let addresses = known.map(|plan| plan.addresses.bare()).unwrap_or_default();
        if let Err(error) = table::remove(nft, &attachment.container_id, &addresses) {
            log.warn(format!(
                "cannot remove the Go portmap's nftables rules of {}: {error}",
                attachment.tag()
            ));
        }
        Ok(())
    }

    /// Never fails, as `remove` does not. What is stale cannot be told: its nftables rules name no
    /// network.
    fn collect_garbage(&self, host: &mut Host<'_>, _stale: &Stale) -> Result<(), CniError> {
        let log = host.log;
        let Ok(Some(nft)) = host.nft_if_any() else { return Ok(()) };
        if let Err(error) = table::remove_if_empty(nft) {
            log.warn(format!("cannot remove the Go portmap's empty nftables table: {error}"));
        }
        Ok(())
    }
}

impl Go {
    /// Every mapping of other containers in its nftables tables; those in its chains are the iptables
    /// backend's to find. What its rules name stands for the owner.
    pub(crate) fn mappings(
        host: &mut Host<'_>,
        attachment: &Attachment,
    ) -> Result<Vec<Held>, CniError> {
        let Some(nft) = host.nft_if_any()? else { return Ok(Vec::new()) };
        let mut found = table::mappings(nft)
            .map_err(|error| error.into_cni("cannot read the Go portmap's nftables rules"))?;
        found.retain(|(_, container_id)| *container_id != attachment.container_id);
        let held = |(mapping, container_id)| {
            (mapping, format!("{container_id}, which the Go plugin mapped,"))
        };
        Ok(found.into_iter().map(held).collect())
    }
}

/// What is missing in each place that holds anything of the attachment.
fn missing_by_place(
    host: &mut Host<'_>,
    plan: &Plan,
    version: IpVersion,
    rules: &GoRules,
) -> Result<Vec<Vec<String>>, CniError> {
    let log = host.log;
    let in_table = in_table(host, plan, version).unwrap_or_else(|error| {
        log.warn(format!("cannot read the Go portmap's nftables rules: {error}"));
        None
    });
    let mut missing = vec![in_table];
    let chain = std::slice::from_ref(&rules.names.go_chain);
    let places = that_may_have(host.nft_if_any()?, chain)
        .map_err(|error| error.into_cni("cannot look for the Go plugin's rules"))?;
    for place in places.into_iter().filter(|place| place.version == version) {
        missing.push(in_chains(place, rules).unwrap_or_else(|error| {
            if place.variant == Variant::Nft {
                let chain = &rules.names.go_chain;
                return Some(vec![format!(
                    "chain {chain} of iptables-nft cannot be read: {error}"
                )]);
            }
            log.warn(format!("cannot look for rules in legacy iptables: {error}"));
            None
        }));
    }
    Ok(missing.into_iter().flatten().collect())
}

fn in_table(
    host: &mut Host<'_>,
    plan: &Plan,
    version: IpVersion,
) -> Result<Option<Vec<String>>, NftError> {
    let Ok(Some(nft)) = host.nft_if_any() else { return Ok(None) };
    let mappings: Vec<Mapping> = plan.mappings_of(version).copied().collect();
    let id = &plan.attachment.container_id;
    table::mismatches(nft, version, id, &mappings, &masqueraded(plan, version))
}

fn in_chains(place: Place, rules: &GoRules) -> Result<Option<Vec<String>>, IptablesError> {
    Ok(chains::mismatches(&place.open()?.save(TABLE)?, rules))
}

/// The sources and destinations of connections that the Go plugin's nftables backend masquerades.
fn masqueraded(plan: &Plan, version: IpVersion) -> Vec<(IpAddr, IpAddr)> {
    let Some(container) = plan.container(version).map(|network| network.addr()) else {
        return Vec::new();
    };
    let sources: Vec<IpAddr> = match (plan.masquerade, version) {
        (Masquerade::Nobody, _) => Vec::new(),
        (Masquerade::Everybody, IpVersion::V4) => vec![Ipv4Addr::UNSPECIFIED.into()],
        (Masquerade::Everybody, IpVersion::V6) => vec![Ipv6Addr::UNSPECIFIED.into()],
        (Masquerade::Hairpin, IpVersion::V4) => vec![container, Ipv4Addr::LOCALHOST.into()],
        (Masquerade::Hairpin, IpVersion::V6) => vec![container],
    };
    sources.into_iter().map(|source| (source, container)).collect()
}
