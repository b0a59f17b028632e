//! The `firewall` CNI meta plugin: lets containers' traffic through the host, and keeps networks
//! apart.
//!
//! [`config`] reads the configuration, [`bridge`] finds the bridge that a policy is about,
//! [`plan`] holds what must be, and a backend makes it so, checks it and removes it:
//! [`nftables`] in the table that [`layout`] describes, [`iptables`], or [`firewalld`].
//! [`backend`] chooses.

#![forbid(unsafe_code)]

pub mod backend;
pub mod bridge;
pub mod config;
pub mod firewalld;
pub mod forward_chains;
pub mod iptables;
pub mod layout;
pub mod nftables;
pub mod plan;

use std::net::IpAddr;

use cni_common::cni::Failure as _;
use cni_common::cni::OwnerTag;
use cni_common::cni::failure::unreachable_nft;
use cni_common::cni::log::{Log, say};
use cni_common::cni::protocol::{
    AttachmentRequest, CniError, CniResult, GcRequest, Plugin, StatusRequest,
};
use cni_common::kernel::nft::{Family, NetlinkNft, Nft, NftError, Table, open_nft_if_any};

use bridge::Place;
use config::{BackendName, Config, IngressPolicy};
use firewalld::Firewalld;
use forward_chains::ForwardChain;
use iptables::Leaving;
use iptables::served::Part;
use plan::{Isolation, Plan, Policy};

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

    fn add(&self, request: &AttachmentRequest) -> Result<CniResult, CniError> {
        let config = Config::read(&request.config)?;
        let result = previous_result(request)?;
        let (plan, place) = plan(request, &config, &result)?;
        if plan.is_empty() {
            // Nothing to let through now; an earlier ADD of this attachment may have done so.
            remove_everywhere(request, &config)?;
            return Ok(result);
        }
        let mut nft = NetlinkNft::open().map_err(unreachable_nft)?;
        let backend = backend::choose(&config, &mut nft).map_err(cannot_look)?;
        request.log.debug(|| format!("backend {}: {}", backend.name.as_str(), backend.reason));
        leave_others(&mut nft, backend.name, &plan, &request.log)?;
        let outcome = apply(&mut nft, backend.name, &plan, &config, &request.log)
            .and_then(|()| isolate_port(&plan, place.as_ref(), &request.log));
        if let Err(error) = outcome {
            // What undoing it meets is what this met, and is said by its error.
            let _ = remove_everywhere(request, &config);
            return Err(error);
        }
        Ok(result)
    }

    fn del(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        remove_everywhere(request, &Config::read_or_default(&request.config))
    }

    fn check(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let config = Config::read(&request.config)?;
        let result = previous_result(request)?;
        let (plan, place) = plan(request, &config, &result)?;
        if plan.is_empty() {
            return Ok(());
        }
        let mut nft = NetlinkNft::open().map_err(unreachable_nft)?;
        let backend = holder(&mut nft, &config, &plan)?;
        let mut faults = match backend {
            BackendName::Iptables => iptables::check(&plan)?,
            BackendName::Nftables | BackendName::Firewalld => {
                let unreadable = |e: NftError| e.into_cni("cannot read the firewall rules");
                nftables::check(&mut nft, &plan).map_err(unreadable)?
            }
        };
        let sources = match backend {
            BackendName::Firewalld => missing_sources(&config, &plan)?,
            _ => Vec::new(),
        };
        if !faults.is_empty() && !is_ours(&mut nft, &plan)? {
            match by_go(&mut nft, backend, &plan, &sources) {
                None => {}
                Some(missing) if missing.is_empty() => {
                    request.log.warn(format!(
                        "{} is still served by the Go plugin's rules; the next ADD takes them over",
                        plan.tag
                    ));
                    return Ok(());
                }
                Some(missing) => return fail_with(&missing),
            }
        }
        faults.extend(sources);
        faults.extend(port_fault(&plan, place.as_ref()));
        fail_with(&faults)
    }

    fn gc(&self, request: &GcRequest) -> Result<(), CniError> {
        let network = &request.config.name;
        let config = Config::read_or_default(&request.config);
        let mut nft = open_nft_if_any().map_err(unreachable_nft)?;
        let outcome = match &mut nft {
            Some(nft) => nftables::collect_garbage(nft, network, &request.valid)
                .map(|addresses| release_sources(&config, || addresses, &request.log)),
            None => Ok(()),
        };
        let valid = nftables::valid_tags(network, &request.valid);
        let is_stale = |tag: &str| OwnerTag::belongs_to(tag, network) && !valid.contains(tag);
        let mut nft = nft.as_mut().map(|nft| nft as &mut dyn Nft);
        let again = nft.as_mut().map(|nft| &mut **nft as &mut dyn Nft);
        let removed = iptables::remove(again, &Leaving::Stale(&is_stale), &request.log);
        iptables::sweep(nft, &config.admin_chain, &request.log);
        outcome.and(removed)
    }

    fn status(&self, request: &StatusRequest) -> Result<(), CniError> {
        let config = Config::read(&request.config)?;
        let mut nft = NetlinkNft::open().map_err(unreachable_nft)?;
        let backend = backend::choose(&config, &mut nft).map_err(cannot_look)?;
        say(format_args!("backend {}: {}", backend.name.as_str(), backend.reason));
        request.log.debug(|| format!("backend {}: {}", backend.name.as_str(), backend.reason));
        match backend.name {
            BackendName::Nftables => {
                nftables::status(&mut nft, &sample_plan(&config))?;
                forward_chains::require(&mut nft, &config.forward_chains)?;
                warn_of_foreign_drops(&mut nft, &config.forward_chains, &request.log);
            }
            BackendName::Iptables => iptables::status()?,
            BackendName::Firewalld => {
                nftables::status(&mut nft, &sample_plan(&config))?;
                firewalld::status(&config.zone)?;
            }
        }
        if Policy::from_ingress(config.ingress) == Some(Policy::Isolated) {
            say_how_the_bridge_isolates(&request.log);
        }
        Ok(())
    }
}

fn cannot_look(error: NftError) -> CniError {
    error.into_cni("cannot look which firewall this host uses")
}

/// Makes what the plan asks for. firewalld has no notion of isolation, so that is our own table's
/// there too; it also remembers whose the zone's sources are.
fn apply(
    nft: &mut dyn Nft,
    backend: BackendName,
    plan: &Plan,
    config: &Config,
    log: &Log,
) -> Result<(), CniError> {
    match backend {
        BackendName::Iptables if !plan.forward_chains.is_empty() => Err(CniError::config(
            "nftablesForwardChains is for backend nftables, and this host's is iptables: set \
             \"backend\":\"nftables\", or remove the list",
        )),
        BackendName::Iptables => iptables::add(plan),
        BackendName::Nftables => {
            nftables::add(nft, plan, log)?;
            warn_of_foreign_drops(nft, &plan.forward_chains, log);
            Ok(())
        }
        BackendName::Firewalld => {
            let firewalld = Firewalld::open().map_err(|error| firewalld::unreachable(&error))?;
            nftables::add(nft, plan, log)?;
            plan.addresses.iter().try_for_each(|address| firewalld.add(&config.zone, *address))
        }
    }
}

/// A host may have changed its backend since the attachment's last ADD.
fn leave_others(
    nft: &mut NetlinkNft,
    backend: BackendName,
    plan: &Plan,
    log: &Log,
) -> Result<(), CniError> {
    if backend == BackendName::Iptables {
        nftables::remove(nft, &plan.tag, &[])?;
        Ok(())
    } else {
        // The Go plugin's rules name no owner but the address, which is this attachment's now.
        let leaving = Leaving::Attachment(&plan.tag, &plan.addresses);
        iptables::remove(Some(nft), &leaving, log)
    }
}

/// The backend that the attachment is in: unless the configuration says so, the host's choice may
/// be another one today than at ADD.
fn holder(nft: &mut NetlinkNft, config: &Config, plan: &Plan) -> Result<BackendName, CniError> {
    let chosen = backend::choose(config, nft).map_err(cannot_look)?.name;
    if config.backend.is_some() {
        return Ok(chosen);
    }
    let in_nftables = nftables::holds(nft, &plan.tag).map_err(cannot_look)?;
    Ok(match chosen {
        BackendName::Iptables if in_nftables => BackendName::Nftables,
        BackendName::Nftables
            if !in_nftables && iptables::holds(nft, &plan.tag).map_err(cannot_look)? =>
        {
            BackendName::Iptables
        }
        chosen => chosen,
    })
}

/// Whether ours has anything of the attachment, in whatever backend.
fn is_ours(nft: &mut NetlinkNft, plan: &Plan) -> Result<bool, CniError> {
    let in_nftables = nftables::holds(nft, &plan.tag).map_err(cannot_look)?;
    Ok(in_nftables || iptables::holds(nft, &plan.tag).map_err(cannot_look)?)
}

/// What is missing of what the Go plugin made for the attachment; `None` if it made nothing. With
/// firewalld it leaves only isolation to iptables.
fn by_go(
    nft: &mut NetlinkNft,
    backend: BackendName,
    plan: &Plan,
    missing_sources: &[String],
) -> Option<Vec<String>> {
    if backend != BackendName::Firewalld {
        return iptables::served::faults(nft, plan, Part::Everything);
    }
    if missing_sources.len() == plan.addresses.len() {
        return None;
    }
    let mut faults = missing_sources.to_vec();
    if plan.isolation.is_some() {
        let isolation = iptables::served::faults(nft, plan, Part::Isolation);
        faults.extend(isolation.unwrap_or_else(|| {
            vec!["the Go plugin's isolation chains are missing from iptables".to_owned()]
        }));
    }
    Some(faults)
}

/// Addresses that firewalld's zone lacks.
fn missing_sources(config: &Config, plan: &Plan) -> Result<Vec<String>, CniError> {
    let firewalld = Firewalld::open().map_err(|error| firewalld::unreachable(&error))?;
    let faults = plan.addresses.iter().map(|address| firewalld.fault(&config.zone, *address));
    Ok(faults.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
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
) -> Result<(Plan, Option<Place>), CniError> {
    let found = bridge::isolation(request, config.ingress, result)?;
    let (isolation, place) = found.unzip();
    Ok((Plan::new(&request.attachment, config, result, isolation), place))
}

/// Removes what the attachment may have in any backend. An error in one does not stop the rest.
fn remove_everywhere(request: &AttachmentRequest, config: &Config) -> Result<(), CniError> {
    let Some(mut nft) = open_nft_if_any().map_err(unreachable_nft)? else {
        return remove_without_nft(request, config);
    };
    let result = request.config.prev_result().ok().flatten();
    let known = result.as_ref().map(plan::container_addresses).unwrap_or_default();
    let tag = request.attachment.tag();
    let outcome = nftables::remove(&mut nft, &tag, &known);
    let removed = outcome.as_ref().cloned().unwrap_or_default();

    let addresses = || {
        // Addresses that our table does not know may be the Go plugin's of this attachment. One
        // that another attachment has by now is that one's.
        let held = nftables::held_addresses(&mut nft, &known).unwrap_or_default();
        let mut addresses = removed.addresses;
        addresses.extend(known.iter().filter(|address| !held.contains(address)));
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    };
    release_sources(config, addresses, &request.log);

    let leaving = Leaving::Attachment(&tag, &known);
    let in_iptables = iptables::remove(Some(&mut nft), &leaving, &request.log);
    release_port(request, result.as_ref(), removed.policy);
    outcome.map(|_| ()).and(in_iptables)
}

fn remove_without_nft(request: &AttachmentRequest, config: &Config) -> Result<(), CniError> {
    let result = request.config.prev_result().ok().flatten();
    let known = result.as_ref().map(plan::container_addresses).unwrap_or_default();
    release_sources(config, || known.clone(), &request.log);
    let tag = request.attachment.tag();
    iptables::remove(None, &Leaving::Attachment(&tag, &known), &request.log)
}

/// Takes addresses out of firewalld's zone. A bus that is gone took the binding with it.
fn release_sources(config: &Config, addresses: impl FnOnce() -> Vec<IpAddr>, log: &Log) {
    let in_use =
        config.backend.map_or_else(firewalld::is_running, |name| name == BackendName::Firewalld);
    let addresses = if in_use { addresses() } else { Vec::new() };
    if addresses.is_empty() {
        return;
    }
    let outcome = Firewalld::open().and_then(|firewalld| {
        addresses.iter().try_for_each(|address| firewalld.remove(&config.zone, *address))
    });
    if let Err(error) = outcome {
        log.warn(format!(
            "could not take addresses out of firewalld's zone {}: {error}; it keeps none of them over its \
             next start",
            config.zone
        ));
    }
}

/// A port that outlives the attachment is isolated no more. One that is gone needs nothing.
fn release_port(request: &AttachmentRequest, result: Option<&CniResult>, policy: Option<Policy>) {
    let asked_for = Config::read_or_default(&request.config).ingress;
    if policy != Some(Policy::Isolated) && asked_for != IngressPolicy::Isolated {
        return;
    }
    let nothing = CniResult::default();
    let place = bridge::find(request, result.unwrap_or(&nothing)).ok().flatten();
    if let Some(place) = place
        && let Err(error) = bridge::isolate(&place, false)
    {
        request.log.warn(error.to_string());
    }
}

/// Where frames within a bridge do not see the host's IP rules, the bridge itself keeps its ports
/// apart. Where they do, it must not: with `br_netfilter`, a mapped port's packet can go from port
/// to port after its translation.
fn isolate_port(plan: &Plan, place: Option<&Place>, log: &Log) -> Result<(), CniError> {
    match (&plan.isolation, place) {
        (Some(isolation), Some(place)) if isolation.policy == Policy::Isolated => {
            say_how_the_bridge_isolates(log);
            bridge::isolate(place, !bridge::passes_ip_rules())
        }
        _ => Ok(()),
    }
}

fn say_how_the_bridge_isolates(log: &Log) {
    if !bridge::passes_ip_rules() {
        log.warn(
            "br_netfilter is off: traffic within a bridge bypasses the host's IP rules, so ingressPolicy \
             \"isolated\" rests on isolated bridge ports",
        );
    }
}

fn port_fault(plan: &Plan, place: Option<&Place>) -> Option<String> {
    let isolated = plan.isolation.as_ref().is_some_and(|i| i.policy == Policy::Isolated);
    let place = place.filter(|_| isolated && !bridge::passes_ip_rules())?;
    match &place.port {
        Some(port) if port.isolated => None,
        Some(port) => {
            Some(format!("port {} of bridge {} is not isolated", port.name, place.bridge))
        }
        None => Some(format!("the container's port on bridge {} was not found", place.bridge)),
    }
}

/// The error of a CHECK that found faults.
fn fail_with(faults: &[String]) -> Result<(), CniError> {
    CniError::unless_sound(
        "the firewall is not as ADD made it",
        faults,
        "run cni-chain restore to put it back",
    )
}

/// Chains that other programs hook into the way of forwarded packets. An accept in our table
/// does not keep theirs from dropping a packet.
const FOREIGN_CHAINS: [(Family, &str, &str); 4] = [
    (Family::Ip, "filter", "FORWARD"),
    (Family::Ip6, "filter", "FORWARD"),
    (Family::Inet, "filter", "forward"),
    (Family::Inet, "filter", "FORWARD"),
];

fn warn_of_foreign_drops(nft: &mut dyn Nft, hooked: &[ForwardChain], log: &Log) {
    let is_hooked = |(table, chain): &(Table, String)| {
        hooked.iter().any(|hooked| hooked.table == *table && hooked.chain == *chain)
    };
    let places: Vec<_> = FOREIGN_CHAINS
        .into_iter()
        .map(|(family, table, chain)| (Table::new(family, table), chain.to_owned()))
        .filter(|place| !is_hooked(place))
        .collect();
    let found = nft.chains(&places).unwrap_or_default();
    for ((table, chain), found) in places.iter().zip(found) {
        if found.is_some_and(|found| found.drops) {
            log.warn(format!(
                "chain {table} {chain} has policy drop, which an accept in table {} does not override: \
                 name it in nftablesForwardChains if it is nftables' own, or accept containers' traffic there",
                layout::TABLE
            ));
        }
    }
}

/// An attachment that needs everything, from the documentation's address ranges, for the kernel
/// to try.
fn sample_plan(config: &Config) -> Plan {
    let attachment = cni_common::cni::Attachment {
        network: "status".to_owned(),
        container_id: "probe".to_owned(),
        ifname: "eth0".to_owned(),
    };
    let addresses = |list: [&str; 2]| -> Vec<IpAddr> {
        list.iter().filter_map(|text| text.parse().ok()).collect()
    };
    Plan {
        tag: attachment.tag(),
        addresses: addresses(["192.0.2.2", "2001:db8::2"]),
        isolation: Some(Isolation {
            bridge: "bridge0".to_owned(),
            policy: Policy::Isolated,
            gateways: addresses(["192.0.2.1", "2001:db8::1"]),
        }),
        admin_chain: config.admin_chain.clone(),
        // The kernel is to try a table of another name only.
        forward_chains: Vec::new(),
    }
}
