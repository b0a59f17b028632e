//! From a plan to the elements that must be in the table's maps and sets. Pure.

use std::collections::{HashMap, HashSet};

use cni_common::cni::OwnerTag;
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::object::concatenation;
use cni_common::kernel::nft::{Element, Elements, Set, Transaction, Value, Verb};
use ipnet::IpNet;

use super::sets::{self, Scope, TABLE};
use super::sources;
use crate::plan::{LOOPBACK, Mapping, Plan};

/// What the table must hold of one attachment.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) tag: OwnerTag,
    pub(super) scope: Scope,
    /// By set, without the one in `attachments`. Empty when nothing is mapped.
    pub(super) elements: Elements,
    /// The networks whose packets need the mark.
    pub(super) networks: Vec<IpNet>,
}

impl Content {
    pub(super) fn of(plan: &Plan) -> Self {
        let mut content = Self {
            tag: plan.attachment.tag(),
            scope: Scope::of(plan),
            elements: Vec::new(),
            networks: Vec::new(),
        };
        for version in IpVersion::ALL {
            let (by_address, by_port): (Vec<&Mapping>, Vec<&Mapping>) =
                plan.mappings_of(version).partition(|mapping| mapping.host_address.is_some());
            content.map(content.scope.by_address(version), &by_address);
            content.map(content.scope.by_port(version), &by_port);
        }
        let mut targets = HashSet::new();
        for mapping in &plan.mappings {
            let target = (mapping.container, mapping.protocol, mapping.container_port);
            // Several host ports may lead to one.
            if targets.insert(target) {
                content.own(content.scope.targets(mapping.version()), target_key(mapping));
            }
        }
        for address in plan.containers() {
            let set = sets::addresses(IpVersion::of(address));
            content.own(set, vec![Value::Address(address)]);
        }
        for (source, container) in plan.masqueraded() {
            if source != LOOPBACK && !content.networks.contains(&source) {
                content.networks.push(source);
            }
            let key = vec![Value::Address(source.addr()), Value::Address(container)];
            let version = IpVersion::of(container);
            content.own(content.scope.masquerade(version, source.prefix_len()), key);
        }
        content
    }

    fn map(&mut self, set: Set, mappings: &[&Mapping]) {
        if !mappings.is_empty() {
            let elements = mappings.iter().map(|mapping| mapping_element(mapping, &self.tag));
            self.elements.push((set, elements.collect()));
        }
    }

    /// Puts a key into a set that does not have it.
    fn own(&mut self, set: Set, key: Vec<Value>) {
        sets::put(&mut self.elements, set, Element::new(key, Vec::new(), self.tag.as_str()));
    }

    /// Whether nothing is to be mapped.
    pub(super) fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    pub(super) fn mappings(&self) -> Vec<Mapping> {
        mappings(&self.elements)
    }

    /// The elements by set and key.
    pub(super) fn index(&self) -> HashMap<(&str, &[Value]), &Element> {
        index(&self.elements)
    }

    /// How many elements, without the one in `attachments`.
    pub(super) fn len(&self) -> usize {
        self.elements.iter().map(|(_, elements)| elements.len()).sum()
    }

    /// The keys of the elements, by set, and the one in `attachments`.
    pub(super) fn keys(&self) -> Vec<(Set, Vec<Vec<Value>>)> {
        let mut keys = vec![(sets::attachments(), vec![owner_key(&self.tag)])];
        keys.extend(self.elements.iter().map(keys_of));
        keys
    }

    /// The networks as elements, which nobody owns.
    pub(super) fn sources(&self) -> Elements {
        sources::elements(&self.scope, &self.networks)
    }

    /// Creates it, with what `attachments` says of its owner; nothing of it may be there.
    pub(super) fn create(&self, transaction: &mut Transaction, account: Account) {
        let owner = vec![account.element(self.tag.as_str())];
        transaction.elements(Verb::Create, &TABLE, &sets::attachments(), owner);
        for (set, elements) in &self.elements {
            transaction.elements(Verb::Create, &TABLE, set, elements.clone());
        }
        for (set, elements) in self.sources() {
            transaction.elements(Verb::Add, &TABLE, &set, elements);
        }
    }

    /// The content without the mappings at these keys, which somebody else has.
    pub(super) fn without(&self, held: &Elements) -> Self {
        let held = index(held);
        let is_held = |set: &Set, element: &Element| {
            is_mapping(element) && held.contains_key(&(set.name.as_str(), element.key.as_slice()))
        };
        let mut content = self.clone();
        for (set, elements) in &mut content.elements {
            elements.retain(|element| !is_held(set, element));
        }
        content
    }

    /// Whether an element leads to one of the container's addresses.
    pub(super) fn has_target_of(&self, element: &Element) -> bool {
        let addresses = self.elements.iter().filter(|(set, _)| is_addresses(set));
        let mut own = addresses.flat_map(|(_, elements)| elements).map(|element| &element.key[0]);
        own.any(|address| target(element) == Some(address))
    }
}

pub(super) fn keys_of((set, elements): &(Set, Vec<Element>)) -> (Set, Vec<Vec<Value>>) {
    (set.clone(), elements.iter().map(|element| element.key.clone()).collect())
}

/// Elements by set and key.
pub(super) fn index(elements: &Elements) -> HashMap<(&str, &[Value]), &Element> {
    let of_set = elements.iter().flat_map(|(set, elements)| {
        elements.iter().map(move |element| ((set.name.as_str(), element.key.as_slice()), element))
    });
    of_set.collect()
}

/// The address that an element leads to, is about or masquerades the way to.
/// In a masquerade set, the container is behind the source.
fn target(element: &Element) -> Option<&Value> {
    let container = match element.key.as_slice() {
        _ if !element.data.is_empty() => element.data.first(),
        [_, container @ Value::Address(_)] => Some(container),
        key => key.first(),
    };
    container.filter(|value| matches!(value, Value::Address(_)))
}

fn is_addresses(set: &Set) -> bool {
    IpVersion::ALL.into_iter().any(|version| sets::addresses(version).name == set.name)
}

/// What `attachments` says of an owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// How many elements it has elsewhere, those that wait included.
    pub(super) count: u32,
    /// Whether it ever was on either side of a conflict: only then the claims have to be looked at.
    pub(super) conflicts: bool,
}

impl Account {
    const CONFLICTS: u32 = 1 << 31;

    pub(super) fn new(count: usize, conflicts: bool) -> Self {
        Self { count: u32::try_from(count).unwrap_or(u32::MAX) & !Self::CONFLICTS, conflicts }
    }

    pub(super) fn of(element: &Element) -> Option<Self> {
        let [Value::Mark(data)] = element.data.as_slice() else { return None };
        Some(Self { count: data & !Self::CONFLICTS, conflicts: data & Self::CONFLICTS != 0 })
    }

    /// The element in `attachments` of the owner that a tag names.
    pub(super) fn element(self, tag: &str) -> Element {
        let flag = if self.conflicts { Self::CONFLICTS } else { 0 };
        let key = vec![Value::Name(OwnerTag::owner_name_of(tag))];
        Element::new(key, vec![Value::Mark(self.count | flag)], tag)
    }
}

/// The key of an attachment's element in `attachments`.
pub(super) fn owner_key(tag: &OwnerTag) -> Vec<Value> {
    vec![Value::Name(tag.owner_name())]
}

/// The key of the element that says that packets to there may carry our mark.
pub(super) fn target_key(mapping: &Mapping) -> Vec<Value> {
    vec![
        Value::Address(mapping.container),
        Value::Protocol(mapping.protocol),
        Value::Port(mapping.container_port),
    ]
}

fn mapping_element(mapping: &Mapping, tag: &OwnerTag) -> Element {
    let mut key: Vec<Value> = mapping.host_address.map(Value::Address).into_iter().collect();
    key.extend([Value::Protocol(mapping.protocol), Value::Port(mapping.host_port)]);
    let data = vec![Value::Address(mapping.container), Value::Port(mapping.container_port)];
    Element::new(key, data, tag.as_str())
}

/// Whether an element is one of a port map.
pub(super) fn is_mapping(element: &Element) -> bool {
    mapping_of(element).is_some()
}

/// The mapping that an element stands for, if it is one of a port map.
pub(super) fn mapping_of(element: &Element) -> Option<Mapping> {
    let (host_address, rest) = match element.key.as_slice() {
        [Value::Address(address), rest @ ..] => (Some(*address), rest),
        rest => (None, rest),
    };
    match (rest, element.data.as_slice()) {
        (
            [Value::Protocol(protocol), Value::Port(host_port)],
            [Value::Address(container), Value::Port(container_port)],
        ) => Some(Mapping {
            host_address,
            host_port: *host_port,
            protocol: *protocol,
            container: *container,
            container_port: *container_port,
        }),
        _ => None,
    }
}

pub(super) fn mappings(elements: &Elements) -> Vec<Mapping> {
    elements.iter().flat_map(|(_, elements)| elements).filter_map(mapping_of).collect()
}

/// A mapping in words, or whatever else an element is.
pub(super) fn describe(element: &Element) -> String {
    mapping_of(element).map_or_else(|| concatenation(&element.key), |m| m.to_string())
}
