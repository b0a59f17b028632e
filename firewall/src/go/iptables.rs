//! What the Go plugin has in iptables of an attachment that ours knows nothing of: right after the
//! binaries were swapped, its rules serve it, and that is sound.

use std::cell::Cell;
use std::net::IpAddr;

use cni_common::cni::holder::on_all;
use cni_common::cni::protocol::CniError;
use cni_common::cni::{Failure as _, Finding};
use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{IptablesError, TableDump};

use crate::config::Policy;
use crate::filter::{
    ADMIN, BOTH_POLICIES, FORWARD, Filter, FilterRule, RULES, STAGE_1, STAGE_2, go_rules,
    host_network,
};
use crate::host::Host;
use crate::plan::{Isolation, Plan};

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All that the plugin makes.
    Everything,
    /// What its firewalld backend leaves to iptables.
    Isolation,
}

/// Compares the Go plugin's rules for the attachment with those that it makes. Each IP version
/// counts for itself: a host may have one kind of iptables for IPv4 and the other for IPv6.
pub(crate) fn check(host: &mut Host<'_>, plan: &Plan, scope: Scope) -> Result<Finding, CniError> {
    let filters =
        host.filters().map_err(|error| error.into_cni("cannot look for the Go plugin's rules"))?;
    let mut found = false;
    let mut mismatches = Vec::new();
    for version in plan.versions() {
        let here: Vec<_> = filters
            .iter()
            .filter(|(of_filter, _)| *of_filter == version)
            .filter_map(|(_, variant)| {
                in_filter(host.filter.read(version, *variant), version, plan, scope)
            })
            .collect();
        let fewest = here.into_iter().min_by_key(Vec::len);
        found |= fewest.is_some();
        let nothing = || vec![format!("the Go plugin has no {version} rules of {}", plan.tag)];
        mismatches.extend(fewest.unwrap_or_else(nothing));
    }
    Ok(if found { Finding::of(mismatches) } else { Finding::Absent })
}

/// Removes the rules that admit these addresses. Where the programs are gone, the removal of our
/// own rules says so.
pub(crate) fn remove(host: &mut Host<'_>, addresses: &[IpAddr]) -> Result<(), CniError> {
    const DOING: &str = "cannot remove the Go plugin's firewall rules";
    let filters = host.settled_filters(DOING)?;
    let was_there = Cell::new(false);
    let outcome = on_all(filters, |(version, variant)| {
        let removal = |dump: &TableDump| {
            let lines = removal(&Filter::of_plugins(dump), addresses);
            was_there.set(was_there.get() || !lines.is_empty());
            lines
        };
        match host.filter.change(version, variant, removal) {
            Err(IptablesError::Missing(_)) => Ok(()),
            outcome => outcome.map_err(|error| error.into_cni(DOING)),
        }
    });
    host.removed.from_iptables |= was_there.get();
    outcome
}

fn removal(filter: &Filter, addresses: &[IpAddr]) -> Vec<String> {
    let is_theirs = |host: &str| addresses.iter().any(|a| host_network(*a) == host);
    filter
        .rules_of(FORWARD)
        .filter(|rule| rule.is_of_go() && rule.host().is_some_and(is_theirs))
        .map(|rule| rule.line("-D"))
        .collect()
}

fn in_filter(
    dump: Result<&TableDump, IptablesError>,
    version: IpVersion,
    plan: &Plan,
    scope: Scope,
) -> Option<Vec<String>> {
    match dump {
        Ok(dump) => mismatches(&Filter::of_plugins(dump), version, plan, scope),
        Err(error) => Some(vec![format!("chain {FORWARD} cannot be read: {error}")]),
    }
}

/// What is missing in one table; `None` if there is nothing of the attachment. Pure.
fn mismatches(
    filter: &Filter,
    version: IpVersion,
    plan: &Plan,
    scope: Scope,
) -> Option<Vec<String>> {
    let accepting: Vec<FilterRule> =
        plan.of_version(version).flat_map(|a| go_rules(&host_network(a))).collect();
    let there = |rule: &FilterRule| filter.rules_of(&rule.chain).any(|there| there == rule);
    let mut wanted = Vec::new();
    if scope == Scope::Everything {
        if !accepting.iter().any(there) {
            return None;
        }
        wanted.push(FilterRule::commented("FORWARD", &[], RULES, FORWARD));
        wanted.push(FilterRule::commented(FORWARD, &[], ADMIN, &plan.admin_chain));
        wanted.extend(accepting);
    } else if plan.isolation.is_some() && !filter.has_chain(STAGE_1) {
        return None;
    }
    let mut mismatches: Vec<String> =
        wanted.iter().filter(|rule| !there(rule)).map(missing).collect();
    if let Some(isolation) = &plan.isolation {
        mismatches.extend(isolation_mismatches(filter, isolation));
    }
    Some(mismatches)
}

/// The comments of these differ between its versions.
fn isolation_mismatches(filter: &Filter, isolation: &Isolation) -> Vec<String> {
    let bridge = isolation.bridge.as_str();
    let rule = |chain, matches: &[&str], target| {
        FilterRule::commented(chain, matches, BOTH_POLICIES, target)
    };
    let mut wanted = vec![
        rule("FORWARD", &[], STAGE_1),
        rule(STAGE_1, &["-i", bridge, "!", "-o", bridge], STAGE_2),
        rule(STAGE_1, &[], "RETURN"),
        rule(STAGE_2, &["-o", bridge], "DROP"),
        rule(STAGE_2, &[], "RETURN"),
    ];
    if isolation.policy == Policy::Isolated {
        wanted.push(rule(STAGE_1, &["-i", bridge, "-o", bridge], "DROP"));
    }
    let there = |rule: &&FilterRule| {
        filter.rules_of(&rule.chain).any(|there| without_comment(there) == without_comment(rule))
    };
    let mut mismatches: Vec<String> =
        wanted.iter().filter(|rule| !there(rule)).map(missing).collect();
    if let (Some(isolates), Some(accepts)) =
        (filter.entrance_of(STAGE_1), filter.entrance_of(FORWARD))
        && accepts < isolates
    {
        mismatches.push(format!("chain FORWARD jumps to {FORWARD} before {STAGE_1}"));
    }
    mismatches
}

fn without_comment(rule: &FilterRule) -> Vec<&str> {
    let mut words: Vec<&str> = rule.words.iter().map(String::as_str).collect();
    if let Some(position) = words.iter().position(|word| *word == "--comment") {
        // "-m comment --comment TEXT"
        words.drain(position.saturating_sub(2)..(position + 2).min(words.len()));
    }
    words
}

fn missing(rule: &FilterRule) -> String {
    format!("rule missing: {}", rule.line("-A"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the Go plugin 1.7 and its main branch make, and the comments of before.
    const SAVED: &str = r#"
FORWARD -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j CNI-ISOLATION-STAGE-1
FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD
CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN
CNI-FORWARD -d 10.0.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
CNI-FORWARD -s 10.0.0.2/32 -j ACCEPT
CNI-ISOLATION-STAGE-1 -i br0 -o br0 -m comment --comment "CNI firewall plugin rules (ingressPolicy: isolated)" -j DROP
CNI-ISOLATION-STAGE-1 -i br0 ! -o br0 -m comment --comment "CNI firewall plugin rules (ingressPolicy: isolated)" -j CNI-ISOLATION-STAGE-2
CNI-ISOLATION-STAGE-1 -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j RETURN
CNI-ISOLATION-STAGE-2 -o br0 -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j DROP
CNI-ISOLATION-STAGE-2 -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j RETURN"#;

    fn found(text: &str, policy: Option<Policy>, scope: Scope) -> Option<Vec<String>> {
        let plan = Plan::sample("c", &["10.0.0.2"], policy);
        mismatches(&Filter::of(text), IpVersion::V4, &plan, scope)
    }

    #[test]
    fn complete_or_missing_any_one_rule() {
        let isolated = Some(Policy::Isolated);
        for old in ["", "(ingressPolicy: same-bridge)"] {
            let text = match old {
                "" => SAVED.to_owned(),
                old => SAVED
                    .replace("(ingressPolicy: same-bridge|isolated)", old)
                    .replace("(ingressPolicy: isolated)", old),
            };
            assert_eq!(found(&text, isolated, Scope::Everything), Some(Vec::new()));
            assert_eq!(found(&text, Some(Policy::SameBridge), Scope::Isolation), Some(Vec::new()));
            let lines: Vec<&str> = text.trim().lines().collect();
            for absent in 0..lines.len() {
                let mut rest = lines.clone();
                let line = rest.remove(absent);
                let mismatches = found(&rest.join("\n"), isolated, Scope::Everything);
                let mismatches = mismatches.expect("its rules are there");
                assert_eq!(mismatches.len(), 1, "{line}: {mismatches:?}");
                assert!(mismatches[0].contains(line.split(' ').next().expect("a chain")));
            }
        }
        let other = SAVED.replace("10.0.0.2", "10.0.0.3");
        assert_eq!(found(&other, None, Scope::Everything), None, "another container's");
    }

    #[test]
    fn acceptance_in_front_of_isolation_is_a_mismatch() {
        let mut lines: Vec<&str> = SAVED.trim().lines().collect();
        lines.swap(0, 1);
        let mismatches = found(&lines.join("\n"), Some(Policy::SameBridge), Scope::Everything);
        assert!(mismatches.expect("its rules are there")[0].contains("before"));
    }
}
