//! GC: what is stale, and what serves nobody any more.

use cni_common::cni::log::Log;
use cni_common::cni::protocol::CniError;
use cni_common::cni::{Failure as _, Stale};
use cni_common::kernel::nft::{
    Element, Elements, Generation, Nft, NftError, Object, Set, Transaction, Verb, unchanged_since,
};
use cni_common::kernel::retry::retry;

use super::claims;
use super::elements::mappings;
use super::layout::{self, Layout};
use super::older::take_over;
use super::owned::{all, commit, each, removal, tell};
use super::sets::{self, Scope, TABLE};
use super::sources;
use crate::plan::Mapping;

/// GC: removes what is stale, and the table itself once it holds nothing and its guard has nothing
/// to guard: `needs_guard` tells. Returns the mappings that were removed.
pub(super) fn collect_garbage(
    nft: &mut dyn Nft,
    stale: &Stale,
    needs_guard: impl Fn() -> bool,
    log: &Log,
) -> Result<Vec<Mapping>, CniError> {
    const DOING: &str = "cannot collect stale port mappings";
    let is_stale =
        |element: &Element| element.comment.as_deref().is_some_and(|c| stale.includes(c));
    take_over(nft, &[&Layout::shared()], log).map_err(|error| error.into_cni(DOING))?;
    let outcome = retry(|| {
        let generation = nft.generation()?;
        let all = all(nft, |element| element.comment.is_some())?;
        if all.is_empty() {
            unchanged_since(nft, generation)?;
            return Ok((Vec::new(), Vec::new(), Vec::new()));
        }
        let of_set = |(set, elements): &(Set, Vec<Element>)| {
            (set.clone(), elements.iter().filter(|e| is_stale(e)).cloned().collect())
        };
        let garbage: Elements = all.iter().map(of_set).collect();
        let mut claims = claims::among(&all);
        claims.retain(|claim| !is_stale(&claim.element));
        let heirs = claims::heirs(each(&garbage), &claims);
        let is_all = each(&garbage).count() == each(&all).count();
        // The guard's reason is asked for after the generation: an ADD sets it after its commit.
        if is_all && nothing_else(nft, &all)? && !needs_guard() {
            delete_table_at(nft, generation)?;
        } else {
            let remain = each(&all).filter(|(_, element)| !is_stale(element));
            let unused = sources::unused(nft, &remain.collect::<Vec<_>>())?;
            commit(nft, &removal(generation, &[garbage.clone(), unused].concat(), &heirs))?;
        }
        Ok((mappings(&garbage), heirs, scopes_of(&all)))
    });
    let (removed, heirs, scopes) = outcome.map_err(|error: NftError| error.into_cni(DOING))?;
    tell(&heirs, log);
    if let Err(error) = sweep(nft, &scopes) {
        log.debug(|| format!("chains that serve nobody stay until the next GC: {error}"));
    }
    Ok(removed)
}

/// The scopes of conditions, from the maps of the table.
fn scopes_of(elements: &Elements) -> Vec<Scope> {
    let mut scopes: Vec<Scope> = Vec::new();
    for scope in elements.iter().filter_map(|(set, _)| Scope::of_map(&set.name)) {
        if !scope.is_shared() && !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    scopes
}

/// Removes the maps and chains of conditions that nothing is mapped under any more. Whatever is in the
/// way, a rule of somebody else's that leads there for instance, makes the kernel refuse it all.
fn sweep(nft: &mut dyn Nft, scopes: &[Scope]) -> Result<(), NftError> {
    if scopes.is_empty() {
        return Ok(());
    }
    let generation = nft.generation()?;
    let names = nft.sets(&TABLE)?;
    let waiting = claims::read(nft)?;
    let mut transaction = Transaction { generation: Some(generation), ..Transaction::new() };
    for scope in scopes {
        let maps = scope.maps().into_iter().filter(|map| names.contains(&map.name));
        let maps: Vec<Set> = maps.collect();
        let mut is_used = waiting.iter().any(|claim| claim.is_in(scope));
        for map in &maps {
            is_used |= !nft.elements(&TABLE, map)?.is_empty();
        }
        if !is_used {
            layout::remove_scope(&mut transaction, scope);
            for map in maps {
                transaction.push(Verb::Delete, &TABLE, Object::Set(map));
            }
        }
    }
    commit(nft, &transaction)
}

/// Elements without a comment, or in sets that are not ours, keep the table.
fn nothing_else(nft: &mut dyn Nft, all: &Elements) -> Result<bool, NftError> {
    for (set, tagged) in all {
        if nft.elements(&TABLE, set)?.len() != tagged.len() {
            return Ok(false);
        }
    }
    let known = |name: &String| {
        name.starts_with("__set")
            || sets::by_name(name).is_some()
            || sets::sources_by_name(name).is_some()
    };
    Ok(nft.sets(&TABLE)?.iter().all(known))
}

fn delete_table_at(nft: &mut dyn Nft, generation: Generation) -> Result<(), NftError> {
    let mut transaction = Transaction { generation: Some(generation), ..Transaction::new() };
    transaction.push(Verb::Delete, &TABLE, Object::Table(None));
    nft.commit(&transaction)
}
