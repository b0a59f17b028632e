//! What the Go plugin of the same name left: it is judged and removed.
//!
//! Its rules and sources name no owner but the address.

mod iptables;
mod sweep;

use std::net::IpAddr;

use cni_common::cni::protocol::CniError;
use cni_common::cni::{Attachment, Finding, Holder, Stale};

use crate::admitted;
use crate::backend::nftables;
use crate::config::Config;
use crate::host::Host;
use crate::plan::Plan;
use crate::zone::Zone;
use iptables::Scope;

/// The Go plugin's rules in iptables, and its sources in firewalld's zone.
pub(crate) struct GoPlugin {
    zone: Zone,
    admin_chain: String,
}

impl GoPlugin {
    /// Where the configuration would have had it put them.
    pub(crate) fn of(config: &Config) -> Self {
        Self { zone: Zone::of(config), admin_chain: config.admin_chain.clone() }
    }

    /// With firewalld it leaves only isolation to iptables. Sources alone prove nothing: ours are the
    /// same, and survive the table that says so.
    fn check_zone(&self, host: &mut Host<'_>, plan: &Plan) -> Result<Finding, CniError> {
        if admitted::is_remembered(&plan.tag)? {
            return Ok(Finding::Absent);
        }
        let mut mismatches = self.zone.missing(host, &plan.addresses)?;
        if mismatches.len() == plan.addresses.len() {
            return Ok(Finding::Absent);
        }
        if plan.isolation.is_some() {
            match iptables::check(host, plan, Scope::Isolation)? {
                Finding::Sound => {}
                Finding::Mismatches(more) => mismatches.extend(more),
                Finding::Absent => mismatches
                    .push("the Go plugin's isolation chains are missing from iptables".to_owned()),
            }
        }
        Ok(Finding::of(mismatches))
    }

    /// A source of an address that our table does not know may be the Go plugin's. One that another
    /// attachment has by now is that one's.
    fn release_sources(&self, host: &mut Host<'_>, known: &[IpAddr]) -> Result<(), CniError> {
        if !self.zone.may_have_sources(host)? {
            return Ok(());
        }
        let held = nftables::held(host, known)?;
        let others: Vec<IpAddr> =
            known.iter().copied().filter(|address| !held.contains(address)).collect();
        self.zone.release(host, &others)
    }
}

impl<'a> Holder<Host<'a>, Plan> for GoPlugin {
    fn name(&self) -> &'static str {
        "the Go plugin's rules"
    }

    fn check(&self, host: &mut Host<'a>, plan: &Plan) -> Result<Finding, CniError> {
        if self.zone.is_in_use(host)? {
            return self.check_zone(host, plan);
        }
        iptables::check(host, plan, Scope::Everything)
    }

    /// Without known addresses nothing can be told to be the attachment's.
    fn remove(
        &self,
        host: &mut Host<'a>,
        _attachment: &Attachment,
        known: Option<&Plan>,
    ) -> Result<(), CniError> {
        let Some(known) = known.filter(|known| !known.addresses.is_empty()) else { return Ok(()) };
        let released = self.release_sources(host, &known.addresses);
        released.and(iptables::remove(host, &known.addresses))
    }

    /// Its rules of one container are not told from those of another; what all containers share
    /// goes once it serves none.
    fn collect_garbage(&self, host: &mut Host<'a>, _stale: &Stale) -> Result<(), CniError> {
        sweep::sweep(host, &self.admin_chain)
    }
}
