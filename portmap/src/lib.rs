//! The `portmap` CNI meta plugin: host ports that lead to a container's ports, by DNAT.
//!
//! [`config`] reads the configuration, [`plan`] turns it into the elements that must exist in the
//! table that [`layout`] describes, and [`nftables`] makes it so, checks it and removes it.

#![forbid(unsafe_code)]

pub mod backend;
pub mod conditions;
pub mod config;
pub mod flows;
pub mod iptables;
pub mod layout;
pub mod localnet;
pub mod nftables;
pub mod plan;
pub mod takeover;

use cni_common::cni::Failure as _;
use cni_common::cni::failure::unreachable_nft;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::{
    AttachmentRequest, CniError, CniResult, ErrorCode, GcRequest, Plugin, StatusRequest,
};
use cni_common::kernel::iptables::Variant;
use cni_common::kernel::nft::{NetlinkNft, Nft, NftError, open_nft_if_any};
use cni_common::kernel::sysctl::Sysctl;

use config::{Backend, Config, HostAddress};
use localnet::Localnet;
use plan::{ActiveMapping, Addresses, Plan, active_mappings};
use takeover::served::Served;

/// The plugin.
#[derive(Debug, Default)]
pub struct Portmap;

impl Plugin for Portmap {
    const NAME: &'static str = "portmap";

    fn add(&self, request: &AttachmentRequest) -> Result<CniResult, CniError> {
        let config = Config::read(&request.config)?;
        let result = request.required_prev_result()?;
        let addresses = Addresses::select(&result, &request.attachment.ifname);
        let active = active_mappings(&config.mappings, addresses);
        warn_of_useless_mappings(request, &config, &active);
        if active.is_empty() {
            // Nothing to map now; an earlier ADD of this attachment may have mapped something.
            remove(request, None)?;
            return Ok(result);
        }
        let localnet = localnet::prepare(config.snat, &active)?;
        let active = match choose(&config, &request.log) {
            Backend::Nftables => add_nftables(request, &config, addresses, localnet)?,
            Backend::Iptables => add_iptables(request, &config, addresses, localnet)?,
        };
        flows::forget_stale(&active, &request.log);
        Ok(result)
    }

    fn del(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        remove(request, known_plan(request).as_ref())
    }

    fn check(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let config = Config::read(&request.config)?;
        let result = request.required_prev_result()?;
        let addresses = Addresses::select(&result, &request.attachment.ifname);
        let active = active_mappings(&config.mappings, addresses);
        if active.is_empty() && open_nft_if_any().map_err(unreachable_nft)?.is_none() {
            return Ok(());
        }
        let (faults, ours) = match choose(&config, &request.log) {
            Backend::Iptables => check_iptables(request, &config, addresses)?,
            Backend::Nftables => check_nftables(request, &config, addresses)?,
        };
        let mut faults = if faults.is_empty() || ours {
            faults
        } else {
            excuse(request, &config, addresses, faults)?
        };
        if faults.is_empty() {
            faults.extend(localnet::fault(config.snat, &active));
        }
        nftables::fail_with(&faults)
    }

    fn gc(&self, request: &GcRequest) -> Result<(), CniError> {
        let network = &request.config.name;
        let mut nft = open_nft_if_any().map_err(unreachable_nft)?;
        let removed = match &mut nft {
            Some(nft) => {
                let valid = &request.valid;
                nftables::collect_garbage(nft, network, valid, localnet::is_set_anywhere)?
            }
            None => Vec::new(),
        };
        flows::forget_removed(&removed, &request.log);
        let nft = nft.as_mut().map(|nft| nft as &mut dyn Nft);
        let removed = takeover::collect_garbage(nft, network, &request.valid, &request.log);
        flows::forget_removed(&removed, &request.log);
        Ok(())
    }

    fn status(&self, request: &StatusRequest) -> Result<(), CniError> {
        let config = Config::read(&request.config)?;
        let choice = choice(&config);
        // STATUS has no place on stdout for it.
        cni_common::cni::log::say(&choice);
        request.log.debug(|| choice.to_string());
        match choice.backend {
            Backend::Nftables => nftables::status(
                &mut NetlinkNft::open().map_err(unreachable_nft)?,
                &sample_plan(&config)?,
            )?,
            Backend::Iptables => iptables::status(&config)?,
        }
        if config.snat {
            require_writable_sysctls()?;
        }
        Ok(())
    }
}

fn choose(config: &Config, log: &Log) -> Backend {
    let choice = choice(config);
    log.debug(|| choice.to_string());
    choice.backend
}

fn choice(config: &Config) -> backend::Choice {
    let mut nft = NetlinkNft::open();
    let nf_tables = nft.as_mut().map(|nft| nft as &mut dyn Nft).map_err(|error| &*error);
    backend::choose(config, nf_tables)
}

fn add_nftables(
    request: &AttachmentRequest,
    config: &Config,
    addresses: Addresses,
    localnet: Localnet,
) -> Result<Vec<ActiveMapping>, CniError> {
    let plan = Plan::new(&request.attachment, config, addresses)?;
    let mut nft = NetlinkNft::open().map_err(unreachable_nft)?;
    let active = nftables::add(&mut nft, &plan, config.on_conflict, &request.log)?;
    if let Err(error) = localnet.apply() {
        nftables::remove(&mut nft, &plan.tag, Some(&plan))?;
        return Err(error);
    }
    // Rules of an earlier ADD by the Go plugin come before ours and may lead elsewhere.
    takeover::remove(Some(&mut nft), &request.attachment, &addresses.bare(), &request.log);
    Ok(active)
}

/// What CHECK finds wrong, and whether ours has anything of the attachment at all.
type Checked = (Vec<String>, bool);

fn check_nftables(
    request: &AttachmentRequest,
    config: &Config,
    addresses: Addresses,
) -> Result<Checked, CniError> {
    let plan = Plan::new(&request.attachment, config, addresses)?;
    let mut nft = NetlinkNft::open().map_err(unreachable_nft)?;
    let faults = nftables::faults(&mut nft, &plan)?;
    let ours = faults.is_empty() || nftables::holds(&mut nft, &plan)?;
    Ok((faults, ours))
}

fn check_iptables(
    request: &AttachmentRequest,
    config: &Config,
    addresses: Addresses,
) -> Result<Checked, CniError> {
    let findings = iptables::check(&request.attachment, config, addresses)
        .map_err(|error| error.into_cni("cannot read the port mappings"))?;
    Ok((findings.faults, findings.ours))
}

/// Ours has nothing of the attachment. That is no fault while the Go plugin's rules serve it: the
/// binaries were swapped, and nothing was added since.
fn excuse(
    request: &AttachmentRequest,
    config: &Config,
    addresses: Addresses,
    faults: Vec<String>,
) -> Result<Vec<String>, CniError> {
    let AttachmentRequest { attachment, log, .. } = request;
    let mut nft = open_nft_if_any().map_err(unreachable_nft)?;
    let nft = nft.as_mut().map(|nft| nft as &mut dyn Nft);
    Ok(match takeover::served::look(nft, attachment, config, addresses, log) {
        Served::NotAtAll => faults,
        Served::Partly(missing) => missing,
        Served::Fully => {
            log.warn(format!(
                "the port mappings of {} are still served by the Go plugin's rules; the next ADD takes them over",
                attachment.tag()
            ));
            Vec::new()
        }
    })
}

fn add_iptables(
    request: &AttachmentRequest,
    config: &Config,
    addresses: Addresses,
    localnet: Localnet,
) -> Result<Vec<ActiveMapping>, CniError> {
    let AttachmentRequest { attachment, log, .. } = request;
    let active = iptables::add(attachment, config, addresses, &localnet, log)?;
    if let Err(error) = localnet.apply() {
        for v4 in [true, false] {
            // The sysctl's error is the one to tell.
            let _ = iptables::remove(v4, Variant::Default, attachment, &[]);
        }
        return Err(error);
    }
    // On a host that had the nftables backend before, or the other kind of iptables.
    let mut nft = open_nft_if_any().map_err(unreachable_nft)?;
    if let Some(nft) = &mut nft {
        nftables::remove(nft, &attachment.tag(), None)?;
    }
    let nft = nft.as_mut().map(|nft| nft as &mut dyn Nft);
    takeover::remove_elsewhere(nft, attachment, &addresses.bare(), &active, log);
    Ok(active)
}

/// Removes the attachment's mappings from every backend that may hold some.
fn remove(request: &AttachmentRequest, known: Option<&Plan>) -> Result<(), CniError> {
    let AttachmentRequest { attachment, log, .. } = request;
    let mut nft = open_nft_if_any().map_err(unreachable_nft)?;
    let outcome = match &mut nft {
        Some(nft) => nftables::remove(nft, &attachment.tag(), known),
        None => Ok(Vec::new()),
    };
    // An error in one backend does not keep the others from being cleaned.
    let result = request.config.prev_result().ok().flatten().unwrap_or_default();
    let addresses = Addresses::select(&result, &attachment.ifname).bare();
    let nft = nft.as_mut().map(|nft| nft as &mut dyn Nft);
    let left = takeover::remove(nft, attachment, &addresses, log);
    flows::forget_removed(&left, log);
    flows::forget_removed(&outcome?, log);
    Ok(())
}

/// What DEL can know of the keys: enough, in the usual case, to find them without a dump.
fn known_plan(request: &AttachmentRequest) -> Option<Plan> {
    let result = request.config.prev_result().ok().flatten()?;
    let config = Config::read(&request.config).unwrap_or_else(|_| Config {
        mappings: Config::mappings_if_valid(&request.config),
        ..sample_config()
    });
    let addresses = Addresses::select(&result, &request.attachment.ifname);
    Plan::new(&request.attachment, &config, addresses).ok()
}

fn warn_of_useless_mappings(
    request: &AttachmentRequest,
    config: &Config,
    active: &[ActiveMapping],
) {
    for mapping in &config.mappings {
        let port = format!("host port {}/{}", mapping.host_port, mapping.protocol);
        let served = active.iter().any(|active| mapping.host.serves(active.container.is_ipv4()));
        if !served {
            request.log.warn(format!(
                "{port} is not mapped: the container has no address of hostIP's family"
            ));
        }
        if mapping.host == HostAddress::One(std::net::Ipv6Addr::LOCALHOST.into()) {
            request.log.warn(format!(
                "{port} on ::1 will not answer: Linux does not translate packets to ::1"
            ));
        }
    }
}

fn sample_config() -> Config {
    Config {
        backend: None,
        external_set_mark_chain: None,
        snat: true,
        masq_all: false,
        mark_bit: config::DEFAULT_MARK_BIT,
        conditions_v4: Vec::new(),
        conditions_v6: Vec::new(),
        on_conflict: config::OnConflict::Replace,
        mappings: Vec::new(),
    }
}

/// A mapping of each kind, from the documentation's address ranges, for the kernel to try.
fn sample_plan(config: &Config) -> Result<Plan, CniError> {
    let mapping = |host| config::PortMapping {
        host_port: 1,
        container_port: 1,
        protocol: cni_common::kernel::nft::L4Protocol::Tcp,
        host,
    };
    let addresses =
        Addresses { v4: "192.0.2.2/24".parse().ok(), v6: "2001:db8::2/64".parse().ok() };
    let hosts = [HostAddress::Any].into_iter().chain(
        [addresses.v4, addresses.v6].into_iter().flatten().map(|a| HostAddress::One(a.addr())),
    );
    let config = Config { mappings: hosts.map(mapping).collect(), ..config.clone() };
    let attachment = cni_common::cni::Attachment {
        network: "status".to_owned(),
        container_id: "probe".to_owned(),
        ifname: "eth0".to_owned(),
    };
    Plan::new(&attachment, &config, addresses)
}

fn require_writable_sysctls() -> Result<(), CniError> {
    let sysctl = Sysctl::ipv4_conf("lo", "route_localnet");
    if sysctl.read().is_err() {
        // A host without IPv4 needs none of this.
        return Ok(());
    }
    sysctl.open().map(|_| ()).map_err(|error| {
        CniError::new(
            ErrorCode::NotAvailable,
            "portmap cannot write /proc/sys: run it where /proc/sys is writable, or set \"snat\": false \
             and do without 127.0.0.1 and hairpin connections",
        )
        .with_details(error.to_string())
    })
}

/// Lists what portmap has on this host: each mapping with its owner's tag.
pub fn list(nft: &mut dyn Nft) -> Result<Vec<(ActiveMapping, String)>, NftError> {
    let mut found = Vec::new();
    for name in nft.sets(&layout::TABLE)? {
        let Some(set) = layout::set_by_name(&name).filter(|set| !set.data.is_empty()) else {
            continue;
        };
        for element in nft.elements(&layout::TABLE, &set)? {
            if let Some(mapping) = ActiveMapping::from_element(&element) {
                found.push((mapping, element.comment.unwrap_or_default()));
            }
        }
    }
    found.sort_by_key(|(mapping, _)| (mapping.host_port, mapping.protocol, mapping.host_address));
    Ok(found)
}
