//! Which way the host would send a packet (`RTM_GETROUTE`).

use std::io;
use std::net::IpAddr;

use netlink_packet_core::Parseable as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use nix::errno::Errno;

use crate::kernel::rtnetlink::{Rtnetlink, RtnetlinkError};

const RTM_GETROUTE: u16 = 26;

/// What `ip route get` calls unreachable, prohibited, blackholed or unknown.
const ESRCH: i32 = Errno::ESRCH as i32;
const EACCES: i32 = Errno::EACCES as i32;
const EINVAL: i32 = Errno::EINVAL as i32;
const ENETUNREACH: i32 = Errno::ENETUNREACH as i32;
const EHOSTUNREACH: i32 = Errno::EHOSTUNREACH as i32;

/// The host's answer for one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whether the address is one of the host's own.
    pub local: bool,
    /// Whether the packet goes to a gateway first.
    pub via_gateway: bool,
    /// That gateway's address, if it is of the destination's family.
    pub gateway: Option<IpAddr>,
    /// Index of the interface it leaves by.
    pub interface: Option<u32>,
}

/// The routing tables of the calling thread's network namespace.
#[derive(Debug)]
pub struct Routes {
    rtnetlink: Rtnetlink,
}

impl Routes {
    /// Opens the netlink socket.
    pub fn open() -> io::Result<Self> {
        Ok(Self { rtnetlink: Rtnetlink::open()? })
    }

    /// The route to `destination`; `None` when there is none.
    pub fn to(&mut self, destination: IpAddr) -> io::Result<Option<Route>> {
        let mut query = RouteMessage::default();
        let (family, prefix, address) = match destination {
            IpAddr::V4(v4) => (AddressFamily::Inet, 32, RouteAddress::Inet(v4)),
            IpAddr::V6(v6) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(v6)),
        };
        query.header.address_family = family;
        query.header.destination_prefix_length = prefix;
        query.attributes.push(RouteAttribute::Destination(address));

        let mut route = None;
        let mut malformed = None;
        let outcome = self.rtnetlink.request(RTM_GETROUTE, 0, query, |payload| {
            match RouteMessage::parse(payload) {
                Ok(message) => route = Some(describe(&message)),
                Err(error) => malformed = Some(error.to_string()),
            }
        });
        match (malformed, outcome) {
            (Some(text), _) => Err(io::Error::new(io::ErrorKind::InvalidData, text)),
            (None, Ok(())) => Ok(route),
            // No route of any kind: a packet would not leave either.
            (
                None,
                Err(RtnetlinkError {
                    errno: ENETUNREACH | EHOSTUNREACH | EACCES | EINVAL | ESRCH,
                    ..
                }),
            ) => Ok(None),
            (None, Err(error)) => Err(io::Error::from_raw_os_error(error.errno)),
        }
    }
}

fn describe(message: &RouteMessage) -> Route {
    let mut route = Route {
        local: message.header.kind == RouteType::Local,
        via_gateway: false,
        gateway: None,
        interface: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.interface = Some(*index),
            RouteAttribute::Gateway(address) => {
                route.via_gateway = true;
                route.gateway = match address {
                    RouteAddress::Inet(v4) => Some((*v4).into()),
                    RouteAddress::Inet6(v6) => Some((*v6).into()),
                    _ => None,
                };
            }
            RouteAttribute::Via(_) => route.via_gateway = true,
            _ => {}
        }
    }
    route
}

/// The name of an interface by its index.
pub fn interface_name(index: u32) -> io::Result<String> {
    let name = nix::net::if_::if_indextoname(index)?;
    if name.is_empty() {
        // nix 0.31 does not see that the call failed.
        return Err(io::Error::last_os_error());
    }
    name.into_string()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "interface name is not UTF-8"))
}
