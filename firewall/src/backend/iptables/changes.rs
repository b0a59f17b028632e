//! From what a table holds to the restore lines that make it right. Pure.

use std::net::IpAddr;

use cni_common::cni::OwnerTag;
use cni_common::kernel::IpVersion;

use super::isolation;
use super::removal::Removal;
use crate::filter::{ADMIN, FORWARD, Filter, FilterRule, RULES, SOURCES, host_network, keep_one};
use crate::plan::Plan;

/// The restore lines from what is there to what must be there. Pure.
pub(super) fn changes(
    filter: &Filter,
    version: IpVersion,
    plan: Option<&Plan>,
    removal: &Removal<'_>,
) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(plan) = plan {
        entrance(filter, plan, &mut lines);
    }
    owned_rules(filter, version, plan, removal, &mut lines);
    isolation::change(filter, version, plan, removal, &mut lines);
    // Chains come into being before rules lead to them.
    lines.sort_by_key(|line| !line.starts_with("-N") && !line.starts_with(':'));
    lines
}

/// `CNI-FORWARD`, the administrator's chain and the jumps to them.
fn entrance(filter: &Filter, plan: &Plan, lines: &mut Vec<String>) {
    for chain in [FORWARD, &plan.admin_chain] {
        if !filter.has_chain(chain) {
            lines.push(format!("-N {chain}"));
        }
    }
    let jump = FilterRule::commented("FORWARD", &[], RULES, FORWARD);
    keep_one(filter, &jump, lines);
    let admin = FilterRule::commented(FORWARD, &[], ADMIN, &plan.admin_chain);
    keep_one(filter, &admin, lines);
}

/// Everything that carries one attachment's tag, except for what it says about bridges.
fn rules_of_address(address: IpAddr, tag: &OwnerTag) -> Vec<FilterRule> {
    let host = host_network(address);
    let tagged = |chain, matches: &[&str], target| {
        FilterRule::commented(chain, matches, tag.as_str(), target)
    };
    let conntrack = |state| ["-d", &host, "-m", "conntrack", "--ctstate", state];
    vec![
        tagged(FORWARD, &conntrack("RELATED,ESTABLISHED"), "ACCEPT"),
        tagged(FORWARD, &conntrack("DNAT"), "ACCEPT"),
        tagged(FORWARD, &["-s", &host], "ACCEPT"),
        tagged(SOURCES, &["-s", &host], "DROP"),
    ]
}

fn owned_rules(
    filter: &Filter,
    version: IpVersion,
    plan: Option<&Plan>,
    removal: &Removal<'_>,
    lines: &mut Vec<String>,
) {
    let addresses: Vec<IpAddr> =
        plan.into_iter().flat_map(|plan| plan.of_version(version)).collect();
    let hosts: Vec<String> = addresses.iter().copied().map(host_network).collect();
    let mut wanted: Vec<FilterRule> = addresses
        .iter()
        .zip(plan.iter().cycle())
        .flat_map(|(address, plan)| rules_of_address(*address, &plan.tag))
        .collect();
    let mut there = 0;
    for rule in [FORWARD, SOURCES].into_iter().flat_map(|chain| filter.rules_of(chain)) {
        if rule.chain == SOURCES && rule.option("-s").is_none() {
            continue;
        }
        if let Some(position) = wanted.iter().position(|wanted| wanted == rule) {
            // A second copy of it is one too many.
            wanted.remove(position);
            there += 1;
            continue;
        }
        // The newest owner of an address wins. An administrator's rule has none.
        let taken = (rule.comment().is_some() || rule.is_of_go())
            && rule.host().is_some_and(|host| hosts.iter().any(|own| own == host));
        if taken || removal.takes(rule, plan) {
            lines.push(rule.line("-D"));
        }
    }
    if !filter.has_chain(SOURCES) && there + wanted.len() > 0 {
        lines.push(format!("-N {SOURCES}"));
    }
    lines.extend(wanted.iter().map(|rule| rule.line("-A")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Policy;
    use crate::filter::STAGE_1;

    const V4: IpVersion = IpVersion::V4;

    fn added(filter: Filter, plan: &Plan) -> Filter {
        let lines = changes(&filter, V4, Some(plan), &Removal::Nothing);
        let filter = filter.apply(&lines);
        assert_eq!(
            changes(&filter, V4, Some(plan), &Removal::Nothing),
            Vec::<String>::new(),
            "what ADD made, CHECK finds right"
        );
        filter
    }

    #[test]
    fn a_fresh_add_has_the_go_plugins_chains_in_its_order() {
        let filter =
            added(Filter::default(), &Plan::sample("c", &["10.0.0.2"], Some(Policy::Isolated)));
        let lines: Vec<_> = filter
            .rules_of("FORWARD")
            .chain(filter.rules_of(FORWARD))
            .map(|r| r.line("-A"))
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        -A FORWARD -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j CNI-ISOLATION-STAGE-1
        -A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD
        -A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN
        -A CNI-FORWARD -d 10.0.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment net/c/eth0 -j ACCEPT
        -A CNI-FORWARD -d 10.0.0.2/32 -m conntrack --ctstate DNAT -m comment --comment net/c/eth0 -j ACCEPT
        -A CNI-FORWARD -s 10.0.0.2/32 -m comment --comment net/c/eth0 -j ACCEPT
        "#);
    }

    #[test]
    fn every_add_can_be_taken_back() {
        let policies = [None, Some(Policy::SameBridge), Some(Policy::Isolated)];
        for (first, second) in policies.iter().flat_map(|a| policies.map(|b| (*a, b))) {
            let one = Plan::sample("one", &["10.0.0.2"], first);
            let two = Plan::sample("two", &["10.0.0.3"], second);
            let filter = added(added(Filter::default(), &one), &two);
            let gone = |filter: Filter, plan: &Plan| {
                let lines = changes(&filter, V4, None, &Removal::Attachment(&plan.tag));
                filter.apply(&lines)
            };
            let filter = gone(filter, &one);
            assert_eq!(
                changes(&filter, V4, Some(&two), &Removal::Nothing),
                Vec::<String>::new(),
                "{first:?} leaves {second:?} alone"
            );
            let filter = gone(filter, &two);
            assert_eq!(filter.chains, [FORWARD, "CNI-ADMIN"], "{first:?} {second:?}");
            assert_eq!(filter.rules.len(), 2);
        }
    }

    #[test]
    fn acceptance_never_stays_in_front_of_isolation() {
        let isolated = Plan::sample("c", &["10.0.0.2"], Some(Policy::Isolated));
        let mut filter = added(Filter::default(), &isolated);
        let jumps = |filter: &Filter| -> Vec<String> {
            filter.rules_of("FORWARD").filter_map(|r| r.option("-j").map(str::to_owned)).collect()
        };
        let position = filter.rules.iter().position(|r| r.option("-j") == Some(FORWARD));
        let jump = filter.rules.remove(position.expect("a jump"));
        filter.rules.insert(0, jump);
        assert_eq!(jumps(&filter), [FORWARD, STAGE_1]);
        assert_eq!(jumps(&added(filter, &isolated)), [STAGE_1, FORWARD]);
    }
}
