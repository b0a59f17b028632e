//! iptables by its programs: one `save` to see what is there, one `restore` to change it, per family.
//!
//! A host may have both kinds of iptables, legacy and on top of `nf_tables`, and the Go plugin's
//! chains have the names of ours. So removal looks into every kind, for either plugin's chains.

mod add;
mod changes;
mod check;
pub(super) mod guard;
mod hand_over;
mod layout;
mod names;
mod places;
mod remove;
mod rules;
mod saved;
mod standing;

use std::cell::LazyCell;

use cni_common::cni::failure::{not_available, not_available_beside};
use cni_common::cni::holder::on_all;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::cni::{Attachment, Backend, Failure as _, Finding, Holder, Stale, Step};
use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{self, IptablesError, TableDump, Variant};

use super::conflict;
use crate::host::Host;
use crate::plan::{Held, Mapping, Plan};
use names::Names;

pub(crate) use places::{Place, that_may_have};
pub(crate) use rules::{ChainRule, GoRules, TABLE, TOP_CHAIN};

/// What ADD has `iptables-restore` read on a host that has nothing of iptables.
pub(crate) fn explain(plan: &Plan) -> Vec<Step> {
    let scripts = add::scripts(plan).into_iter();
    scripts.map(|(version, script)| Step::Restore(version, script)).collect()
}

const READING: &str = "cannot read the port mappings";

/// Every mapping in one place with its owner's tag, and with the one whose mapping comes first.
pub(crate) fn installed(place: Place) -> Result<Vec<(Held, Option<String>)>, IptablesError> {
    Ok(standing::with_holders(&layout::read(&place.open()?)?).collect())
}

/// The host's iptables.
pub(crate) struct Iptables {
    /// Whether removal spares the kind that ADD has just written the known plan to.
    spares_added: bool,
}

impl Iptables {
    pub(crate) const EVERYWHERE: Self = Self { spares_added: false };
    /// The kinds that ADD did not write to.
    pub(crate) const WHERE_ADD_DOES_NOT: Self = Self { spares_added: true };

    fn spares(
        &self,
        place: Place,
        places: &[Place],
        known: Option<&Plan>,
    ) -> Result<bool, IptablesError> {
        let is_mapped = known.is_some_and(|plan| plan.container(place.version).is_some());
        let of_family = places.iter().filter(|other| other.version == place.version).count();
        // Only where there are two kinds it is worth a program to find out which one it was.
        Ok(self.spares_added && is_mapped && (of_family == 1 || place.is_default()?))
    }

    /// Removes some of the attachment's chains wherever it has any.
    fn clean<'n>(
        &self,
        host: &mut Host<'_>,
        names: impl Fn() -> &'n Names,
        known: Option<&Plan>,
        chains: impl Fn(&TableDump) -> Vec<String>,
    ) -> Result<(), CniError> {
        host.settle()?;
        let places = places::of_attachment(host.nft_if_any()?, names).map_err(not_found)?;
        on_all(&places, |place| {
            let spared = self.spares(*place, &places, known);
            if spared.map_err(|error| error.into_cni("cannot tell one iptables from the other"))? {
                return Ok(());
            }
            let removed = remove::remove(*place, &chains, &mut host.guarded);
            host.removed.extend(unless_out_of_reach(host.log, *place, removed)?);
            Ok(())
        })
    }
}

impl Holder<Host<'_>, Plan> for Iptables {
    fn name(&self) -> &'static str {
        "iptables' table nat"
    }

    fn check(&self, host: &mut Host<'_>, plan: &Plan) -> Result<Finding, CniError> {
        let (finding, held) = check::find(plan).map_err(|error| error.into_cni(READING))?;
        host.held = held;
        Ok(finding)
    }

    fn remove(
        &self,
        host: &mut Host<'_>,
        attachment: &Attachment,
        known: Option<&Plan>,
    ) -> Result<(), CniError> {
        // Made of digests, which most hosts need not.
        let names = LazyCell::new(|| Names::new(attachment));
        let addresses = known.map(|plan| plan.addresses.bare()).unwrap_or_default();
        self.clean(host, || &names, known, |dump| saved::own_chains(dump, &names, &addresses))
    }

    fn collect_garbage(&self, host: &mut Host<'_>, stale: &Stale) -> Result<(), CniError> {
        host.settle()?;
        let shared = rules::SHARED_CHAINS.map(str::to_owned);
        let places = that_may_have(host.nft_if_any()?, &shared).map_err(not_found)?;
        let guarded = places::with_guard(host.nft_if_any()?).map_err(not_found)?;
        let outcome = on_all(places, |place| {
            let removed = remove::collect_garbage(place, stale);
            host.removed.extend(unless_out_of_reach(host.log, place, removed)?);
            Ok(())
        });
        for place in guarded {
            if let Err(error) = guard::remove_if_useless(place) {
                host.log.warn(format!(
                    "{} keeps chain {} until the next GC: {error}",
                    place.variant,
                    rules::GUARD_CHAIN
                ));
            }
        }
        outcome
    }
}

impl Iptables {
    /// Removes what an ADD of the same entry made in chains that the Go plugin does not have.
    pub(crate) fn remove_beside_go(
        &self,
        host: &mut Host<'_>,
        plan: &Plan,
    ) -> Result<(), CniError> {
        let names = LazyCell::new(|| Names::of_entry(&plan.attachment, plan.gate()));
        let addresses = plan.addresses.bare();
        self.clean(
            host,
            || &names,
            None,
            |dump| {
                let mut chains = saved::entry_chains(dump, &names, &addresses);
                chains.retain(|chain| *chain != names.go_chain);
                chains
            },
        )
    }
}

/// Makes room for the Go plugin's chain.
pub(crate) fn make_room(host: &mut Host<'_>, plan: &Plan) -> Result<(), CniError> {
    host.settle()?;
    let names = Names::of_entry(&plan.attachment, plan.gate());
    hand_over::make_room(host.nft_if_any()?, &names)
        .map_err(|error| error.into_cni("cannot make room for the Go plugin's chain"))
}

/// Removes the guard, also where `route_localnet` is set.
pub(crate) fn leave(host: &mut Host<'_>) -> Result<(), CniError> {
    const DOING: &str = "cannot remove the chain that keeps others out of 127.0.0.0/8";
    let guarded = places::with_guard(host.nft_if_any()?).map_err(not_found)?;
    on_all(guarded, |place| guard::remove(place).map_err(|error| error.into_cni(DOING)))
}

fn not_found(error: IptablesError) -> CniError {
    error.into_cni("cannot look which iptables has port mappings")
}

/// What was removed. Where the programs are gone, nothing will ever remove the rules: that is a warning,
/// because trying again helps nobody.
fn unless_out_of_reach(
    log: &Log,
    place: Place,
    removed: Result<Vec<Mapping>, IptablesError>,
) -> Result<Vec<Mapping>, CniError> {
    match removed {
        Ok(mappings) => Ok(mappings),
        Err(error @ IptablesError::Missing(_)) => {
            log.warn(format!(
                "rules of {place} may be left: {error}; remove chains CNI-DN-* by hand if they are"
            ));
            Ok(Vec::new())
        }
        Err(error) => Err(error.into_cni(&format!("cannot remove the port mappings of {place}"))),
    }
}

impl<'a> super::Place<'a> for Iptables {
    fn may_hold(&self, host: &mut Host<'a>, plan: &Plan) -> Result<bool, CniError> {
        let names = LazyCell::new(|| Names::of_entry(&plan.attachment, plan.gate()));
        let places = places::of_attachment(host.nft_if_any()?, || &names).map_err(not_found)?;
        // Which of them is the one that ADD writes to is seen without a program only behind it.
        Ok(!places.is_empty())
    }

    fn remove_entry(&self, host: &mut Host<'a>, plan: &Plan) -> Result<(), CniError> {
        let names = LazyCell::new(|| Names::of_entry(&plan.attachment, plan.gate()));
        let addresses = plan.addresses.bare();
        self.clean(
            host,
            || &names,
            Some(plan),
            |dump| saved::entry_chains(dump, &names, &addresses),
        )
    }

    fn mappings(&self, host: &mut Host<'a>) -> Result<Vec<Held>, CniError> {
        let top = [TOP_CHAIN.to_owned()];
        let mut held = Vec::new();
        for place in that_may_have(host.nft_if_any()?, &top).map_err(not_found)? {
            let found = installed(place).map_err(|error| error.into_cni(READING))?;
            held.extend(found.into_iter().map(|(held, _)| held));
        }
        Ok(held)
    }
}

impl Backend<Host<'_>, Plan> for Iptables {
    fn add(&self, host: &mut Host<'_>, plan: &Plan) -> Result<(), CniError> {
        let added = add::add(plan, host.log)?;
        host.replaced = added.replaced;
        host.added.extend(added.mappings);
        Ok(())
    }

    /// The programs are there and can read the table.
    fn status(&self, host: &mut Host<'_>, sample: &Plan) -> Result<(), CniError> {
        let probe = iptables::Iptables::find(IpVersion::V4, Variant::Default)
            .and_then(|iptables| layout::read(&iptables));
        let cannot = "portmap cannot use iptables: install it, run the plugin with CAP_NET_ADMIN, and load the \
                      kernel's nat table";
        let dump = probe.map_err(|error| match error {
            IptablesError::Newer(newer) => not_available_beside(newer),
            error => not_available(error.into_cni(cannot)),
        })?;
        conflict::tell_waiting(&standing::waiting(&dump), host.log);
        match &sample.set_mark_chain {
            Some(chain) if !dump.has_chain(chain) => Err(CniError::new(
                ErrorCode::NotAvailable,
                format!(
                    "externalSetMarkChain {chain:?} is not in table nat: whoever owns it must make it first"
                ),
            )),
            _ => Ok(()),
        }
    }
}
