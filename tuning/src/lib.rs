//! The `tuning` CNI meta plugin: sysctls of a container's network namespace, and MAC, MTU,
//! promiscuous and all-multicast mode and queue length of its interface.
//!
//! [`config`] reads the configuration, [`key`] turns sysctl keys into files that cannot be
//! outside of `/proc/sys/net`, [`apply`] makes it so in the namespace that [`target`] gives access
//! to, checks it, and undoes it by what [`backup`] kept.

#![forbid(unsafe_code)]

pub mod allowlist;
pub mod apply;
pub mod args;
pub mod backup;
pub mod config;
pub mod key;
pub mod mac;
pub mod setting;
pub mod target;
pub mod value;

use std::io;
use std::path::Path;

use cni_common::cni::Attachment;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::{
    AttachmentRequest, CniError, CniResult, ErrorCode, GcRequest, Plugin, StatusRequest,
};
use cni_common::cni::state::StateDir;
use cni_common::kernel::netns::Netns;

use allowlist::Allowlist;
use backup::Store;
use config::Config;
use target::Sysctls;

/// The plugin.
#[derive(Debug, Default)]
pub struct Tuning;

impl Plugin for Tuning {
    const NAME: &'static str = "tuning";

    fn add(&self, request: &AttachmentRequest) -> Result<CniResult, CniError> {
        let config = read_config(request)?;
        let result = request.required_prev_result()?;
        let attachment = &request.attachment;
        if config.sysctls.is_empty() && !config.touches_link() {
            return Ok(result);
        }
        // Patterns are worth their compilation only where there is something to match.
        let allowlist = if config.sysctls.is_empty() {
            None
        } else {
            Allowlist::read(Path::new(allowlist::PATH))?
        };
        let netns = open_netns(&request.netns)?;
        let store = Store::new(config.data_dir.clone(), attachment);
        let (identity, ifname) = (netns.identity(), &attachment.ifname);
        let add = || apply::add(&config, allowlist.as_ref(), &store, identity, ifname);
        let warnings = netns.run(add).map_err(|error| no_entry(&request.netns, &error))??;
        warn(&request.log, warnings);
        Ok(reflect(result, &config, &attachment.ifname))
    }

    fn del(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let data_dir = Config::data_dir_if_valid(&request.config);
        let store = Store::new(data_dir, &request.attachment);
        // The rest of the chain must be torn down whatever cannot be done here.
        let complain = |error: &CniError| request.log.warn(error.to_string());
        let _lock = store.lock().inspect_err(complain);
        match restore(request, &store) {
            Ok(warnings) => warn(&request.log, warnings),
            Err(error) => complain(&error),
        }
        for outcome in [store.remove(), store.remove_go()] {
            let _ = outcome.inspect_err(complain);
        }
        Ok(())
    }

    fn check(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let config = read_config(request)?;
        request.required_prev_result()?;
        let netns = open_netns(&request.netns)?;
        let ifname = &request.attachment.ifname;
        let faults = netns
            .run(|| apply::check(&config, ifname))
            .map_err(|error| no_entry(&request.netns, &error))??;
        if faults.is_empty() {
            return Ok(());
        }
        Err(CniError::new(
            ErrorCode::CheckFailed,
            format!("what tuning set was changed since: {}", faults.join("; ")),
        ))
    }

    fn gc(&self, request: &GcRequest) -> Result<(), CniError> {
        let network = &request.config.name;
        let valid: Vec<Attachment> = request.valid_attachments().collect();
        let dir = StateDir::new(Config::data_dir_if_valid(&request.config));
        let _lock = dir.lock().map_err(|error| no_garbage_collection(&dir, &error))?;
        let removed =
            dir.retain(network, &valid).map_err(|error| no_garbage_collection(&dir, &error))?;
        request.log.debug(|| format!("{removed} stale files removed"));
        Ok(())
    }

    fn status(&self, request: &StatusRequest) -> Result<(), CniError> {
        let not_available = |error: CniError| CniError { code: ErrorCode::NotAvailable, ..error };
        // The interface's name is not known yet; any will do.
        let config = Config::read(&request.config, "", "eth0")?;
        Sysctls::open().map_err(not_available)?;
        let list = Allowlist::read(Path::new(allowlist::PATH)).map_err(not_available)?;
        if let Some(sysctl) = config.sysctls.first()
            && list.is_none()
            && config.allowlist_strict
        {
            return Err(not_available(Allowlist::missing(&sysctl.key)));
        }
        let probe = Attachment {
            network: request.config.name.clone(),
            container_id: "status".to_owned(),
            // No interface can have this name, so the probe is nobody's file.
            ifname: "..".to_owned(),
        };
        Store::new(config.data_dir, &probe).probe().map_err(not_available)
    }
}

fn read_config(request: &AttachmentRequest) -> Result<Config, CniError> {
    Config::read(&request.config, &request.args, &request.attachment.ifname)
}

fn open_netns(path: &str) -> Result<Netns, CniError> {
    Netns::open(Path::new(path)).map_err(|error| no_entry(path, &error))
}

fn no_entry(path: &str, error: &io::Error) -> CniError {
    CniError::new(
        ErrorCode::InvalidNetns,
        format!("cannot enter CNI_NETNS {path:?}: is the container still running, and is the plugin root?"),
    )
    .with_details(error.to_string())
}

fn no_garbage_collection(dir: &StateDir, error: &io::Error) -> CniError {
    CniError::new(
        ErrorCode::IoFailure,
        format!(
            "cannot remove stale files from {}: make it writable for root",
            dir.path().display()
        ),
    )
    .with_details(error.to_string())
}

/// What DEL can restore: a namespace that is gone took its sysctls and interfaces with it.
fn restore(request: &AttachmentRequest, store: &Store<'_>) -> Result<Vec<String>, CniError> {
    let Ok(netns) = Netns::open(Path::new(&request.netns)) else { return Ok(Vec::new()) };
    let own = Netns::own().is_ok_and(|own| own.is(&netns));
    let ifname = &request.attachment.ifname;
    netns
        .run(|| apply::del(store, netns.identity(), own, ifname))
        .map_err(|error| no_entry(&request.netns, &error))?
}

/// The result with what ADD changed. Only the container's interface: the host may have one of
/// the same name.
fn reflect(mut result: CniResult, config: &Config, ifname: &str) -> CniResult {
    let in_container = |sandbox: &Option<String>| sandbox.as_ref().is_some_and(|s| !s.is_empty());
    for interface in &mut result.interfaces {
        if interface.name == ifname && in_container(&interface.sandbox) {
            if let Some(mac) = config.mac {
                interface.mac = Some(mac.to_string());
            }
            if let Some(mtu) = config.mtu {
                interface.mtu = Some(u64::from(mtu));
            }
        }
    }
    result
}

fn warn(log: &Log, warnings: Vec<String>) {
    for warning in warnings {
        log.warn(warning);
    }
}
