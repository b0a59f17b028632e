//! Chains that other programs hook into the way of forwarded packets. An accept in our table does
//! not keep theirs from dropping a packet.

use cni_common::cni::log::Log;
use cni_common::kernel::nft::{Family, Nft, Table};

use super::forward_chains::table_of;
use super::layout::TABLE;
use crate::config::ForwardChain;

const CHAINS: [(Family, &str, &str); 4] = [
    (Family::Ip, "filter", "FORWARD"),
    (Family::Ip6, "filter", "FORWARD"),
    (Family::Inet, "filter", "forward"),
    (Family::Inet, "filter", "FORWARD"),
];

/// Warns of those that drop what no rule of theirs decides, but for those that ours is hooked into.
pub(super) fn warn(nft: &mut dyn Nft, hooked: &[ForwardChain], log: &Log) {
    let is_hooked = |(table, chain): &(Table, String)| {
        hooked.iter().any(|hooked| table_of(hooked) == *table && hooked.chain == *chain)
    };
    let chains: Vec<_> = CHAINS
        .into_iter()
        .map(|(family, table, chain)| (Table::new(family, table), chain.to_owned()))
        .filter(|chain| !is_hooked(chain))
        .collect();
    let found = nft.chains(&chains).unwrap_or_default();
    for ((table, chain), found) in chains.iter().zip(found) {
        if found.is_some_and(|found| found.drops) {
            log.warn(format!(
                "chain {table} {chain} has policy drop, which an accept in table {TABLE} does not override: \
                 name it in nftablesForwardChains if it is nftables' own, or accept containers' traffic there"
            ));
        }
    }
}
