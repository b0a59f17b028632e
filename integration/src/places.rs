//! The kinds of iptables that have a table, so that no program is run for nothing.

use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{Variant, legacy_table_loaded};
use cni_common::kernel::nft::{Family, Nft as _, Table, open_nft_if_any};

/// Those that have this table with one of these base chains, of each family. Seen by netlink and by
/// `/proc`; legacy iptables makes all of a table's base chains at once.
pub(crate) fn with_table(table: &'static str, base: &[&str]) -> Vec<(IpVersion, Variant)> {
    let base: Vec<String> = base.iter().map(|&chain| chain.to_owned()).collect();
    let mut nft = open_nft_if_any().ok().flatten();
    let mut places = Vec::new();
    for version in IpVersion::ALL {
        let own = Table::new(Family::of(version), table);
        let chains = nft.as_mut().and_then(|nft| nft.chains_at(&own, &base).ok());
        if chains.is_some_and(|chains| chains.iter().any(Option::is_some)) {
            places.push((version, Variant::Nft));
        }
        if legacy_table_loaded(version, table).unwrap_or(false) {
            places.push((version, Variant::Legacy));
        }
    }
    places
}
