//! CHECK: compares what is saved with what ADD would make. Pure, but for the saving.

use std::net::IpAddr;

use cni_common::cni::Finding;
use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{Iptables, IptablesError, SavedRule, TableDump, Variant};

use super::rules::{ChainRule, GoRules, Rules, TABLE, TOP_CHAIN};
use super::saved::own_chains;
use crate::plan::Plan;

/// What the host's own iptables has of an attachment.
pub(super) fn find(plan: &Plan) -> Result<Finding, IptablesError> {
    let mut mismatches = Vec::new();
    let mut ours = false;
    for version in IpVersion::ALL {
        let Some(rules) = Rules::new(plan, version) else { continue };
        let dump = Iptables::find(version, Variant::Default)?.save(TABLE)?;
        let program = match version {
            IpVersion::V4 => "iptables",
            IpVersion::V6 => "ip6tables",
        };
        let found = family_mismatches(&dump, &rules);
        mismatches.extend(found.into_iter().map(|mismatch| format!("{program}: {mismatch}")));
        let go = GoRules::new(plan, version);
        ours |= go.is_some_and(|go| has_what_only_ours_has(&dump, &rules, &go));
    }
    Ok(if mismatches.is_empty() || ours { Finding::of(mismatches) } else { Finding::Absent })
}

/// The Go plugin has the same chains, but not all of the same rules.
fn has_what_only_ours_has(dump: &TableDump, rules: &Rules, go: &GoRules) -> bool {
    let chains = rules.names.chains().into_iter();
    let mut own = chains.flat_map(|chain| dump.rules_of(chain).map(move |rule| (chain, rule)));
    own.any(|(chain, rule)| {
        let made_by = |specs: &[String]| specs.iter().any(|spec| rule.is(spec));
        made_by(&rules.own) && !(*chain == go.names.go_chain && made_by(&go.own))
    })
}

fn family_mismatches(dump: &TableDump, rules: &Rules) -> Vec<String> {
    let mut mismatches = Vec::new();
    for ChainRule { chain, spec, .. } in &rules.shared {
        if !dump.rules_of(chain).any(|rule| rule.is(spec)) {
            mismatches.push(format!("rule \"{spec}\" is missing from chain {chain}"));
        }
    }
    let addresses: Vec<IpAddr> = rules.mappings.iter().map(|mapping| mapping.container).collect();
    let Some(chain) = &own_chains(dump, &rules.names, &addresses).into_iter().next() else {
        mismatches.push(format!("chain {} is missing", rules.names.chain));
        return mismatches;
    };
    let own: Vec<&SavedRule> = dump.rules_of(chain).collect();
    let same = own.len() == rules.own.len()
        && own.iter().zip(&rules.own).all(|(rule, spec)| rule.is(spec));
    if !same {
        let missing = rules.own.iter().find(|spec| !own.iter().any(|rule| rule.is(spec)));
        mismatches.push(match missing {
            Some(spec) => format!("rule \"{spec}\" is missing from chain {chain}"),
            None => format!("chain {chain} holds rules that ADD did not make, or in another order"),
        });
    }
    let entries: Vec<&SavedRule> =
        dump.rules_of(TOP_CHAIN).filter(|rule| rule.option("-j").as_ref() == Some(chain)).collect();
    for entry in &rules.entries {
        let spec = entry.to(chain);
        if !entries.iter().any(|rule| rule.is(&spec)) {
            mismatches.push(format!("rule \"{spec}\" is missing from chain {TOP_CHAIN}"));
        }
    }
    if entries.len() > rules.entries.len() {
        mismatches.push(format!("chain {TOP_CHAIN} leads to {chain} more often than ADD made it"));
    }
    mismatches
}
