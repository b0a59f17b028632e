//! The `bandwidth` CNI meta plugin: limits for what goes into a container and what comes out.
//!
//! `config` reads the configuration, `bucket` does the arithmetic, `plan` says which limits must
//! hold. `host_end` is the place they hold at, reached by the socket in `host`; `backend` makes and
//! removes them there, and `go` knows what the Go plugin made. `status` tries all of it elsewhere. `listing`
//! tells which limits hold, `explain` what ADD would do, by a `recorder` in the place of the `kernel`.

#![forbid(unsafe_code)]

mod backend;
mod bucket;
mod config;
pub mod explain;
mod go;
mod hand_over;
mod host;
mod host_end;
mod kernel;
mod layout_number;
pub mod listing;
mod plan;
mod recorder;
mod status;

use cni_common::cni::Finding;
use cni_common::cni::holder::on_all;
use cni_common::cni::protocol::result::Interface;
use cni_common::cni::protocol::{CniError, CniResult, ErrorCode, NetworkConfig};
use cni_common::cni::{AttachmentRequest, GcRequest, Plugin, StatusRequest};
use cni_common::kernel::link::Link;
use cni_common::kernel::mac;

use backend::tc;
use config::Config;
use go::Leftovers;
use host::Host;
use host_end::HostEnd;
use plan::Plan;

/// The plugin.
#[derive(Debug, Default)]
pub struct Bandwidth;

impl Plugin for Bandwidth {
    const NAME: &'static str = "bandwidth";
    const ABOUT: &'static str = "Limits how fast containers receive and send";
    const KEYS: &'static [&'static str] = &[
        "ingressRate",
        "ingressBurst",
        "egressRate",
        "egressBurst",
        "queue",
        "latency",
        "honorRuntimeBurst",
        "shapedSubnets",
        "unshapedSubnets",
    ];

    fn validate(config: &NetworkConfig) -> Result<(), CniError> {
        // Without a limit nobody reads the subnets, until a runtime sends one.
        Config::read(config).and_then(|_| Config::judge_subnets(config))
    }

    fn add(&self, request: &AttachmentRequest) -> Result<CniResult, CniError> {
        let config = Config::read(&request.config)?;
        let mut result = request.required_prev_result()?;
        let mut host = Host::open()?;
        if config.is_unlimited() {
            // Limits that an earlier ADD set are not asked for any more.
            remove(&mut host, request, Some(&config))?;
            return Ok(result);
        }
        let end = find_known_end(&mut host, request)?;
        let plan = Plan::new(&request.attachment, &config, end.packets());
        for warning in &plan.warnings {
            request.log.warn(warning);
        }
        let go = Leftovers::find_in_use(&mut host, &end, &request.attachment, &config)?;
        let ifbs = tc::add(&mut host, end, &plan, &go)?;
        result.interfaces.extend(ifbs.iter().map(entry));
        Ok(result)
    }

    fn del(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let config = Config::read_leniently(&request.config);
        remove(&mut Host::open()?, request, config.as_ref())
    }

    fn check(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let config = Config::read(&request.config)?;
        request.required_prev_result()?;
        if config.is_unlimited() {
            return Ok(());
        }
        let mut host = Host::open()?;
        let end = find_known_end(&mut host, request)?;
        let plan = Plan::new(&request.attachment, &config, end.packets());
        match tc::check(&mut host, &end, &plan)? {
            Finding::Sound => Ok(()),
            Finding::Mismatches(mismatches) => Err(mismatch(&mismatches)),
            Finding::Absent => check_go(&mut host, &end, request, &config),
        }
    }

    fn gc(&self, request: &GcRequest) -> Result<(), CniError> {
        let mut host = Host::open()?;
        let all = host.all_links()?;
        let mut removed = Vec::new();
        let ours = tc::collect_garbage(&mut host, &request.stale(), &all, &mut removed);
        let of_go = go::collect_garbage(&mut host, &all, &mut removed);
        request.log.debug(|| format!("removed {removed:?}"));
        on_all([ours, of_go], |outcome| outcome)
    }

    fn status(&self, request: &StatusRequest) -> Result<(), CniError> {
        let config = Config::read(&request.config)?;
        let queue = status::run(config.queue)?;
        request.log.debug(|| format!("packets would wait in {queue}"));
        Ok(())
    }
}

fn find_end(host: &mut Host, request: &AttachmentRequest) -> Result<HostEnd, CniError> {
    HostEnd::find(host, &request.netns, &request.attachment.ifname)
}

/// The same for a command that works with the limits there.
fn find_known_end(host: &mut Host, request: &AttachmentRequest) -> Result<HostEnd, CniError> {
    let end = find_end(host, request)?;
    layout_number::refuse_newer(&end.link, || request.attachment.tag())?;
    Ok(end)
}

/// Removes everything of the attachment; without a namespace, or with an interface that never was
/// shaped, what can be found by its owner.
fn remove(
    host: &mut Host,
    request: &AttachmentRequest,
    config: Option<&Config>,
) -> Result<(), CniError> {
    let tag = request.attachment.tag();
    let end = match find_end(host, request) {
        Ok(end) => Some(end),
        Err(_) => HostEnd::find_by_alias(host, &tag)?,
    };
    if let Some(end) = &end {
        layout_number::refuse_newer(&end.link, || &tag)?;
    }
    let go = Leftovers::find(host, end.as_ref(), &request.attachment, config)?;
    tc::remove(host, end.as_ref(), &tag, &go)
}

/// An attachment of before the change to this plugin is sound as well.
fn check_go(
    host: &mut Host,
    end: &HostEnd,
    request: &AttachmentRequest,
    config: &Config,
) -> Result<(), CniError> {
    let found = Leftovers::find(host, Some(end), &request.attachment, Some(config))?;
    match go::check(host, end, config, &found)? {
        Finding::Sound => {
            request.log.warn(
                "the limits are those that the Go plugin set; the next ADD puts ours in their place",
            );
            Ok(())
        }
        Finding::Mismatches(mismatches) => Err(mismatch(&mismatches)),
        Finding::Absent => Err(mismatch(&[format!("{} has none", end.link.name)])),
    }
}

fn mismatch(mismatches: &[String]) -> CniError {
    CniError::new(
        ErrorCode::CheckFailed,
        format!(
            "the limits are not as ADD made them: {}; run cni-chain restore to set them again",
            mismatches.join(", ")
        ),
    )
}

/// An IFB's entry in the result.
fn entry(ifb: &Link) -> Interface {
    let mac = mac::text(&ifb.address);
    Interface { name: ifb.name.clone(), mac: Some(mac), ..Interface::default() }
}
