//! What a saved nat table says of attachments. Pure.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use cni_common::cni::{Attachment, OwnerTag, Stale};
use cni_common::kernel::iptables::{SavedRule, TableDump};
use cni_common::kernel::nft::L4Protocol;

use super::names::{Names, Owner, owner};
use super::rules::{OLD_SNAT_TOP, Rules, TOP_CHAIN};
use crate::backend::conflict::Held;
use crate::plan::Mapping;

/// The chains that are the attachment's, whoever made them.
pub(super) fn own_chains(dump: &TableDump, names: &Names, addresses: &[IpAddr]) -> Vec<String> {
    chains_of(dump, names, addresses, |_| true)
}

/// Those that one portmap entry of its list made.
pub(super) fn entry_chains(dump: &TableDump, names: &Names, addresses: &[IpAddr]) -> Vec<String> {
    chains_of(dump, names, addresses, |comment| names.is_of_entry(comment))
}

fn chains_of(
    dump: &TableDump,
    names: &Names,
    addresses: &[IpAddr],
    is_wanted: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut own: Vec<String> = Vec::new();
    let mut entered: Vec<String> = Vec::new();
    for entry in
        dump.rules.iter().filter(|rule| [TOP_CHAIN, OLD_SNAT_TOP].contains(&rule.chain.as_str()))
    {
        let (Some(comment), Some(target)) = (entry.option("--comment"), entry.option("-j")) else {
            continue;
        };
        let leads_to_us = || {
            let mut targets = dump.rules_of(&target).filter_map(translation).peekable();
            targets.peek().is_some()
                && targets.all(|mapping| addresses.contains(&mapping.container))
        };
        let is_own = names.owns(&comment, &target, leads_to_us) && is_wanted(&comment);
        if is_own && !own.contains(&target) {
            own.push(target.clone());
        }
        entered.push(target);
    }
    // What a call that was killed half-way left.
    let abandoned = |chain: &&&String| dump.has_chain(chain) && !entered.contains(chain);
    for chain in names.chains().iter().filter(abandoned) {
        if !own.contains(chain) {
            own.push((*chain).clone());
        }
    }
    own
}

/// The chains of other attachments that lead to one of these addresses, which are this one's now.
pub(super) fn evicted_chains(
    dump: &TableDump,
    names: &Names,
    addresses: &[IpAddr],
) -> Vec<(String, OwnerTag)> {
    let own = own_chains(dump, names, addresses);
    let mut leading: HashMap<&str, bool> = HashMap::new();
    for rule in &dump.rules {
        if let Some(mapping) = translation(rule) {
            *leading.entry(&rule.chain).or_insert(true) &= addresses.contains(&mapping.container);
        }
    }
    let mut evicted = owners(dump);
    evicted.retain(|(chain, _)| !own.contains(chain) && leading.get(chain.as_str()) == Some(&true));
    evicted.into_iter().map(|(chain, owner)| (chain, owner.tag())).collect()
}

/// The chains that the top chain leads to, in order, with their owners.
fn owners(dump: &TableDump) -> Vec<(String, Attachment)> {
    let mut owners: Vec<(String, Attachment)> = Vec::new();
    let mut seen: HashSet<String> = HashSet::new();
    for entry in dump.rules_of(TOP_CHAIN) {
        let owner = entry.option("--comment").and_then(|comment| owner(&comment));
        if let (Some(chain), Some(owner)) = (entry.option("-j"), owner)
            && seen.insert(chain.clone())
        {
            owners.push((chain, owner.attachment));
        }
    }
    owners
}

/// The mappings in a saved table with their owners, in the order in which packets meet the owners.
pub(super) fn mappings(dump: &TableDump) -> Vec<Held> {
    let mut by_chain: HashMap<&str, Vec<Mapping>> = HashMap::new();
    for rule in &dump.rules {
        if let Some(mapping) = translation(rule) {
            by_chain.entry(&rule.chain).or_default().push(mapping);
        }
    }
    let of_owner = |(chain, owner): (String, Attachment)| {
        let mappings = by_chain.remove(chain.as_str()).unwrap_or_default();
        let tag = owner.tag().to_string();
        mappings.into_iter().map(move |mapping| (mapping, tag.clone()))
    };
    owners(dump).into_iter().flat_map(of_owner).collect()
}

type Key = (Option<IpAddr>, L4Protocol, u16);

fn key(mapping: &Mapping) -> Key {
    (mapping.host_address, mapping.protocol, mapping.host_port)
}

/// Mappings of other containers that answer to the same host address, protocol and port as some of
/// these.
pub(super) fn conflicts(dump: &TableDump, rules: &Rules) -> Vec<Held> {
    let tag = rules.names.attachment.tag();
    let wanted: HashSet<Key> = rules.mappings.iter().map(key).collect();
    let mut conflicts = mappings(dump);
    conflicts.retain(|(mapping, owner)| {
        !tag.is_same_attachment(owner) && !tag.is_sibling(owner) && wanted.contains(&key(mapping))
    });
    conflicts
}

/// Those of the mappings that packets do not reach, because another container's comes first.
pub(super) fn lost(dump: &TableDump, rules: &Rules) -> Vec<Held> {
    let tag = rules.names.attachment.tag();
    let mut first: HashMap<Key, String> = HashMap::new();
    for (mapping, owner) in mappings(dump) {
        first.entry(key(&mapping)).or_insert(owner);
    }
    let held = rules.mappings.iter().filter_map(|mapping| {
        let owner = first.get(&key(mapping))?;
        let is_other = !tag.is_same_attachment(owner) && !tag.is_sibling(owner);
        is_other.then(|| (*mapping, owner.clone()))
    });
    held.collect()
}

pub(super) fn translation(rule: &SavedRule) -> Option<Mapping> {
    let target: SocketAddr = rule.option("--to-destination")?.parse().ok()?;
    let host = rule.option("-d").map(|text| text.split('/').next().unwrap_or_default().parse());
    Some(Mapping {
        host_address: host.transpose().ok()?,
        host_port: rule.option("--dport")?.parse().ok()?,
        protocol: L4Protocol::from_text(&rule.option("-p")?)?,
        container: target.ip(),
        container_port: target.port(),
    })
}

/// The chains of attachments that GC removes.
pub(super) fn stale_chains(dump: &TableDump, stale: &Stale) -> Vec<String> {
    let is_stale = |Owner { attachment, is_exact, .. }: &Owner| {
        // The Go plugin's comments name no interface; its chain is stale with the container.
        let is_kept = !is_exact && stale.spares_container(&attachment.container_id);
        stale.includes(attachment.tag().as_str()) && !is_kept
    };
    let mut chains = Vec::new();
    for entry in dump.rules_of(TOP_CHAIN) {
        let owner = entry.option("--comment").and_then(|comment| owner(&comment));
        let (Some(owner), Some(chain)) = (owner, entry.option("-j")) else { continue };
        if is_stale(&owner) && !chains.contains(&chain) {
            chains.push(chain);
        }
    }
    chains
}
