//! CHECK: compares what is saved with what ADD would make.

use std::collections::HashSet;
use std::net::IpAddr;

use cni_common::cni::Finding;
use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{
    Form, Iptables, IptablesError, SavedRule, TableDump, Variant, quote,
};

use super::layout;
use super::names::Names;
use super::rules::{ChainRule, GoRules, Rules, TABLE, TOP_CHAIN};
use super::saved::entry_chains;
use super::standing;
use crate::plan::{Held, Plan};

/// What the host's own iptables has of an attachment, and which of its ports other containers have.
pub(super) fn find(plan: &Plan) -> Result<(Finding, Vec<Held>), IptablesError> {
    let mut mismatches = Vec::new();
    let mut held = Vec::new();
    let mut ours = false;
    for version in IpVersion::ALL {
        let Some(rules) = Rules::new(plan, version) else { continue };
        let iptables = Iptables::find(version, Variant::Default)?;
        let dump = layout::read(&iptables)?;
        let program = match version {
            IpVersion::V4 => "iptables",
            IpVersion::V6 => "ip6tables",
        };
        let found = family_mismatches(&iptables, &dump, &rules, plan)?;
        mismatches.extend(found.into_iter().map(|mismatch| format!("{program}: {mismatch}")));
        let go = GoRules::new(plan, version);
        ours |= go.is_some_and(|go| has_what_only_ours_has(&dump, &rules, &go));
        held.extend(standing::held(&dump, &rules));
    }
    let is_here = mismatches.is_empty() || ours;
    Ok((if is_here { Finding::of(mismatches) } else { Finding::Absent }, held))
}

/// The Go plugin has the same chains, but not all of the same rules.
fn has_what_only_ours_has(dump: &TableDump, rules: &Rules, go: &GoRules) -> bool {
    let forms = |specs: &[String]| specs.iter().map(|spec| Form::of(spec)).collect();
    let (ours, of_go): (HashSet<Form>, HashSet<Form>) = (forms(&rules.own), forms(&go.own));
    let chains = rules.names.chains().into_iter();
    let mut own = chains.flat_map(|chain| dump.rules_of(chain).map(move |rule| (chain, rule)));
    own.any(|(chain, rule)| {
        let form = rule.form();
        ours.contains(&form) && !(*chain == go.names.go_chain && of_go.contains(&form))
    })
}

fn family_mismatches(
    iptables: &Iptables,
    dump: &TableDump,
    rules: &Rules,
    plan: &Plan,
) -> Result<Vec<String>, IptablesError> {
    let mut mismatches = Vec::new();
    for ChainRule { chain, spec, .. } in &rules.shared {
        let form = Form::of(spec);
        if !dump.rules_of(chain).any(|rule| rule.form() == form) {
            mismatches.push(format!("rule \"{spec}\" is missing from chain {chain}"));
        }
    }
    let addresses: Vec<IpAddr> = rules.mappings.iter().map(|mapping| mapping.container).collect();
    let Some(chain) = &entry_chains(dump, &rules.names, &addresses).into_iter().next() else {
        // Its chain may be there, and another entry's.
        let entries = rules.entries.iter().map(|entry| entry.to(&rules.names.chain));
        mismatches.extend(entry_mismatches(&[], &rules.names.chain, entries));
        return Ok(mismatches);
    };
    let own: Vec<Form> = dump.rules_of(chain).map(SavedRule::form).collect();
    let wanted: Vec<Form> = rules.own.iter().map(|spec| Form::of(spec)).collect();
    if own != wanted {
        let there: HashSet<&Form> = own.iter().collect();
        let missing = rules.own.iter().zip(&wanted).find(|(_, form)| !there.contains(form));
        mismatches.push(match missing {
            Some((spec, _)) => format!("rule \"{spec}\" is missing from chain {chain}"),
            None => format!("chain {chain} holds rules that ADD did not make, or in another order"),
        });
    }
    let there = entries_of(dump, chain, &rules.names);
    let mut entries = entry_mismatches(&there, chain, rules.entries.iter().map(|e| e.to(chain)));
    if !entries.is_empty() && !plan.conditions.of(iptables.version()).is_empty() {
        // People have many words for what iptables has one for.
        let rephrased = in_own_words(iptables, rules, chain)?;
        entries = entry_mismatches(&there, chain, rephrased.into_iter());
    }
    mismatches.extend(entries);
    Ok(mismatches)
}

/// The rules of the top chain that lead to this chain, as if the owner's network had always been called
/// as it is now.
fn entries_of(dump: &TableDump, chain: &String, names: &Names) -> Vec<Form> {
    let entries = dump.rules_of(TOP_CHAIN).filter(|rule| rule.option("-j").as_ref() == Some(chain));
    let form = |rule: &SavedRule| match rule.option("--comment") {
        Some(comment) if comment != names.comment && names.is_renamed(&comment) => {
            Form::of(&rule.spec.replace(&quote(&comment), &quote(&names.comment)))
        }
        _ => rule.form(),
    };
    entries.map(form).collect()
}

/// How these entries, which lead to a chain, differ from those wanted.
fn entry_mismatches(
    there: &[Form],
    chain: &str,
    wanted: impl ExactSizeIterator<Item = String>,
) -> Vec<String> {
    let forms: HashSet<&Form> = there.iter().collect();
    let more = there.len() > wanted.len();
    let missing = wanted.filter(|spec| !forms.contains(&Form::of(spec)));
    let mut mismatches: Vec<String> =
        missing.map(|spec| format!("rule \"{spec}\" is missing from chain {TOP_CHAIN}")).collect();
    if more {
        mismatches.push(format!("chain {TOP_CHAIN} leads to {chain} more often than ADD made it"));
    }
    mismatches
}

/// The entries as iptables itself prints them.
fn in_own_words(
    iptables: &Iptables,
    rules: &Rules,
    chain: &str,
) -> Result<Vec<String>, IptablesError> {
    let mut lines = vec![format!(":{TOP_CHAIN} - [0:0]"), format!(":{chain} - [0:0]")];
    lines.extend(rules.entries.iter().map(|entry| format!("-A {TOP_CHAIN} {}", entry.to(chain))));
    let dump = iptables.rephrase(TABLE, lines)?;
    Ok(dump.rules_of(TOP_CHAIN).map(|rule| rule.spec.clone()).collect())
}
