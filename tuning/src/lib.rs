//! The `tuning` CNI meta plugin: sysctls of a container's network namespace, and MAC, MTU,
//! promiscuous and all-multicast mode and queue length of its interface.
//!
//! `config` reads the configuration, `plan` says what must be, and `backend` makes it so in
//! the container's namespace, checks it, and gives back what was there before. `go` reads what
//! the Go plugin kept for that.

#![forbid(unsafe_code)]

mod allowlist;
mod args;
mod backend;
mod config;
pub mod explain;
mod go;
mod hand_over;
mod host;
mod key;
pub mod listing;
mod mac;
mod plan;
mod setting;
mod status;
mod sysctls;
mod value;

use cni_common::cni::log::Log;
use cni_common::cni::protocol::{CniError, CniResult, ErrorCode, NetworkConfig};
use cni_common::cni::{AttachmentRequest, GcRequest, Plugin, StatusRequest};

use allowlist::Allowlist;
use backend::Store;
use config::Config;
use host::Container;
use plan::Plan;

/// The plugin.
#[derive(Debug, Default)]
pub struct Tuning;

impl Plugin for Tuning {
    const NAME: &'static str = "tuning";
    const ABOUT: &'static str =
        "Sets sysctls and link attributes in containers, and gives them back";
    const KEYS: &'static [&'static str] =
        &["sysctl", "mac", "mtu", "promisc", "allmulti", "txQLen", "dataDir", "allowlistStrict"];

    fn validate(config: &NetworkConfig) -> Result<(), CniError> {
        Config::read(config, "", "eth0").map(drop)
    }

    fn add(&self, request: &AttachmentRequest) -> Result<CniResult, CniError> {
        let config = read(request)?;
        let result = request.required_prev_result()?;
        let plan = Plan::new(&config);
        if plan.is_empty() {
            return Ok(result);
        }
        let allowlist = Allowlist::for_plan(&plan, config.allowlist_strict)?;
        let container = Container::open(request)?;
        container.permit(&plan)?;
        let (attachment, data_dir) = (&request.attachment, &config.data_dir);
        let warnings =
            container.inside(|host| backend::add(host, &plan, &allowlist, attachment, data_dir))?;
        warn(&request.log, warnings);
        Ok(plan.reflect(result, &attachment.ifname))
    }

    fn del(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let data_dir = Config::read_leniently(&request.config).data_dir;
        // Without the directory no ADD kept anything.
        if let Some(store) = Store::open(&data_dir, &request.attachment)? {
            warn(&request.log, backend::restore(request, &store)?);
        }
        Ok(())
    }

    fn check(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let config = read(request)?;
        request.required_prev_result()?;
        let plan = Plan::new(&config);
        let mismatches = Container::open(request)?.inside(|host| backend::check(host, &plan))?;
        if mismatches.is_empty() {
            return Ok(());
        }
        Err(CniError::new(
            ErrorCode::CheckFailed,
            format!("what tuning set was changed since: {}", mismatches.join("; ")),
        ))
    }

    fn gc(&self, request: &GcRequest) -> Result<(), CniError> {
        let data_dir = Config::read_leniently(&request.config).data_dir;
        let removed = backend::forget_stale(&data_dir, &request.stale())?;
        request.log.debug(|| format!("{removed} stale files removed"));
        Ok(())
    }

    fn status(&self, request: &StatusRequest) -> Result<(), CniError> {
        status::can_serve(request)
    }
}

fn read(request: &AttachmentRequest) -> Result<Config, CniError> {
    Config::read(&request.config, &request.args, &request.attachment.ifname)
}

fn warn(log: &Log, warnings: Vec<String>) {
    for warning in warnings {
        log.warn(warning);
    }
}
