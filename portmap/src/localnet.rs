//! `route_localnet` on the container's side of the host, so that 127.0.0.1:port works.
//!
//! The kernel refuses to send packets with a loopback source out of an interface unless this is
//! set there. It also lets others reach 127.0.0.0/8 through that interface, which the backend's
//! guard chain rules out for as long as the parameter is set.

use std::io;

use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::route::{Routes, interface_name};
use cni_common::kernel::sysctl::{Sysctl, WritableSysctl};

use crate::plan::ActiveMapping;

/// What has to be done about the parameter.
#[derive(Debug)]
pub enum Localnet {
    /// It is not needed.
    NotNeeded,
    /// It is set already.
    IsSet,
    /// It must be set; the file is open for writing.
    Set(Sysctl, WritableSysctl),
}

/// The parameter that this plan needs, if any.
pub fn required(snat: bool, active: &[ActiveMapping]) -> io::Result<Option<Sysctl>> {
    let reachable_by_loopback =
        |host: Option<std::net::IpAddr>| host.is_none_or(|address| address.is_loopback());
    let container = active
        .iter()
        .find(|mapping| mapping.container.is_ipv4() && reachable_by_loopback(mapping.host_address));
    let Some(mapping) = container.filter(|_| snat) else { return Ok(None) };
    let Some(route) = Routes::open()?.to(mapping.container)? else { return Ok(None) };
    // Behind a gateway, or on the host itself, there is no interface of the container's.
    let Some(index) = route.interface.filter(|_| !route.local && !route.via_gateway) else {
        return Ok(None);
    };
    Ok(Some(Sysctl::ipv4_conf(&interface_name(index)?, "route_localnet")))
}

/// Finds out what has to be done, without doing it.
pub fn prepare(snat: bool, active: &[ActiveMapping]) -> Result<Localnet, CniError> {
    let failed = |sysctl: Option<&Sysctl>, error: &io::Error| {
        let path =
            sysctl.map_or_else(|| "route_localnet".to_owned(), |s| s.path().display().to_string());
        CniError::new(
            ErrorCode::Kernel,
            format!(
                "unable to enable route_localnet in {path}: make /proc/sys writable for the plugin, set it \
                 to 1 beforehand, or set \"snat\": false"
            ),
        )
        .with_details(error.to_string())
    };
    let Some(sysctl) = required(snat, active).map_err(|error| failed(None, &error))? else {
        return Ok(Localnet::NotNeeded);
    };
    // Already set: /proc/sys may be read-only then.
    if sysctl.read().is_ok_and(|value| value == "1") {
        return Ok(Localnet::IsSet);
    }
    match sysctl.open() {
        Ok(file) => Ok(Localnet::Set(sysctl, file)),
        Err(error) => Err(failed(Some(&sysctl), &error)),
    }
}

impl Localnet {
    /// Sets the parameter. The guard must be in place by then.
    pub fn apply(self) -> Result<(), CniError> {
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

/// Whether any interface has the parameter set, so that GC must leave the guard, whichever backend
/// made it: DEL resets nothing, since it cannot know whether somebody else needs it. An interface
/// that cannot be read counts as set.
#[must_use]
pub fn is_set_anywhere() -> bool {
    let Ok(interfaces) = std::fs::read_dir("/proc/sys/net/ipv4/conf") else { return true };
    interfaces.flatten().any(|interface| {
        let value = std::fs::read_to_string(interface.path().join("route_localnet"));
        // An interface that went meanwhile has nothing set.
        value.map_or_else(|e| e.kind() != io::ErrorKind::NotFound, |text| text.trim() != "0")
    })
}

/// CHECK: the fault, if the parameter is needed and not set.
#[must_use]
pub fn fault(snat: bool, active: &[ActiveMapping]) -> Option<String> {
    let sysctl = match required(snat, active) {
        Ok(sysctl) => sysctl?,
        Err(error) => return Some(format!("the route to the container cannot be read: {error}")),
    };
    match sysctl.read() {
        Ok(value) if value == "1" => None,
        Ok(value) => Some(format!("{} is {value} instead of 1", sysctl.path().display())),
        Err(error) => Some(format!("{} cannot be read: {error}", sysctl.path().display())),
    }
}
