//! The `portmap` CNI meta plugin: host ports that lead to a container's ports, by DNAT.
//!
//! `config` reads the configuration, `plan` turns it into what must be, and a `backend` makes it
//! so. An attachment's mappings may be in another place than today's ADD would choose, and the Go
//! plugin may have made them (`go`), so every place is asked when they go. `listing` tells what is there.

#![forbid(unsafe_code)]

mod backend;
mod config;
pub mod explain;
mod flows;
mod go;
mod hand_over;
mod host;
pub mod listing;
mod localnet;
mod notices;
mod plan;
mod status;

use cni_common::cni::failure::not_available;
use cni_common::cni::holder::on_all;
use cni_common::cni::log::say;
use cni_common::cni::protocol::{CniError, CniResult, NetworkConfig};
use cni_common::cni::{
    Attachment, AttachmentRequest, Finding, GcRequest, Holder, Plugin, StatusRequest,
};
use cni_common::kernel::nft::Transaction;

use backend::{Look, conflict};
use config::{Config, OnConflict};
use go::Go;
use host::Host;
use localnet::Localnet;
use plan::{Addresses, Plan};

pub use backend::conflict::{held_by_others, waiting_by};
pub use plan::Mapping;

/// The plugin.
#[derive(Debug, Default)]
pub struct Portmap;

impl Plugin for Portmap {
    const NAME: &'static str = "portmap";
    const ABOUT: &'static str = "Publishes ports of containers on ports of the host";
    const KEYS: &'static [&'static str] = &[
        "backend",
        "snat",
        "masqAll",
        "markMasqBit",
        "externalSetMarkChain",
        "conditionsV4",
        "conditionsV6",
        "onConflict",
    ];

    fn validate(config: &NetworkConfig) -> Result<(), CniError> {
        Config::read(config).map(drop)
    }

    fn add(&self, request: &AttachmentRequest) -> Result<CniResult, CniError> {
        let config = Config::read(&request.config)?;
        let result = request.required_prev_result()?;
        let mut host = Host::new(&request.log);
        let mut plan = plan_of(&request.attachment, &config, &result);
        plan.warnings(&config).into_iter().for_each(|warning| request.log.warn(warning));
        if plan.is_empty() {
            // An earlier ADD may have mapped something, if it is this entry that does.
            if config.takes_mappings {
                remove_entry(&mut host, &plan)?;
            }
            mend_guard(&mut host, &config, plan.addresses);
            return Ok(result);
        }
        // Opened before anything is changed, but written only once the guard stands.
        let localnet = Localnet::prepare(&plan)?;
        plan.loopback = localnet.is_needed();
        localnet.warning().into_iter().for_each(|warning| request.log.warn(warning));
        let choice = backend::choose(&config, &mut host)?;
        if plan.on_conflict == OnConflict::Fail {
            conflict::refuse(&plan, Go::mappings(&mut host, &request.attachment)?)?;
        }
        // What can fail by itself fails before anything is changed.
        host.settle()?;
        let others = choice.others_with(&mut host, &plan)?;
        choice.add(&mut host, &plan)?;
        let outcome = localnet.apply().and_then(|()| {
            // Rules of an earlier ADD may come before these and lead elsewhere.
            on_all(&others, |other| other.remove_entry(&mut host, &plan))?;
            Go.remove(&mut host, &request.attachment, Some(&plan))
        });
        if let Err(error) = outcome {
            // What took the place of something is all that the attachment has.
            if !host.replaced && host.removed.is_empty() {
                // Best effort: the error to tell is the one that made it necessary.
                let _ = choice.take_back(&mut host, &plan);
            }
            return Err(error);
        }
        // Last: a packet that came now would only renew a flow that is stale.
        let added = std::mem::take(&mut host.added);
        flows::forget_stale(&mut host, &added);
        notices::tell(&added, choice.backend.name(), &request.log);
        Ok(result)
    }

    fn del(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let config = Config::read_leniently(&request.config);
        let result = request.config.prev_result().ok().flatten().unwrap_or_default();
        let known = plan_of(&request.attachment, &config, &result);
        let mut host = Host::new(&request.log);
        backend::know_layout(&mut host)?;
        let outcome = remove(&mut host, &request.attachment, &known);
        mend_guard(&mut host, &config, known.addresses);
        outcome
    }

    fn check(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let config = Config::read(&request.config)?;
        let result = request.required_prev_result()?;
        if !config.takes_mappings {
            // What is there is another entry's.
            return Ok(());
        }
        let plan = plan_of(&request.attachment, &config, &result);
        let mut host = Host::new(&request.log);
        let choice = backend::choose(&config, &mut host)?;
        let found = choice.backend.check(&mut host, &plan)?;
        // The Go plugin sets `route_localnet` and guards nothing.
        let is_by_go = found == Finding::Absent;
        let mut mismatches = match found {
            Finding::Sound => Vec::new(),
            Finding::Mismatches(mismatches) => mismatches,
            Finding::Absent => check_go(&mut host, &plan, choice.backend.name())?,
        };
        if mismatches.is_empty() {
            mismatches.extend(localnet::mismatch(&plan)?);
            match unguarded(&mut host, plan.addresses, Look::Exact) {
                Some(problem) if is_by_go => request.log.warn(problem),
                problem => mismatches.extend(problem.map(str::to_owned)),
            }
        }
        // What the Go plugin's rules serve comes before ours, whose it is.
        if mismatches.is_empty() && !is_by_go {
            conflict::lost(&host.held)?;
        } else if !mismatches.is_empty() {
            // Not last: of many mismatches only so many are told.
            mismatches.splice(1..1, host.held.iter().map(conflict::lost_mismatch));
        }
        CniError::unless_sound(
            "port mappings are not as ADD made them",
            &mismatches,
            "run cni-chain restore to put them back",
        )
    }

    fn gc(&self, request: &GcRequest) -> Result<(), CniError> {
        let mut host = Host::new(&request.log);
        let stale = request.stale();
        let outcome = on_all(holders(), |holder| holder.collect_garbage(&mut host, &stale));
        forget_flows_of_removed(&mut host);
        outcome
    }

    fn status(&self, request: &StatusRequest) -> Result<(), CniError> {
        let config = Config::read(&request.config)?;
        let mut host = Host::new(&request.log);
        let choice = backend::choose(&config, &mut host).map_err(not_available)?;
        // STATUS has no place on stdout for it.
        say(&choice);
        choice.backend.status(&mut host, &status::sample(&config))?;
        if config.snat {
            status::require_writable_sysctls()?;
        }
        if !backend::is_guarded(&mut host, Look::Exact, localnet::is_set_anywhere) {
            request.log.warn(format!("{UNGUARDED}; the next ADD or DEL there puts it back"));
        }
        Ok(())
    }
}

const UNGUARDED: &str =
    "route_localnet is set, and the chain that keeps others out of 127.0.0.0/8 is missing";

/// Whether `route_localnet` towards the container has lost its guard.
fn unguarded(host: &mut Host<'_>, addresses: Addresses, look: Look) -> Option<&'static str> {
    let is_open = || localnet::is_set_towards(addresses);
    (!backend::is_guarded(host, look, is_open)).then_some(UNGUARDED)
}

/// Whoever finds the guard missing puts it back, also when nothing is mapped.
fn mend_guard(host: &mut Host<'_>, config: &Config, addresses: Addresses) {
    let Some(problem) = unguarded(host, addresses, Look::Quick) else { return };
    host.log.warn(match backend::build_guard(config, host) {
        Ok(()) => format!("{problem}; it was put back"),
        Err(error) => format!("{problem}: {error}"),
    });
}

/// Every place that may hold something of an attachment.
fn holders<'a>() -> [&'a dyn Holder<Host<'a>, Plan>; 3] {
    let [nftables, iptables] = backend::all();
    [nftables, iptables, &Go]
}

/// Removes the attachment's mappings from every place, whatever ADD would choose today.
fn remove(host: &mut Host<'_>, attachment: &Attachment, known: &Plan) -> Result<(), CniError> {
    let outcome = on_all(holders(), |holder| holder.remove(host, attachment, Some(known)));
    forget_flows_of_removed(host);
    outcome
}

/// Removes what an earlier ADD of the same entry mapped, which now maps nothing, and says so.
fn remove_entry(host: &mut Host<'_>, plan: &Plan) -> Result<(), CniError> {
    let outcome = on_all(backend::all(), |place| place.remove_entry(host, plan));
    let outcome = outcome.and(Go.remove(host, &plan.attachment, Some(plan)));
    for mapping in &host.removed {
        let tag = plan.attachment.tag();
        host.log.warn(format!(
            "host port mapping {mapping} of {tag} was removed: this ADD asks for none under its conditions"
        ));
    }
    forget_flows_of_removed(host);
    outcome
}

/// What was removed, wherever it was, leads nowhere any more.
fn forget_flows_of_removed(host: &mut Host<'_>) {
    let removed = std::mem::take(&mut host.removed);
    flows::forget_removed(host, &removed);
}

/// The backend has nothing of the attachment. That is no mismatch while the Go plugin's rules serve
/// it: the binaries were swapped, and nothing was added since.
fn check_go(host: &mut Host<'_>, plan: &Plan, place: &str) -> Result<Vec<String>, CniError> {
    Ok(match Go.check(host, plan)? {
        Finding::Absent => {
            let missing = plan.mappings.iter();
            missing.map(|mapping| format!("mapping {mapping} is missing from {place}")).collect()
        }
        Finding::Mismatches(mismatches) => mismatches,
        Finding::Sound => {
            host.log.warn(format!(
                "the port mappings of {} are still served by the Go plugin's rules; the next ADD takes them over",
                plan.attachment.tag()
            ));
            Vec::new()
        }
    })
}

fn plan_of(attachment: &Attachment, config: &Config, result: &CniResult) -> Plan {
    Plan::new(attachment, config, Addresses::select(result, &attachment.ifname))
}

/// The host ports that an attachment claims.
///
/// # Errors
/// The configuration is one that ADD would refuse.
pub fn claims(
    network: &NetworkConfig,
    attachment: &Attachment,
    result: &CniResult,
) -> Result<Vec<Mapping>, CniError> {
    Ok(plan_of(attachment, &Config::read(network)?, result).mappings)
}

/// Whether ADD leaves a host port to whoever has it, and comes behind who waits for it.
#[must_use]
pub fn yields(network: &NetworkConfig) -> bool {
    Config::read(network).is_ok_and(|config| config.on_conflict == OnConflict::Wait)
}

/// What ADD commits on a host without our table if it chooses nftables.
///
/// # Errors
/// The configuration is one that ADD would refuse.
pub fn nftables_transaction(
    network: &NetworkConfig,
    attachment: &Attachment,
    result: &CniResult,
) -> Result<Transaction, CniError> {
    backend::whole_table(&plan_of(attachment, &Config::read(network)?, result))
}
