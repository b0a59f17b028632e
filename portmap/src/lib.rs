//! The `portmap` CNI meta plugin: host ports that lead to a container's ports, by DNAT.
//!
//! [`config`] reads the configuration, [`plan`] turns it into the elements that must exist in the
//! table that [`layout`] describes, and [`nftables`] makes it so, checks it and removes it.

#![forbid(unsafe_code)]

pub mod conditions;
pub mod config;
pub mod flows;
pub mod layout;
pub mod localnet;
pub mod nftables;
pub mod plan;

use cni_common::nft::{NetlinkNft, Nft, NftError};
use cni_common::protocol::{
    AttachmentRequest, CniError, CniResult, ErrorCode, GcRequest, Plugin, StatusRequest,
};
use cni_common::sysctl::Sysctl;

use config::{Config, HostAddress};
use plan::{Addresses, Plan};

/// The plugin.
#[derive(Debug, Default)]
pub struct Portmap;

impl Plugin for Portmap {
    const NAME: &'static str = "portmap";

    fn add(&self, request: &AttachmentRequest) -> Result<CniResult, CniError> {
        let config = Config::read(&request.config)?;
        let result = previous_result(request)?;
        let plan = plan(request, &config, &result)?;
        warn_of_useless_mappings(request, &config, &plan);
        let localnet = localnet::prepare(&config, &plan)?;

        if plan.is_empty() {
            // Nothing to map now; an earlier ADD of this attachment may have mapped something.
            remove(request, None)?;
            return Ok(result);
        }
        let mut nft = open_nft()?;
        let active = nftables::add(&mut nft, &plan, config.on_conflict, &request.log)?;
        if let Err(error) = localnet.apply() {
            nftables::remove(&mut nft, &plan.tag, Some(&plan))?;
            return Err(error);
        }
        flows::forget_stale(&active, &request.log);
        Ok(result)
    }

    fn del(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        remove(request, known_plan(request).as_ref())
    }

    fn check(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let config = Config::read(&request.config)?;
        let result = previous_result(request)?;
        let plan = plan(request, &config, &result)?;
        if plan.is_empty() && open_nft_if_any()?.is_none() {
            return Ok(());
        }
        nftables::check(&mut open_nft()?, &plan)?;
        let faults: Vec<String> = localnet::fault(&config, &plan).into_iter().collect();
        nftables::fail_with(&faults)
    }

    fn gc(&self, request: &GcRequest) -> Result<(), CniError> {
        let Some(valid) = &request.valid else {
            request.log.warn(
                "GC without cni.dev/valid-attachments: nothing is known to be stale, nothing was removed",
            );
            return Ok(());
        };
        let Some(mut nft) = open_nft_if_any()? else { return Ok(()) };
        let removed = nftables::collect_garbage(&mut nft, &request.config.name, valid)?;
        flows::forget_removed(&removed, &request.log);
        Ok(())
    }

    fn status(&self, request: &StatusRequest) -> Result<(), CniError> {
        let config = Config::read(&request.config)?;
        nftables::status(&mut open_nft()?, &sample_plan(&config)?)?;
        if config.snat {
            require_writable_sysctls()?;
        }
        Ok(())
    }
}

fn open_nft() -> Result<NetlinkNft, CniError> {
    NetlinkNft::open().map_err(|error: NftError| error.into_cni("cannot reach nf_tables"))
}

/// `None` where the kernel has no `nf_tables`: what is not there needs no cleaning up.
fn open_nft_if_any() -> Result<Option<NetlinkNft>, CniError> {
    let open = || {
        let mut nft = NetlinkNft::open()?;
        nft.generation()?;
        Ok(nft)
    };
    match open() {
        Ok(nft) => Ok(Some(nft)),
        Err(error) if NftError::is_unsupported(&error) => Ok(None),
        Err(error) => Err(error.into_cni("cannot reach nf_tables")),
    }
}

fn remove(request: &AttachmentRequest, known: Option<&Plan>) -> Result<(), CniError> {
    let Some(mut nft) = open_nft_if_any()? else { return Ok(()) };
    let removed = nftables::remove(&mut nft, &request.attachment.tag(), known)?;
    flows::forget_removed(&removed, &request.log);
    Ok(())
}

fn previous_result(request: &AttachmentRequest) -> Result<CniResult, CniError> {
    request.config.prev_result()?.ok_or_else(|| {
        CniError::config(
            "must be called as chained plugin: put portmap behind the plugin that makes the interface, \
             so that it receives prevResult",
        )
    })
}

fn plan(
    request: &AttachmentRequest,
    config: &Config,
    result: &CniResult,
) -> Result<Plan, CniError> {
    Plan::new(&request.attachment, config, Addresses::select(result, &request.attachment.ifname))
}

/// What DEL can know of the keys: enough, in the usual case, to find them without a dump.
fn known_plan(request: &AttachmentRequest) -> Option<Plan> {
    let result = request.config.prev_result().ok().flatten()?;
    let config = Config::read(&request.config).unwrap_or_else(|_| Config {
        mappings: Config::mappings_if_valid(&request.config),
        ..sample_config()
    });
    plan(request, &config, &result).ok()
}

fn warn_of_useless_mappings(request: &AttachmentRequest, config: &Config, plan: &Plan) {
    for mapping in &config.mappings {
        let port = format!("host port {}/{}", mapping.host_port, mapping.protocol);
        let served =
            plan.active.iter().any(|active| mapping.host.serves(active.container.is_ipv4()));
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
        protocol: cni_common::nft::L4Protocol::Tcp,
        host,
    };
    let addresses =
        Addresses { v4: "192.0.2.2/24".parse().ok(), v6: "2001:db8::2/64".parse().ok() };
    let hosts = [HostAddress::Any].into_iter().chain(
        [addresses.v4, addresses.v6].into_iter().flatten().map(|a| HostAddress::One(a.addr())),
    );
    let config = Config { mappings: hosts.map(mapping).collect(), ..config.clone() };
    let attachment = cni_common::Attachment {
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
pub fn list(nft: &mut dyn Nft) -> Result<Vec<(plan::ActiveMapping, String)>, NftError> {
    let mut found = Vec::new();
    for name in nft.sets(&layout::TABLE)? {
        let Some(set) = layout::set_by_name(&name).filter(|set| !set.data.is_empty()) else {
            continue;
        };
        for element in nft.elements(&layout::TABLE, &set)? {
            if let Some(mapping) = plan::ActiveMapping::from_element(&element) {
                found.push((mapping, element.comment.unwrap_or_default()));
            }
        }
    }
    found.sort_by_key(|(mapping, _)| (mapping.host_port, mapping.protocol, mapping.host_address));
    Ok(found)
}
