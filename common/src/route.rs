//! Which way the host would send a packet (`RTM_GETROUTE`).

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    Emitable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, Parseable,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netlink::{Connection, append};

const NLM_F_REQUEST: u16 = 0x1;

/// The host's answer for one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whether the address is one of the host's own.
    pub local: bool,
    /// Whether the packet goes to a gateway first.
    pub via_gateway: bool,
    /// Index of the interface it leaves by.
    pub interface: Option<u32>,
}

/// The routing tables of the calling thread's network namespace.
#[derive(Debug)]
pub struct Routes {
    connection: Connection,
}

impl Routes {
    /// Opens the netlink socket.
    pub fn open() -> io::Result<Self> {
        Ok(Self { connection: Connection::open(NETLINK_ROUTE)? })
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

        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        header.sequence_number = self.connection.next_sequence();
        let payload = NetlinkPayload::InnerMessage(GetRoute(query));
        let mut request = Vec::with_capacity(64);
        append(&mut request, NetlinkMessage::new(header, payload));
        self.connection.send(&request)?;

        let mut route = None;
        let mut malformed = None;
        self.connection.receive_waiting(|answer| match RouteMessage::parse(answer.payload) {
            Ok(message) => route = Some(describe(&message)),
            Err(error) => malformed = Some(error.to_string()),
        })?;
        match malformed {
            Some(text) => Err(io::Error::new(io::ErrorKind::InvalidData, text)),
            // Every error means that a packet would not leave either.
            None => Ok(route),
        }
    }
}

/// The one request made here. The crate's enum of all route messages would link the encoders and
/// parsers of every link type into each plugin: a megabyte that has to be mapped at each start.
#[derive(Debug)]
struct GetRoute(RouteMessage);

impl NetlinkSerializable for GetRoute {
    fn message_type(&self) -> u16 {
        const RTM_GETROUTE: u16 = 26;
        RTM_GETROUTE
    }
    fn buffer_len(&self) -> usize {
        self.0.buffer_len()
    }
    fn serialize(&self, buffer: &mut [u8]) {
        self.0.emit(buffer);
    }
}

fn describe(message: &RouteMessage) -> Route {
    let mut route = Route {
        local: message.header.kind == RouteType::Local,
        via_gateway: false,
        interface: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.interface = Some(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => route.via_gateway = true,
            _ => {}
        }
    }
    route
}

/// The name of an interface by its index.
pub fn interface_name(index: u32) -> io::Result<String> {
    let name = nix::net::if_::if_indextoname(index)?;
    name.into_string()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "interface name is not UTF-8"))
}
