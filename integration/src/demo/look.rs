//! What links, addresses and routes there are, in the namespace of the calling thread.

use std::io;
use std::net::IpAddr;

use cni_common::kernel::mac;
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoKind, InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::dump;

/// A link, as far as the demo cares.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) alias: String,
    pub(super) mac: String,
    pub(super) mtu: u32,
    pub(super) up: bool,
    pub(super) bridge: bool,
    /// The index of the bridge this link is a port of.
    pub(super) controller: Option<u32>,
    pub(super) hairpin: bool,
}

/// All links, in the order of their indices.
pub(super) fn links() -> io::Result<Vec<Link>> {
    let answers = dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(Link::from_message(&message)),
            _ => None,
        })
        .collect())
}

/// The link of this name, if there is one.
pub(super) fn link(name: &str) -> io::Result<Option<Link>> {
    Ok(links()?.into_iter().find(|link| link.name == name))
}

/// The addresses of a link.
pub(super) fn addresses(index: u32) -> io::Result<Vec<IpNet>> {
    let answers = dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let address_of = |message: &AddressMessage| {
        let prefix_len = message.header.prefix_len;
        // IPv4 addresses are in both attributes and differ on point-to-point links; IPv6 ones
        // are in the second only.
        let find = |local: bool| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(ip) if local => Some(*ip),
                AddressAttribute::Address(ip) if !local => Some(*ip),
                _ => None,
            })
        };
        find(true).or_else(|| find(false)).and_then(|ip| IpNet::new(ip, prefix_len).ok())
    };
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
                address_of(message)
            }
            _ => None,
        })
        .collect())
}

/// The gateways of the default routes.
pub(super) fn default_gateways() -> io::Result<Vec<IpAddr>> {
    let answers = dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(message)
                if message.header.destination_prefix_length == 0 =>
            {
                message.attributes.into_iter().find_map(|attribute| match attribute {
                    RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some(ip.into()),
                    RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => Some(ip.into()),
                    _ => None,
                })
            }
            _ => None,
        })
        .collect())
}

impl Link {
    pub(super) fn from_message(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            up: message.header.flags.contains(LinkFlags::Up),
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::Address(bytes) => {
                    link.mac = mac::text(bytes);
                }
                LinkAttribute::LinkInfo(infos) => link.read_infos(infos),
                _ => {}
            }
        }
        link
    }

    fn read_infos(&mut self, infos: &[LinkInfo]) {
        for info in infos {
            match info {
                LinkInfo::Kind(InfoKind::Bridge) => self.bridge = true,
                LinkInfo::PortData(InfoPortData::BridgePort(settings)) => {
                    self.hairpin = settings.contains(&InfoBridgePort::HairpinMode(true));
                }
                _ => {}
            }
        }
    }
}

fn dump(request: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    dump::messages(NETLINK_ROUTE, request)?.iter().map(|message| dump::decode(message)).collect()
}
