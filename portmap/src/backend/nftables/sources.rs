//! From which networks packets may have to be masqueraded: only these get the mark.
//!
//! The networks are those of the masquerade sets, without the containers. Many attachments share one,
//! so that nobody owns it: whoever needs it adds it, and GC takes it away when nobody does. One too
//! many costs its packets a few lookups.

use std::collections::{BTreeSet, HashSet};

use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::{Element, Elements, Nft, NftError, Set, Value};
use ipnet::IpNet;

use super::layout;
use super::sets::{self, Scope, TABLE};
use crate::plan::LOOPBACK;

/// What the table knows of them, for one mark bit.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Families and prefix lengths that it has sets for, or should have.
    pub(super) prefixes: BTreeSet<(IpVersion, u8)>,
    /// Networks that it should know and does not.
    pub(super) missing: BTreeSet<IpNet>,
}

impl Known {
    pub(super) fn read(nft: &mut dyn Nft, scope: &Scope) -> Result<Self, NftError> {
        let names = nft.sets(&TABLE)?;
        let of = |stem: &str| -> BTreeSet<(IpVersion, u8)> {
            names.iter().filter_map(|name| scope.prefix_of(stem, name)).collect()
        };
        let mut known = Self { prefixes: of(sets::SOURCES), missing: BTreeSet::new() };
        let chain = layout::sources_chain(scope);
        if nft.chains_at(&TABLE, &[chain])?.iter().any(Option::is_some) {
            return Ok(known);
        }
        // A table that an older version made knows of no sources.
        for (version, prefix_len) in of(sets::MASQUERADE) {
            let set = scope.masquerade(version, prefix_len);
            let networks = nft.elements(&TABLE, &set)?;
            known.missing.extend(networks.iter().filter_map(|e| network(e, prefix_len)));
        }
        known.prefixes.extend(known.missing.iter().map(prefix));
        Ok(known)
    }
}

/// The source network of a masquerade set's element, unless it is the host's own 127.0.0.0/8, which
/// always gets the mark.
fn network(element: &Element, prefix_len: u8) -> Option<IpNet> {
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
        let element = Element { key, data: Vec::new(), comment: None };
        match elements.iter_mut().find(|(known, _)| *known == set) {
            Some((_, elements)) => elements.push(element),
            None => elements.push((set, vec![element])),
        }
    }
    elements
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
