//! Compares our table with what ADD makes of it.

use cni_common::cni::Finding;
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::compare::{chain_mismatches_in, element_mismatch, has_rule};
use cni_common::kernel::nft::{Nft, NftError, Numbered, has_older_layout};

use super::admission::owned_in;
use super::bridges::bridge_mismatches;
use super::elements;
use super::forward_chains;
use super::layout::{self, TABLE};
use super::number::{refuse_newer, refuse_newer_by};
use crate::plan::Plan;

/// CHECK: compares what is there with the plan, exactly.
pub(crate) fn check(nft: &mut dyn Nft, plan: &Plan) -> Result<Finding, NftError> {
    let (is_there, mut mismatches) = element_mismatches(nft, plan)?;
    if !is_there {
        if refuse_newer(nft)? == Numbered::Not {
            mismatches.extend(chain_mismatches(nft, None)?);
            return Ok(Finding::Mismatches(mismatches));
        }
        return Ok(Finding::Absent);
    }
    if let Some(isolation) = &plan.isolation {
        mismatches.extend(bridge_mismatches(nft, isolation)?);
    } else {
        let member = [(layout::members(), vec![elements::owner_key(&plan.tag)])];
        if owned_in(nft, &member, &plan.tag)?.iter().any(|(_, held)| !held.is_empty()) {
            mismatches.push(format!("map {TABLE} members still isolates this attachment's bridge"));
        }
    }
    mismatches.extend(chain_mismatches(nft, Some(&plan.admin_chain))?);
    mismatches.extend(forward_chains::mismatches(nft, plan)?);
    Ok(Finding::of(mismatches))
}

/// Whether any element is the attachment's, and how they differ from those wanted.
fn element_mismatches(nft: &mut dyn Nft, plan: &Plan) -> Result<(bool, Vec<String>), NftError> {
    let mut expected =
        vec![(layout::attachments(), elements::attachment_element(&plan.tag, &plan.addresses))];
    for address in &plan.addresses {
        let element = elements::container_element(*address, &plan.tag);
        expected.push((layout::containers(IpVersion::of(*address)), element));
    }
    if let Some(isolation) = &plan.isolation {
        let member = elements::member_element(&plan.tag, &isolation.bridge, isolation.policy);
        expected.push((layout::members(), member));
    }
    let places: Vec<_> =
        expected.iter().map(|(set, wanted)| (set, wanted.key.as_slice())).collect();
    let (mut is_there, mut mismatches) = (false, Vec::new());
    for ((set, wanted), held) in expected.iter().zip(nft.elements_in(&TABLE, &places)?) {
        let held = held.as_ref();
        is_there |= held.is_some_and(|element| plan.tag.owns(element));
        if !held.is_some_and(|element| plan.tag.has(wanted, element)) {
            mismatches.extend(element_mismatch(&TABLE, set, wanted, held));
        }
    }
    Ok((is_there, mismatches))
}

/// How the chains differ from those that ADD makes, and, if it is given, the way to the
/// administrator's chain. What others put into the administrators' chains does not count. A table of a
/// newer version is an error.
pub(super) fn chain_mismatches(
    nft: &mut dyn Nft,
    admin_chain: Option<&str>,
) -> Result<Vec<String>, NftError> {
    let installed = nft.rules(&TABLE)?;
    let numbered = refuse_newer_by(&installed)?;
    let mut mismatches = chain_mismatches_in(nft, &TABLE, &layout::chains(), &installed)?;
    if numbered == Numbered::Not && mismatches.is_empty() {
        mismatches.push(has_older_layout(&TABLE));
    }
    if let Some(name) = admin_chain
        && !has_rule(&TABLE, &installed, &layout::admin_jump(name))
    {
        mismatches.push(format!("chain {TABLE} {} does not jump to {name}", layout::ADMIN));
    }
    Ok(mismatches)
}
