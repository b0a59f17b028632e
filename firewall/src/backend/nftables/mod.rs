//! The nftables backend: a table of our own, which [`layout`] describes.

mod add;
mod admission;
mod bridges;
mod check;
mod elements;
pub(crate) mod foreign_drops;
mod forward_chains;
mod layout;
mod number;
mod older;
mod remove;
mod status;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use cni_common::cni::log::Log;
use cni_common::cni::protocol::CniError;
use cni_common::cni::{Attachment, Backend, Failure as _, Finding, Holder, OwnerTag, Stale, Step};
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::fake::FakeNft;
use cni_common::kernel::nft::{Element, Nft, NftError, Transaction, look};

use crate::held::Held;
use crate::host::{Before, Host};
use crate::plan::Plan;

const READING: &str = "cannot read the firewall rules";

/// The table `inet cni_firewall`.
pub(crate) struct Nftables;

/// Makes what the plan asks for in our table, whatever other tables do with the packets.
pub(crate) fn install(host: &mut Host<'_>, plan: &Plan) -> Result<(), CniError> {
    let log = host.log;
    let earlier = add::add(host.nft()?, plan, log)?;
    host.removed.isolated |= earlier.as_ref().is_some_and(Plan::isolates_ports);
    host.before = Before::of(earlier);
    Ok(())
}

/// The addresses that are admitted for an attachment; `known` ones are looked at first.
pub(crate) fn addresses_of(
    host: &mut Host<'_>,
    tag: &OwnerTag,
    known: &[IpAddr],
) -> Result<Vec<IpAddr>, CniError> {
    let Some(nft) = host.nft_if_any() else { return Ok(Vec::new()) };
    let owned = admission::Owned::read(nft, tag, known);
    owned.map(|owned| owned.addresses()).map_err(|error| error.into_cni(READING))
}

/// The addresses that are admitted for attachments that are not valid any more.
pub(crate) fn stale_addresses(host: &mut Host<'_>, stale: &Stale) -> Result<Vec<IpAddr>, CniError> {
    let Some(nft) = host.nft_if_any() else { return Ok(Vec::new()) };
    let held = installed(nft).map_err(|error| error.into_cni(READING))?;
    let is_stale = |(_, owner): &(IpAddr, String)| stale.includes(owner);
    Ok(held.admitted.into_iter().filter(is_stale).map(|(address, _)| address).collect())
}

/// Those of the addresses that are admitted for some attachment.
pub(crate) fn held(host: &mut Host<'_>, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, CniError> {
    let Some(nft) = host.nft_if_any() else { return Ok(Vec::new()) };
    admission::held_addresses(nft, addresses).map_err(|error| error.into_cni(READING))
}

/// What ADD commits on a host that has nothing in `nf_tables` but the chains that the configuration names.
pub(crate) fn explain(plan: &Plan, log: &Log) -> Result<Vec<Step>, CniError> {
    const DOING: &str = "cannot explain the firewall rules";
    let mut host = FakeNft::new();
    let mut given = Transaction::new();
    for chain in &plan.forward_chains {
        forward_chains::assume(chain, &mut given);
    }
    host.commit(&given).map_err(|error| error.into_cni(DOING))?;
    add::add(&mut host, plan, log)?;
    Ok(host.committed().iter().skip(1).cloned().map(Step::Nft).collect())
}

/// The admitted addresses with their owners, and the owners that are kept apart.
pub(crate) fn installed(nft: &mut dyn Nft) -> Result<Held, NftError> {
    number::refuse_newer(nft)?;
    let mut admitted = Vec::new();
    for version in IpVersion::ALL {
        let elements = nft.elements(&layout::TABLE, &layout::containers(version))?;
        admitted.extend(
            elements
                .into_iter()
                .filter_map(|element| Some((elements::address(&element)?, element.comment?))),
        );
    }
    let members = nft.elements(&layout::TABLE, &layout::members())?;
    let membership = |element: Element| {
        let (bridge, policy) = elements::membership(&element)?;
        Some((element.comment?, (bridge, policy.as_str().to_owned())))
    };
    Ok(Held { admitted, members: members.into_iter().filter_map(membership).collect() })
}

/// Whether the table could be made, and is sound if it is there.
pub(crate) fn probe(host: &mut Host<'_>, sample: &Plan) -> Result<(), CniError> {
    let log = host.log;
    status::status(host.nft()?, sample, log)
}

impl<'a> Holder<Host<'a>, Plan> for Nftables {
    fn name(&self) -> &'static str {
        "table inet cni_firewall"
    }

    fn check(&self, host: &mut Host<'a>, plan: &Plan) -> Result<Finding, CniError> {
        let is_sound = |found: &Finding| *found == Finding::Sound;
        let outcome = look(host.nft()?, |nft| check::check(nft, plan), is_sound);
        outcome.map_err(|error| error.into_cni(READING))
    }

    fn remove(
        &self,
        host: &mut Host<'a>,
        attachment: &Attachment,
        known: Option<&Plan>,
    ) -> Result<(), CniError> {
        let log = host.log;
        let Some(nft) = host.nft_if_any() else { return Ok(()) };
        let known = known.map(|known| known.addresses.as_slice()).unwrap_or_default();
        let removed = remove::remove(nft, &attachment.tag(), known, log)?;
        host.removed.add(removed);
        Ok(())
    }

    fn collect_garbage(&self, host: &mut Host<'a>, stale: &Stale) -> Result<(), CniError> {
        let log = host.log;
        let Some(nft) = host.nft_if_any() else { return Ok(()) };
        let addresses = remove::collect_garbage(nft, stale, log)?;
        host.removed.addresses.extend(addresses);
        Ok(())
    }
}

impl<'a> Backend<Host<'a>, Plan> for Nftables {
    fn add(&self, host: &mut Host<'a>, plan: &Plan) -> Result<(), CniError> {
        install(host, plan)?;
        let log = host.log;
        foreign_drops::warn(host.nft()?, &plan.forward_chains, log);
        Ok(())
    }

    fn status(&self, host: &mut Host<'a>, sample: &Plan) -> Result<(), CniError> {
        probe(host, sample)?;
        let log = host.log;
        let nft = host.nft()?;
        forward_chains::require(nft, &sample.forward_chains)?;
        foreign_drops::warn(nft, &sample.forward_chains, log);
        Ok(())
    }
}

/// Everything that the plugin ever writes into its table, for one attachment that needs all of it.
pub(crate) fn everything(sample: &Plan) -> Transaction {
    status::everything(sample)
}
