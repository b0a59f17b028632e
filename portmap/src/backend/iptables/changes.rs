//! The lines for `iptables-restore` that turn a saved table into one that holds what it must. Pure.

use std::net::IpAddr;

use cni_common::cni::Attachment;
use cni_common::kernel::iptables::{SavedRule, TableDump};

use super::names::{Names, Owner, owner};
use super::rules::{ChainRule, Entry, OLD_SNAT_TOP, Rules, SHARED_CHAINS, TOP_CHAIN};
use super::saved::{entry_chains, evicted_chains};
use super::standing::{Bounds, bounds};

/// Chains that the kernel has by itself.
const BUILT_IN: [&str; 3] = ["PREROUTING", "OUTPUT", "POSTROUTING"];

/// The lines that turn `dump` into what the rules ask for.
pub(super) fn install(dump: &TableDump, rules: &Rules) -> Vec<String> {
    let names = &rules.names;
    let addresses: Vec<IpAddr> = rules.mappings.iter().map(|mapping| mapping.container).collect();
    let mut old = entry_chains(dump, names, &addresses);
    let chain = free_chain(dump, names, &old);
    old.extend(evicted_chains(dump, names, &addresses).into_iter().map(|(evicted, _)| evicted));
    let mut lines = Vec::new();
    if !dump.has_chain(TOP_CHAIN) {
        lines.push(format!(":{TOP_CHAIN} - [0:0]"));
    }
    // Declaring a chain that exists empties it.
    lines.push(format!(":{chain} - [0:0]"));
    lines.extend(ensure(dump, &rules.shared));
    let obsolete =
        |rule: &&SavedRule| rule.option("-j").is_some_and(|target| old.contains(&target));
    let (entries, mut rest): (Vec<_>, Vec<_>) = dump.rules_of(TOP_CHAIN).partition(obsolete);
    lines.extend(entries.iter().map(|rule| format!("-D {TOP_CHAIN} {}", rule.spec)));
    for other in old.iter().filter(|other| *other != chain) {
        lines.push(format!("-F {other}"));
        lines.push(format!("-X {other}"));
    }
    lines.extend(rules.own.iter().map(|spec| format!("-A {chain} {spec}")));
    let inserted: Vec<SavedRule> = rules
        .entries
        .iter()
        .map(|entry| SavedRule { chain: TOP_CHAIN.to_owned(), spec: entry.to(chain) })
        .collect();
    let bounds = rules.yields.then(|| bounds(dump, rules));
    for (entry, saved) in rules.entries.iter().zip(&inserted) {
        let position = match &bounds {
            Some(bounds) => last_position(&rest, entry, bounds),
            None => position(&rest, entry, &names.attachment),
        };
        lines.push(format!("-I {TOP_CHAIN} {} {}", position + 1, saved.spec));
        rest.insert(position, saved);
    }
    lines
}

/// The entry's chain, unless somebody else has the name.
fn free_chain<'a>(dump: &TableDump, names: &'a Names, own: &[String]) -> &'a String {
    let foreign = dump.has_chain(&names.chain) && !own.contains(&names.chain);
    if foreign { &names.alternative } else { &names.chain }
}

/// Where an entry goes: mappings of one host address before those of any, and among equals the
/// newest first; but behind the same container's, whose first network keeps its ports.
fn position(entries: &[&SavedRule], entry: &Entry, own: &Attachment) -> usize {
    let specific = |rule: &&&SavedRule| rule.option("-d").is_some();
    let boundary = if entry.specific { 0 } else { entries.iter().take_while(specific).count() };
    let last_sibling = entries.iter().rposition(|rule| {
        let theirs = rule.option("--comment").and_then(|comment| owner(&comment));
        theirs.is_some_and(|Owner { attachment, .. }| {
            attachment.container_id == own.container_id && attachment.ifname != own.ifname
        })
    });
    boundary.max(last_sibling.map_or(0, |index| index + 1))
}

/// Where an entry goes that takes no port from anyone: behind all others of its kind, but before those
/// that wait for what it has.
fn last_position(entries: &[&SavedRule], entry: &Entry, bounds: &Bounds) -> usize {
    let specific = |rule: &&&SavedRule| rule.option("-d").is_some();
    let specifics = entries.iter().take_while(specific).count();
    let (start, end) = if entry.specific { (0, specifics) } else { (specifics, entries.len()) };
    let leads_to = |rule: &SavedRule, chains: &[String]| {
        rule.option("-j").is_some_and(|target| chains.contains(&target))
    };
    let same = &entries[start..end];
    let behind = same.iter().position(|rule| leads_to(rule, &bounds.behind));
    let ahead = same.iter().rposition(|rule| leads_to(rule, &bounds.ahead));
    let last = behind.unwrap_or(same.len()).max(ahead.map_or(0, |index| index + 1));
    start + last
}

/// The lines that add what is missing of shared chains and their rules.
pub(super) fn ensure(dump: &TableDump, shared: &[ChainRule]) -> Vec<String> {
    let mut lines = Vec::new();
    for ChainRule { chain, .. } in shared {
        let line = format!(":{chain} - [0:0]");
        let built_in = BUILT_IN.contains(&chain.as_str());
        if !built_in && !dump.has_chain(chain) && !lines.contains(&line) {
            lines.push(line);
        }
    }
    for ChainRule { chain, spec, first } in shared {
        if !dump.rules_of(chain).any(|rule| rule.is(spec)) {
            lines.push(if *first {
                format!("-I {chain} 1 {spec}")
            } else {
                format!("-A {chain} {spec}")
            });
        }
    }
    lines
}

/// The lines that remove chains and whatever leads to them.
pub(super) fn removal(dump: &TableDump, chains: &[String]) -> Vec<String> {
    let leads_there =
        |rule: &&SavedRule| rule.option("-j").is_some_and(|target| chains.contains(&target));
    let tops = [TOP_CHAIN, OLD_SNAT_TOP];
    let entries = dump.rules.iter().filter(|rule| tops.contains(&rule.chain.as_str()));
    let mut lines: Vec<String> = entries
        .filter(leads_there)
        .map(|rule| format!("-D {} {}", rule.chain, rule.spec))
        .collect();
    lines.extend(chains.iter().map(|chain| format!("-F {chain}")));
    lines.extend(chains.iter().map(|chain| format!("-X {chain}")));
    lines
}

/// The lines that remove the shared chains and the jumps to them. Those that rules of other
/// programs lead to stay.
pub(super) fn skeleton_removal(dump: &TableDump) -> Vec<String> {
    let foreign_use = |chain: &str| {
        dump.rules.iter().any(|rule| {
            rule.option("-j").as_deref() == Some(chain)
                && !is_ours(&rule.chain)
                && !BUILT_IN.contains(&rule.chain.as_str())
        })
    };
    let chains: Vec<&String> = dump
        .chains
        .iter()
        .map(|(chain, _)| chain)
        .filter(|chain| is_shared(chain) && !foreign_use(chain))
        .filter(|chain| *chain != OLD_SNAT_TOP || dump.rules_of(chain).next().is_none())
        .collect();
    let jumps = dump.rules.iter().filter(|rule| {
        BUILT_IN.contains(&rule.chain.as_str())
            && rule.option("-j").is_some_and(|target| chains.iter().any(|chain| **chain == target))
    });
    let mut lines: Vec<String> =
        jumps.map(|rule| format!("-D {} {}", rule.chain, rule.spec)).collect();
    // iptables-nft cannot flush a chain that it deletes rules from in the same go; the entries of
    // the top chain are all deleted by now.
    let full = chains.iter().filter(|chain| **chain != TOP_CHAIN);
    lines.extend(full.map(|chain| format!("-F {chain}")));
    lines.extend(chains.iter().map(|chain| format!("-X {chain}")));
    lines
}

/// The lines that give our chains the rules that they had before, whoever they are of, and take the jumps
/// to them out that were not there.
pub(super) fn put_back(before: &TableDump, now: &TableDump) -> Vec<String> {
    let specs = |dump: &TableDump, chain: &str| -> Vec<String> {
        dump.rules_of(chain).map(|rule| rule.spec.clone()).collect()
    };
    let of = |dump: &TableDump| -> Vec<String> {
        dump.chains.iter().map(|(chain, _)| chain.clone()).filter(|c| is_ours(c)).collect()
    };
    let (earlier, present) = (of(before), of(now));
    let missing = earlier.iter().filter(|chain| !now.has_chain(chain));
    let mut lines: Vec<String> = missing.map(|chain| format!(":{chain} - [0:0]")).collect();
    for chain in earlier.iter().filter(|chain| specs(before, chain) != specs(now, chain)) {
        lines.push(format!("-F {chain}"));
        lines.extend(specs(before, chain).iter().map(|spec| format!("-A {chain} {spec}")));
    }
    for chain in BUILT_IN {
        let had = specs(before, chain);
        let is_new = |rule: &&SavedRule| {
            rule.option("-j").is_some_and(|target| is_ours(&target)) && !had.contains(&rule.spec)
        };
        lines.extend(now.rules_of(chain).filter(is_new).map(|r| format!("-D {chain} {}", r.spec)));
    }
    let new: Vec<_> = present.iter().filter(|chain| !before.has_chain(chain)).collect();
    lines.extend(new.iter().map(|chain| format!("-F {chain}")));
    lines.extend(new.iter().map(|chain| format!("-X {chain}")));
    lines
}

fn is_ours(chain: &str) -> bool {
    chain.starts_with("CNI-DN-") || is_shared(chain)
}

fn is_shared(chain: &str) -> bool {
    SHARED_CHAINS.iter().any(|stem| {
        chain.strip_prefix(stem).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}
