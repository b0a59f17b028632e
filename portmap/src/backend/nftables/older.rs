//! Layout 1, as b302888 made it, becomes today's in one transaction: no packet meets half of either.
//!
//! It marked whatever came and had a chain for each masquerade set, so that it knew of no sources; it had no
//! `addresses` and no `targets`; and an element of `attachments` was named by the whole tag, with the network.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use cni_common::cni::log::Log;
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::compare::misplaced_chains;
use cni_common::kernel::nft::{
    Chain, Element, Elements, Nft, NftError, Numbered, Set, Transaction, Value, Verb, keys_only,
    was_taken_over,
};
use cni_common::kernel::retry::retry;
use ipnet::IpNet;

use super::elements::{Account, index, mapping_of, target_key};
use super::known::Known;
use super::layout::Layout;
use super::number::refuse_newer;
use super::owned::{all, each};
use super::sets::{self, Scope, TABLE};
use super::sources::{self, network, prefix};

/// Makes of a table of layout 1 one of today's, for each of these layouts that it has; whether it was one.
/// A table of a newer version is an error.
pub(super) fn take_over(
    nft: &mut dyn Nft,
    layouts: &[&Layout],
    log: &Log,
) -> Result<bool, NftError> {
    let numbered = refuse_newer(nft)?;
    // The number is that of the shared chains; those of a mark bit of its own may be older.
    let may_be_older = |layout: &&&Layout| match numbered {
        Numbered::Absent => false,
        Numbered::Not => true,
        Numbered::Known(_) => !layout.scope().bit_suffix().is_empty(),
    };
    let mut is_taken = false;
    for layout in layouts.iter().filter(may_be_older) {
        is_taken |= retry(|| match takeover(nft, layout)? {
            Some(takeover) => nft.commit(&takeover).map(|()| true),
            None => Ok(false),
        })?;
    }
    if is_taken {
        log.warn(was_taken_over(&TABLE));
    }
    Ok(is_taken)
}

/// Whether the chains of a scope's mark bit are those of layout 1.
pub(super) fn is_older(nft: &mut dyn Nft, scope: &Scope) -> Result<bool, NftError> {
    Ok(!outdated(nft, scope, &BTreeSet::new())?.is_empty())
}

/// What makes a table of layout 1 one of today's; nothing if it is none.
pub(super) fn takeover(
    nft: &mut dyn Nft,
    layout: &Layout,
) -> Result<Option<Transaction>, NftError> {
    let scope = layout.scope();
    let generation = Some(nft.generation()?);
    let mut known = Known::read(nft, scope)?;
    let outdated = outdated(nft, scope, &known.masqueraded)?;
    if outdated.is_empty() {
        return Ok(None);
    }
    let there = all(nft, |element| element.comment.is_some())?;
    let networks = networks(&there, scope);
    known.sources.extend(networks.iter().map(prefix));
    let layout = layout.beside(known);
    let mut transaction = Transaction { generation, ..Transaction::new() };
    transaction.remove_chains(&TABLE, outdated);
    transaction.remove_chains(&TABLE, misplaced_chains(nft, &TABLE, &layout.chains())?);
    layout.build(&mut transaction);
    let lacking = lacking(&there);
    let sources = sources::elements(scope, &networks);
    for (set, elements) in lacking.iter().chain(&sources) {
        transaction.elements(Verb::Add, &TABLE, set, elements.clone());
    }
    let (old, new) = accounts(&there, &lacking);
    transaction.elements(Verb::Delete, &TABLE, &sets::attachments(), keys_only(&old));
    transaction.elements(Verb::Create, &TABLE, &sets::attachments(), new);
    Ok(Some(transaction))
}

/// The chains that today's layout has no use for.
fn outdated(
    nft: &mut dyn Nft,
    scope: &Scope,
    masqueraded: &BTreeSet<(IpVersion, u8)>,
) -> Result<Vec<Chain>, NftError> {
    let mut names = vec![format!("unmark{}", scope.bit_suffix())];
    names.extend(masqueraded.iter().map(|(v, prefix_len)| scope.masquerade(*v, *prefix_len).name));
    let there = nft.chains_at(&TABLE, &names)?;
    Ok(there.into_iter().flatten().map(|found| found.chain).collect())
}

/// The source networks that the scope's masquerade sets name.
fn networks(there: &Elements, scope: &Scope) -> BTreeSet<IpNet> {
    let of_set = |(set, elements): &(Set, Vec<Element>)| {
        let (_, prefix_len) = scope.prefix_of(sets::MASQUERADE, &set.name)?;
        Some(elements.iter().filter_map(|e| network(e, prefix_len)).collect::<Vec<_>>())
    };
    there.iter().filter_map(of_set).flatten().collect()
}

/// The addresses and targets of what is mapped, each its first owner's, but for those that are there.
fn lacking(there: &Elements) -> Elements {
    let there_by_key = index(there);
    let mut lacking = Elements::new();
    let mut seen: HashSet<(String, Vec<Value>)> = HashSet::new();
    for (set, element) in each(there) {
        let (Some(mapping), Some(scope)) = (mapping_of(element), Scope::of_map(&set.name)) else {
            continue;
        };
        let version = mapping.version();
        let address = vec![Value::Address(mapping.container)];
        for (set, key) in
            [(sets::addresses(version), address), (scope.targets(version), target_key(&mapping))]
        {
            let is_there = there_by_key.contains_key(&(set.name.as_str(), key.as_slice()));
            if !is_there && seen.insert((set.name.clone(), key.clone())) {
                sets::put(&mut lacking, set, Element::new(key, Vec::new(), element.owner()));
            }
        }
    }
    lacking
}

/// What `attachments` has, and what it has to have: another name and another number for each owner.
fn accounts(there: &Elements, lacking: &Elements) -> (Vec<Element>, Vec<Element>) {
    let is_account = |set: &Set| *set == sets::attachments();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (set, element) in each(there).chain(each(lacking)) {
        if !is_account(set) {
            *counts.entry(element.owner()).or_default() += 1;
        }
    }
    let old: Vec<Element> =
        each(there).filter(|(set, _)| is_account(set)).map(|(_, e)| e.clone()).collect();
    let conflicts = |owner: &str| {
        let mut own = old.iter().filter(|account| account.owner() == owner);
        own.any(|account| Account::of(account).is_some_and(|account| account.conflicts))
    };
    let new = counts.into_iter();
    let new = new.map(|(owner, count)| Account::new(count, conflicts(owner)).element(owner));
    (old.clone(), new.collect())
}
