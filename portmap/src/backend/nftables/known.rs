//! What the chains of a table depend on beside one attachment: what others have in it.

use std::collections::BTreeSet;

use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::{Chain, Nft, NftError, Set};
use ipnet::IpNet;

use super::elements::Content;
use super::sets::{self, Scope, TABLE};
use super::sources::{network, prefix};

/// What a table has rules for that not every table needs, or should have: for one scope and mark bit.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// The families that have mappings of one host address.
    pub(super) by_address: BTreeSet<IpVersion>,
    /// Families and prefix lengths of its masquerade sets.
    pub(super) masqueraded: BTreeSet<(IpVersion, u8)>,
    /// Those of its sources.
    pub(super) sources: BTreeSet<(IpVersion, u8)>,
    /// Networks that its sources should name and do not.
    pub(super) missing: BTreeSet<IpNet>,
    /// Chains of an older version, for which others stand now.
    pub(super) outdated: Vec<Chain>,
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
            ..Self::default()
        }
    }

    pub(super) fn read(nft: &mut dyn Nft, scope: &Scope) -> Result<Self, NftError> {
        let names = nft.sets(&TABLE)?;
        let of = |stem: &str| -> BTreeSet<(IpVersion, u8)> {
            names.iter().filter_map(|name| scope.prefix_of(stem, name)).collect()
        };
        let is_mapped = |version: &IpVersion| names.contains(&scope.by_address(*version).name);
        let mut known = Self {
            by_address: IpVersion::ALL.into_iter().filter(is_mapped).collect(),
            masqueraded: of(sets::MASQUERADE),
            sources: of(sets::SOURCES),
            ..Self::default()
        };
        let chain = scope.sources_chain();
        if !nft.chains_at(&TABLE, &[chain])?.iter().any(Option::is_some) {
            known.learn_from_older(nft, scope)?;
        }
        Ok(known)
    }

    /// A table that an older version made knows of no sources, and had a chain for each masquerade set.
    fn learn_from_older(&mut self, nft: &mut dyn Nft, scope: &Scope) -> Result<(), NftError> {
        let mut outdated = vec![format!("unmark{}", scope.bit_suffix())];
        for (version, prefix_len) in &self.masqueraded {
            let set = scope.masquerade(*version, *prefix_len);
            let elements = nft.elements(&TABLE, &set)?;
            self.missing.extend(elements.iter().filter_map(|e| network(e, *prefix_len)));
            outdated.push(set.name);
        }
        self.sources.extend(self.missing.iter().map(prefix));
        let there = nft.chains_at(&TABLE, &outdated)?;
        self.outdated = there.into_iter().flatten().map(|found| found.chain).collect();
        Ok(())
    }

    /// What either has.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.by_address.extend(other.by_address);
        self.masqueraded.extend(other.masqueraded);
        self.sources.extend(other.sources);
        self.missing.extend(other.missing);
        self.outdated.extend(other.outdated);
        self
    }
}
