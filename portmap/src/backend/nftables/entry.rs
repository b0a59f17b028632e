//! What an attachment has by one portmap entry of its list, and what by the others. Pure.
//!
//! Entries are told apart by their scope: what gates their mappings. What is looked up by the
//! container's address serves all of them.

use std::collections::HashSet;

use cni_common::kernel::nft::{Element, Elements, Set, Value};

use super::claims::{self, Claim};
use super::elements::{is_mapping, mapping_of, target_key};
use super::sets::{self, Scope};

/// An attachment's elements.
#[derive(Debug, Default)]
pub(super) struct Split {
    /// What one entry made and no other needs, with the one in `attachments`, which tells of all.
    pub(super) own: Elements,
    /// What the others need.
    pub(super) others: Elements,
}

impl Split {
    /// Takes everything that an attachment has for what the entry of this scope made, but for what is
    /// of mappings in other scopes.
    pub(super) fn new(owned: &Elements, scope: &Scope) -> Self {
        let maps = scope.maps();
        let is_other = |set: &Set, element: &Element| {
            if claims::is_claims(set) {
                return Claim::of(element).is_none_or(|claim| !claim.is_in(scope));
            }
            is_mapping(element) && !maps.contains(set)
        };
        let mut needs = Needs::default();
        for (set, elements) in owned {
            for element in elements.iter().filter(|element| is_other(set, element)) {
                needs.add(set, element);
            }
        }
        let mut split = Self::default();
        for (set, elements) in owned {
            let is_kept = |element: &Element| is_other(set, element) || needs.include(set, element);
            let (others, own) = elements.iter().cloned().partition(is_kept);
            split.own.push((set.clone(), own));
            split.others.push((set.clone(), others));
        }
        split
    }

    /// How many elements the others need.
    pub(super) fn others_count(&self) -> usize {
        self.others.iter().map(|(_, elements)| elements.len()).sum()
    }

    /// What the others need and is `shared`, and how much else they need.
    pub(super) fn others_by(&self, shared: impl Fn(&Set, &Element) -> bool) -> (Elements, usize) {
        let of_set = |(set, elements): &(Set, Vec<Element>)| {
            let shared = elements.iter().filter(|element| shared(set, element));
            (set.clone(), shared.cloned().collect::<Vec<_>>())
        };
        let found: Elements = self.others.iter().map(of_set).collect();
        let count: usize = found.iter().map(|(_, elements)| elements.len()).sum();
        let rest = self.others_count() - count;
        (found, rest)
    }
}

/// What mappings need beside themselves.
#[derive(Default)]
struct Needs {
    /// By set and key.
    elements: HashSet<(String, Vec<Value>)>,
    /// The way to these is masqueraded, by some mark bit.
    containers: Vec<(Scope, Value)>,
}

impl Needs {
    /// What a mapping needs, whether it serves or waits.
    fn add(&mut self, set: &Set, element: &Element) {
        let claim = claims::is_claims(set).then(|| Claim::of(element)).flatten();
        let (set, element) = claim.as_ref().map_or((set, element), |c| (&c.map, &c.element));
        let (Some(scope), Some(mapping)) = (Scope::of_map(&set.name), mapping_of(element)) else {
            return;
        };
        let (version, container) = (mapping.version(), Value::Address(mapping.container));
        self.elements.insert((scope.targets(version).name, target_key(&mapping)));
        self.elements.insert((sets::addresses(version).name, vec![container.clone()]));
        if !self.containers.contains(&(scope.clone(), container.clone())) {
            self.containers.push((scope, container));
        }
    }

    fn include(&self, set: &Set, element: &Element) -> bool {
        match element.key.as_slice() {
            [_, container @ Value::Address(_)] => self
                .containers
                .iter()
                .any(|(scope, needed)| needed == container && scope.masquerades_by(&set.name)),
            _ => self.elements.contains(&(set.name.clone(), element.key.clone())),
        }
    }
}
