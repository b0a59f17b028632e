//! `route_localnet` on the container's side of the host, so that 127.0.0.1:port works.
//!
//! The kernel refuses to send packets with a loopback source out of an interface unless this is
//! set there. It also lets others reach 127.0.0.0/8 through that interface, which the backend's
//! guard chain rules out for as long as the parameter is set.

use std::io;

use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::route::{Routes, interface_name};
use cni_common::kernel::sysctl::{Sysctl, WritableSysctl};

use crate::plan::{Mapping, Plan};

/// What has to be done about the parameter.
#[derive(Debug)]
pub(crate) enum Localnet {
    NotNeeded,
    IsSet,
    /// The file is open for writing.
    Set(Sysctl, WritableSysctl),
}

impl Localnet {
    /// Finds out what has to be done, without doing it.
    pub(crate) fn prepare(plan: &Plan) -> Result<Self, CniError> {
        let failed = |sysctl: Option<&Sysctl>, error: &io::Error| {
            let path = sysctl
                .map_or_else(|| "route_localnet".to_owned(), |s| s.path().display().to_string());
            CniError::new(
                ErrorCode::Kernel,
                format!(
                    "unable to enable route_localnet in {path}: make /proc/sys writable for the plugin, set it \
                     to 1 beforehand, or set \"snat\": false"
                ),
            )
            .with_details(error.to_string())
        };
        let Some(sysctl) = required(plan).map_err(|error| failed(None, &error))? else {
            return Ok(Self::NotNeeded);
        };
        // Already set: /proc/sys may be read-only then.
        if sysctl.read().is_ok_and(|value| value == "1") {
            return Ok(Self::IsSet);
        }
        match sysctl.open() {
            Ok(file) => Ok(Self::Set(sysctl, file)),
            Err(error) => Err(failed(Some(&sysctl), &error)),
        }
    }

    /// Whether the guard is needed: also when the parameter is set, for somebody may have flushed
    /// the guard since.
    pub(crate) fn is_needed(&self) -> bool {
        !matches!(self, Self::NotNeeded)
    }

    /// Sets the parameter. The guard must be in place by then.
    pub(crate) fn apply(self) -> Result<(), CniError> {
        let Self::Set(sysctl, mut file) = self else { return Ok(()) };
        file.write("1").map_err(|error| {
            CniError::new(
                ErrorCode::Kernel,
                format!("cannot write 1 to {}", sysctl.path().display()),
            )
            .with_details(error.to_string())
        })
    }
}

/// The parameter that this plan needs, if any.
fn required(plan: &Plan) -> io::Result<Option<Sysctl>> {
    let container = Mapping::reached_by_loopback(&plan.mappings).filter(|_| plan.loopback);
    let Some(container) = container else { return Ok(None) };
    let Some(route) = Routes::open()?.to(container)? else { return Ok(None) };
    // Behind a gateway, or on the host itself, there is no interface of the container's.
    let Some(index) = route.interface.filter(|_| !route.local && !route.via_gateway) else {
        return Ok(None);
    };
    Ok(Some(Sysctl::ipv4_conf(&interface_name(index)?, "route_localnet")))
}

/// Whether any interface has the parameter set, so that GC must leave the guard, whichever backend
/// made it: DEL resets nothing, since it cannot know whether somebody else needs it. An interface
/// that cannot be read counts as set.
pub(crate) fn is_set_anywhere() -> bool {
    let Ok(interfaces) = std::fs::read_dir("/proc/sys/net/ipv4/conf") else { return true };
    interfaces.flatten().any(|interface| {
        let value = std::fs::read_to_string(interface.path().join("route_localnet"));
        // An interface that went meanwhile has nothing set.
        value.map_or_else(|e| e.kind() != io::ErrorKind::NotFound, |text| text.trim() != "0")
    })
}

/// CHECK: the mismatch, if the parameter is needed and not set.
pub(crate) fn mismatch(plan: &Plan) -> Option<String> {
    let sysctl = match required(plan) {
        Ok(sysctl) => sysctl?,
        Err(error) => return Some(format!("the route to the container cannot be read: {error}")),
    };
    match sysctl.read() {
        Ok(value) if value == "1" => None,
        Ok(value) => Some(format!("{} is {value} instead of 1", sysctl.path().display())),
        Err(error) => Some(format!("{} cannot be read: {error}", sysctl.path().display())),
    }
}
