//! Network interfaces of one namespace (rtnetlink).

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Parseable as _};
use netlink_packet_route::link::{
    InfoBridgePort, InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo,
    LinkLayerType, LinkMessage,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::errno::Errno;

use crate::kernel::attributes::{Attributes, word};
use crate::kernel::netns::Netns;
use crate::kernel::rtnetlink::{Bundle, Rtnetlink, RtnetlinkError};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_GETNSID: u16 = 90;

// <linux/if_link.h>
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;

/// An interface as the kernel reports it.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the kernel's own")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `veth`, `bridge`, `ifb`, …; none for hardware and loopback.
    pub kind: Option<String>,
    /// Its hardware address.
    pub address: Vec<u8>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The length of its transmit queue in packets.
    pub tx_queue_len: u32,
    /// The most bytes that its stack hands down as one segmentable packet.
    pub gso_max_size: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether somebody set `IFF_PROMISC` on it.
    pub promisc: bool,
    /// Whether somebody set `IFF_ALLMULTI` on it.
    pub allmulti: bool,
    /// Index of the peer or lower interface, in the namespace that `peer_netns` says.
    pub peer: Option<u32>,
    /// The kernel's ID of the namespace that `peer` is in; none for this one.
    pub peer_netns: Option<i32>,
    /// Index of the bridge or bond it belongs to.
    pub controller: Option<u32>,
    /// Whether its bridge, if it belongs to one, passes it no frames of other isolated ports.
    pub isolated: bool,
    /// Whether its bridge, if it belongs to one, sends frames back by the port they came from.
    pub hairpin: bool,
    /// Free text that whoever made it left there.
    pub alias: Option<String>,
}

/// What to change about an interface; `None` leaves a property alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// Hardware address.
    pub address: Option<Vec<u8>>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Length of the transmit queue in packets.
    pub tx_queue_len: Option<u32>,
    /// `IFF_UP`
    pub up: Option<bool>,
    /// `IFF_PROMISC`
    pub promisc: Option<bool>,
    /// `IFF_ALLMULTI`
    pub allmulti: Option<bool>,
    /// Alias; empty removes it.
    pub alias: Option<String>,
}

/// The interfaces of the calling thread's network namespace.
#[derive(Debug)]
pub struct Links {
    rtnetlink: Rtnetlink,
}

impl Links {
    /// Opens the netlink socket.
    pub fn open() -> io::Result<Self> {
        Ok(Self { rtnetlink: Rtnetlink::open()? })
    }

    /// The cookie of the namespace that the interfaces are in; `None` before Linux 5.14.
    pub fn netns_cookie(&self) -> io::Result<Option<u64>> {
        self.rtnetlink.netns_cookie()
    }

    pub(crate) fn rtnetlink(&self) -> Rtnetlink {
        self.rtnetlink.clone()
    }

    /// The interface with this name.
    pub fn by_name(&mut self, name: &str) -> Result<Option<Link>, RtnetlinkError> {
        let mut query = LinkMessage::default();
        query.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.get(query)
    }

    /// The interface with this name in the namespace that [`Links::id_of`] gave this number.
    pub fn by_name_in(&mut self, netns: i32, name: &str) -> Result<Option<Link>, RtnetlinkError> {
        let mut query = LinkMessage::default();
        query.attributes.push(LinkAttribute::IfNetnsId(netns));
        query.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.get(query)
    }

    /// The interface with this index.
    pub fn by_index(&mut self, index: u32) -> Result<Option<Link>, RtnetlinkError> {
        let mut query = LinkMessage::default();
        query.header.index = index;
        self.get(query)
    }

    fn get(&mut self, query: LinkMessage) -> Result<Option<Link>, RtnetlinkError> {
        let mut link = None;
        let outcome =
            self.rtnetlink.request(RTM_GETLINK, 0, query, |payload| link = parse(payload));
        match outcome {
            Ok(()) => Ok(link),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What this namespace calls `netns` in [`Link::peer_netns`]; none if no link leads there.
    pub fn id_of(&mut self, netns: &Netns) -> Result<Option<i32>, RtnetlinkError> {
        let mut query = NsidMessage::default();
        query.attributes.push(NsidAttribute::Fd(netns.descriptor()));
        let mut id = None;
        self.rtnetlink.request(RTM_GETNSID, 0, query, |payload| {
            let attributes = NsidMessage::parse(payload).map(|message| message.attributes);
            for attribute in attributes.into_iter().flatten() {
                if let NsidAttribute::Id(number) = attribute {
                    // -1: it has no number here.
                    id = Some(number).filter(|number| *number >= 0);
                }
            }
        })?;
        Ok(id)
    }

    /// All interfaces.
    pub fn all(&mut self) -> Result<Vec<Link>, RtnetlinkError> {
        self.rtnetlink.dump(RTM_GETLINK, &LinkMessage::default(), parse)
    }

    /// Changes properties of an interface in one request.
    pub fn change(&mut self, index: u32, change: &LinkChange) -> Result<(), RtnetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        apply(&mut message, change);
        self.rtnetlink.request(RTM_SETLINK, NLM_F_ACK, message, |_| {})
    }

    /// Isolates a bridge's port from the bridge's other isolated ports, or ends that.
    pub fn isolate_port(&mut self, index: u32, isolated: bool) -> Result<(), RtnetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let port = InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(isolated)]);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(port),
        ]));
        self.rtnetlink.request(RTM_NEWLINK, NLM_F_ACK, message, |_| {})
    }

    /// Makes an IFB with an alias. Linux takes none when it makes an interface, so it follows in
    /// the same datagram, by the name: look first whether that is taken.
    pub fn create_ifb(
        &mut self,
        name: &str,
        change: &LinkChange,
        alias: &str,
    ) -> Result<(), RtnetlinkError> {
        let mut message = LinkMessage::default();
        message.header.link_layer_type = LinkLayerType::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]));
        apply(&mut message, change);
        let mut bundle = Bundle::default();
        bundle.add(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message);
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        bundle.add(RTM_SETLINK, 0, &message);
        let outcomes = self.rtnetlink.request_all(bundle)?.into_iter();
        outcomes.collect::<Result<(), _>>().map_err(|error| error.without("ifb", Errno::EOPNOTSUPP))
    }

    /// Deletes an interface; one that is gone is no error.
    pub fn delete(&mut self, index: u32) -> Result<(), RtnetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.rtnetlink.request(RTM_DELLINK, NLM_F_ACK, message, |_| {}) {
            Err(error) if error.is_missing() => Ok(()),
            outcome => outcome,
        }
    }
}

fn apply(message: &mut LinkMessage, change: &LinkChange) {
    let flags = [
        (LinkFlags::Up, change.up),
        (LinkFlags::Promisc, change.promisc),
        (LinkFlags::Allmulti, change.allmulti),
    ];
    for (flag, wanted) in flags {
        if let Some(wanted) = wanted {
            message.header.change_mask |= flag;
            message.header.flags.set(flag, wanted);
        }
    }
    let attributes = &mut message.attributes;
    attributes.extend(change.address.clone().map(LinkAttribute::Address));
    attributes.extend(change.mtu.map(LinkAttribute::Mtu));
    attributes.extend(change.tx_queue_len.map(LinkAttribute::TxQueueLen));
    attributes.extend(change.alias.clone().map(LinkAttribute::IfAlias));
}

/// Reads the attributes that [`Link`] has and no others: the crate's parser knows every property
/// of every kind of link, and would be a tenth of a plugin.
fn parse(payload: &[u8]) -> Option<Link> {
    /// `struct ifinfomsg`
    const HEADER: usize = 16;
    let (header, rest) = payload.split_at_checked(HEADER)?;
    let attributes = Attributes::parse(rest)?;
    let flags = LinkFlags::from_bits_retain(word(header, 8)?);
    let info = attributes.nested(IFLA_LINKINFO).unwrap_or_default();
    let port = info
        .nested(IFLA_INFO_SLAVE_DATA)
        .filter(|_| info.text(IFLA_INFO_SLAVE_KIND).is_some_and(|kind| kind == "bridge"));
    Some(Link {
        index: word(header, 4)?,
        name: attributes.text(IFLA_IFNAME)?,
        kind: info.text(IFLA_INFO_KIND),
        address: attributes.get(IFLA_ADDRESS).unwrap_or_default().to_vec(),
        mtu: attributes.word(IFLA_MTU)?,
        tx_queue_len: attributes.word(IFLA_TXQLEN).unwrap_or_default(),
        gso_max_size: attributes.word(IFLA_GSO_MAX_SIZE).unwrap_or_default(),
        up: flags.contains(LinkFlags::Up),
        promisc: flags.contains(LinkFlags::Promisc),
        allmulti: flags.contains(LinkFlags::Allmulti),
        peer: attributes.word(IFLA_LINK),
        peer_netns: attributes.word(IFLA_LINK_NETNSID).map(u32::cast_signed),
        controller: attributes.word(IFLA_MASTER),
        isolated: port.as_ref().is_some_and(|port| port.get(IFLA_BRPORT_ISOLATED) == Some(&[1])),
        hairpin: port.is_some_and(|port| port.get(IFLA_BRPORT_MODE) == Some(&[1])),
        alias: attributes.text(IFLA_IFALIAS),
    })
}
