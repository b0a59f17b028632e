//! What ADD tells of mappings that are in force and will not do what their owner expects.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use cni_common::cni::log::Log;
use cni_common::kernel::IpVersion;
use cni_common::kernel::listeners::listening;
use cni_common::kernel::route::Routes;

use crate::plan::Mapping;

/// Says what was mapped, and warns of host addresses that are nobody's and of programs of the host that
/// lose their port. Best effort: the mappings stand.
pub(crate) fn tell(mapped: &[Mapping], place: &str, log: &Log) {
    log.info(|| format!("mapped in {place}: {}", listed(mapped.iter())));
    for address in not_of_this_host(mapped) {
        let ports = listed(mapped.iter().filter(|mapping| mapping.host_address == Some(address)));
        log.warn(format!(
            "hostIP {address} is no address of this host, so nothing will come by {ports}: correct it, or give the \
             host that address"
        ));
    }
    for mapping in losing_programs(mapped) {
        log.warn(format!(
            "a program of the host has {}/{} as well: connections from elsewhere go to the container now; cni-chain \
             show {} names it",
            host_place(mapping),
            mapping.protocol,
            mapping.host_port
        ));
    }
}

fn listed<'a>(mappings: impl Iterator<Item = &'a Mapping>) -> String {
    mappings.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The host addresses that packets to would not be for this host, each once. An answer that does not come
/// is none.
fn not_of_this_host(mapped: &[Mapping]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = mapped.iter().filter_map(|m| m.host_address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return addresses;
    }
    let Ok(mut routes) = Routes::open() else { return Vec::new() };
    addresses.retain(|address| {
        routes.to(*address).is_ok_and(|route| route.is_none_or(|route| !route.local))
    });
    addresses
}

/// The mappings that take connections from a program of the host.
fn losing_programs(mapped: &[Mapping]) -> Vec<&Mapping> {
    let places: Vec<_> =
        mapped.iter().map(|mapping| (mapping.protocol, host_place(mapping))).collect();
    let found = listening(&places).unwrap_or_default();
    mapped.iter().zip(found).filter_map(|(mapping, found)| found.then_some(mapping)).collect()
}

/// Where a program would listen that loses the port. Of all IPv4 addresses, a socket that is bound to
/// 127.0.0.1 alone loses it, too; Linux translates no packet to `::1`.
fn host_place(mapping: &Mapping) -> SocketAddr {
    let any = match mapping.version() {
        IpVersion::V4 => Ipv4Addr::LOCALHOST.into(),
        IpVersion::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(mapping.host_address.unwrap_or(any), mapping.host_port)
}
