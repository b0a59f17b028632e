//! Mappings that wait: another attachment has their key, and when it goes, the newest of them serves
//! again. Pure, but for the reading.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::{Element, Elements, Nft, NftError, Set, Value, lookup_all};

use super::elements::{index, is_mapping, mapping_of};
use super::sets::{self, Scope, TABLE};
use crate::plan::Held;

/// A mapping that waits for its key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Claim {
    /// The map that the key is one of.
    pub(super) map: Set,
    /// What is to be in the map.
    pub(super) element: Element,
    /// Whoever waits with a higher one is newer.
    pub(super) order: u32,
    scope: String,
}

impl Claim {
    /// Makes an element of one of the scope's maps wait.
    pub(super) fn new(scope: &Scope, map: &Set, element: Element, order: u32) -> Self {
        Self { map: map.clone(), element, order, scope: scope.claim_name().to_owned() }
    }

    /// The claim that an element of the claims stands for; `None` if it cannot be read.
    pub(super) fn of(waiting: &Element) -> Option<Self> {
        let [Value::Name(name), Value::Address(host), rest @ .., Value::Mark(order)] =
            waiting.key.as_slice()
        else {
            return None;
        };
        let (scope, version) = (Scope::named(name), IpVersion::of(*host));
        let mut key = rest.to_vec();
        let map = if host.is_unspecified() {
            scope.by_port(version)
        } else {
            key.insert(0, Value::Address(*host));
            scope.by_address(version)
        };
        let element = Element { key, ..waiting.clone() };
        is_mapping(&element).then_some(Self { map, element, order: *order, scope: name.clone() })
    }

    /// Where it waits, and as what.
    pub(super) fn waiting(&self) -> Option<(Set, Element)> {
        let mapping = mapping_of(&self.element)?;
        let any: IpAddr = match mapping.version() {
            IpVersion::V4 => Ipv4Addr::UNSPECIFIED.into(),
            IpVersion::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let key = vec![
            Value::Name(self.scope.clone()),
            Value::Address(mapping.host_address.unwrap_or(any)),
            Value::Protocol(mapping.protocol),
            Value::Port(mapping.host_port),
            Value::Mark(self.order),
        ];
        Some((sets::claims(mapping.version()), Element { key, ..self.element.clone() }))
    }

    /// Whether it waits in one of this scope's maps.
    pub(super) fn is_in(&self, scope: &Scope) -> bool {
        self.scope == scope.claim_name()
    }

    /// Whether it waits for this key of this map.
    pub(super) fn is_for(&self, map: &Set, key: &[Value]) -> bool {
        self.element.key == key && self.map == *map
    }
}

/// All claims; two usually empty maps are read.
pub(super) fn read(nft: &mut dyn Nft) -> Result<Vec<Claim>, NftError> {
    let mut claims = Vec::new();
    for version in IpVersion::ALL {
        claims.extend(nft.elements(&TABLE, &sets::claims(version))?.iter().filter_map(Claim::of));
    }
    Ok(claims)
}

/// The mappings that wait, each with the tag of whoever has its key.
pub(super) fn waiting(nft: &mut dyn Nft) -> Result<Vec<(Held, String)>, NftError> {
    let claims = read(nft)?;
    let mut keys: Vec<(Set, Vec<Vec<Value>>)> = Vec::new();
    for Claim { map, element, .. } in &claims {
        match keys.iter_mut().find(|(known, _)| known == map) {
            Some((_, keys)) => keys.push(element.key.clone()),
            None => keys.push((map.clone(), vec![element.key.clone()])),
        }
    }
    let holders = lookup_all(nft, &TABLE, &keys)?;
    let holders = index(&holders);
    let waiting = claims.iter().filter_map(|Claim { map, element, .. }| {
        let holder = holders.get(&(map.name.as_str(), element.key.as_slice()))?;
        Some(((mapping_of(element)?, element.owner().to_owned()), holder.owner().to_owned()))
    });
    Ok(waiting.collect())
}

/// The claims among elements.
pub(super) fn among(elements: &Elements) -> Vec<Claim> {
    let claims = elements.iter().filter(|(set, _)| is_claims(set));
    claims.flat_map(|(_, elements)| elements).filter_map(Claim::of).collect()
}

pub(super) fn is_claims(set: &Set) -> bool {
    IpVersion::ALL.into_iter().any(|version| sets::claims(version).name == set.name)
}

/// The order of who is the first to wait: as many can come before as behind.
const MIDDLE: u32 = 1 << 31;

/// The order that is newer than all of these.
pub(super) fn next_order(claims: &[Claim]) -> u32 {
    claims.iter().map(|claim| claim.order).max().map_or(MIDDLE, |newest| newest.saturating_add(1))
}

/// The order that is older than all of these.
pub(super) fn last_order(claims: &[Claim]) -> u32 {
    claims.iter().map(|claim| claim.order).min().map_or(MIDDLE, |oldest| oldest.saturating_sub(1))
}

/// For each key of a map that is free now, the newest claim to it, if there is any.
pub(super) fn heirs<'a>(
    freed: impl Iterator<Item = (&'a Set, &'a Element)>,
    claims: &[Claim],
) -> Vec<Claim> {
    let heir = |(map, element): (&Set, &Element)| {
        let waiting = claims.iter().filter(|claim| claim.is_for(map, &element.key));
        waiting.max_by_key(|claim| claim.order).cloned()
    };
    freed.filter(|(_, element)| is_mapping(element)).filter_map(heir).collect()
}
