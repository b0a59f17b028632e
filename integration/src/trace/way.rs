//! The connection that is followed, and what the host says of its ends.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_common::kernel::IpVersion;
use cni_common::kernel::netns::Netns;
use cni_common::kernel::route::{Route, Routes, interface_name};
use cni_portmap::Mapping;
use nix::ifaddrs::getifaddrs;

use crate::rules::Packet;
use crate::show::{Mapped, Owner};

/// Somebody outside, where nobody is named: addresses for documentation (RFC 5737, RFC 3849).
const OUTSIDE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const OUTSIDE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Where a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Outside,
    /// A program of the host.
    Host,
    /// The container itself.
    Container,
}

/// A connection by a mapping.
pub(super) struct Way<'a> {
    pub(super) mapping: &'a Mapping,
    pub(super) owner: &'a Owner,
    /// The table or kind of iptables that has the mapping, if one has.
    pub(super) place: Option<&'a str>,
    pub(super) to: Option<IpAddr>,
    pub(super) from: Option<IpAddr>,
    pub(super) origin: Origin,
    /// The interface that has the address `to`.
    pub(super) arrival: Option<String>,
    /// How the host reaches the container.
    pub(super) route: io::Result<Option<Route>>,
    /// The interface of that route.
    pub(super) towards: Option<String>,
}

impl<'a> Way<'a> {
    pub(super) fn find(
        mapped: &'a Mapped,
        to: Option<IpAddr>,
        from: Option<IpAddr>,
    ) -> anyhow::Result<Self> {
        let mapping = &mapped.mapping;
        let mut routes = Routes::open()?;
        let route = routes.to(mapping.container);
        let index = route.as_ref().ok().and_then(|route| route.as_ref()?.interface);
        let towards = index.and_then(|index| interface_name(index).ok());
        let addresses = addresses()?;
        let to = to.or(mapping.host_address).or_else(|| {
            first_address(
                &addresses,
                IpVersion::of(mapping.container),
                towards.as_deref(),
                &mut routes,
            )
        });
        let holder = |address| addresses.iter().find(|(_, other)| *other == address);
        let is_own = |address: IpAddr| address.is_loopback() || holder(address).is_some();
        let origin = match from {
            Some(from) if from == mapping.container => Origin::Container,
            Some(from) if is_own(from) => Origin::Host,
            None if to.is_some_and(|to| to.is_loopback()) => Origin::Host,
            _ => Origin::Outside,
        };
        let place = match &mapped.standing {
            crate::show::Standing::InForce(place) => Some(place.as_str()),
            _ => None,
        };
        let arrival = to.and_then(holder).map(|(name, _)| name.clone());
        let owner = &mapped.owner;
        Ok(Self { mapping, owner, place, to, from, origin, arrival, route, towards })
    }

    /// Who connects, for routes.
    pub(super) fn peer(&self) -> IpAddr {
        let somebody = if self.mapping.container.is_ipv4() { OUTSIDE_V4 } else { OUTSIDE_V6 };
        self.from.unwrap_or(somebody)
    }

    /// The first packet's source.
    pub(super) fn source(&self) -> Option<IpAddr> {
        match self.origin {
            Origin::Host => self.from.or(self.to),
            _ => Some(self.peer()),
        }
    }

    /// The first packet as the host sends it on.
    pub(super) fn led_on(&self) -> Packet {
        let input = if self.origin == Origin::Container { &self.towards } else { &self.arrival };
        Packet {
            source: self.source(),
            destination: self.mapping.container,
            is_any_destination: false,
            protocol: self.mapping.protocol,
            destination_port: self.mapping.container_port,
            input: input.clone(),
            output: self.towards.clone(),
            is_dnat: true,
            is_local: false,
        }
    }

    /// The same as it came.
    pub(super) fn as_it_came(&self) -> Option<Packet> {
        Some(Packet {
            destination: self.to?,
            is_any_destination: false,
            destination_port: self.mapping.host_port,
            output: None,
            is_dnat: false,
            is_local: true,
            ..self.led_on()
        })
    }

    /// The peer in words.
    pub(super) fn peer_text(&self) -> String {
        self.from.map_or_else(|| "a client outside".to_owned(), |from| from.to_string())
    }
}

/// The addresses of the calling thread's namespace, with their interfaces.
pub(super) fn addresses() -> io::Result<Vec<(String, IpAddr)>> {
    let mut found = Vec::new();
    for entry in getifaddrs()? {
        let Some(address) = entry.address else { continue };
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = || address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
        found.extend(v4.or_else(v6).map(|address| (entry.interface_name.clone(), address)));
    }
    Ok(found)
}

/// The namespace of a container that is there.
pub(super) fn open(path: &str) -> io::Result<Netns> {
    Netns::open(std::path::Path::new(path))
}

/// An address that somebody outside would use: one of the interface that leads there, else any that
/// is neither the loopback's nor the containers' bridge's.
fn first_address(
    addresses: &[(String, IpAddr)],
    version: IpVersion,
    towards: Option<&str>,
    routes: &mut Routes,
) -> Option<IpAddr> {
    let somebody = if version.is_v4() { OUTSIDE_V4 } else { OUTSIDE_V6 };
    let outward = routes.to(somebody).ok().flatten().and_then(|route| route.interface);
    let outward = outward.and_then(|index| interface_name(index).ok());
    let is_useful = |(name, address): &&(String, IpAddr)| {
        let is_link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        IpVersion::of(*address) == version
            && !address.is_loopback()
            && !is_link_local
            && Some(name.as_str()) != towards
    };
    let mut useful = addresses.iter().filter(is_useful);
    let any = useful.clone().next();
    let found = useful.find(|(name, _)| Some(name) == outward.as_ref()).or(any);
    found.map(|(_, address)| *address)
}
