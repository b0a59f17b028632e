//! CHECK compares what is there with what must be, exactly; STATUS lets the kernel try it.

use std::collections::HashSet;

use cni_common::cni::failure::not_available_beside;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::cni::{Failure as _, Finding};
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::compare::element_mismatch;
use cni_common::kernel::nft::{
    Element, Nft, NftError, Set, Table, Value, look, lookup_all, will_be_taken_over,
};
use cni_common::kernel::retry::retry;

use super::Wanted;
use super::add::whole_table;
use super::claims::Claim;
use super::elements::{
    Account, Content, describe, index, is_mapping, keys_of, mapping_of, mappings, owner_key,
    target_key,
};
use super::entry::Split;
use super::layout::Layout;
use super::number::refuse_newer;
use super::older::takeover;
use super::repair::{damage, repair};
use super::sets::{self, Scope, TABLE};
use super::{claims, owned};
use crate::backend::conflict;
use crate::plan::Held;

/// Compares the table with what is wanted. Tells also which of the ports other containers hold.
pub(super) fn check(
    nft: &mut dyn Nft,
    wanted: &Wanted<'_>,
) -> Result<(Finding, Vec<Held>), CniError> {
    let is_sound = |(finding, _): &(Finding, Vec<Held>)| *finding == Finding::Sound;
    look(nft, |nft| find(nft, wanted), is_sound)
        .map_err(|error| error.into_cni("cannot read the port mappings"))
}

fn find(nft: &mut dyn Nft, wanted: &Wanted<'_>) -> Result<(Finding, Vec<Held>), NftError> {
    let content = &wanted.content;
    if content.is_empty() {
        refuse_newer(nft)?;
        let owned = owned::of(nft, &content.tag, None)?.elements;
        let own = mappings(&Split::new(&owned, &content.scope).own);
        let mismatches = own.iter().map(|mapping| format!("mapping {mapping} should not be there"));
        return Ok((Finding::of(mismatches.collect()), Vec::new()));
    }
    let (mut mismatches, held) = element_mismatches(nft, content)?;
    mismatches.extend(damage(nft, &wanted.layout)?.into_mismatches());
    if mismatches.is_empty() {
        return Ok((Finding::Sound, held));
    }
    let owned = owned::of(nft, &content.tag, Some(content))?.elements;
    let is_absent = owned.iter().all(|(_, elements)| elements.is_empty());
    let finding = if is_absent { Finding::Absent } else { Finding::Mismatches(mismatches) };
    Ok((finding, held))
}

fn element_mismatches(
    nft: &mut dyn Nft,
    content: &Content,
) -> Result<(Vec<String>, Vec<Held>), NftError> {
    let tag = &content.tag;
    let sources = content.sources();
    let mut keys = content.keys();
    keys.extend(sources.iter().map(keys_of));
    let found = lookup_all(nft, &TABLE, &keys)?;
    let at = index(&found);
    let attachments = (sets::attachments(), owner_key(tag));
    let own = at.get(&(attachments.0.name.as_str(), attachments.1.as_slice())).copied();
    let account = own.filter(|own| tag.owns(own)).and_then(Account::of);
    let claims = match account {
        Some(account) if account.conflicts => claims::read(nft)?,
        _ => Vec::new(),
    };
    let waits = |set: &Set, element: &Element| {
        let mut own = claims.iter().filter(|claim| tag.owns(&claim.element));
        own.any(|claim| claim.is_for(set, &element.key))
    };
    let (mut mismatches, mut held) = (Vec::new(), Vec::new());
    let mut elsewhere = 0;
    for (set, elements) in &content.elements {
        for wanted in elements {
            match at.get(&(set.name.as_str(), wanted.key.as_slice())).copied() {
                Some(other) if is_mapping(wanted) && tag.is_sibling(other.owner()) => {
                    elsewhere += 1;
                }
                Some(other) if is_mapping(wanted) && !tag.owns(other) => {
                    held.extend(mapping_of(wanted).map(|m| (m, other.owner().to_owned())));
                    if waits(set, wanted) {
                        elsewhere += 1;
                    } else {
                        mismatches.push(claim_mismatch(wanted));
                    }
                }
                Some(other) if tag.has(wanted, other) => {}
                other => mismatches.extend(element_mismatch(&TABLE, set, wanted, other)),
            }
        }
    }
    for (set, sources) in &sources {
        let is_missing =
            |source: &&Element| !at.contains_key(&(set.name.as_str(), source.key.as_slice()));
        let missing = sources.iter().filter(is_missing);
        mismatches.extend(missing.filter_map(|source| element_mismatch(&TABLE, set, source, None)));
    }
    let waiting = waiting(&claims, content);
    let mut count = content.len() - elsewhere + waiting.len();
    let is_right =
        |count| account.is_some_and(|account| account.count == Account::new(count, false).count);
    if !is_right(count) {
        count += of_other_entries(nft, content, &waiting)?;
    }
    if !is_right(count) {
        let expected = Account::new(count, account.is_some_and(|account| account.conflicts));
        let expected = expected.element(tag.as_str());
        mismatches.extend(element_mismatch(&TABLE, &attachments.0, &expected, own));
    }
    Ok((mismatches, held))
}

/// That a mapping neither serves nor waits.
fn claim_mismatch(wanted: &Element) -> String {
    let version = mapping_of(wanted).map_or(IpVersion::V4, |mapping| mapping.version());
    format!(
        "claim to {} is missing from map {TABLE} {}",
        describe(wanted),
        sets::claims(version).name
    )
}

/// The elements that the owner has because of mappings of this entry that wait: these, and their
/// targets, unless the content has them anyway.
fn waiting(claims: &[Claim], content: &Content) -> HashSet<(String, Vec<Value>)> {
    let Content { tag, scope, .. } = content;
    let own = claims.iter().filter(|claim| tag.owns(&claim.element) && claim.is_in(scope));
    let mut waiting = HashSet::new();
    let there = content.index();
    for claim in own {
        waiting.extend(claim.waiting().map(|(set, element)| (set.name, element.key)));
        let Some(mapping) = mapping_of(&claim.element) else { continue };
        let target = (scope.targets(mapping.version()).name, target_key(&mapping));
        if !there.contains_key(&(target.0.as_str(), target.1.as_slice())) {
            waiting.insert(target);
        }
    }
    waiting
}

/// How many elements the owner has because of other portmap entries of its list, and of no mapping of
/// this one's.
fn of_other_entries(
    nft: &mut dyn Nft,
    content: &Content,
    waiting: &HashSet<(String, Vec<Value>)>,
) -> Result<usize, NftError> {
    let owned = owned::of(nft, &content.tag, Some(content))?.elements;
    let wanted = content.index();
    let is_own = |set: &Set, element: &Element| {
        wanted.contains_key(&(set.name.as_str(), element.key.as_slice()))
            || waiting.contains(&(set.name.clone(), element.key.clone()))
    };
    Ok(Split::new(&owned, &content.scope).others_by(is_own).1)
}

/// STATUS: lets the kernel try the whole table, and what ADD does with the one that is there if its
/// chains are not as they have to be. What the next ADD repairs is a warning.
pub(super) fn status(nft: &mut dyn Nft, sample: &Wanted<'_>, log: &Log) -> Result<(), CniError> {
    if let Err(NftError::Newer(newer)) = refuse_newer(nft) {
        return Err(not_available_beside(newer));
    }
    let probe = whole_table(sample, &sample.layout)
        .in_table(&Table::new(TABLE.family, "cni_portmap_probe"));
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
    let accounts = nft.elements(&TABLE, &sets::attachments()).map_err(unreadable)?;
    if accounts.is_empty() {
        return Ok(());
    }
    if accounts.iter().filter_map(Account::of).any(|account| account.conflicts) {
        conflict::tell_waiting(&claims::waiting(nft).map_err(unreadable)?, log);
    }
    let names = nft.sets(&TABLE).map_err(unreadable)?;
    if !names.contains(&Scope::shared().by_port(IpVersion::V4).name) {
        return Ok(());
    }
    let layout = Layout::shared();
    let damage = damage(nft, &layout).map_err(unreadable)?;
    let Some(first) = damage.mismatches.first() else { return Ok(()) };
    let repaired = retry(|| {
        let repair = match takeover(nft, &layout)? {
            Some(takeover) => takeover,
            None => repair(nft, &layout)?,
        };
        nft.validate(&repair)
    });
    repaired.map_err(|error| {
        CniError::new(
            ErrorCode::LimitedConnectivity,
            format!("mapped ports may not work, and ADD cannot put it right: {first}"),
        )
        .with_details(error.to_string())
    })?;
    log.warn(if damage.is_older {
        will_be_taken_over(&TABLE)
    } else {
        format!("mapped ports may not work: {first}; the next ADD, or cni-chain restore, puts the table right")
    });
    Ok(())
}
