//! The kinds of iptables that may hold something.
//!
//! Looking is cheap where nothing is: iptables-nft's chains are seen by netlink, and legacy
//! iptables tells by `/proc` whether it has a table at all. Programs run only where something is.

use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{Iptables, IptablesError, Variant, legacy_table_loaded};
use cni_common::kernel::nft::{Family, InstalledRule, Nft, NftError, Table};

use super::names::Names;
use super::rules::{GUARD_CHAIN, GUARD_TABLE, TABLE, TOP_CHAIN};

/// One family of one kind of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) version: IpVersion,
    pub(crate) variant: Variant,
}

/// As in `iptables-nft (IPv4)`.
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.variant, self.version)
    }
}

impl Place {
    pub(crate) fn open(self) -> Result<Iptables, IptablesError> {
        Iptables::seeing(self.version, self.variant)
    }

    /// Whether it is where ADD writes.
    pub(super) fn is_default(self) -> Result<bool, IptablesError> {
        Ok(Iptables::find(self.version, Variant::Default)?.variant()? == self.variant)
    }
}

/// The places that may have one of these chains in table nat.
pub(crate) fn that_may_have(
    nft: Option<&mut dyn Nft>,
    chains: &[String],
) -> Result<Vec<Place>, IptablesError> {
    in_table(nft, TABLE, &IpVersion::ALL, |nft, table| has_any(nft, table, chains))
}

/// The places that may have something of an attachment: chains of its names, or, if its network was
/// called otherwise, an entry with its container's ID.
pub(super) fn of_attachment<'a>(
    nft: Option<&mut dyn Nft>,
    names: impl Fn() -> &'a Names,
) -> Result<Vec<Place>, IptablesError> {
    in_table(nft, TABLE, &IpVersion::ALL, |nft, table| {
        let names = names();
        // In one question; the shared chain is the last.
        let mut chains: Vec<String> = names.chains().into_iter().cloned().collect();
        chains.push(TOP_CHAIN.to_owned());
        let id = names.id_in_comments();
        let found = nft.chains_at(table, &chains)?;
        let Some((shared, own)) = found.split_last() else { return Ok(false) };
        let has_own = own.iter().any(Option::is_some);
        if has_own || shared.is_none() {
            return Ok(has_own);
        }
        let is_entry =
            |rule: &InstalledRule| rule.expressions.windows(id.len()).any(|w| w == id.as_bytes());
        Ok(nft.rules_of(table, TOP_CHAIN)?.iter().any(is_entry))
    })
}

/// The places that may have the guard.
pub(super) fn with_guard(nft: Option<&mut dyn Nft>) -> Result<Vec<Place>, IptablesError> {
    let guard = [GUARD_CHAIN.to_owned()];
    in_table(nft, GUARD_TABLE, &[IpVersion::V4], |nft, table| has_any(nft, table, &guard))
}

fn has_any(nft: &mut dyn Nft, table: &Table, chains: &[String]) -> Result<bool, NftError> {
    Ok(nft.chains_at(table, chains)?.iter().any(Option::is_some))
}

fn in_table(
    mut nft: Option<&mut dyn Nft>,
    table: &'static str,
    versions: &[IpVersion],
    may_hold: impl Fn(&mut dyn Nft, &Table) -> Result<bool, NftError>,
) -> Result<Vec<Place>, IptablesError> {
    let mut places = Vec::new();
    let tables: Vec<Table> =
        versions.iter().map(|version| Table::new(Family::of(*version), table)).collect();
    // If it cannot be told, look.
    let there =
        nft.as_deref_mut().map(|nft| nft.tables(&tables).unwrap_or(vec![true; tables.len()]));
    for (index, version) in versions.iter().copied().enumerate() {
        if let Some(nft) = nft.as_deref_mut()
            && there.as_ref().is_some_and(|there| there[index])
            && may_hold(nft, &tables[index]).unwrap_or(true)
        {
            places.push(Place { version, variant: Variant::Nft });
        }
        if legacy_table_loaded(version, table)? {
            places.push(Place { version, variant: Variant::Legacy });
        }
    }
    Ok(places)
}
