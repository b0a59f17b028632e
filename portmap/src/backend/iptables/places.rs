//! The kinds of iptables that may hold something.
//!
//! Looking is cheap where nothing is: iptables-nft's chains are seen by netlink, and legacy
//! iptables tells by `/proc` whether it has a table at all. Programs run only where something is.

use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{Iptables, IptablesError, Variant, legacy_table_loaded};
use cni_common::kernel::nft::{Family, Nft, Table};

use super::rules::{GUARD_CHAIN, GUARD_TABLE, TABLE};

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
pub(crate) fn that_may_have(nft: Option<&mut dyn Nft>, chains: &[String]) -> Vec<Place> {
    in_table(nft, TABLE, &IpVersion::ALL, chains)
}

/// The places that may have the guard.
pub(super) fn with_guard(nft: Option<&mut dyn Nft>) -> Vec<Place> {
    in_table(nft, GUARD_TABLE, &[IpVersion::V4], &[GUARD_CHAIN.to_owned()])
}

fn in_table(
    mut nft: Option<&mut dyn Nft>,
    table: &'static str,
    versions: &[IpVersion],
    chains: &[String],
) -> Vec<Place> {
    let mut places = Vec::new();
    for version in versions.iter().copied() {
        if let Some(nft) = nft.as_deref_mut() {
            let found = nft.chains_at(&Table::new(Family::of(version), table), chains);
            // If it cannot be told, look.
            if found.map_or(true, |chains| chains.iter().any(Option::is_some)) {
                places.push(Place { version, variant: Variant::Nft });
            }
        }
        if legacy_table_loaded(version, table) {
            places.push(Place { version, variant: Variant::Legacy });
        }
    }
    places
}
