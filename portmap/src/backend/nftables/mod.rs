//! nftables: one table of maps, made and read by netlink.
//!
//! Removal is compare-and-delete: read which elements carry the owner's tag, then delete them in
//! a transaction that is bound to the generation they were read at. Nothing else proves
//! ownership; an address is re-used while the old container's DEL is still to come.

mod add;
mod check;
mod claims;
mod conditions;
mod elements;
mod entry;
mod garbage;
pub(super) mod guard;
mod known;
mod layout;
mod number;
mod older;
mod owned;
mod repair;
mod replace;
mod sets;
mod sources;
#[cfg(test)]
mod tests;

use cni_common::cni::failure::unreachable_nft;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::CniError;
use cni_common::cni::{Attachment, Backend, Failure as _, Finding, Holder, Stale, Step};
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::fake::FakeNft;
use cni_common::kernel::nft::{Nft, NftError, Transaction};

use crate::host::Host;
use crate::localnet;
use crate::plan::{Held, Plan};
use elements::Content;
use layout::Layout;
use number::refuse_newer;

const READING: &str = "cannot read the port mappings";

/// The table `inet cni_portmap`.
pub(crate) struct Nftables;

impl Holder<Host<'_>, Plan> for Nftables {
    fn name(&self) -> &'static str {
        "table inet cni_portmap"
    }

    fn check(&self, host: &mut Host<'_>, plan: &Plan) -> Result<Finding, CniError> {
        let (finding, held) = check::check(host.nft()?, &Wanted::by(plan)?)?;
        host.held = held;
        if finding == Finding::Sound && !plan.mappings.is_empty() {
            // The guard was compared with the rest.
            host.guarded = Some(true);
        }
        Ok(finding)
    }

    fn remove(
        &self,
        host: &mut Host<'_>,
        attachment: &Attachment,
        known: Option<&Plan>,
    ) -> Result<(), CniError> {
        let log = host.log;
        let Some(nft) = host.nft_if_any()? else { return Ok(()) };
        let known = known.map(Content::of);
        let removed = owned::remove(nft, &attachment.tag(), known.as_ref(), log)?;
        host.removed.extend(removed);
        Ok(())
    }

    fn collect_garbage(&self, host: &mut Host<'_>, stale: &Stale) -> Result<(), CniError> {
        let log = host.log;
        let Some(nft) = host.nft_if_any()? else { return Ok(()) };
        let removed = garbage::collect_garbage(nft, stale, localnet::is_set_anywhere, log)?;
        host.removed.extend(removed);
        Ok(())
    }
}

impl<'a> super::Place<'a> for Nftables {
    fn may_hold(&self, host: &mut Host<'a>, plan: &Plan) -> Result<bool, CniError> {
        let Some(nft) = host.nft_if_any()? else { return Ok(false) };
        let owned = refuse_newer(nft)
            .and_then(|_| owned::of(nft, &plan.attachment.tag(), None))
            .map_err(|error| error.into_cni(READING))?;
        Ok(owned.elements.iter().any(|(_, elements)| !elements.is_empty()))
    }

    fn remove_entry(&self, host: &mut Host<'a>, plan: &Plan) -> Result<(), CniError> {
        let log = host.log;
        let Some(nft) = host.nft_if_any()? else { return Ok(()) };
        take_over(nft, log).map_err(|error| error.into_cni("cannot remove the port mappings"))?;
        let removed = owned::remove_entry(nft, &Content::of(plan), log)?;
        host.removed.extend(removed);
        Ok(())
    }

    fn mappings(&self, host: &mut Host<'a>) -> Result<Vec<Held>, CniError> {
        match host.nft_if_any()? {
            Some(nft) => refuse_newer(nft)
                .and_then(|_| owned::held(nft))
                .map_err(|error| error.into_cni(READING)),
            None => Ok(Vec::new()),
        }
    }
}

impl Backend<Host<'_>, Plan> for Nftables {
    fn add(&self, host: &mut Host<'_>, plan: &Plan) -> Result<(), CniError> {
        let log = host.log;
        let has_table = host.has_table().map_err(unreachable_nft)?;
        let added = add::add(host.nft()?, &Wanted::by(plan)?, has_table, log)?;
        host.added.extend(added.mappings);
        host.replaced = added.replaced;
        Ok(())
    }

    fn status(&self, host: &mut Host<'_>, sample: &Plan) -> Result<(), CniError> {
        let log = host.log;
        check::status(host.nft()?, &Wanted::by(sample)?, log)
    }
}

/// What a plan asks of the table.
#[derive(Clone, Debug)]
struct Wanted<'a> {
    plan: &'a Plan,
    content: Content,
    layout: Layout,
}

impl<'a> Wanted<'a> {
    /// Errors come from conditions only.
    fn by(plan: &'a Plan) -> Result<Self, CniError> {
        let compile = |version| {
            let alternatives = conditions::compile(plan.conditions.of(version), version)?;
            Ok((version, alternatives))
        };
        let conditions = [compile(IpVersion::V4)?, compile(IpVersion::V6)?];
        let content = Content::of(plan);
        let layout = Layout::new(&content, conditions);
        Ok(Self { plan, content, layout })
    }
}

/// Makes of a table of an older version one of today's; whether it was one.
pub(crate) fn take_over(nft: &mut dyn Nft, log: &Log) -> Result<bool, NftError> {
    older::take_over(nft, &[&Layout::shared()], log)
}

/// Every mapping in the table with its owner's tag, and with the attachment that it waits for.
pub(crate) fn installed(nft: &mut dyn Nft) -> Result<Vec<(Held, Option<String>)>, NftError> {
    refuse_newer(nft)?;
    let in_force = owned::held(nft)?.into_iter().map(|held| (held, None));
    let waiting = claims::waiting(nft)?.into_iter().map(|(held, holder)| (held, Some(holder)));
    Ok(in_force.chain(waiting).collect())
}

/// What ADD commits on a host that has nothing of `nf_tables`.
pub(crate) fn explain(plan: &Plan, log: &Log) -> Result<Vec<Step>, CniError> {
    let mut host = FakeNft::new();
    add::add(&mut host, &Wanted::by(plan)?, false, log)?;
    Ok(host.committed().iter().cloned().map(Step::Nft).collect())
}

/// Removes the table if nothing is mapped, with its guard.
pub(crate) fn leave(nft: &mut dyn Nft, nothing: &Stale, log: &Log) -> Result<(), CniError> {
    garbage::collect_garbage(nft, nothing, || false, log).map(drop)
}

/// What ADD commits where our table is not there yet.
pub(crate) fn whole_table(plan: &Plan) -> Result<Transaction, CniError> {
    let wanted = Wanted::by(plan)?;
    Ok(add::whole_table(&wanted, &wanted.layout))
}
