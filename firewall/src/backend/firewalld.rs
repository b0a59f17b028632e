//! The firewalld backend: containers' addresses as sources of a zone. Our table holds the isolation,
//! of which firewalld has no notion, and remembers whose the sources are.
//!
//! What names the owner comes first and goes last: a file that tells our sources from the Go plugin's,
//! the elements of our table, the sources. What a killed call leaves has an owner.

use std::net::{IpAddr, Ipv4Addr};

use cni_common::cni::failure::not_available;
use cni_common::cni::protocol::CniError;
use cni_common::cni::{Attachment, Backend, Finding, Holder, Stale};

use super::nftables::{self, Nftables};
use crate::admitted;
use crate::config::Config;
use crate::host::Host;
use crate::plan::Plan;
use crate::zone::Zone;

/// Sources of firewalld's zone, and our table.
pub(crate) struct Firewalld {
    zone: Zone,
}

impl Firewalld {
    /// The zone that the configuration means.
    pub(crate) fn of(config: &Config) -> Self {
        Self { zone: Zone::of(config) }
    }

    /// Takes the sources of what is to be removed out of the zone, removes it, and makes up for what
    /// moved meanwhile. `look` finds the addresses.
    fn remove_with_sources<'a>(
        &self,
        host: &mut Host<'a>,
        look: impl FnOnce(&mut Host<'a>) -> Result<Vec<IpAddr>, CniError>,
        remove: impl FnOnce(&mut Host<'a>) -> Result<(), CniError>,
    ) -> Result<(), CniError> {
        if !self.zone.may_have_sources(host)? {
            return remove(host);
        }
        let released = look(host)?;
        self.zone.release(host, &released)?;
        remove(host)?;
        let missed = without(&host.removed.addresses, &released);
        self.zone.release(host, &missed)?;
        // One of another attachment that has taken the address since we looked.
        let taken = nftables::held(host, &released)?;
        self.zone.admit(host, &taken)
    }

    fn enter(&self, host: &mut Host<'_>, plan: &Plan) -> Result<(), CniError> {
        let earlier = nftables::addresses_of(host, &plan.tag, &plan.addresses)?;
        let given_up = without(&earlier, &plan.addresses);
        let outcome =
            self.zone.release(host, &given_up).and_then(|()| nftables::install(host, plan));
        if outcome.is_err() {
            // The attachment has what it had. Best effort, as all of it is then.
            let _ = self.zone.admit(host, &given_up);
        }
        outcome
    }
}

/// Those of the addresses that are not among the others.
fn without(addresses: &[IpAddr], others: &[IpAddr]) -> Vec<IpAddr> {
    addresses.iter().copied().filter(|address| !others.contains(address)).collect()
}

impl<'a> Holder<Host<'a>, Plan> for Firewalld {
    fn name(&self) -> &'static str {
        "firewalld's zone with table inet cni_firewall"
    }

    /// Whose a source is says our table alone.
    fn check(&self, host: &mut Host<'a>, plan: &Plan) -> Result<Finding, CniError> {
        let mut mismatches = match Nftables.check(host, plan)? {
            Finding::Absent => return Ok(Finding::Absent),
            Finding::Sound => Vec::new(),
            Finding::Mismatches(mismatches) => mismatches,
        };
        mismatches.extend(self.zone.missing(host, &plan.addresses)?);
        Ok(Finding::of(mismatches))
    }

    fn remove(
        &self,
        host: &mut Host<'a>,
        attachment: &Attachment,
        known: Option<&Plan>,
    ) -> Result<(), CniError> {
        let tag = attachment.tag();
        let addresses = known.map(|known| known.addresses.as_slice()).unwrap_or_default();
        self.remove_with_sources(
            host,
            |host| nftables::addresses_of(host, &tag, addresses),
            |host| Nftables.remove(host, attachment, known),
        )?;
        admitted::forget(&tag)
    }

    fn collect_garbage(&self, host: &mut Host<'a>, stale: &Stale) -> Result<(), CniError> {
        self.remove_with_sources(
            host,
            |host| nftables::stale_addresses(host, stale),
            |host| Nftables.collect_garbage(host, stale),
        )?;
        admitted::forget_stale(stale)
    }
}

impl<'a> Backend<Host<'a>, Plan> for Firewalld {
    fn add(&self, host: &mut Host<'a>, plan: &Plan) -> Result<(), CniError> {
        host.bus.require_firewalld()?;
        let is_new = admitted::remember(&plan.tag)?;
        if let Err(error) = self.enter(host, plan) {
            if is_new {
                let _ = admitted::forget(&plan.tag);
            }
            return Err(error);
        }
        self.zone.admit(host, &plan.addresses)
    }

    /// Does firewalld answer, and does it have the zone?
    fn status(&self, host: &mut Host<'a>, sample: &Plan) -> Result<(), CniError> {
        /// The documentation's range: nobody's source.
        const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        nftables::probe(host, sample)?;
        let outcome = self.zone.missing(host, &[NOBODY]);
        outcome.map(|_| ()).map_err(not_available)
    }
}
