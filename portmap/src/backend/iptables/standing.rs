//! Whose mapping packets meet first: the order of the top chain's rules decides. Pure.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::rc::Rc;

use cni_common::kernel::iptables::TableDump;
use cni_common::kernel::nft::L4Protocol;

use super::names::Owner;
use super::rules::Rules;
use super::saved::{owners, translation};
use crate::plan::{Held, Mapping};

/// An entry of an attachment's list that has mappings in a saved table.
#[derive(Debug)]
struct Claimant {
    chain: String,
    owner: Owner,
    tag: String,
}

type Key = (Option<IpAddr>, L4Protocol, u16);

fn key(mapping: &Mapping) -> Key {
    (mapping.host_address, mapping.protocol, mapping.host_port)
}

/// The mappings of a saved table, in the order in which packets meet their owners.
fn in_order(dump: &TableDump) -> Vec<(Mapping, Rc<Claimant>)> {
    let mut by_chain: HashMap<&str, Vec<Mapping>> = HashMap::new();
    for rule in &dump.rules {
        if let Some(mapping) = translation(rule) {
            by_chain.entry(&rule.chain).or_default().push(mapping);
        }
    }
    let of_owner = |(chain, owner): (String, Owner)| {
        let mappings = by_chain.remove(chain.as_str()).unwrap_or_default();
        let tag = owner.attachment.tag().to_string();
        let claimant = Rc::new(Claimant { chain, owner, tag });
        mappings.into_iter().map(move |mapping| (mapping, Rc::clone(&claimant)))
    };
    owners(dump).into_iter().flat_map(of_owner).collect()
}

/// The mappings with their owners' tags, in the same order.
pub(super) fn mappings(dump: &TableDump) -> Vec<Held> {
    let ordered = in_order(dump).into_iter();
    ordered.map(|(mapping, claimant)| (mapping, claimant.tag.clone())).collect()
}

/// A mapping, whose it is, and whose comes before it and takes all of its packets.
type Standing = (Mapping, Rc<Claimant>, Option<Rc<Claimant>>);

fn standings(dump: &TableDump) -> impl Iterator<Item = Standing> {
    let mut first: HashMap<(Key, Option<String>), Rc<Claimant>> = HashMap::new();
    in_order(dump).into_iter().map(move |(mapping, claimant)| {
        let key = key(&mapping);
        let gate = claimant.owner.gate().map(str::to_owned);
        let open = first.get(&(key, None)).cloned();
        // What has the same conditions, or none.
        let holder = match gate {
            None => open,
            Some(_) => first.get(&(key, gate.clone())).cloned().or(open),
        };
        if holder.is_none() {
            first.insert((key, gate), Rc::clone(&claimant));
        }
        let holder = holder.filter(|holder| holder.tag != claimant.tag);
        (mapping, claimant, holder)
    })
}

/// The mappings with their owners' tags, each with the tag of whoever comes before it.
pub(super) fn with_holders(dump: &TableDump) -> impl Iterator<Item = (Held, Option<String>)> {
    standings(dump).map(|(mapping, claimant, holder)| {
        ((mapping, claimant.tag.clone()), holder.map(|holder| holder.tag.clone()))
    })
}

/// The mappings that no packet gets to, each with the tag of whose comes first.
pub(super) fn waiting(dump: &TableDump) -> Vec<(Held, String)> {
    with_holders(dump).filter_map(|(held, holder)| Some((held, holder?))).collect()
}

/// Mappings of other containers that are to come behind some of these.
pub(super) fn conflicts(dump: &TableDump, rules: &Rules) -> Vec<Held> {
    let tag = rules.names.attachment.tag();
    let wanted: HashSet<Key> = rules.mappings.iter().map(key).collect();
    let is_behind = |(mapping, claimant): &(Mapping, Rc<Claimant>)| {
        !tag.is_same_attachment(&claimant.tag)
            && !tag.is_sibling(&claimant.tag)
            && wanted.contains(&key(mapping))
            && rules.names.shadows(&claimant.owner)
    };
    let conflicts = in_order(dump).into_iter().filter(is_behind);
    conflicts.map(|(mapping, claimant)| (mapping, claimant.tag.clone())).collect()
}

/// Those of the mappings that another container has, whose comes first, or is all there is.
pub(super) fn held(dump: &TableDump, rules: &Rules) -> Vec<Held> {
    let tag = rules.names.attachment.tag();
    let first = rivals(dump, rules).into_iter().filter_map(|(mapping, rivals)| {
        let holder = rivals.first()?;
        let is_other = !tag.is_same_attachment(&holder.tag) && !tag.is_sibling(&holder.tag);
        is_other.then(|| (*mapping, holder.tag.clone()))
    });
    first.collect()
}

/// Between which chains the entries of who does not take a port have to be.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Bounds {
    /// Those of who has a port that is wanted.
    pub(super) ahead: Vec<String>,
    /// Those of who waits for a port that the entry has already.
    pub(super) behind: Vec<String>,
}

/// Where others' chains have to be if nobody is to lose a port.
pub(super) fn bounds(dump: &TableDump, rules: &Rules) -> Bounds {
    let is_own = |claimant: &&Rc<Claimant>| rules.names.is_same_entry(&claimant.owner);
    let mut bounds = Bounds::default();
    for (_, rivals) in rivals(dump, rules) {
        match rivals.first() {
            Some(first) if is_own(&first) => {
                let others = rivals.iter().filter(|rival| !is_own(rival));
                bounds.behind.extend(others.map(|rival| rival.chain.clone()));
            }
            Some(first) => bounds.ahead.push(first.chain.clone()),
            None => {}
        }
    }
    bounds
}

/// For each of the mappings, whose of the same port packets may meet, in order; with the entry's own.
fn rivals<'r>(dump: &TableDump, rules: &'r Rules) -> Vec<(&'r Mapping, Vec<Rc<Claimant>>)> {
    let mut by_key: HashMap<Key, Vec<Rc<Claimant>>> = HashMap::new();
    for (mapping, claimant) in in_order(dump) {
        if rules.names.meets(&claimant.owner) {
            by_key.entry(key(&mapping)).or_default().push(claimant);
        }
    }
    let of =
        |mapping: &'r Mapping| (mapping, by_key.get(&key(mapping)).cloned().unwrap_or_default());
    rules.mappings.iter().map(of).collect()
}
