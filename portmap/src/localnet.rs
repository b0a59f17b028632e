//! `route_localnet` on the container's side of the host, so that 127.0.0.1:port works.
//!
//! The kernel refuses to send packets with a loopback source out of an interface unless this is
//! set there. It also lets others reach 127.0.0.0/8 through that interface, and speak from it, which
//! the backend's guard chain rules out for as long as the parameter is set.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use cni_common::cni::failure::code_of;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::IpVersion;
use cni_common::kernel::link::Links;
use cni_common::kernel::route::{Routes, interface_name};
use cni_common::kernel::sysctl::{Sysctl, WritableSysctl};

use crate::plan::{Addresses, Mapping, Plan};

/// Of an interface, by IPv4.
pub(crate) const PARAMETER: &str = "route_localnet";

/// Kinds of link that hosts have towards their containers.
const TOWARDS_CONTAINERS: [&str; 4] = ["bridge", "veth", "openvswitch", "tun"];
/// An address that only a default route leads to (RFC 5737).
const ANYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// What has to be done about the parameter.
#[derive(Debug)]
pub(crate) enum Localnet {
    NotNeeded,
    /// The parameter would open 127.0.0.0/8 to the network behind this interface, a macvlan's
    /// uplink for instance.
    LeadsOutside(String),
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
                code_of(error, ErrorCode::Kernel),
                format!(
                    "unable to enable route_localnet in {path}: make /proc/sys writable for the plugin, set it \
                     to 1 beforehand, or set \"snat\": false"
                ),
            )
            .with_details(error.to_string())
        };
        let Some(way) = required(plan).map_err(|error| failed(None, &error))? else {
            return Ok(Self::NotNeeded);
        };
        // Already set: /proc/sys may be read-only then.
        if way.sysctl.read().is_ok_and(|value| value == "1") {
            return Ok(Self::IsSet);
        }
        if way.leads_outside().map_err(|error| failed(None, &error))? {
            return Ok(Self::LeadsOutside(way.interface));
        }
        match way.sysctl.open() {
            Ok(file) => Ok(Self::Set(way.sysctl, file)),
            Err(error) => Err(failed(Some(&way.sysctl), &error)),
        }
    }

    /// What to tell about mappings that 127.0.0.1 will not lead to.
    pub(crate) fn warning(&self) -> Option<String> {
        let Self::LeadsOutside(interface) = self else { return None };
        Some(format!(
            "mapped ports will not answer on 127.0.0.1: the container is reached by {interface}, which leads \
             outside, and route_localnet there would open the host's 127.0.0.0/8 to that network; ask for \
             another address of the host"
        ))
    }

    /// Whether the guard is needed: also when the parameter is set, for somebody may have flushed
    /// the guard since.
    pub(crate) fn is_needed(&self) -> bool {
        matches!(self, Self::IsSet | Self::Set(..))
    }

    /// Sets the parameter. The guard must be in place by then.
    pub(crate) fn apply(self) -> Result<(), CniError> {
        let Self::Set(sysctl, mut file) = self else { return Ok(()) };
        file.write("1").map_err(|error| {
            CniError::new(
                code_of(&error, ErrorCode::Kernel),
                format!("cannot write 1 to {}", sysctl.path().display()),
            )
            .with_details(error.to_string())
        })
    }
}

/// The interface by which the host reaches a container.
struct Way {
    index: u32,
    interface: String,
    sysctl: Sysctl,
}

impl Way {
    /// The way to an address; `None` behind a gateway or on the host itself, where there is no
    /// interface of the container's.
    fn to(address: IpAddr) -> io::Result<Option<Self>> {
        let Some(route) = Routes::open()?.to(address)? else { return Ok(None) };
        let Some(index) = route.interface.filter(|_| !route.local && !route.via_gateway) else {
            return Ok(None);
        };
        let interface = interface_name(index)?;
        let sysctl = Sysctl::ipv4_conf(&interface, PARAMETER);
        Ok(Some(Self { index, interface, sysctl }))
    }

    /// Whether there is more behind the interface than containers.
    fn leads_outside(&self) -> io::Result<bool> {
        let link = Links::open()?.by_index(self.index).map_err(io::Error::other)?;
        let kind = link.and_then(|link| link.kind).unwrap_or_default();
        if !TOWARDS_CONTAINERS.contains(&kind.as_str()) {
            return Ok(true);
        }
        let default = Routes::open()?.to(ANYWHERE)?;
        Ok(default.is_some_and(|route| route.interface == Some(self.index)))
    }
}

/// The way whose parameter this plan needs, if any.
fn required(plan: &Plan) -> io::Result<Option<Way>> {
    let container = Mapping::reached_by_loopback(&plan.mappings).filter(|_| plan.loopback);
    container.map_or(Ok(None), Way::to)
}

/// Whether the parameter is set towards one of these addresses: the guard has to stand then, also
/// when nothing is mapped any more.
pub(crate) fn is_set_towards(addresses: Addresses) -> bool {
    let address = addresses.of(IpVersion::V4).map(|network| network.addr());
    let way = address.and_then(|address| Way::to(address).ok().flatten());
    way.is_some_and(|way| way.sysctl.read().is_ok_and(|value| value != "0"))
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

/// CHECK: the mismatch, if the parameter is needed and not set. What cannot be looked at is no mismatch.
pub(crate) fn mismatch(plan: &Plan) -> Result<Option<String>, CniError> {
    let cannot_look = |error: io::Error| {
        let code = code_of(&error, ErrorCode::Kernel);
        CniError::new(code, "cannot look whether 127.0.0.1 leads to the container: try again later")
            .with_details(error.to_string())
    };
    let Some(way) = required(plan).map_err(cannot_look)? else { return Ok(None) };
    let path = way.sysctl.path().display();
    match way.sysctl.read() {
        Ok(value) if value == "1" => Ok(None),
        // Where that leads outside, ADD did not set it either.
        Ok(value) => Ok((!way.leads_outside().map_err(cannot_look)?)
            .then(|| format!("{path} is {value} instead of 1"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Some(format!("{path} is not there")))
        }
        Err(error) => Err(cannot_look(error)),
    }
}
