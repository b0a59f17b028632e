//! What the chains of a table depend on beside one attachment: what others have in it.

use std::collections::BTreeSet;

use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::{Nft, NftError, Set};

use super::elements::Content;
use super::number::refuse_newer;
use super::sets::{self, Scope, TABLE};
use super::sources::prefix;

/// What a table has rules for that not every table needs, or should have: for one scope and mark bit.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// The families that have mappings of one host address.
    pub(super) by_address: BTreeSet<IpVersion>,
    /// Families and prefix lengths of its masquerade sets.
    pub(super) masqueraded: BTreeSet<(IpVersion, u8)>,
    /// Those of its sources.
    pub(super) sources: BTreeSet<(IpVersion, u8)>,
}

impl Known {
    pub(super) fn of(content: &Content) -> Self {
        let masqueraded =
            |(set, _): &(Set, _)| content.scope.prefix_of(sets::MASQUERADE, &set.name);
        let has = |set: Set| content.elements.iter().any(|(other, _)| *other == set);
        let is_mapped = |version: &IpVersion| has(content.scope.by_address(*version));
        Self {
            by_address: IpVersion::ALL.into_iter().filter(is_mapped).collect(),
            masqueraded: content.elements.iter().filter_map(masqueraded).collect(),
            sources: content.networks.iter().map(prefix).collect(),
        }
    }

    pub(super) fn read(nft: &mut dyn Nft, scope: &Scope) -> Result<Self, NftError> {
        refuse_newer(nft)?;
        let names = nft.sets(&TABLE)?;
        let of = |stem: &str| -> BTreeSet<(IpVersion, u8)> {
            names.iter().filter_map(|name| scope.prefix_of(stem, name)).collect()
        };
        let is_mapped = |version: &IpVersion| names.contains(&scope.by_address(*version).name);
        Ok(Self {
            by_address: IpVersion::ALL.into_iter().filter(is_mapped).collect(),
            masqueraded: of(sets::MASQUERADE),
            sources: of(sets::SOURCES),
        })
    }

    /// What either has.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.by_address.extend(other.by_address);
        self.masqueraded.extend(other.masqueraded);
        self.sources.extend(other.sources);
        self
    }
}
