//! The firewalld backend: containers' addresses as sources of a zone. Our table holds the isolation,
//! of which firewalld has no notion, and remembers whose the sources are.

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

/// Sources of firewalld's zone.
pub(crate) struct Firewalld {
    zone: Zone,
}

impl Firewalld {
    /// The zone that the configuration means.
    pub(crate) fn of(config: &Config) -> Self {
        Self { zone: Zone::of(config) }
    }

    /// Takes out the addresses that were ours by our table, which has to be asked before.
    fn release(&self, host: &mut Host<'_>) {
        let mut addresses = host.removed.addresses.clone();
        addresses.sort_unstable();
        addresses.dedup();
        if !addresses.is_empty() && self.zone.is_in_use(host) {
            self.zone.release(host, &addresses);
        }
    }
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
        _known: Option<&Plan>,
    ) -> Result<(), CniError> {
        self.release(host);
        admitted::forget(&attachment.tag(), host.log);
        Ok(())
    }

    fn collect_garbage(&self, host: &mut Host<'a>, stale: &Stale) -> Result<(), CniError> {
        self.release(host);
        admitted::forget_stale(stale, host.log);
        Ok(())
    }
}

impl<'a> Backend<Host<'a>, Plan> for Firewalld {
    fn add(&self, host: &mut Host<'a>, plan: &Plan) -> Result<(), CniError> {
        host.bus.required_firewalld()?;
        nftables::install(host, plan)?;
        admitted::remember(&plan.tag, host.log);
        let firewalld = host.bus.required_firewalld()?;
        plan.addresses.iter().try_for_each(|address| firewalld.add(&self.zone.name, *address))
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
