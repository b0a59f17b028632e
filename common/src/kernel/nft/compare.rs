//! What CHECK says of elements, chains and rules that are not as they must be: mismatches, in words.

use super::expressions::rule_expressions;
use super::meaning::same_expressions;
use super::object::concatenation;
use super::text::render_rule;
use super::{Chain, Element, InstalledRule, Nft, NftError, Rule, Set, Table};

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

/// How the chains of a table differ from those expected with exactly these rules.
pub fn chain_mismatches(
    nft: &mut dyn Nft,
    table: &Table,
    expected: &[(Chain, Vec<Rule>)],
) -> Result<Vec<String>, NftError> {
    let installed = nft.rules(table)?;
    chain_mismatches_in(nft, table, expected, &installed)
}

/// The same for a table whose rules were read.
pub fn chain_mismatches_in(
    nft: &mut dyn Nft,
    table: &Table,
    expected: &[(Chain, Vec<Rule>)],
    installed: &[InstalledRule],
) -> Result<Vec<String>, NftError> {
    let names: Vec<String> = expected.iter().map(|(chain, _)| chain.name.clone()).collect();
    let chains = nft.chains_at(table, &names)?;
    let mut mismatches = Vec::new();
    for ((chain, rules), found) in expected.iter().zip(&chains) {
        let place = format!("chain {table} {}", chain.name);
        match found {
            None => mismatches.push(format!("{place} is missing")),
            Some(found) if found.chain != *chain => {
                mismatches.push(format!("{place} is hooked elsewhere than it should be"));
            }
            Some(found) if found.drops => {
                mismatches.push(format!("{place} drops what no rule decides"));
            }
            Some(_) => {
                let there: Vec<_> =
                    installed.iter().filter(|rule| rule.chain == chain.name).collect();
                mismatches.extend(rule_mismatch(table, &place, rules, &there));
            }
        }
    }
    Ok(mismatches)
}

/// Whether the chains are there with at least as many rules as expected: what costs the same
/// however much the table holds.
pub fn chains_are_whole(
    nft: &mut dyn Nft,
    table: &Table,
    expected: &[(Chain, Vec<Rule>)],
) -> Result<bool, NftError> {
    let names: Vec<String> = expected.iter().map(|(chain, _)| chain.name.clone()).collect();
    let found = nft.chains_at(table, &names)?;
    Ok(expected.iter().zip(&found).all(|((chain, rules), found)| {
        found.as_ref().is_some_and(|f| f.chain == *chain && f.uses as usize >= rules.len())
    }))
}

/// Whether a rule is among those of a table.
#[must_use]
pub fn has_rule(table: &Table, installed: &[InstalledRule], rule: &Rule) -> bool {
    installed.iter().any(|installed| is_rule(table, rule, installed))
}

/// Whether a rule is the one wanted, in the same chain.
#[must_use]
pub fn is_rule(table: &Table, wanted: &Rule, installed: &InstalledRule) -> bool {
    wanted.chain == installed.chain
        && same_expressions(&rule_expressions(table.family, wanted), &installed.expressions)
}

/// How the rules `installed` at `place`, in order, first differ from those `wanted`; `None` if
/// they do not.
#[must_use]
pub fn rule_mismatch(
    table: &Table,
    place: &str,
    wanted: &[Rule],
    installed: &[&InstalledRule],
) -> Option<String> {
    if wanted.len() != installed.len() {
        return Some(format!("{place} has {} rules instead of {}", installed.len(), wanted.len()));
    }
    let differs = |(rule, installed): (&Rule, &&InstalledRule)| !is_rule(table, rule, installed);
    let position = wanted.iter().zip(installed).position(differs)?;
    let text = render_rule(&wanted[position]);
    Some(format!("rule {} of {place} is not \"{text}\"", position + 1))
}
