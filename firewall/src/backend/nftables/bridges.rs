//! What bridges do in the packet path. It is shared by their attachments, so whoever changes it
//! first reads how many there are, and commits bound to the generation that it read.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::compare::element_mismatch;
use cni_common::kernel::nft::object::concatenation;
use cni_common::kernel::nft::{
    Element, Elements, Nft, NftError, Transaction, Verb, keys_only, lookup,
};

use super::elements;
use super::layout::{self, TABLE};
use crate::backend::counts::PolicyCounts;
use crate::config::Policy;
use crate::plan::{Isolation, Plan};

/// Counts the attachment out of the bridge that it was on, and into the one that it is on.
pub(super) fn change_bridges(
    nft: &mut dyn Nft,
    before: Option<&(String, Policy)>,
    plan: &Plan,
    transaction: &mut Transaction,
) -> Result<(), NftError> {
    let after = plan.isolation.as_ref();
    let mut bridges = BTreeMap::new();
    if let Some((bridge, policy)) = before {
        let counts = read_counts(nft, bridge)?;
        bridges.insert(bridge.clone(), counts.minus(*policy));
    }
    if let Some(isolation) = after {
        let counts = match bridges.get(&isolation.bridge) {
            Some(counts) => *counts,
            None => read_counts(nft, &isolation.bridge)?,
        };
        bridges.insert(isolation.bridge.clone(), counts.plus(isolation.policy));
    }
    for (bridge, counts) in &bridges {
        set_counts(nft, bridge, *counts, transaction)?;
    }
    after.map_or(Ok(()), |isolation| {
        claim_gateways(nft, &isolation.bridge, &isolation.gateways, transaction)
    })
}

/// What the attachment had its bridge do.
pub(super) fn earlier_isolation(
    nft: &mut dyn Nft,
    membership: Option<&(String, Policy)>,
    plan: &Plan,
) -> Result<Option<Isolation>, NftError> {
    let Some((bridge, policy)) = membership else { return Ok(None) };
    let same = plan.isolation.as_ref().filter(|isolation| isolation.bridge == *bridge);
    let gateways = match same {
        Some(isolation) => isolation.gateways.clone(),
        None => gateways_of(nft, bridge)?
            .iter()
            .flat_map(|(_, held)| held)
            .filter_map(elements::address)
            .collect(),
    };
    Ok(Some(Isolation { bridge: bridge.clone(), policy: *policy, gateways }))
}

/// As many as there are isolating bridges are looked at, not as there are containers.
fn gateways_of(nft: &mut dyn Nft, bridge: &str) -> Result<Elements, NftError> {
    let mut found = Elements::new();
    for version in IpVersion::ALL {
        let set = layout::gateways(version);
        let mut held = nft.elements(&TABLE, &set)?;
        held.retain(|element| element.comment.as_deref() == Some(bridge));
        found.push((set, held));
    }
    Ok(found)
}

pub(super) fn read_counts(nft: &mut dyn Nft, bridge: &str) -> Result<PolicyCounts, NftError> {
    let held = lookup(nft, &TABLE, &layout::bridges(), &[elements::bridge_key(bridge)])?;
    Ok(held.first().and_then(elements::counts).unwrap_or_default())
}

/// Makes the packet path hold what these counts mean.
pub(super) fn set_counts(
    nft: &mut dyn Nft,
    bridge: &str,
    counts: PolicyCounts,
    transaction: &mut Transaction,
) -> Result<(), NftError> {
    let set = layout::bridges();
    let held = lookup(nft, &TABLE, &set, &[elements::bridge_key(bridge)])?;
    transaction.elements(Verb::Delete, &TABLE, &set, keys_only(&held));
    if !counts.is_none() {
        transaction.elements(
            Verb::Create,
            &TABLE,
            &set,
            vec![elements::counts_element(bridge, counts)],
        );
    }
    for (set, key, wanted) in elements::lookups(bridge, counts) {
        let held = lookup(nft, &TABLE, &set, std::slice::from_ref(&key))?;
        let element = Element { key, data: Vec::new(), comment: None };
        match (wanted, held.is_empty()) {
            (true, true) => transaction.elements(Verb::Create, &TABLE, &set, vec![element]),
            (false, false) => transaction.elements(Verb::Delete, &TABLE, &set, vec![element]),
            _ => {}
        }
    }
    if counts.is_none() {
        for (set, held) in gateways_of(nft, bridge)? {
            transaction.elements(Verb::Delete, &TABLE, &set, keys_only(&held));
        }
    }
    Ok(())
}

fn claim_gateways(
    nft: &mut dyn Nft,
    bridge: &str,
    gateways: &[IpAddr],
    transaction: &mut Transaction,
) -> Result<(), NftError> {
    for gateway in gateways {
        let set = layout::gateways(IpVersion::of(*gateway));
        let wanted = elements::gateway_element(*gateway, bridge);
        let held = lookup(nft, &TABLE, &set, std::slice::from_ref(&wanted.key))?;
        if held.first().is_some_and(|held| held.comment == wanted.comment) {
            continue;
        }
        transaction.elements(Verb::Delete, &TABLE, &set, keys_only(&held));
        transaction.elements(Verb::Create, &TABLE, &set, vec![wanted]);
    }
    Ok(())
}

/// The counts, from the members that remain, of the bridges that stale members were on.
pub(super) fn counts_without(
    stale: &[Element],
    fresh: &[Element],
) -> BTreeMap<String, PolicyCounts> {
    let mut bridges: BTreeMap<String, PolicyCounts> = stale
        .iter()
        .filter_map(elements::membership)
        .map(|(bridge, _)| (bridge, PolicyCounts::default()))
        .collect();
    for (bridge, policy) in fresh.iter().filter_map(elements::membership) {
        if let Some(counts) = bridges.get_mut(&bridge) {
            *counts = counts.plus(policy);
        }
    }
    bridges
}

/// What the packet path lacks of a bridge's isolation.
pub(super) fn bridge_mismatches(
    nft: &mut dyn Nft,
    isolation: &Isolation,
) -> Result<Vec<String>, NftError> {
    let Isolation { bridge, policy, gateways } = isolation;
    let mut mismatches = Vec::new();
    for gateway in gateways {
        let set = layout::gateways(IpVersion::of(*gateway));
        let wanted = elements::gateway_element(*gateway, bridge);
        let held = lookup(nft, &TABLE, &set, std::slice::from_ref(&wanted.key))?;
        mismatches.extend(element_mismatch(&TABLE, &set, &wanted, held.first()));
    }
    let counts = read_counts(nft, bridge)?;
    if counts.count(*policy) == 0 {
        let policy = policy.as_str();
        mismatches.push(format!("map {TABLE} bridges does not count {bridge} as {policy}"));
        return Ok(mismatches);
    }
    for (set, key, wanted) in elements::lookups(bridge, counts) {
        let there = !lookup(nft, &TABLE, &set, std::slice::from_ref(&key))?.is_empty();
        if there != wanted {
            let problem = if wanted { "is missing from" } else { "should not be in" };
            let key = concatenation(&key);
            mismatches.push(format!("element {{ {key} }} {problem} set {TABLE} {}", set.name));
        }
    }
    Ok(mismatches)
}
