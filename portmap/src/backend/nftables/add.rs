//! ADD: one transaction in the usual case; a replacement bound to the generation where something
//! is there already.

use std::collections::BTreeMap;

use cni_common::cni::log::Log;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::cni::{Failure as _, OwnerTag};
use cni_common::kernel::nft::compare::chains_are_whole;
use cni_common::kernel::nft::{
    Element, Elements, Generation, Nft, NftError, Transaction, Value, Verb, keys_only, lookup,
};
use cni_common::kernel::retry::{Again, Retry, retry};

use super::Wanted;
use super::elements::{Content, describe, mapping_of, owner_key};
use super::layout::{self, TABLE};
use super::owned;
use crate::config::OnConflict;
use crate::plan::Mapping;

/// Makes exactly what is wanted, which must not be nothing, replacing whatever the attachment had
/// before. Returns the mappings that are now in force: all that are wanted, but for those that
/// another attachment of the same container keeps.
pub(super) fn add(
    nft: &mut dyn Nft,
    wanted: &Wanted,
    on_conflict: OnConflict,
    log: &Log,
) -> Result<Vec<Mapping>, CniError> {
    const DOING: &str = "cannot install the port mappings";
    let content = &wanted.content;
    match nft.commit(&first_try(wanted)) {
        Ok(()) => repair_if_damaged(nft, wanted, log).map_err(|error| {
            // Mappings that no chain looks up are no service. Removing them is best effort: the
            // repair's error is the one to tell.
            let _ = owned::remove(nft, &content.tag, Some(content));
            error.into_cni(DOING)
        })?,
        Err(error) if error.is_missing() => {
            log.debug(|| format!("building table {TABLE}: {error}"));
            match nft.commit(&whole_table(wanted)) {
                Ok(()) => {}
                Err(error) if error.is_exists() => return replace(nft, wanted, on_conflict, log),
                Err(error) => return Err(error.into_cni(DOING)),
            }
        }
        Err(error) if error.is_exists() => return replace(nft, wanted, on_conflict, log),
        Err(error) => return Err(error.into_cni(DOING)),
    }
    Ok(content.mappings())
}

/// The usual case, one transaction and no read: the table is there and no key is taken.
fn first_try(wanted: &Wanted) -> Transaction {
    let mut transaction = Transaction::new();
    wanted.layout.build_own_scope(&mut transaction);
    create(&mut transaction, &wanted.content);
    transaction
}

/// Everything that is wanted, with the table around it.
pub(super) fn whole_table(wanted: &Wanted) -> Transaction {
    let mut transaction = Transaction::new();
    wanted.layout.build(&mut transaction);
    create(&mut transaction, &wanted.content);
    transaction
}

fn create(transaction: &mut Transaction, content: &Content) {
    let owner = vec![content.owner_element()];
    transaction.elements(Verb::Create, &TABLE, &layout::attachments(), owner);
    for (set, elements) in &content.elements {
        transaction.elements(Verb::Create, &TABLE, set, elements.clone());
    }
}

/// Somebody may have flushed the table's rules and left its maps, which alone do nothing.
fn repair_if_damaged(nft: &mut dyn Nft, wanted: &Wanted, log: &Log) -> Result<(), NftError> {
    if chains_are_whole(nft, &TABLE, &wanted.layout.chains())? {
        return Ok(());
    }
    let mut transaction = Transaction::new();
    wanted.layout.build(&mut transaction);
    nft.commit(&transaction)?;
    log.warn(format!(
        "table {TABLE} had lost chains or rules to another program; they were restored"
    ));
    Ok(())
}

/// Some key exists already: a repeated ADD, or another attachment has it.
///
/// Against another container the newest attachment wins. Between attachments of one container
/// the first keeps the port, as with the Go plugin: runtimes hand the same mappings to each of a
/// container's networks, and only through the first, which has the default route, do answers
/// leave the way questions came.
fn replace(
    nft: &mut dyn Nft,
    wanted: &Wanted,
    on_conflict: OnConflict,
    log: &Log,
) -> Result<Vec<Mapping>, CniError> {
    const DOING: &str = "cannot replace the port mappings";
    let outcome: Result<_, ReplaceError> = retry(|| {
        let (generation, owned, mut foreign) = read_for_replace(nft, &wanted.content)?;
        let siblings = take_siblings(&mut foreign, &wanted.content.tag);
        let content = wanted.content.without(&siblings);
        let recounts = recount_losers(nft, &foreign, &content.tag)?;
        let taken = port_conflicts(&foreign);
        if let (OnConflict::Fail, Some(first)) = (on_conflict, taken.first()) {
            return Err(ReplaceError::Taken(conflict_error(first)));
        }
        let mut transaction = Transaction { generation: Some(generation), ..Transaction::new() };
        wanted.layout.build(&mut transaction);
        for (set, elements) in owned.into_iter().chain(foreign.clone()) {
            transaction.elements(Verb::Delete, &TABLE, &set, keys_only(&elements));
        }
        let attachments = layout::attachments();
        for (old, new) in recounts {
            transaction.elements(Verb::Delete, &TABLE, &attachments, keys_only(&[old]));
            transaction.elements(Verb::Create, &TABLE, &attachments, new.into_iter().collect());
        }
        create(&mut transaction, &content);
        nft.commit(&transaction)?;
        Ok((content, siblings, taken))
    });
    let (content, siblings, taken) = outcome.map_err(|error| match error {
        ReplaceError::Nft(error) => error.into_cni(DOING),
        ReplaceError::Taken(error) => error,
    })?;
    for element in &siblings {
        let (mapping, keeper) = (describe(element), element.owner());
        log.debug(|| {
            format!("host port mapping {mapping} stays with {keeper}, the same container")
        });
    }
    for element in taken {
        log.warn(takeover_warning(&element, &content.tag));
    }
    Ok(content.mappings())
}

/// Why a replacement was not made.
enum ReplaceError {
    Nft(NftError),
    /// `"onConflict": "fail"`
    Taken(CniError),
}

impl From<NftError> for ReplaceError {
    fn from(error: NftError) -> Self {
        Self::Nft(error)
    }
}

impl Retry for ReplaceError {
    fn again(&self) -> Again {
        match self {
            Self::Nft(error) => error.again(),
            Self::Taken(_) => Again::Never,
        }
    }
}

/// Takes the port mappings of the same container's other attachments out of `foreign`.
fn take_siblings(foreign: &mut Elements, tag: &OwnerTag) -> Vec<Element> {
    let mut siblings = Vec::new();
    for (_, elements) in foreign.iter_mut() {
        let is_sibling = |element: &mut Element| {
            mapping_of(element).is_some() && tag.is_sibling(element.owner())
        };
        siblings.extend(elements.extract_if(.., is_sibling));
    }
    siblings
}

fn read_for_replace(
    nft: &mut dyn Nft,
    content: &Content,
) -> Result<(Generation, Elements, Elements), NftError> {
    let generation = nft.generation()?;
    let owned = owned::elements_of(nft, &content.tag, Some(content))?;
    let mut foreign = Elements::new();
    for (set, elements) in &content.elements {
        let keys: Vec<_> = elements.iter().map(|element| element.key.clone()).collect();
        let held = lookup(nft, &TABLE, set, &keys)?;
        let others: Vec<_> = held
            .into_iter()
            .filter(|element| !element.is_commented(content.tag.as_str()))
            .collect();
        foreign.push((set.clone(), others));
    }
    // A digest of 60 bits can be shared; whoever has the name in `attachments` loses it.
    let attachments = layout::attachments();
    let mine = lookup(nft, &TABLE, &attachments, &[owner_key(&content.tag)])?;
    foreign.push((
        attachments,
        mine.into_iter().filter(|e| !e.is_commented(content.tag.as_str())).collect(),
    ));
    Ok((generation, owned, foreign))
}

/// The elements in `attachments` of those who lose some of `foreign`, each with what must be there
/// instead: else their DEL would search for elements that they do not have any more. `None` for
/// who loses all.
fn recount_losers(
    nft: &mut dyn Nft,
    foreign: &Elements,
    tag: &OwnerTag,
) -> Result<Vec<(Element, Option<Element>)>, NftError> {
    let attachments = layout::attachments();
    let mut losses: BTreeMap<&str, u32> = BTreeMap::new();
    let lost = foreign.iter().filter(|(set, _)| *set != attachments).flat_map(|(_, lost)| lost);
    for owner in lost.filter_map(|element| element.comment.as_deref()) {
        *losses.entry(owner).or_default() += 1;
    }
    let mut recounts = Vec::new();
    for (owner, lost) in losses {
        let key = vec![Value::Name(OwnerTag::short_name_of(owner))];
        // Who shares our digest loses the name altogether.
        if key == owner_key(tag) {
            continue;
        }
        let held = lookup(nft, &TABLE, &attachments, &[key])?;
        for old in held.into_iter().filter(|element| element.comment.as_deref() == Some(owner)) {
            let [Value::Mark(count)] = old.data[..] else { continue };
            let left = count.checked_sub(lost).filter(|left| *left > 0);
            let new = left.map(|left| Element { data: vec![Value::Mark(left)], ..old.clone() });
            recounts.push((old, new));
        }
    }
    Ok(recounts)
}

/// Elements of port maps; a masquerade entry of a re-used address is nobody's port.
fn port_conflicts(foreign: &Elements) -> Vec<Element> {
    let maps = foreign.iter().filter(|(set, _)| !set.data.is_empty() && set.name != "attachments");
    maps.flat_map(|(_, elements)| elements.clone()).collect()
}

fn conflict_error(element: &Element) -> CniError {
    CniError::new(
        ErrorCode::PortConflict,
        format!(
            "host port mapping {} belongs to attachment {}: delete that attachment, choose another host port, \
             or remove \"onConflict\": \"fail\"",
            describe(element),
            element.owner()
        ),
    )
}

fn takeover_warning(element: &Element, tag: &OwnerTag) -> String {
    format!(
        "host port mapping {} of attachment {} was taken over by {tag}, the newest owner",
        describe(element),
        element.owner()
    )
}
