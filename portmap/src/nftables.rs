//! The nftables backend: applies, checks, removes and enumerates what a plan asks for.
//!
//! Removal is compare-and-delete: read which elements carry the owner's tag, then delete them in
//! a transaction that is bound to the generation they were read at. Nothing else proves
//! ownership; an address is re-used while the old container's DEL is still to come.

use std::collections::BTreeMap;

use cni_common::cni::attachment::Attachment;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::{CniError, ErrorCode, ValidAttachment};
use cni_common::cni::{Failure as _, OwnerTag};
use cni_common::kernel::nft::compare::{chain_mismatches, chains_are_whole, element_mismatch};
use cni_common::kernel::nft::object::concatenation;
use cni_common::kernel::nft::{
    Element, Elements, Generation, Nft, NftError, Object, Set, Table, Transaction, Value, Verb,
    keys_only, lookup,
};
use cni_common::kernel::retry::{Again, Retry, retry};

use crate::config::OnConflict;
use crate::layout::{self, TABLE};
use crate::plan::{self, ActiveMapping, Plan};

/// Makes exactly what the plan, which must not be empty, asks for, replacing whatever the attachment had before. Returns
/// the mappings that are now in force: all of the plan's, but for those that another attachment
/// of the same container keeps.
pub fn add(
    nft: &mut dyn Nft,
    plan: &Plan,
    on_conflict: OnConflict,
    log: &Log,
) -> Result<Vec<ActiveMapping>, CniError> {
    const DOING: &str = "cannot install the port mappings";
    match nft.commit(&first_try(plan)) {
        Ok(()) => repair_if_damaged(nft, plan, log).map_err(|error| {
            // Mappings that nothing looks up are no service. What undoing them meets is what
            // the repair met, and is said by its error.
            let _ = remove(nft, &plan.tag, Some(plan));
            error.into_cni(DOING)
        })?,
        Err(error) if error.is_missing() => {
            log.debug(|| format!("building table {TABLE}: {error}"));
            let mut transaction = plan::scaffold(plan);
            transaction.operations.extend(create_elements(plan).operations);
            match nft.commit(&transaction) {
                Ok(()) => {}
                Err(error) if error.is_exists() => return replace(nft, plan, on_conflict, log),
                Err(error) => return Err(error.into_cni(DOING)),
            }
        }
        Err(error) if error.is_exists() => return replace(nft, plan, on_conflict, log),
        Err(error) => return Err(error.into_cni(DOING)),
    }
    Ok(plan.active.clone())
}

/// The usual case, one transaction and no read: the table is there and no key is taken.
fn first_try(plan: &Plan) -> Transaction {
    let mut transaction = Transaction::new();
    if !plan.scope.is_shared() {
        // The network's conditions may have changed since its chains were made.
        plan.scope.build(&mut transaction);
    }
    transaction.operations.extend(create_elements(plan).operations);
    transaction
}

fn create_elements(plan: &Plan) -> Transaction {
    let mut transaction = Transaction::new();
    transaction.elements(Verb::Create, &TABLE, &layout::attachments(), vec![plan.owner_element()]);
    for (set, elements) in &plan.elements {
        transaction.elements(Verb::Create, &TABLE, set, elements.clone());
    }
    transaction
}

/// Somebody may have flushed the table's rules and left its maps, which alone do nothing.
fn repair_if_damaged(nft: &mut dyn Nft, plan: &Plan, log: &Log) -> Result<(), NftError> {
    let expected = layout::expected_chains(&plan.scope, &plan.prefixes);
    if chains_are_whole(nft, &TABLE, &expected)? {
        return Ok(());
    }
    nft.commit(&plan::scaffold(plan))?;
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
    plan: &Plan,
    on_conflict: OnConflict,
    log: &Log,
) -> Result<Vec<ActiveMapping>, CniError> {
    const DOING: &str = "cannot replace the port mappings";
    let outcome: Result<_, ReplaceError> = retry(|| {
        let (generation, owned, mut foreign) = read_for_replace(nft, plan)?;
        let siblings = take_siblings(&mut foreign, &plan.tag);
        let plan = plan.without(&siblings);
        let recounts = recount_losers(nft, &foreign, &plan.tag)?;
        let taken = port_conflicts(&foreign);
        if let (OnConflict::Fail, Some(first)) = (on_conflict, taken.first()) {
            return Err(ReplaceError::Taken(conflict_error(first)));
        }
        let mut transaction = plan::scaffold(&plan);
        for (set, elements) in owned.into_iter().chain(foreign.clone()) {
            transaction.elements(Verb::Delete, &TABLE, &set, keys_only(&elements));
        }
        let attachments = layout::attachments();
        for (old, new) in recounts {
            transaction.elements(Verb::Delete, &TABLE, &attachments, keys_only(&[old]));
            transaction.elements(Verb::Create, &TABLE, &attachments, new.into_iter().collect());
        }
        transaction.operations.extend(create_elements(&plan).operations);
        transaction.generation = Some(generation);
        nft.commit(&transaction)?;
        Ok((plan, siblings, taken))
    });
    let (plan, siblings, taken) = outcome.map_err(|error| match error {
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
        log.warn(takeover_warning(&element, &plan));
    }
    Ok(plan.active)
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
            ActiveMapping::from_element(element).is_some() && tag.is_sibling(element.owner())
        };
        siblings.extend(elements.extract_if(.., is_sibling));
    }
    siblings
}

fn read_for_replace(
    nft: &mut dyn Nft,
    plan: &Plan,
) -> Result<(Generation, Elements, Elements), NftError> {
    let generation = nft.generation()?;
    let owned = owned_elements(nft, &plan.tag, Some(plan))?;
    let mut foreign = Elements::new();
    for (set, elements) in &plan.elements {
        let keys: Vec<_> = elements.iter().map(|element| element.key.clone()).collect();
        let held = lookup(nft, &TABLE, set, &keys)?;
        let others: Vec<_> =
            held.into_iter().filter(|element| !element.is_commented(plan.tag.as_str())).collect();
        foreign.push((set.clone(), others));
    }
    // A digest of 60 bits can be shared; whoever has the name in `attachments` loses it.
    let attachments = layout::attachments();
    let mine = lookup(nft, &TABLE, &attachments, &[plan::owner_key(&plan.tag)])?;
    foreign.push((
        attachments,
        mine.into_iter().filter(|e| !e.is_commented(plan.tag.as_str())).collect(),
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
        if key == plan::owner_key(tag) {
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

fn describe(element: &Element) -> String {
    ActiveMapping::from_element(element)
        .map_or_else(|| concatenation(&element.key), |m| m.to_string())
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

fn takeover_warning(element: &Element, plan: &Plan) -> String {
    format!(
        "host port mapping {} of attachment {} was taken over by {}, the newest owner",
        describe(element),
        element.owner(),
        plan.tag
    )
}

/// Removes what carries the tag. `known` keys are looked up first; only if they are not all of
/// it, the maps are read. Returns the mappings that were removed.
pub fn remove(
    nft: &mut dyn Nft,
    tag: &OwnerTag,
    known: Option<&Plan>,
) -> Result<Vec<ActiveMapping>, CniError> {
    const DOING: &str = "cannot remove the port mappings";
    let outcome = retry(|| {
        let generation = nft.generation()?;
        let owned = owned_elements(nft, tag, known)?;
        delete_at(nft, generation, &owned)?;
        Ok(active(&owned))
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

fn active(elements: &Elements) -> Vec<ActiveMapping> {
    elements
        .iter()
        .flat_map(|(_, elements)| elements)
        .filter_map(ActiveMapping::from_element)
        .collect()
}

/// Every element that carries the tag.
fn owned_elements(
    nft: &mut dyn Nft,
    tag: &OwnerTag,
    known: Option<&Plan>,
) -> Result<Elements, NftError> {
    let attachments = layout::attachments();
    let mut owner = lookup(nft, &TABLE, &attachments, &[plan::owner_key(tag)])?;
    owner.retain(|element| element.is_commented(tag.as_str()));
    let count = owner.first().and_then(owned_count);

    let mut found = Elements::new();
    for (set, elements) in known.into_iter().flat_map(|plan| &plan.elements) {
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
fn all_elements(
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

/// GC: removes what attachments to `network` own that are not in `valid`, and the table itself
/// once it holds nothing and its guard has nothing to guard: `needs_guard` tells. Returns the
/// mappings that were removed.
pub fn collect_garbage(
    nft: &mut dyn Nft,
    network: &str,
    valid: &[ValidAttachment],
    needs_guard: impl Fn() -> bool,
) -> Result<Vec<ActiveMapping>, CniError> {
    const DOING: &str = "cannot collect stale port mappings";
    let valid: std::collections::HashSet<String> = valid
        .iter()
        .map(|attachment| {
            let ValidAttachment { container_id, ifname } = attachment.clone();
            Attachment { network: network.to_owned(), container_id, ifname }.tag().to_string()
        })
        .collect();
    let is_stale =
        |comment: &str| OwnerTag::belongs_to(comment, network) && !valid.contains(comment);
    let outcome = retry(|| {
        let generation = nft.generation()?;
        let all = all_elements(nft, |_| true)?;
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let stale: Elements = all
            .iter()
            .map(|(set, elements)| {
                let stale = elements.iter().filter(|e| e.comment.as_deref().is_some_and(is_stale));
                (set.clone(), stale.cloned().collect())
            })
            .collect();
        let count =
            |list: &Elements| list.iter().map(|(_, elements)| elements.len()).sum::<usize>();
        // The guard's reason is asked for after the generation: an ADD sets it after its commit.
        if count(&stale) == count(&all) && nothing_else(nft, &all)? && !needs_guard() {
            delete_table_at(nft, generation)?;
        } else {
            delete_at(nft, generation, &stale)?;
        }
        Ok(active(&stale))
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

/// CHECK: compares what is there with the plan, exactly. What it finds wrong, in words.
pub fn faults(nft: &mut dyn Nft, plan: &Plan) -> Result<Vec<String>, CniError> {
    let mut faults = Vec::new();
    let cni = |error: NftError| error.into_cni("cannot read the port mappings");
    if plan.is_empty() {
        // Nothing asked for: nothing may be there.
        let owned = owned_elements(nft, &plan.tag, None).map_err(cni)?;
        faults.extend(
            active(&owned).iter().map(|mapping| format!("mapping {mapping} should not be there")),
        );
    } else {
        check_elements(nft, plan, &mut faults).map_err(cni)?;
        check_chains(nft, plan, &mut faults).map_err(cni)?;
    }
    Ok(faults)
}

/// CHECK, as an error if anything is wrong.
pub fn check(nft: &mut dyn Nft, plan: &Plan) -> Result<(), CniError> {
    fail_with(&faults(nft, plan)?)
}

/// Whether the table holds anything of the plan's attachment.
pub fn holds(nft: &mut dyn Nft, plan: &Plan) -> Result<bool, CniError> {
    let owned = owned_elements(nft, &plan.tag, Some(plan));
    let owned = owned.map_err(|error| error.into_cni("cannot read the port mappings"))?;
    Ok(owned.iter().any(|(_, elements)| !elements.is_empty()))
}

/// The error of a CHECK that found faults.
pub fn fail_with(faults: &[String]) -> Result<(), CniError> {
    CniError::unless_sound(
        "port mappings are not as ADD made them",
        faults,
        "run cni-chain restore to put them back",
    )
}

fn check_elements(
    nft: &mut dyn Nft,
    plan: &Plan,
    faults: &mut Vec<String>,
) -> Result<(), NftError> {
    let mut siblings = Vec::new();
    for (set, elements) in &plan.elements {
        let keys: Vec<_> = elements.iter().map(|element| element.key.clone()).collect();
        let held: std::collections::HashMap<_, _> = lookup(nft, &TABLE, set, &keys)?
            .into_iter()
            .map(|element| (element.key.clone(), element))
            .collect();
        for wanted in elements {
            match held.get(&wanted.key) {
                Some(held) if plan.tag.is_sibling(held.owner()) => siblings.push(held.clone()),
                held => faults.extend(element_mismatch(&TABLE, set, wanted, held)),
            }
        }
    }
    let (attachments, owner) = (layout::attachments(), plan.without(&siblings).owner_element());
    let held = lookup(nft, &TABLE, &attachments, std::slice::from_ref(&owner.key))?;
    faults.extend(element_mismatch(&TABLE, &attachments, &owner, held.first()));
    Ok(())
}

fn check_chains(nft: &mut dyn Nft, plan: &Plan, faults: &mut Vec<String>) -> Result<(), NftError> {
    let expected = layout::expected_chains(&plan.scope, &plan.prefixes);
    faults.extend(chain_mismatches(nft, &TABLE, &expected)?);
    Ok(())
}

/// STATUS: lets the kernel try the whole table, and looks whether the real one is sound.
pub fn status(nft: &mut dyn Nft, sample: &Plan) -> Result<(), CniError> {
    let mut probe = plan::scaffold(sample);
    probe.operations.extend(create_elements(sample).operations);
    let probe = probe.in_table(&Table::new(TABLE.family, "cni_portmap_probe"));
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
    let scope = layout::Scope::shared();
    if !names.contains(&scope.by_port(true).name) {
        return Ok(());
    }
    let expected = layout::expected_chains(&scope, &[]);
    let faults = chain_mismatches(nft, &TABLE, &expected).map_err(unreadable)?;
    let Some(first) = faults.first() else { return Ok(()) };
    Err(CniError::new(
        ErrorCode::LimitedConnectivity,
        format!("mapped ports may not work: {first}; the next ADD restores the table"),
    )
    .with_details(faults.join("; ")))
}
