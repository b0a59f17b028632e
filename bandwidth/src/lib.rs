//! The `bandwidth` CNI meta plugin: limits for what goes into a container and what comes out.
//!
//! [`config`] reads the configuration, [`bucket`] does the arithmetic, [`plan`] says what must be
//! there, [`host`] what is there, and [`backend`] makes it so and removes it. What goes in is held by a token
//! bucket on the host's end of the veth pair; what comes out is sent through an IFB that has one.

#![forbid(unsafe_code)]

pub mod backend;
pub mod bucket;
mod check;
pub mod config;
mod garbage;
pub mod host;
pub mod leftovers;
pub mod plan;
mod probe;
mod veth;

use std::fmt::Write as _;

use cni_common::cni::OwnerTag;
use cni_common::cni::protocol::result::Interface;
use cni_common::cni::protocol::{
    AttachmentRequest, CniError, CniResult, ErrorCode, GcRequest, Plugin, StatusRequest,
};
use cni_common::kernel::link::Link;

use backend::Backend;
use bucket::Packets;
use config::Config;
use host::HostEnd;
use leftovers::GoLeftovers;
use plan::Plan;

/// The plugin.
#[derive(Debug, Default)]
pub struct Bandwidth;

impl Plugin for Bandwidth {
    const NAME: &'static str = "bandwidth";

    fn add(&self, request: &AttachmentRequest) -> Result<CniResult, CniError> {
        let config = Config::read(&request.config)?;
        let mut result = request.required_prev_result()?;
        let mut backend = Backend::open()?;
        if config.is_unlimited() {
            // Limits that an earlier ADD set are not asked for any more.
            clean_up(&mut backend, request, Some(&config))?;
            return Ok(result);
        }
        let host = host_end(&mut backend, request)?;
        let plan = Plan::new(&request.attachment, &config, packets(&host.link));
        for warning in &plan.warnings {
            request.log.warn(warning);
        }
        let old = GoLeftovers::find_in_use(&mut backend, &host, &request.attachment, &config)?;
        let ifbs = backend.apply(host, &plan, &old)?;
        result.interfaces.extend(ifbs.iter().map(entry));
        Ok(result)
    }

    fn del(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let config = Config::read(&request.config).ok();
        clean_up(&mut Backend::open()?, request, config.as_ref())
    }

    fn check(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let config = Config::read(&request.config)?;
        request.required_prev_result()?;
        if config.is_unlimited() {
            return Ok(());
        }
        let mut backend = Backend::open()?;
        let host = host_end(&mut backend, request)?;
        let plan = Plan::new(&request.attachment, &config, packets(&host.link));
        let faults = backend.faults(&host, &plan)?;
        if faults.is_empty() {
            return Ok(());
        }
        let old = GoLeftovers::find(&mut backend, Some(&host), &request.attachment, Some(&config))?;
        if backend.is_limited_by_go(&host, &config, &old)? {
            request.log.warn(
                "the limits are those that the Go plugin set; the next ADD puts ours in their place",
            );
            return Ok(());
        }
        Err(CniError::new(
            ErrorCode::CheckFailed,
            format!("the limits are not as ADD made them: {}", faults.join("; ")),
        )
        .with_details("run cni-chain restore to set them again"))
    }

    fn gc(&self, request: &GcRequest) -> Result<(), CniError> {
        let network = &request.config.name;
        let tags: Vec<OwnerTag> =
            request.valid_attachments().map(|attachment| attachment.tag()).collect();
        let removed = Backend::open()?.collect_garbage(network, &tags)?;
        request.log.debug(|| format!("removed {removed:?}"));
        Ok(())
    }

    fn status(&self, request: &StatusRequest) -> Result<(), CniError> {
        Config::read(&request.config)?;
        probe::run()
    }
}

fn host_end(backend: &mut Backend, request: &AttachmentRequest) -> Result<HostEnd, CniError> {
    let link = veth::host_end(&mut backend.links, &request.netns, &request.attachment.ifname)?;
    HostEnd::look(backend, link)
}

/// The host's end if only its mark is left to find it by.
fn marked_end(backend: &mut Backend, tag: &OwnerTag) -> Result<Option<HostEnd>, CniError> {
    let task = || "list the interfaces".to_owned();
    let all = backend.links.all().map_err(backend::refused(task))?;
    let marked = |link: &Link| {
        link.kind.as_deref() == Some(veth::VETH) && link.alias.as_deref() == Some(tag.as_str())
    };
    all.into_iter().find(marked).map(|link| HostEnd::look(backend, link)).transpose()
}

/// Removes everything of the attachment; without a namespace, or with an interface that never was
/// shaped, what can be found by its owner.
fn clean_up(
    backend: &mut Backend,
    request: &AttachmentRequest,
    config: Option<&Config>,
) -> Result<(), CniError> {
    let tag = request.attachment.tag();
    let host = match host_end(backend, request) {
        Ok(host) => Some(host),
        Err(_) => marked_end(backend, &tag)?,
    };
    let old = GoLeftovers::find(backend, host.as_ref(), &request.attachment, config)?;
    backend.remove(host.as_ref(), &tag, &old)
}

fn packets(host: &Link) -> Packets {
    Packets { mtu: host.mtu, gso_max_size: host.gso_max_size }
}

/// An IFB's entry in the result.
fn entry(ifb: &Link) -> Interface {
    let mut mac = String::new();
    for byte in &ifb.address {
        let separator = if mac.is_empty() { "" } else { ":" };
        // Writing into a String cannot fail.
        let _ = write!(mac, "{separator}{byte:02x}");
    }
    Interface { name: ifb.name.clone(), mac: Some(mac), ..Interface::default() }
}
