//! Removal from our table: compare-and-delete by owner. An address is re-used while the old
//! container's DEL is still to come.

use std::collections::HashSet;
use std::net::IpAddr;

use cni_common::cni::log::Log;
use cni_common::cni::protocol::CniError;
use cni_common::cni::{Failure as _, OwnerTag, Stale};
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::{Element, Nft, NftError, Object, Transaction, Verb, unchanged_since};
use cni_common::kernel::retry::retry;

use super::admission::{Owned, delete};
use super::bridges::{counts_without, read_counts, set_counts};
use super::elements::address;
use super::forward_chains::{self, Leaver};
use super::layout::{self, TABLE};
use super::older::take_over;
use crate::host::Removed;

/// Removes what carries the owner's tag. `known` addresses are looked at besides those that the table
/// itself names.
pub(crate) fn remove(
    nft: &mut dyn Nft,
    tag: &OwnerTag,
    known: &[IpAddr],
    log: &Log,
) -> Result<Removed, CniError> {
    retry(|| {
        let generation = nft.generation()?;
        let owned = Owned::read(nft, tag, known)?;
        // Whose name is in today's map is in a table of today's layout.
        if !owned.is_named && take_over(nft, log)? {
            return Err(NftError::Interrupted);
        }
        let mut transaction = Transaction::new();
        delete(&mut transaction, &owned.elements);
        if let Some((bridge, policy)) = &owned.membership {
            let counts = read_counts(nft, bridge)?.minus(*policy);
            set_counts(nft, bridge, counts, &mut transaction)?;
        }
        let leaver = Leaver { tag, addresses: &owned.candidates };
        forward_chains::change(nft, &leaver, None, &mut transaction)?;
        if transaction.is_empty() {
            // That there was nothing is true as long as nothing changed.
            unchanged_since(nft, generation)?;
        } else {
            transaction.generation = Some(generation);
            nft.commit(&transaction)?;
        }
        Ok(Removed {
            addresses: owned.addresses(),
            isolated: owned.is_isolated(),
            from_iptables: false,
        })
    })
    .map_err(|error: NftError| error.into_cni("cannot remove the firewall rules"))
}

/// GC: removes what is stale, makes the bridges' counts right, and removes the table once it holds
/// nothing. Returns the addresses that went.
pub(crate) fn collect_garbage(
    nft: &mut dyn Nft,
    stale: &Stale,
    log: &Log,
) -> Result<Vec<IpAddr>, CniError> {
    const DOING: &str = "cannot collect stale firewall rules";
    take_over(nft, log).map_err(|error| error.into_cni(DOING))?;
    let is_stale =
        |element: &Element| element.comment.as_deref().is_some_and(|c| stale.includes(c));
    retry(|| {
        let generation = nft.generation()?;
        let mut transaction = Transaction::new();
        let mut left = 0;
        let mut addresses = Vec::new();
        for set in [
            layout::attachments(),
            layout::containers(IpVersion::V4),
            layout::containers(IpVersion::V6),
        ] {
            let (stale, fresh) = split(nft.elements(&TABLE, &set)?, is_stale);
            left += fresh.len();
            addresses.extend(stale.iter().filter_map(address));
            delete(&mut transaction, [&(set, stale)]);
        }
        let (stale, fresh) = split(nft.elements(&TABLE, &layout::members())?, is_stale);
        left += fresh.len();
        for (bridge, counts) in counts_without(&stale, &fresh) {
            set_counts(nft, &bridge, counts, &mut transaction)?;
        }
        delete(&mut transaction, [&(layout::members(), stale)]);
        let mut elsewhere = Transaction::new();
        forward_chains::collect_garbage(nft, is_stale, &mut elsewhere)?;
        let unused = left == 0 && is_there(nft)? && nothing_else(nft)?;
        if transaction.is_empty() && elsewhere.is_empty() && !unused {
            unchanged_since(nft, generation)?;
            return Ok(addresses);
        }
        if unused {
            transaction = Transaction::new();
            transaction.push(Verb::Delete, &TABLE, Object::Table(None));
            elsewhere.operations.retain(|operation| operation.table != TABLE);
        }
        transaction.operations.extend(elsewhere.operations);
        transaction.generation = Some(generation);
        nft.commit(&transaction)?;
        Ok(addresses)
    })
    .map_err(|error: NftError| error.into_cni(DOING))
}

fn split(
    elements: Vec<Element>,
    is_stale: impl Fn(&Element) -> bool,
) -> (Vec<Element>, Vec<Element>) {
    elements.into_iter().partition(is_stale)
}

fn is_there(nft: &mut dyn Nft) -> Result<bool, NftError> {
    let chains = nft.chains_at(&TABLE, &[layout::ADMIN.to_owned()])?;
    Ok(chains.iter().any(Option::is_some))
}

/// Rules outside our own chains are an administrator's, and keep the table.
fn nothing_else(nft: &mut dyn Nft) -> Result<bool, NftError> {
    let ours: HashSet<String> = layout::chains()
        .into_iter()
        .map(|(chain, _)| chain.name)
        .chain([layout::ADMIN.to_owned()])
        .collect();
    let sets = layout::sets().into_iter().chain([forward_chains::hooks()]);
    let known: HashSet<String> = sets.map(|set| set.name).collect();
    Ok(nft.rules(&TABLE)?.iter().all(|rule| ours.contains(&rule.chain))
        && nft.sets(&TABLE)?.iter().all(|name| known.contains(name)))
}
