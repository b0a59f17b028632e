//! What CHECK says of elements, chains and rules that are not as they must be: mismatches, in words.

pub use super::expressions::rule_expressions;
use super::meaning::same_expressions;
use super::object::concatenation;
use super::text::render_rule;
use super::{Chain, Element, InstalledChain, InstalledRule, Nft, NftError, Rule, Set, Table};

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
    let chains = installed_chains(nft, table, expected)?;
    let mut mismatches = Vec::new();
    for ((chain, rules), found) in expected.iter().zip(&chains) {
        let there = installed.iter().filter(|rule| rule.chain == chain.name);
        let mismatch = place_mismatch(table, chain, found.as_ref());
        mismatches.extend(mismatch.or_else(|| rule_mismatch(table, chain, rules, there)));
    }
    Ok(mismatches)
}

/// Those of the chains that are there with another hook or priority. They have to go before the
/// right ones can be made: nothing moves a chain.
pub fn misplaced_chains(
    nft: &mut dyn Nft,
    table: &Table,
    expected: &[(Chain, Vec<Rule>)],
) -> Result<Vec<Chain>, NftError> {
    let chains = installed_chains(nft, table, expected)?;
    let is_misplaced = |(chain, found): (&Chain, &InstalledChain)| found.chain != *chain;
    let there = expected.iter().zip(chains).filter_map(|((chain, _), found)| Some((chain, found?)));
    Ok(there
        .filter(|(chain, found)| is_misplaced((chain, found)))
        .map(|(_, found)| found.chain)
        .collect())
}

/// The rules of these chains at least, each chain's in order.
fn installed_rules(
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

fn installed_chains(
    nft: &mut dyn Nft,
    table: &Table,
    expected: &[(Chain, Vec<Rule>)],
) -> Result<Vec<Option<InstalledChain>>, NftError> {
    let names: Vec<String> = expected.iter().map(|(chain, _)| chain.name.clone()).collect();
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
    wanted.chain == installed.chain
        && same_expressions(&rule_expressions(table.family, wanted), &installed.expressions)
}

/// How the rules `installed` in a chain, in order, first differ from those `wanted`; `None` if
/// they do not.
fn rule_mismatch<'a>(
    table: &Table,
    chain: &Chain,
    wanted: &[Rule],
    installed: impl IntoIterator<Item = &'a InstalledRule>,
) -> Option<String> {
    let installed: Vec<&InstalledRule> = installed.into_iter().collect();
    let place = || format!("chain {table} {}", chain.name);
    if wanted.len() != installed.len() {
        let (there, wanted) = (installed.len(), wanted.len());
        return Some(format!("{} has {there} rules instead of {wanted}", place()));
    }
    let differs = |(rule, installed): (&Rule, &&InstalledRule)| !is_rule(table, rule, installed);
    let position = wanted.iter().zip(&installed).position(differs)?;
    let text = render_rule(&wanted[position]);
    Some(format!("rule {} of {} is not \"{text}\"", position + 1, place()))
}
