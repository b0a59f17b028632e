//! What a saved nat table says of attachments. Pure.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use cni_common::cni::{OwnerTag, Stale};
use cni_common::kernel::iptables::{SavedRule, TableDump};
use cni_common::kernel::nft::L4Protocol;

use super::names::{Names, Owner, owner};
use super::rules::{OLD_SNAT_TOP, TOP_CHAIN};
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
    evicted.into_iter().map(|(chain, owner)| (chain, owner.attachment.tag())).collect()
}

/// The chains that the top chain leads to, in order, with their owners.
pub(super) fn owners(dump: &TableDump) -> Vec<(String, Owner)> {
    let mut owners: Vec<(String, Owner)> = Vec::new();
    let mut seen: HashSet<String> = HashSet::new();
    for entry in dump.rules_of(TOP_CHAIN) {
        let owner = entry.option("--comment").and_then(|comment| owner(&comment));
        if let (Some(chain), Some(owner)) = (entry.option("-j"), owner)
            && seen.insert(chain.clone())
        {
            owners.push((chain, owner));
        }
    }
    owners
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
