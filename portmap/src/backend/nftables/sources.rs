//! From which networks packets may have to be masqueraded: only these get the mark.
//!
//! The networks are those of the masquerade sets, without the containers. Many attachments share one,
//! so that nobody owns it: whoever needs it adds it, and GC takes it away when nobody does. One too
//! many costs its packets a few lookups.

use std::collections::HashSet;

use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::{Element, Elements, Nft, NftError, Set, Value, lookup_all};
use ipnet::IpNet;

use super::sets::{self, Scope, TABLE};
use crate::plan::LOOPBACK;

/// The source network of a masquerade set's element, unless it is the host's own 127.0.0.0/8, which
/// always gets the mark.
pub(super) fn network(element: &Element, prefix_len: u8) -> Option<IpNet> {
    let Some(Value::Address(source)) = element.key.first() else { return None };
    IpNet::new(*source, prefix_len).ok().filter(|network| *network != LOOPBACK)
}

pub(super) fn prefix(network: &IpNet) -> (IpVersion, u8) {
    (IpVersion::of(network.addr()), network.prefix_len())
}

/// The elements that stand for networks.
pub(super) fn elements<'a>(
    scope: &Scope,
    networks: impl IntoIterator<Item = &'a IpNet>,
) -> Elements {
    let mut elements = Elements::new();
    for network in networks {
        let (version, prefix_len) = prefix(network);
        let set = scope.sources(version, prefix_len);
        let key = vec![Value::Address(network.addr())];
        sets::put(&mut elements, set, Element { key, data: Vec::new(), comment: None });
    }
    elements
}

/// The sources that are there for these elements alone: single addresses.
pub(super) fn of_addresses<'a>(
    nft: &mut dyn Nft,
    elements: impl IntoIterator<Item = (&'a Set, &'a Element)>,
) -> Result<Elements, NftError> {
    let places = places(elements);
    if places.is_empty() { Ok(Elements::new()) } else { lookup_all(nft, &TABLE, &places) }
}

/// Where the sources stand that nobody else's pair can name, if these elements go.
pub(super) fn places<'a>(
    gone: impl IntoIterator<Item = (&'a Set, &'a Element)>,
) -> Vec<(Set, Vec<Vec<Value>>)> {
    let mut places = Vec::new();
    for (masquerade, element) in gone {
        let set = sets::sources_of_addresses(&masquerade.name);
        if let (Some(set), Some(source)) = (set, element.key.first()) {
            places.push((set, vec![vec![source.clone()]]));
        }
    }
    places
}

/// Those that no masquerade set names, if `masqueraded` is all that these hold.
pub(super) fn unused(
    nft: &mut dyn Nft,
    masqueraded: &[(&Set, &Element)],
) -> Result<Elements, NftError> {
    let in_use: HashSet<(String, &Value)> = masqueraded
        .iter()
        .filter_map(|(set, element)| Some((sets::sources_beside(&set.name)?, element.key.first()?)))
        .collect();
    let names = nft.sets(&TABLE)?;
    let mut unused = Elements::new();
    for set in names.iter().filter_map(|name| sets::sources_by_name(name)) {
        let mut elements = nft.elements(&TABLE, &set)?;
        elements.retain(|element| {
            element.key.first().is_none_or(|key| !in_use.contains(&(set.name.clone(), key)))
        });
        unused.push((set, elements));
    }
    Ok(unused)
}
