//! CHECK compares what is there with what must be, exactly; STATUS lets the kernel try it.

use std::collections::HashMap;

use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::cni::{Failure as _, Finding};
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::compare::{chain_mismatches, element_mismatch};
use cni_common::kernel::nft::{Nft, NftError, Table, lookup};

use super::Wanted;
use super::add::whole_table;
use super::elements::{Content, mappings};
use super::layout::{self, Layout, Scope, TABLE};
use super::owned;

/// Compares the table with what is wanted.
pub(super) fn check(nft: &mut dyn Nft, wanted: &Wanted) -> Result<Finding, CniError> {
    find(nft, wanted).map_err(|error| error.into_cni("cannot read the port mappings"))
}

fn find(nft: &mut dyn Nft, wanted: &Wanted) -> Result<Finding, NftError> {
    let content = &wanted.content;
    if content.is_empty() {
        let owned = mappings(&owned::elements_of(nft, &content.tag, None)?);
        let mismatches =
            owned.iter().map(|mapping| format!("mapping {mapping} should not be there"));
        return Ok(Finding::of(mismatches.collect()));
    }
    let mut mismatches = element_mismatches(nft, content)?;
    mismatches.extend(chain_mismatches(nft, &TABLE, &wanted.layout.chains())?);
    if mismatches.is_empty() {
        return Ok(Finding::Sound);
    }
    let owned = owned::elements_of(nft, &content.tag, Some(content))?;
    let is_absent = owned.iter().all(|(_, elements)| elements.is_empty());
    Ok(if is_absent { Finding::Absent } else { Finding::Mismatches(mismatches) })
}

fn element_mismatches(nft: &mut dyn Nft, content: &Content) -> Result<Vec<String>, NftError> {
    let mut mismatches = Vec::new();
    let mut siblings = Vec::new();
    for (set, elements) in &content.elements {
        let keys: Vec<_> = elements.iter().map(|element| element.key.clone()).collect();
        let held: HashMap<_, _> = lookup(nft, &TABLE, set, &keys)?
            .into_iter()
            .map(|element| (element.key.clone(), element))
            .collect();
        for wanted in elements {
            match held.get(&wanted.key) {
                Some(held) if content.tag.is_sibling(held.owner()) => siblings.push(held.clone()),
                held => mismatches.extend(element_mismatch(&TABLE, set, wanted, held)),
            }
        }
    }
    let (attachments, owner) = (layout::attachments(), content.without(&siblings).owner_element());
    let held = lookup(nft, &TABLE, &attachments, std::slice::from_ref(&owner.key))?;
    mismatches.extend(element_mismatch(&TABLE, &attachments, &owner, held.first()));
    Ok(mismatches)
}

/// STATUS: lets the kernel try the whole table, and looks whether the real one is sound.
pub(super) fn status(nft: &mut dyn Nft, sample: &Wanted) -> Result<(), CniError> {
    let probe = whole_table(sample).in_table(&Table::new(TABLE.family, "cni_portmap_probe"));
    nft.validate(&probe).map_err(|error| {
        let remedy = error.remedy();
        CniError::new(ErrorCode::NotAvailable, format!("portmap cannot use nf_tables: {remedy}"))
            .with_details(error.to_string())
    })?;
    let unreadable = |error: NftError| {
        CniError::new(
            ErrorCode::NotAvailable,
            format!("portmap cannot read table {TABLE}: {}", error.remedy()),
        )
        .with_details(error.to_string())
    };
    if nft.elements(&TABLE, &layout::attachments()).map_err(unreadable)?.is_empty() {
        return Ok(());
    }
    let names = nft.sets(&TABLE).map_err(unreadable)?;
    if !names.contains(&Scope::shared().by_port(IpVersion::V4).name) {
        return Ok(());
    }
    let expected = Layout::shared().chains();
    let mismatches = chain_mismatches(nft, &TABLE, &expected).map_err(unreadable)?;
    let Some(first) = mismatches.first() else { return Ok(()) };
    Err(CniError::new(
        ErrorCode::LimitedConnectivity,
        format!("mapped ports may not work: {first}; the next ADD restores the table"),
    )
    .with_details(mismatches.join("; ")))
}
