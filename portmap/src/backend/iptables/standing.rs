//! Whose mapping packets meet first: the order of the top chain's rules decides. Pure.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use cni_common::kernel::iptables::TableDump;
use cni_common::kernel::nft::L4Protocol;

use super::names::Owner;
use super::rules::Rules;
use super::saved::{owners, translation};
use crate::backend::conflict::Held;
use crate::plan::Mapping;

/// A mapping in a saved table.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) mapping: Mapping,
    owner: Owner,
    /// Its owner's tag.
    pub(super) tag: String,
    /// Whose mapping comes first and takes all of its packets.
    pub(super) holder: Option<String>,
}

type Key = (Option<IpAddr>, L4Protocol, u16);

fn key(mapping: &Mapping) -> Key {
    (mapping.host_address, mapping.protocol, mapping.host_port)
}

/// The mappings of a saved table, in the order in which packets meet their owners.
pub(super) fn standings(dump: &TableDump) -> Vec<Standing> {
    let mut by_chain: HashMap<&str, Vec<Mapping>> = HashMap::new();
    for rule in &dump.rules {
        if let Some(mapping) = translation(rule) {
            by_chain.entry(&rule.chain).or_default().push(mapping);
        }
    }
    let mut standings: Vec<Standing> = Vec::new();
    // For each key, the first of each gate.
    let mut first: HashMap<Key, Vec<usize>> = HashMap::new();
    for (chain, owner) in owners(dump) {
        let tag = owner.attachment.tag().to_string();
        for mapping in by_chain.remove(chain.as_str()).unwrap_or_default() {
            let before = first.entry(key(&mapping)).or_default();
            let holder = before.iter().map(|index| &standings[*index]);
            let holder = holder.into_iter().find(|before| before.owner.shadows(&owner));
            let holder = holder.map(|holder| holder.tag.clone());
            if holder.is_none() {
                before.push(standings.len());
            }
            let (owner, tag) = (owner.clone(), tag.clone());
            let holder = holder.filter(|holder| *holder != tag);
            standings.push(Standing { mapping, owner, tag, holder });
        }
    }
    standings
}

/// The mappings with their owners, in the same order.
pub(super) fn mappings(dump: &TableDump) -> Vec<Held> {
    standings(dump).into_iter().map(|standing| (standing.mapping, standing.tag)).collect()
}

/// The mappings that no packet gets to, each with the tag of whose comes first.
pub(super) fn waiting(dump: &TableDump) -> Vec<(Held, String)> {
    let waits = |standing: Standing| Some(((standing.mapping, standing.tag), standing.holder?));
    standings(dump).into_iter().filter_map(waits).collect()
}

/// Mappings of other containers that are to come behind some of these.
pub(super) fn conflicts(dump: &TableDump, rules: &Rules) -> Vec<Held> {
    let tag = rules.names.attachment.tag();
    let wanted: HashSet<Key> = rules.mappings.iter().map(key).collect();
    let is_behind = |standing: &Standing| {
        !tag.is_same_attachment(&standing.tag)
            && !tag.is_sibling(&standing.tag)
            && wanted.contains(&key(&standing.mapping))
            && rules.names.shadows(&standing.owner)
    };
    let conflicts = standings(dump).into_iter().filter(is_behind);
    conflicts.map(|standing| (standing.mapping, standing.tag)).collect()
}

/// Those of the mappings that packets do not reach, because another container's comes first.
pub(super) fn lost(dump: &TableDump, rules: &Rules) -> Vec<Held> {
    let tag = rules.names.attachment.tag();
    let wanted: HashMap<Key, &Mapping> = rules.mappings.iter().map(|m| (key(m), m)).collect();
    let lost = standings(dump).into_iter().filter_map(|standing| {
        let holder = standing.holder?;
        let is_own = tag.is_same_attachment(&standing.tag)
            && rules.names.is_of(&standing.owner)
            && !tag.is_sibling(&holder);
        let mapping = wanted.get(&key(&standing.mapping))?;
        is_own.then_some((**mapping, holder))
    });
    lost.collect()
}
