//! From a plan to the elements that must be in the table's maps and sets. Pure.

use cni_common::cni::OwnerTag;
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::object::concatenation;
use cni_common::kernel::nft::{Element, Elements, Set, Value};

use super::layout::Scope;
use crate::plan::{Mapping, Plan};

/// What the table must hold of one attachment.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) tag: OwnerTag,
    pub(super) scope: Scope,
    /// By set, without the one in `attachments`. Empty when nothing is mapped.
    pub(super) elements: Elements,
    /// Families and prefix lengths of the masquerade sets in use.
    pub(super) prefixes: Vec<(IpVersion, u8)>,
}

impl Content {
    pub(super) fn of(plan: &Plan) -> Self {
        let mut content = Self {
            tag: plan.attachment.tag(),
            scope: Scope::of(plan),
            elements: Vec::new(),
            prefixes: Vec::new(),
        };
        for version in IpVersion::ALL {
            let (by_address, by_port): (Vec<&Mapping>, Vec<&Mapping>) =
                plan.mappings_of(version).partition(|mapping| mapping.host_address.is_some());
            content.map(content.scope.by_address(version), &by_address);
            content.map(content.scope.by_port(version), &by_port);
        }
        for (source, container) in plan.masqueraded() {
            let used = (IpVersion::of(container), source.prefix_len());
            if !content.prefixes.contains(&used) {
                content.prefixes.push(used);
            }
            let key = vec![Value::Address(source.addr()), Value::Address(container)];
            let element = Element::new(key, Vec::new(), content.tag.as_str());
            content.push(content.scope.masquerade(used.0, used.1), element);
        }
        content
    }

    fn map(&mut self, set: Set, mappings: &[&Mapping]) {
        if !mappings.is_empty() {
            let elements = mappings.iter().map(|mapping| mapping_element(mapping, &self.tag));
            self.elements.push((set, elements.collect()));
        }
    }

    fn push(&mut self, set: Set, element: Element) {
        match self.elements.iter_mut().find(|(known, _)| *known == set) {
            Some((_, elements)) => elements.push(element),
            None => self.elements.push((set, vec![element])),
        }
    }

    /// Whether nothing is to be mapped.
    pub(super) fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    pub(super) fn mappings(&self) -> Vec<Mapping> {
        mappings(&self.elements)
    }

    /// The element that says that the attachment has mappings, and how many elements in all.
    pub(super) fn owner_element(&self) -> Element {
        let count: usize = self.elements.iter().map(|(_, elements)| elements.len()).sum();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Element::new(owner_key(&self.tag), vec![Value::Mark(count)], self.tag.as_str())
    }

    /// The content without the mappings at these keys, which stay with somebody else.
    pub(super) fn without(&self, taken: &[Element]) -> Self {
        let is_taken = |element: &Element| {
            !element.data.is_empty() && taken.iter().any(|taken| taken.key == element.key)
        };
        let mut content = self.clone();
        for (_, elements) in &mut content.elements {
            elements.retain(|element| !is_taken(element));
        }
        content
    }
}

/// The key of an attachment's element in `attachments`.
pub(super) fn owner_key(tag: &OwnerTag) -> Vec<Value> {
    vec![Value::Name(tag.short_name())]
}

fn mapping_element(mapping: &Mapping, tag: &OwnerTag) -> Element {
    let mut key: Vec<Value> = mapping.host_address.map(Value::Address).into_iter().collect();
    key.extend([Value::Protocol(mapping.protocol), Value::Port(mapping.host_port)]);
    let data = vec![Value::Address(mapping.container), Value::Port(mapping.container_port)];
    Element::new(key, data, tag.as_str())
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
