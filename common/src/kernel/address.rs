//! Addresses of the host's interfaces (`RTM_GETADDR`).

use std::io;
use std::net::Ipv6Addr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use nix::errno::Errno;

use crate::kernel::rtnetlink::Rtnetlink;

const RTM_GETADDR: u16 = 22;
const EADDRNOTAVAIL: i32 = Errno::EADDRNOTAVAIL as i32;
const ENODEV: i32 = Errno::ENODEV as i32;

/// Whether the interface has this address, be it a tentative one: while duplicate address detection
/// lasts, the routing tables do not know it as local.
pub fn has_ipv6(interface: u32, address: Ipv6Addr) -> io::Result<bool> {
    let mut query = AddressMessage::default();
    query.header.family = AddressFamily::Inet6;
    query.header.prefix_len = 128;
    query.header.index = interface;
    query.attributes.push(AddressAttribute::Address(address.into()));
    match Rtnetlink::open()?.request(RTM_GETADDR, 0, query, |_| {}) {
        Ok(()) => Ok(true),
        Err(error) if [EADDRNOTAVAIL, ENODEV].contains(&error.errno) => Ok(false),
        Err(error) => Err(io::Error::from_raw_os_error(error.errno)),
    }
}
