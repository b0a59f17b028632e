//! Chains that other programs hook into the way of forwarded packets. An accept in our table does
//! not keep theirs from dropping a packet.

use cni_common::cni::log::Log;
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::{BaseChain, Family, Hook, Nft, NftError, Table};

use super::forward_chains::{is_name_taken, table_of};
use super::layout::TABLE;
use crate::config::{ForwardChain, OWN_NAME};

const CHAINS: [(Family, &str, &str); 4] = [
    (Family::Ip, "filter", "FORWARD"),
    (Family::Ip6, "filter", "FORWARD"),
    (Family::Inet, "filter", "forward"),
    (Family::Inet, "filter", "FORWARD"),
];

/// Native chains of usual names that drop what no rule of theirs decides, and that ours can be hooked
/// into. A warning names each.
pub(crate) fn native(nft: &mut dyn Nft, log: &Log) -> Result<Vec<ForwardChain>, NftError> {
    const NATIVE: [(Option<IpVersion>, &str); 4] = [
        (None, "forward"),
        (None, "FORWARD"),
        (Some(IpVersion::V4), "forward"),
        (Some(IpVersion::V6), "forward"),
    ];
    let chains = NATIVE.map(|(version, chain)| ForwardChain {
        version,
        table: "filter".to_owned(),
        chain: chain.to_owned(),
    });
    let places: Vec<_> =
        chains.iter().map(|chain| (table_of(chain), chain.chain.clone())).collect();
    let found = nft.chains(&places)?;
    let mut drops = Vec::new();
    for (chain, found) in chains.into_iter().zip(found) {
        let is_forward = |base: BaseChain| base.hook == Hook::Forward;
        if !found.is_some_and(|f| f.drops && f.chain.base.is_some_and(is_forward)) {
            continue;
        }
        let (table, name) = (table_of(&chain), &chain.chain);
        if is_name_taken(nft, &table)? {
            log.warn(format!(
                "chain {table} {name} has policy drop, and a chain {OWN_NAME} of somebody else is in the way \
                 of ours: containers' packets are dropped until that one is renamed"
            ));
            continue;
        }
        log.warn(format!(
            "chain {table} {name} has policy drop: containers' packets get through by a jump to {OWN_NAME} \
             in front of its rules; set \"backend\":\"nftables\" to leave the chain alone"
        ));
        drops.push(chain);
    }
    drops.sort();
    Ok(drops)
}

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
