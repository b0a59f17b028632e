//! What an attachment owns in the table, and how it goes: DEL and GC.

use cni_common::cni::protocol::CniError;
use cni_common::cni::{Failure as _, OwnerTag, Stale};
use cni_common::kernel::nft::{
    Element, Elements, Generation, Nft, NftError, Object, Set, Transaction, Value, Verb, keys_only,
    lookup,
};
use cni_common::kernel::retry::retry;

use super::elements::{Content, mappings, owner_key};
use super::layout::{self, TABLE};
use crate::plan::Mapping;

/// Removes what carries the tag. `known` keys are looked up first; only if they are not all of
/// it, the maps are read. Returns the mappings that were removed.
pub(super) fn remove(
    nft: &mut dyn Nft,
    tag: &OwnerTag,
    known: Option<&Content>,
) -> Result<Vec<Mapping>, CniError> {
    const DOING: &str = "cannot remove the port mappings";
    let outcome = retry(|| {
        let generation = nft.generation()?;
        let owned = elements_of(nft, tag, known)?;
        delete_at(nft, generation, &owned)?;
        Ok(mappings(&owned))
    });
    outcome.map_err(|error: NftError| error.into_cni(DOING))
}

fn delete_at(
    nft: &mut dyn Nft,
    generation: Generation,
    elements: &Elements,
) -> Result<(), NftError> {
    let mut transaction = Transaction::new();
    for (set, elements) in elements {
        transaction.elements(Verb::Delete, &TABLE, set, keys_only(elements));
    }
    if transaction.is_empty() {
        return Ok(());
    }
    transaction.generation = Some(generation);
    nft.commit(&transaction)
}

/// Every element that carries the tag.
pub(super) fn elements_of(
    nft: &mut dyn Nft,
    tag: &OwnerTag,
    known: Option<&Content>,
) -> Result<Elements, NftError> {
    let attachments = layout::attachments();
    let mut owner = lookup(nft, &TABLE, &attachments, &[owner_key(tag)])?;
    owner.retain(|element| element.is_commented(tag.as_str()));
    let count = owner.first().and_then(owned_count);

    let mut found = Elements::new();
    for (set, elements) in known.into_iter().flat_map(|known| &known.elements) {
        let keys: Vec<_> = elements.iter().map(|element| element.key.clone()).collect();
        let mut held = lookup(nft, &TABLE, set, &keys)?;
        held.retain(|element| element.is_commented(tag.as_str()));
        found.push((set.clone(), held));
    }
    let total: usize = found.iter().map(|(_, elements)| elements.len()).sum();
    match count {
        None if total == 0 => return Ok(Elements::new()),
        Some(count) if total == count => {
            found.push((attachments, owner));
            return Ok(found);
        }
        _ => {}
    }
    all_elements(nft, |comment| comment == tag.as_str())
}

fn owned_count(owner: &Element) -> Option<usize> {
    match owner.data.as_slice() {
        [Value::Mark(count)] => usize::try_from(*count).ok(),
        _ => None,
    }
}

/// All elements of all our maps whose comment passes, by set.
pub(super) fn all_elements(
    nft: &mut dyn Nft,
    mut wanted: impl FnMut(&str) -> bool,
) -> Result<Elements, NftError> {
    let mut found = Elements::new();
    for set in our_sets(nft)? {
        let mut elements = nft.elements(&TABLE, &set)?;
        elements.retain(|element| element.comment.as_deref().is_some_and(&mut wanted));
        found.push((set, elements));
    }
    Ok(found)
}

fn our_sets(nft: &mut dyn Nft) -> Result<Vec<Set>, NftError> {
    let names = nft.sets(&TABLE)?;
    Ok(names.iter().filter_map(|name| layout::set_by_name(name)).collect())
}

/// GC: removes what is stale, and the table itself once it holds nothing and its guard has nothing to guard: `needs_guard` tells. Returns the
/// mappings that were removed.
pub(super) fn collect_garbage(
    nft: &mut dyn Nft,
    stale: &Stale,
    needs_guard: impl Fn() -> bool,
) -> Result<Vec<Mapping>, CniError> {
    const DOING: &str = "cannot collect stale port mappings";
    let outcome = retry(|| {
        let generation = nft.generation()?;
        let all = all_elements(nft, |_| true)?;
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let is_stale =
            |element: &&Element| element.comment.as_deref().is_some_and(|c| stale.includes(c));
        let of_set = |(set, elements): &(Set, Vec<Element>)| {
            (set.clone(), elements.iter().filter(is_stale).cloned().collect())
        };
        let stale: Elements = all.iter().map(of_set).collect();
        let count =
            |list: &Elements| list.iter().map(|(_, elements)| elements.len()).sum::<usize>();
        // The guard's reason is asked for after the generation: an ADD sets it after its commit.
        if count(&stale) == count(&all) && nothing_else(nft, &all)? && !needs_guard() {
            delete_table_at(nft, generation)?;
        } else {
            delete_at(nft, generation, &stale)?;
        }
        Ok(mappings(&stale))
    });
    outcome.map_err(|error: NftError| error.into_cni(DOING))
}

/// Elements without a comment, or in sets that are not ours, keep the table.
fn nothing_else(nft: &mut dyn Nft, all: &Elements) -> Result<bool, NftError> {
    for (set, tagged) in all {
        if nft.elements(&TABLE, set)?.len() != tagged.len() {
            return Ok(false);
        }
    }
    let known = |name: &String| name.starts_with("__set") || layout::set_by_name(name).is_some();
    Ok(nft.sets(&TABLE)?.iter().all(known))
}

fn delete_table_at(nft: &mut dyn Nft, generation: Generation) -> Result<(), NftError> {
    let mut transaction = Transaction::new();
    transaction.push(Verb::Delete, &TABLE, Object::Table(None));
    transaction.generation = Some(generation);
    nft.commit(&transaction)
}
