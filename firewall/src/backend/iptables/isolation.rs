//! What keeps bridges apart in iptables: the list of members, and the chains that follow from it.
//! Pure.

use std::collections::BTreeMap;

use cni_common::cni::OwnerTag;
use cni_common::kernel::IpVersion;

use super::removal::Removal;
use crate::backend::counts::PolicyCounts;
use crate::config::Policy;
use crate::filter::{
    BOTH_POLICIES, FORWARD, Filter, FilterRule, INPUT, MEMBERS, RULES, SOURCES, STAGE_1, STAGE_2,
    host_network, keep_one,
};
use crate::plan::{Isolation, Plan};

/// The list entry of an attachment.
fn member_rule(tag: &OwnerTag, bridge: &str, policy: Policy) -> FilterRule {
    let matches: &[&str] = match policy {
        Policy::SameBridge => &["-i", bridge, "!", "-o", bridge],
        Policy::Isolated => &["-i", bridge],
    };
    FilterRule::commented(MEMBERS, matches, tag.as_str(), "RETURN")
}

pub(super) fn membership(rule: &FilterRule) -> Option<(String, Policy)> {
    let bridge = rule.option("-i")?.to_owned();
    let policy = if rule.option("-o").is_some() { Policy::SameBridge } else { Policy::Isolated };
    Some((bridge, policy))
}

/// What the attachment has its bridge do.
pub(super) fn of_owner(filter: &Filter, tag: &OwnerTag) -> Option<Isolation> {
    let mut own = filter.rules_of(MEMBERS).filter(|rule| rule.is_of(tag));
    let (bridge, policy) = own.find_map(membership)?;
    let gateways = filter.rules_of(INPUT).filter(|rule| rule.option("-i") == Some(&bridge));
    let gateways =
        gateways.filter_map(|rule| rule.option("-d")?.split('/').next()?.parse().ok()).collect();
    Some(Isolation { bridge, policy, gateways })
}

/// Whether the attachment has its bridge keep containers apart.
pub(super) fn isolates(filter: &Filter, tag: &OwnerTag) -> bool {
    let own = |rule: &&FilterRule| rule.is_of(tag);
    let mut policies = filter.rules_of(MEMBERS).filter(own).filter_map(membership);
    policies.any(|(_, policy)| policy == Policy::Isolated)
}

/// The list of members, and the chains that follow from it.
pub(super) fn change(
    filter: &Filter,
    version: IpVersion,
    plan: Option<&Plan>,
    removal: &Removal<'_>,
    lines: &mut Vec<String>,
) {
    let mut wanted: Option<FilterRule> = plan.and_then(|plan| {
        let isolation = plan.isolation.as_ref()?;
        Some(member_rule(&plan.tag, &isolation.bridge, isolation.policy))
    });
    // Bridges that members have or had. Others in the chains are the Go plugin's, and stay.
    let mut bridges: BTreeMap<String, PolicyCounts> = BTreeMap::new();
    let mut members = 0;
    for rule in filter.rules_of(MEMBERS) {
        let Some((bridge, policy)) = membership(rule) else { continue };
        let counts = bridges.entry(bridge).or_default();
        if wanted.as_ref() == Some(rule) {
            wanted = None;
        } else if removal.takes(rule, plan) {
            lines.push(rule.line("-D"));
            continue;
        }
        *counts = counts.plus(policy);
        members += 1;
    }
    if let Some(rule) = wanted {
        if !filter.has_chain(MEMBERS) {
            lines.push(format!("-N {MEMBERS}"));
        }
        if let Some((bridge, policy)) = membership(&rule) {
            let counts = bridges.entry(bridge).or_default();
            *counts = counts.plus(policy);
            members += 1;
        }
        lines.push(rule.line("-A"));
    }
    let chains = isolation_chains(filter, version, plan, &bridges);
    let needed = chains.iter().any(|(_, rules)| rules.iter().any(is_about_a_bridge));
    if needed && plan.is_none() && bridges.is_empty() {
        // Nothing here is or was ours: the Go plugin's isolation is none of a removal's business.
        return;
    }
    if needed {
        let creation = format!("-N {SOURCES}");
        if !filter.has_chain(SOURCES) && !lines.contains(&creation) {
            lines.push(creation);
        }
        enter_isolation(filter, lines);
        for (chain, rules) in chains {
            rewrite(filter, chain, &rules, lines);
        }
    } else {
        leave_isolation(filter, lines);
    }
    if members == 0 && filter.has_chain(MEMBERS) {
        lines.push(format!("-X {MEMBERS}"));
    }
    source_interfaces(filter, &bridges, lines);
    if !needed {
        drop_empty_sources(filter, lines);
    }
}

/// The list of sources goes with the last of them.
fn drop_empty_sources(filter: &Filter, lines: &mut Vec<String>) {
    let starting_with = |action: &str| {
        let start = format!("{action} {SOURCES} ");
        lines.iter().filter(|line| line.starts_with(&start)).count()
    };
    let left = filter.rules_of(SOURCES).count() - starting_with("-D") + starting_with("-A");
    if left == 0 && filter.has_chain(SOURCES) {
        lines.push(format!("-X {SOURCES}"));
    }
}

fn is_about_a_bridge(rule: &FilterRule) -> bool {
    rule.option("-i").is_some() || rule.option("-o").is_some()
}

/// The three chains as they must be, for bridges that share anything and for those that are not
/// ours.
fn isolation_chains(
    filter: &Filter,
    version: IpVersion,
    plan: Option<&Plan>,
    bridges: &BTreeMap<String, PolicyCounts>,
) -> [(&'static str, Vec<FilterRule>); 3] {
    let ours = |rule: &FilterRule| {
        [rule.option("-i"), rule.option("-o")]
            .into_iter()
            .flatten()
            .any(|bridge| bridges.contains_key(bridge))
    };
    let kept = |chain: &'static str| {
        filter.rules_of(chain).filter(|rule| is_about_a_bridge(rule) && !ours(rule)).cloned()
    };
    let state = |chain, state| {
        FilterRule::commented(
            chain,
            &["-m", "conntrack", "--ctstate", state],
            BOTH_POLICIES,
            "RETURN",
        )
    };
    let mut first = vec![state(STAGE_1, "RELATED,ESTABLISHED"), state(STAGE_1, "DNAT")];
    let mut second = Vec::new();
    let mut input = vec![state(INPUT, "RELATED,ESTABLISHED")];
    for (bridge, counts) in bridges.iter().filter(|(_, counts)| !counts.is_none()) {
        let policy = if counts.isolated > 0 { Policy::Isolated } else { Policy::SameBridge };
        let comment = format!("{RULES} (ingressPolicy: {})", policy.as_str());
        if policy == Policy::Isolated {
            first.push(FilterRule::commented(
                STAGE_1,
                &["-i", bridge, "-o", bridge],
                &comment,
                "DROP",
            ));
        }
        let out = ["-i", bridge, "!", "-o", bridge];
        first.push(FilterRule::commented(STAGE_1, &out, &comment, STAGE_2));
        let into = ["!", "-i", bridge, "-o", bridge];
        first.push(FilterRule::commented(STAGE_1, &into, &comment, SOURCES));
        second.push(FilterRule::commented(STAGE_2, &["-o", bridge], BOTH_POLICIES, "DROP"));
        input.extend(gateway_rules(filter, version, plan, bridge));
    }
    first.extend(kept(STAGE_1));
    second.extend(kept(STAGE_2));
    input.extend(kept(INPUT));
    first.push(FilterRule::commented(STAGE_1, &[], BOTH_POLICIES, "RETURN"));
    second.push(FilterRule::commented(STAGE_2, &[], BOTH_POLICIES, "RETURN"));
    [(STAGE_2, second), (STAGE_1, first), (INPUT, input)]
}

/// The host's addresses on a bridge: those known so far and those of the plan.
fn gateway_rules(
    filter: &Filter,
    version: IpVersion,
    plan: Option<&Plan>,
    bridge: &str,
) -> Vec<FilterRule> {
    let mut rules: Vec<FilterRule> =
        filter.rules_of(INPUT).filter(|rule| rule.option("-i") == Some(bridge)).cloned().collect();
    let isolation = plan.and_then(|plan| plan.isolation.as_ref());
    let gateways = isolation.filter(|isolation| isolation.bridge == bridge);
    for gateway in gateways.iter().flat_map(|isolation| &isolation.gateways) {
        if IpVersion::of(*gateway) != version {
            continue;
        }
        let host = host_network(*gateway);
        let rule =
            FilterRule::commented(INPUT, &["-d", &host, "!", "-i", bridge], BOTH_POLICIES, SOURCES);
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

/// Gives a chain exactly these rules, if it has others.
fn rewrite(filter: &Filter, chain: &str, rules: &[FilterRule], lines: &mut Vec<String>) {
    if filter.has_chain(chain) && filter.rules_of(chain).eq(rules) {
        return;
    }
    // Empties a chain that is there.
    lines.push(format!(":{chain} - [0:0]"));
    lines.extend(rules.iter().map(|rule| rule.line("-A")));
}

/// The jumps: isolation before acceptance, whatever order they are in now.
fn enter_isolation(filter: &Filter, lines: &mut Vec<String>) {
    let jump = FilterRule::commented("FORWARD", &[], BOTH_POLICIES, STAGE_1);
    let count = filter.rules_of("FORWARD").filter(|rule| **rule == jump).count();
    let in_order = match (filter.entrance_of(STAGE_1), filter.entrance_of(FORWARD)) {
        (Some(first), Some(accept)) => first < accept,
        (Some(_), None) => false,
        (None, _) => true,
    };
    if count != 1 || !in_order {
        lines.extend((0..count).map(|_| jump.line("-D")));
        lines.push(jump.line("-I"));
    }
    keep_one(filter, &FilterRule::commented("INPUT", &[], BOTH_POLICIES, INPUT), lines);
}

/// Rules go one by one: one that somebody added meanwhile must not be flushed along.
fn leave_isolation(filter: &Filter, lines: &mut Vec<String>) {
    for (chain, target) in [("FORWARD", STAGE_1), ("INPUT", INPUT)] {
        let jumps = filter.rules_of(chain).filter(|rule| rule.option("-j") == Some(target));
        lines.extend(jumps.map(|rule| rule.line("-D")));
    }
    // A chain must be empty and nobody may jump to it: all are emptied first.
    let there: Vec<_> =
        [STAGE_1, STAGE_2, INPUT].into_iter().filter(|chain| filter.has_chain(chain)).collect();
    let rules = there.iter().flat_map(|chain| filter.rules_of(chain));
    lines.extend(rules.map(|rule| rule.line("-D")));
    lines.extend(there.iter().map(|chain| format!("-X {chain}")));
}

/// Bridges that take part are sources by themselves, whatever addresses come from there.
fn source_interfaces(
    filter: &Filter,
    bridges: &BTreeMap<String, PolicyCounts>,
    lines: &mut Vec<String>,
) {
    for (bridge, counts) in bridges {
        let rule = FilterRule::commented(SOURCES, &["-i", bridge], BOTH_POLICIES, "DROP");
        let there = filter.rules_of(SOURCES).any(|there| *there == rule);
        match (counts.is_none(), there) {
            (false, false) => lines.push(rule.line("-I")),
            (true, true) => lines.push(rule.line("-D")),
            _ => {}
        }
    }
}
