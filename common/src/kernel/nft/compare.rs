//! What CHECK says of elements, chains and rules that are not as they must be: mismatches, in words.

use std::mem;

use super::expressions::listed_expressions;
pub use super::expressions::rule_expressions;
use super::meaning::same_expressions;
use super::object::concatenation;
use super::text::render_rule;
use super::{Chain, Element, InstalledChain, InstalledRule, Nft, NftError, Rule, Set, Table};
use crate::kernel::request::Request;

/// How the element that is there differs from the one wanted; `None` if it does not.
#[must_use]
pub fn element_mismatch(
    table: &Table,
    set: &Set,
    wanted: &Element,
    held: Option<&Element>,
) -> Option<String> {
    let key = concatenation(&wanted.key);
    let place = format!("{} {table} {}", set.keyword(), set.name);
    match held {
        None => Some(format!("element {{ {key} }} is missing from {place}")),
        Some(held) if held.comment != wanted.comment => {
            Some(format!("element {{ {key} }} of {place} belongs to {}", held.owner()))
        }
        Some(held) if held.data != wanted.data => Some(format!(
            "element {{ {key} }} of {place} is {} instead of {}",
            concatenation(&held.data),
            concatenation(&wanted.data)
        )),
        Some(_) => None,
    }
}

/// So many chains and sets are read in one go in less time than a few chains one by one.
const FEW: u32 = 64;

/// How the chains of a table differ from those expected with exactly these rules. However much else the
/// table holds costs nothing.
pub fn chain_mismatches(
    nft: &mut dyn Nft,
    table: &Table,
    expected: &[(Chain, Vec<Rule>)],
) -> Result<Vec<String>, NftError> {
    let installed = installed_rules(nft, table, expected)?;
    chain_mismatches_in(nft, table, expected, &installed)
}

/// The same for a table whose rules were read.
pub fn chain_mismatches_in(
    nft: &mut dyn Nft,
    table: &Table,
    expected: &[(Chain, Vec<Rule>)],
    installed: &[InstalledRule],
) -> Result<Vec<String>, NftError> {
    // One without a hook is what it has to be if it has rules.
    let is_asked_for =
        |chain: &Chain| chain.base.is_some() || rules_of(installed, chain).next().is_none();
    let asked = expected.iter().map(|(chain, _)| chain).filter(|chain| is_asked_for(chain));
    let mut answers = installed_chains(nft, table, asked)?.into_iter();
    let mut room = Request::listing(512);
    let mut mismatches = Vec::new();
    for (chain, rules) in expected {
        let answer = is_asked_for(chain).then(|| answers.next().flatten());
        let mismatch = answer.and_then(|found| place_mismatch(table, chain, found.as_ref()));
        mismatches.extend(
            mismatch.or_else(|| {
                rule_mismatch(table, chain, rules, rules_of(installed, chain), &mut room)
            }),
        );
    }
    Ok(mismatches)
}

fn rules_of<'a>(
    installed: &'a [InstalledRule],
    chain: &'a Chain,
) -> impl Iterator<Item = &'a InstalledRule> + Clone {
    installed.iter().filter(|rule| rule.chain == chain.name)
}

/// Those of the chains that are there with another hook or priority. They have to go before the
/// right ones can be made: nothing moves a chain.
pub fn misplaced_chains(
    nft: &mut dyn Nft,
    table: &Table,
    expected: &[(Chain, Vec<Rule>)],
) -> Result<Vec<Chain>, NftError> {
    let chains = installed_chains(nft, table, expected.iter().map(|(chain, _)| chain))?;
    let is_misplaced = |(chain, found): (&Chain, &InstalledChain)| found.chain != *chain;
    let there = expected.iter().zip(chains).filter_map(|((chain, _), found)| Some((chain, found?)));
    Ok(there
        .filter(|(chain, found)| is_misplaced((chain, found)))
        .map(|(_, found)| found.chain)
        .collect())
}

/// The rules of these chains at least, each chain's in order.
pub fn installed_rules(
    nft: &mut dyn Nft,
    table: &Table,
    expected: &[(Chain, Vec<Rule>)],
) -> Result<Vec<InstalledRule>, NftError> {
    if expected.len() > 2 && nft.size(table)? <= FEW {
        return nft.rules(table);
    }
    let mut rules = Vec::new();
    for (chain, _) in expected {
        rules.extend(nft.rules_of(table, &chain.name)?);
    }
    Ok(rules)
}

fn installed_chains<'a>(
    nft: &mut dyn Nft,
    table: &Table,
    expected: impl Iterator<Item = &'a Chain>,
) -> Result<Vec<Option<InstalledChain>>, NftError> {
    let names: Vec<String> = expected.map(|chain| chain.name.clone()).collect();
    nft.chains_at(table, &names)
}

fn place_mismatch(table: &Table, chain: &Chain, found: Option<&InstalledChain>) -> Option<String> {
    let what = match found {
        None => "is missing",
        Some(found) if found.chain != *chain => "is hooked elsewhere than it should be",
        Some(found) if found.drops => "drops what no rule decides",
        Some(_) => return None,
    };
    Some(format!("chain {table} {} {what}", chain.name))
}

/// Whether a rule is among those of a table.
#[must_use]
pub fn has_rule(table: &Table, installed: &[InstalledRule], rule: &Rule) -> bool {
    installed.iter().any(|installed| is_rule(table, rule, installed))
}

/// Whether a rule is the one wanted, in the same chain.
#[must_use]
pub fn is_rule(table: &Table, wanted: &Rule, installed: &InstalledRule) -> bool {
    does_as(table, wanted, installed, &mut Request::listing(512))
}

/// The same, with the room that the one before needed.
fn does_as(table: &Table, wanted: &Rule, installed: &InstalledRule, room: &mut Request) -> bool {
    if wanted.chain != installed.chain {
        return false;
    }
    *room = listed_expressions(table.family, wanted, mem::take(room));
    same_expressions(room.as_slice(), &installed.expressions)
}

/// How the rules `installed` in a chain, in order, first differ from those `wanted`; `None` if
/// they do not.
fn rule_mismatch<'a>(
    table: &Table,
    chain: &Chain,
    wanted: &[Rule],
    installed: impl Iterator<Item = &'a InstalledRule> + Clone,
    room: &mut Request,
) -> Option<String> {
    let place = || format!("chain {table} {}", chain.name);
    let there = installed.clone().count();
    if wanted.len() != there {
        return Some(format!("{} has {there} rules instead of {}", place(), wanted.len()));
    }
    let mut pairs = wanted.iter().zip(installed);
    let position = pairs.position(|(rule, installed)| !does_as(table, rule, installed, room))?;
    let text = render_rule(&wanted[position]);
    Some(format!("rule {} of {} is not \"{text}\"", position + 1, place()))
}
