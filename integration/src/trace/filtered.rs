//! Which chains drop the connection on its way.

use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{Iptables, SavedRule, TableDump, Variant, legacy_table_loaded};
use cni_common::kernel::nft::{BaseChain, ChainKind, Hook, Priority, Table};

use super::step::{Finding, Step};
use super::way::{Origin, Way};
use crate::rules::{Decision, Fate, Packet, Rules};

const SUBJECT: &str = "filters";

/// Every chain that decides about it.
pub(super) fn all(way: &Way<'_>, rules: &mut Rules) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut asked = 0;
    for (hook, packet) in hooks(way) {
        // NAT's chains may drop, too, as our guard does.
        let is_filter = |_: &Table, base: BaseChain| match hook {
            Hook::Prerouting => base.priority < Priority::DSTNAT,
            _ => base.kind == ChainKind::Filter,
        };
        match rules.at(hook, &packet, &is_filter) {
            Ok(mut decisions) => {
                // What translates is told by itself.
                decisions.retain(|decision| decision.fate != Fate::Translated);
                asked += decisions.len();
                steps.extend(decisions.iter().filter_map(|decision| step(decision, way)));
            }
            Err(error) => steps.push(Step::unknown(SUBJECT, &error)),
        }
    }
    if way.origin != Origin::Host {
        steps.extend(legacy(way));
    }
    if steps.is_empty() {
        let chains = if asked == 1 { "1 chain".to_owned() } else { format!("{asked} chains") };
        steps.push(Step::ok(SUBJECT, format!("{chains} on the way, and none drops it")));
    }
    steps
}

/// The connection's first packet where filters see it: as it came, and with its new destination.
fn hooks(way: &Way<'_>) -> Vec<(Hook, Packet)> {
    let led_on = way.led_on();
    let mut hooks = Vec::new();
    if way.origin == Origin::Host {
        hooks.push((Hook::Output, Packet { input: None, ..led_on.clone() }));
    } else {
        hooks.extend(way.as_it_came().map(|packet| (Hook::Prerouting, packet)));
        hooks.push((Hook::Forward, led_on.clone()));
    }
    hooks.push((Hook::Postrouting, Packet { input: None, ..led_on }));
    hooks
}

fn step(decision: &Decision, way: &Way<'_>) -> Option<Step> {
    let Decision { table, chain, .. } = decision;
    let whose = match &decision.rule {
        Some((chain, handle)) => format!("chain {chain}, rule with handle {handle}"),
        None => format!("chain {chain}, by its policy drop"),
    };
    let possible = decision.possibly.as_ref();
    let (finding, text) = match (decision.fate, possible) {
        (Fate::Dropped, None) => (Finding::Stop, format!("table {table} drops it: {whose}")),
        (Fate::Dropped, Some((_, chain, handle))) => (
            Finding::Doubt,
            format!(
                "table {table} drops it ({whose}) unless the rule with handle {handle} of chain {chain} lets \
                 it through"
            ),
        ),
        (_, Some((Fate::Dropped, chain, handle))) => (
            Finding::Doubt,
            format!("table {table} may drop it: chain {chain}, rule with handle {handle}"),
        ),
        _ => return None,
    };
    let remedy = format!(
        "nft -a list table {table} shows it; {}",
        if way.place.is_some() { ACCEPT } else { "put the mapping right first" }
    );
    Some(Step::new(SUBJECT, finding, text, remedy))
}

const ACCEPT: &str = "the plugin firewall in the network's chain lets containers through (cni-chain restore \
                      puts its rules back); or accept them in that chain";

/// Legacy iptables has its own hooks, which `nf_tables` does not show.
fn legacy(way: &Way<'_>) -> Option<Step> {
    let version = IpVersion::of(way.mapping.container);
    if !legacy_table_loaded(version, "filter").unwrap_or(false) {
        return None;
    }
    let saved =
        Iptables::seeing(version, Variant::Legacy).and_then(|iptables| iptables.save("filter"));
    let dump = match saved {
        Ok(dump) => dump,
        Err(error) => return Some(Step::unknown(SUBJECT, &error)),
    };
    let drops = dump.chains.iter().any(|(name, policy)| name == "FORWARD" && policy == "DROP");
    if !drops || admits(&dump, way) {
        return None;
    }
    Some(Step::stop(
        SUBJECT,
        format!("chain FORWARD of iptables-legacy ({version}) drops it, by its policy DROP"),
        format!("iptables-legacy -S shows it; {ACCEPT}"),
    ))
}

/// Whether a rule accepts what goes to the container.
fn admits(dump: &TableDump, way: &Way<'_>) -> bool {
    let container = way.mapping.container;
    let leads_there = |rule: &SavedRule| {
        let destination = rule.option("-d");
        let address =
            destination.as_deref().map(|net| net.split('/').next().unwrap_or(net).parse());
        let fits = address.is_none_or(|address| address == Ok(container));
        let output = rule.option("-o");
        fits && output.is_none_or(|name| Some(name) == way.towards)
            && rule.option("-s").is_none()
            && !rule.spec.contains("ESTABLISHED") | rule.spec.contains("DNAT")
    };
    dump.rules
        .iter()
        .any(|rule| rule.option("-j").as_deref() == Some("ACCEPT") && leads_there(rule))
}
