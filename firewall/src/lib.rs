//! The `firewall` CNI meta plugin: lets containers' traffic through the host, and keeps networks
//! apart.
//!
//! `config` reads the configuration, `bridge` finds the bridge that a policy is about, `plan`
//! holds what must be, and a `backend` makes it so. `holders` are the places where an
//! attachment may have something: the backends, and what the Go plugin left (`go`). `listing`
//! tells what is there.

#![forbid(unsafe_code)]

mod admitted;
mod backend;
mod bridge;
mod config;
pub mod explain;
mod filter;
mod frames;
mod go;
mod hand_over;
mod held;
mod holders;
mod host;
pub mod listing;
mod plan;
mod reserved;
mod status;
mod zone;

use cni_common::cni::holder::on_all;
use cni_common::cni::protocol::{CniError, CniResult, NetworkConfig};
use cni_common::cni::{AttachmentRequest, Finding, GcRequest, Holder as _, Plugin, StatusRequest};
use cni_common::kernel::nft::Transaction;

use backend::Choice;
use bridge::BridgePort;
use config::{Config, Policy};
use go::GoPlugin;
use holders::Holders;
use host::{Before, Host};
use plan::Plan;

/// The plugin.
#[derive(Debug, Default)]
pub struct Firewall;

impl Firewall {
    /// The plugin.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Plugin for Firewall {
    const NAME: &'static str = "firewall";
    const ABOUT: &'static str =
        "Lets containers' traffic through the host, and keeps networks apart";
    const KEYS: &'static [&'static str] = &[
        "backend",
        "ingressPolicy",
        "iptablesAdminChainName",
        "firewalldZone",
        "nftablesForwardChains",
    ];

    fn validate(config: &NetworkConfig) -> Result<(), CniError> {
        Config::read(config).map(drop)
    }

    fn add(&self, request: &AttachmentRequest) -> Result<CniResult, CniError> {
        let config = Config::read(&request.config)?;
        let result = previous_result(request)?;
        let (plan, port) = plan(request, &config, &result)?;
        if plan.is_empty() {
            // Nothing to let through now; an earlier ADD of this attachment may have done so.
            let mut host = Host::open_leniently(&request.log)?;
            remove_everywhere(&mut host, request, &config)?;
            return Ok(result);
        }
        let mut host = Host::open(&request.log)?;
        let choice = backend::choose(&config, &mut host)?;
        request.log.debug(|| choice.to_string());
        let holders = Holders::of(&config);
        let plan = plan.through(&choice.native_drops);
        let made = make(&mut host, request, &holders, &choice, &plan)
            .and_then(|()| bridge::settle(&mut host, request, &result, &plan, port.as_ref()));
        if let Err(error) = made {
            put_back(&mut host, request, &holders, &choice, &plan, port.as_ref());
            return Err(error);
        }
        Ok(result)
    }

    fn del(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let config = Config::read_leniently(&request.config);
        let mut host = Host::open_leniently(&request.log)?;
        remove_everywhere(&mut host, request, &config)
    }

    fn check(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let config = Config::read(&request.config)?;
        let result = previous_result(request)?;
        let (plan, port) = plan(request, &config, &result)?;
        if plan.is_empty() {
            return Ok(());
        }
        let mut host = Host::open(&request.log)?;
        let holders = Holders::of(&config);
        let choice = backend::choose(&config, &mut host)?;
        let plan = plan.through(&choice.native_drops);
        let backend = holders.backend(choice.name);
        let mut found = backend.check(&mut host, &plan)?;
        if found == Finding::Absent && config.backend.is_none() {
            found = check_elsewhere(&mut host, &holders, &choice, &plan)?;
        }
        let mut mismatches = match found {
            Finding::Sound => Vec::new(),
            Finding::Mismatches(mismatches) => mismatches,
            Finding::Absent => return check_go(&mut host, &holders.go, &plan, backend.name()),
        };
        mismatches.extend(bridge::mismatches(&mut host, &plan, port.as_ref())?);
        fail_with(&mismatches)
    }

    fn gc(&self, request: &GcRequest) -> Result<(), CniError> {
        let config = Config::read_leniently(&request.config);
        let mut host = Host::open_leniently(&request.log)?;
        let stale = request.stale();
        let holders = Holders::of(&config);
        let outcome =
            on_all(holders.for_garbage(), |holder| holder.collect_garbage(&mut host, &stale));
        match host.nft_if_any() {
            Some(nft) => outcome.and(frames::collect_garbage(nft, &stale)),
            None => outcome,
        }
    }

    fn status(&self, request: &StatusRequest) -> Result<(), CniError> {
        status::status(request)
    }
}

/// Makes what the plan asks for where this host's packets are decided about, and nowhere else.
fn make(
    host: &mut Host<'_>,
    request: &AttachmentRequest,
    holders: &Holders,
    choice: &Choice,
    plan: &Plan,
) -> Result<(), CniError> {
    holders.backend(choice.name).add(host, plan)?;
    on_all(holders.besides(choice.name), |holder| {
        holder.remove(host, &request.attachment, Some(plan))
    })
}

/// After an ADD that failed: the attachment has what it had. Best effort: it would fail for the same
/// reason, which that error tells.
fn put_back(
    host: &mut Host<'_>,
    request: &AttachmentRequest,
    holders: &Holders,
    choice: &Choice,
    plan: &Plan,
    port: Option<&BridgePort>,
) {
    let had_frames_stopped = match std::mem::replace(&mut host.before, Before::Unknown) {
        Before::Earlier(earlier) => {
            if earlier != *plan {
                let _ = holders.backend(choice.name).add(host, &earlier);
            }
            earlier.isolates_ports()
        }
        // What was elsewhere, and is gone from there, has nothing but what is here.
        Before::Nothing if !host.removed.is_any() => {
            let _ = on_all(holders.of_backend(choice.name), |holder| {
                holder.remove(host, &request.attachment, Some(plan))
            });
            false
        }
        Before::Nothing => host.removed.isolated,
        Before::Unknown => return,
    };
    bridge::put_back(host, &plan.tag, port, had_frames_stopped);
}

/// CHECK where the host would choose otherwise than it did at ADD. What accepts packets elsewhere
/// does not help against a drop, so the attachment is not sound where it is; ADD moves it.
fn check_elsewhere(
    host: &mut Host<'_>,
    holders: &Holders,
    choice: &Choice,
    plan: &Plan,
) -> Result<Finding, CniError> {
    for holder in holders.before(choice.name) {
        let found = holder.check(host, plan)?;
        if found == Finding::Absent {
            continue;
        }
        let Some(reason) = choice.decides(host) else { return Ok(found) };
        return Ok(Finding::Mismatches(vec![format!(
            "{} is admitted in {}, but {reason}",
            plan.tag,
            holder.name()
        )]));
    }
    Ok(Finding::Absent)
}

/// Removes what the attachment may have anywhere.
fn remove_everywhere(
    host: &mut Host<'_>,
    request: &AttachmentRequest,
    config: &Config,
) -> Result<(), CniError> {
    let result = request.config.prev_result().ok().flatten().unwrap_or_default();
    let known = Plan::new(&request.attachment, config, &result, None);
    let outcome = on_all(Holders::of(config).for_removal(), |holder| {
        holder.remove(host, &request.attachment, Some(&known))
    });
    if host.removed.isolated || config.policy == Some(Policy::Isolated) {
        return outcome.and(bridge::release(host, request, &result));
    }
    outcome
}

/// CHECK where ours has nothing of the attachment: the Go plugin may have admitted it.
fn check_go(
    host: &mut Host<'_>,
    go: &GoPlugin,
    plan: &Plan,
    backend: &str,
) -> Result<(), CniError> {
    match go.check(host, plan)? {
        Finding::Sound => {
            host.log.warn(format!(
                "{} is still served by the Go plugin's rules; the next ADD takes them over",
                plan.tag
            ));
            Ok(())
        }
        Finding::Mismatches(mismatches) => fail_with(&mismatches),
        Finding::Absent => fail_with(&[format!("{backend} has nothing of {}", plan.tag)]),
    }
}

/// The error of a CHECK that found mismatches.
fn fail_with(mismatches: &[String]) -> Result<(), CniError> {
    CniError::unless_sound(
        "the firewall is not as ADD made it",
        mismatches,
        "run cni-chain restore to put it back",
    )
}

fn previous_result(request: &AttachmentRequest) -> Result<CniResult, CniError> {
    request.config.prev_result()?.ok_or_else(|| {
        CniError::config(
            "missing prevResult from earlier plugin: put firewall behind the plugin that makes the interface",
        )
    })
}

fn plan(
    request: &AttachmentRequest,
    config: &Config,
    result: &CniResult,
) -> Result<(Plan, Option<BridgePort>), CniError> {
    let found = bridge::isolation(request, config.policy, result)?;
    let (isolation, port) = found.unzip();
    Ok((Plan::new(&request.attachment, config, result, isolation), port))
}

/// Everything that the plugin ever writes into its nftables table, for one attachment that needs all
/// of it: what `nft` must be able to list and to load again.
#[must_use]
pub fn everything_in_nftables() -> Transaction {
    backend::nftables::everything(&status::sample_plan(&Config::default()))
}
