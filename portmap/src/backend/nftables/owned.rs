//! What an attachment owns in the table, and how it goes.

use cni_common::cni::log::Log;
use cni_common::cni::protocol::CniError;
use cni_common::cni::{Failure as _, OwnerTag};
use cni_common::kernel::nft::{
    Element, Elements, Generation, Nft, NftError, Set, Transaction, Verb, keys_only, lookup_all,
    unchanged_since,
};
use cni_common::kernel::retry::retry;

use super::claims::{self, Claim};
use super::elements::{Account, Content, describe, is_mapping, mapping_of, mappings, owner_key};
use super::entry::Split;
use super::sets::{self, TABLE};
use super::sources;
use crate::plan::{Held, Mapping};

/// Everything of one owner.
#[derive(Debug, Default)]
pub(super) struct Owned {
    /// With the one in `attachments`, and those that wait.
    pub(super) elements: Elements,
    /// All claims, whose ever they are, if the owner has to do with any.
    pub(super) claims: Vec<Claim>,
    pub(super) conflicts: bool,
}

/// Removes what carries the owner's tag, and puts in its place what waited for it. `known` keys are
/// looked up first; only if they are not all of it, the maps are read. Returns the mappings that
/// were removed.
pub(super) fn remove(
    nft: &mut dyn Nft,
    tag: &OwnerTag,
    known: Option<&Content>,
    log: &Log,
) -> Result<Vec<Mapping>, CniError> {
    let outcome = retry(|| {
        let generation = nft.generation()?;
        let owned = of(nft, tag, known)?;
        let others: Vec<Claim> =
            owned.claims.into_iter().filter(|claim| !tag.owns(&claim.element)).collect();
        let heirs = claims::heirs(each(&owned.elements), &others);
        let gone = with_sources(nft, owned.elements)?;
        commit(nft, &removal(generation, &gone, &heirs))?;
        Ok((mappings(&gone), heirs))
    });
    let (removed, heirs) =
        outcome.map_err(|error: NftError| error.into_cni("cannot remove the port mappings"))?;
    tell(&heirs, log);
    Ok(removed)
}

/// Removes what one entry of the attachment's list made, and spares what others did. Returns the
/// mappings that were removed.
pub(super) fn remove_entry(
    nft: &mut dyn Nft,
    content: &Content,
    log: &Log,
) -> Result<Vec<Mapping>, CniError> {
    let outcome = retry(|| {
        let generation = nft.generation()?;
        let owned = of(nft, &content.tag, Some(content))?;
        let split = Split::new(&owned.elements, &content.scope);
        let left = split.others_count();
        let others = owned.claims.iter().filter(|claim| !content.tag.owns(&claim.element));
        let heirs = claims::heirs(each(&split.own), &others.cloned().collect::<Vec<_>>());
        let is_account = |(set, _): (&Set, &Element)| *set == sets::attachments();
        if left > 0 && each(&split.own).all(is_account) {
            return Ok((Vec::new(), Vec::new()));
        }
        let gone = with_sources(nft, split.own)?;
        let mut transaction = removal(generation, &gone, &heirs);
        if left > 0 {
            let account = Account::new(left, owned.conflicts).element(content.tag.as_str());
            transaction.elements(Verb::Create, &TABLE, &sets::attachments(), vec![account]);
        }
        commit(nft, &transaction)?;
        Ok((mappings(&gone), heirs))
    });
    let (removed, heirs) =
        outcome.map_err(|error: NftError| error.into_cni("cannot remove the port mappings"))?;
    tell(&heirs, log);
    Ok(removed)
}

/// Elements that go, and the sources that go with them.
fn with_sources(nft: &mut dyn Nft, mut gone: Elements) -> Result<Elements, NftError> {
    let sources = sources::of_addresses(nft, each(&gone))?;
    gone.extend(sources);
    Ok(gone)
}

/// Says who serves again.
pub(super) fn tell(heirs: &[Claim], log: &Log) {
    for Claim { element, .. } in heirs {
        let mapping = describe(element);
        log.warn(format!(
            "host port mapping {mapping} of attachment {} serves again",
            element.owner()
        ));
    }
}

pub(super) fn each(elements: &Elements) -> impl Iterator<Item = (&Set, &Element)> {
    elements.iter().flat_map(|(set, elements)| elements.iter().map(move |element| (set, element)))
}

/// Deletes elements and lets claims take their places, if nothing moved since the generation.
pub(super) fn removal(generation: Generation, elements: &Elements, heirs: &[Claim]) -> Transaction {
    let mut transaction = Transaction { generation: Some(generation), ..Transaction::new() };
    for (set, elements) in elements {
        transaction.elements(Verb::Delete, &TABLE, set, keys_only(elements));
    }
    promote(&mut transaction, heirs);
    transaction
}

/// Commits what there is to commit. That there is nothing is true as long as nothing changed.
pub(super) fn commit(nft: &mut dyn Nft, transaction: &Transaction) -> Result<(), NftError> {
    match transaction.generation {
        Some(generation) if transaction.is_empty() => unchanged_since(nft, generation),
        _ => nft.commit(transaction),
    }
}

/// Lets claims take the places that they waited for.
pub(super) fn promote(transaction: &mut Transaction, heirs: &[Claim]) {
    for heir in heirs {
        if let Some((set, waiting)) = heir.waiting() {
            transaction.elements(Verb::Delete, &TABLE, &set, keys_only([&waiting]));
            transaction.elements(Verb::Create, &TABLE, &heir.map, vec![heir.element.clone()]);
        }
    }
}

/// Every element of the owner.
pub(super) fn of(
    nft: &mut dyn Nft,
    tag: &OwnerTag,
    known: Option<&Content>,
) -> Result<Owned, NftError> {
    let is_own = |element: &Element| tag.owns(element);
    let attachments = || vec![(sets::attachments(), vec![owner_key(tag)])];
    let keys = known.map_or_else(attachments, Content::keys);
    let mut found = lookup_all(nft, &TABLE, &keys)?;
    for (_, elements) in &mut found {
        elements.retain(is_own);
    }
    let account = each(&found).find_map(|(_, element)| Account::of(element));
    let conflicts = account.is_some_and(|account| account.conflicts);
    let claims = if conflicts { claims::read(nft)? } else { Vec::new() };
    let waiting = claims.iter().filter(|claim| is_own(&claim.element));
    found.extend(waiting.filter_map(Claim::waiting).map(|(set, element)| (set, vec![element])));
    let total = each(&found).count();
    match account {
        None if total == 0 => return Ok(Owned::default()),
        // The account itself is one of them.
        Some(account) if total == account.count as usize + 1 => {
            return Ok(Owned { elements: found, claims, conflicts });
        }
        _ => {}
    }
    let elements = all(nft, is_own)?;
    // Without an account, nobody knows whether there are conflicts.
    let claims = if account.is_none() { claims::read(nft)? } else { claims };
    Ok(Owned { elements, claims, conflicts })
}

/// All elements of all our maps that pass, by set.
pub(super) fn all(
    nft: &mut dyn Nft,
    mut wanted: impl FnMut(&Element) -> bool,
) -> Result<Elements, NftError> {
    let mut found = Elements::new();
    for set in ours(nft)? {
        let mut elements = nft.elements(&TABLE, &set)?;
        elements.retain(&mut wanted);
        found.push((set, elements));
    }
    Ok(found)
}

/// Every mapping that is in force, with its owner.
pub(super) fn held(nft: &mut dyn Nft) -> Result<Vec<Held>, NftError> {
    let elements = all(nft, is_mapping)?;
    let held = each(&elements).map(|(_, element)| element);
    Ok(held.filter_map(|e| Some((mapping_of(e)?, e.owner().to_owned()))).collect())
}

fn ours(nft: &mut dyn Nft) -> Result<Vec<Set>, NftError> {
    let names = nft.sets(&TABLE)?;
    Ok(names.iter().filter_map(|name| sets::by_name(name)).collect())
}
