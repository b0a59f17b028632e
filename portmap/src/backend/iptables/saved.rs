//! What a saved nat table says of attachments. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use cni_common::cni::{Attachment, Stale};
use cni_common::kernel::iptables::{SavedRule, TableDump};
use cni_common::kernel::nft::L4Protocol;

use super::names::{Names, USUAL_IFNAME, owner};
use super::rules::{OLD_SNAT_TOP, Rules, TOP_CHAIN};
use crate::plan::Mapping;

/// The chains that are the attachment's, whoever made them.
pub(super) fn own_chains(dump: &TableDump, names: &Names, addresses: &[IpAddr]) -> Vec<String> {
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
        if names.owns(&comment, &target, leads_to_us) && !own.contains(&target) {
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

/// Mappings of other containers that answer to the same host address, protocol and port.
pub(super) fn conflicts(dump: &TableDump, rules: &Rules) -> Vec<(Mapping, String)> {
    let own = owner(&rules.names.comment);
    let mut conflicts = Vec::new();
    for (mapping, owner) in mappings(dump) {
        let key = |m: &Mapping| (m.host_address, m.protocol, m.host_port);
        let same_container = own.as_ref().is_some_and(|own| own.container_id == owner.container_id);
        if !same_container && rules.mappings.iter().any(|active| key(active) == key(&mapping)) {
            conflicts.push((mapping, owner.tag().to_string()));
        }
    }
    conflicts
}

/// The mappings in a saved table, with their owners.
pub(super) fn mappings(dump: &TableDump) -> Vec<(Mapping, Attachment)> {
    let mut owners: HashMap<String, Attachment> = HashMap::new();
    for entry in dump.rules_of(TOP_CHAIN) {
        let owner = entry.option("--comment").and_then(|comment| owner(&comment));
        if let (Some(chain), Some(owner)) = (entry.option("-j"), owner) {
            owners.insert(chain, owner);
        }
    }
    let mapped = dump.rules.iter().filter_map(|rule| {
        let owner = owners.get(&rule.chain)?;
        Some((translation(rule)?, owner.clone()))
    });
    mapped.collect()
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
    let is_stale = |attachment: &Attachment| {
        // The Go plugin's comments name no interface; its chain is stale with the container.
        let is_kept =
            attachment.ifname == USUAL_IFNAME && stale.spares_container(&attachment.container_id);
        stale.includes(attachment.tag().as_str()) && !is_kept
    };
    let mut chains = Vec::new();
    for entry in dump.rules_of(TOP_CHAIN) {
        let owner = entry.option("--comment").and_then(|comment| owner(&comment));
        let (Some(attachment), Some(chain)) = (owner, entry.option("-j")) else { continue };
        if is_stale(&attachment) && !chains.contains(&chain) {
            chains.push(chain);
        }
    }
    chains
}
