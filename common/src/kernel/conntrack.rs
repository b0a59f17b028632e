//! Connection tracking: find flows by port and delete them (ctnetlink).
//!
//! The kernel filters a dump by protocol and destination port (`CTA_FILTER`, Linux 5.8); what it
//! returns is judged again here, so that a kernel that ignores the filter only costs time. Flows
//! are deleted one by one with their ID. A filtered delete would be one message, but a kernel
//! that does not know the filter may take it for "flush everything".

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    NetfilterSubsystem,
};
use nix::errno::Errno;

use super::ip::IpVersion;
use crate::kernel::attributes::list as attributes;
use crate::kernel::netlink::{Connection, append};
use crate::kernel::nft::L4Protocol;

const NLA_F_NESTED: u16 = 0x8000;

// <linux/netfilter/nfnetlink_conntrack.h>
const CTNL_MSG_GET: u8 = 1;
const CTNL_MSG_DELETE: u8 = 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
// enum ctattr_tuple, ctattr_ip and ctattr_l4proto
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// Acknowledgements of this many deletions fit a socket's default receive buffer.
const DELETIONS_PER_REQUEST: usize = 64;

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Source address.
    pub source: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port.
    pub destination_port: u16,
}

/// A tracked flow.
#[derive(Clone, Debug)]
pub struct Flow {
    /// As the first packet was sent.
    pub original: Endpoints,
    /// As answers are expected; its source is where the flow really goes.
    pub reply: Endpoints,
    /// What names the flow in a request: the original tuple, the ID, the zone.
    identity: Vec<(u16, Vec<u8>)>,
}

/// The connection tracking table of the network namespace that a socket was opened in.
#[derive(Debug)]
pub struct Conntrack<'a> {
    connection: &'a mut Connection,
}

impl<'a> Conntrack<'a> {
    /// Over a socket of `NETLINK_NETFILTER`, which may be one that `nf_tables` is asked over.
    pub fn over(connection: &'a mut Connection) -> Self {
        Self { connection }
    }

    /// Flows of one family and protocol whose original destination port is `port`, or all of
    /// the protocol's.
    pub fn flows(
        &mut self,
        version: IpVersion,
        protocol: L4Protocol,
        port: Option<u16>,
    ) -> io::Result<Vec<Flow>> {
        let sequence = self.connection.next_sequence();
        let mut request = Vec::with_capacity(128);
        let filter = filter_attributes(protocol, port);
        append(
            &mut request,
            message(sequence, NLM_F_REQUEST | NLM_F_DUMP, version, CTNL_MSG_GET, filter),
        );
        self.connection.send(&request)?;
        let mut flows = Vec::new();
        self.connection.receive_dump(|answer| {
            if let Some((number, flow)) = parse(answer.payload) {
                let wanted = port.is_none_or(|port| flow.original.destination_port == port);
                if wanted && number == protocol.number() {
                    flows.push(flow);
                }
            }
        })?;
        Ok(flows)
    }

    /// Deletes flows; those that are gone by now are not an error.
    pub fn delete(&mut self, flows: &[Flow]) -> io::Result<()> {
        const ENOENT: i32 = Errno::ENOENT as i32;
        for chunk in flows.chunks(DELETIONS_PER_REQUEST) {
            let mut request = Vec::with_capacity(chunk.len() * 128);
            for flow in chunk {
                let sequence = self.connection.next_sequence();
                let identity = flow
                    .identity
                    .iter()
                    .map(|(kind, value)| DefaultNla::new(*kind, value.clone()))
                    .collect();
                let flags = NLM_F_REQUEST | NLM_F_ACK;
                let version = IpVersion::of(flow.original.destination);
                append(&mut request, message(sequence, flags, version, CTNL_MSG_DELETE, identity));
            }
            self.connection.send(&request)?;
            let statuses = self.connection.receive_count(chunk.len(), |_| {})?;
            if let Some(status) = statuses.iter().find(|status| !matches!(status.errno, 0 | ENOENT))
            {
                return Err(io::Error::from_raw_os_error(status.errno));
            }
        }
        Ok(())
    }
}

fn message(
    sequence: u32,
    flags: u16,
    version: IpVersion,
    message_type: u8,
    attributes: Vec<DefaultNla>,
) -> NetlinkMessage<NetfilterMessage> {
    let family = match version {
        IpVersion::V4 => NetfilterProtoFamily::IPv4,
        IpVersion::V6 => NetfilterProtoFamily::IPv6,
    };
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    // The crate's conntrack types drop the nested flag of attributes they do not know.
    let inner = NetfilterMessageInner::Other {
        subsys: NetfilterSubsystem::Conntrack,
        message_type,
        attributes,
    };
    let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner);
    NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message))
}

/// The tuple to compare with and which of its parts count.
fn filter_attributes(protocol: L4Protocol, port: Option<u16>) -> Vec<DefaultNla> {
    const FILTER_ORIG_FLAGS: u16 = 1;
    const FILTER_REPLY_FLAGS: u16 = 2;
    const F_PROTO_NUM: u32 = 1 << 3;
    const F_PROTO_DST_PORT: u32 = 1 << 5;

    let mut flags = F_PROTO_NUM;
    let mut proto = attribute(CTA_PROTO_NUM, &[protocol.number()]);
    if let Some(port) = port {
        flags |= F_PROTO_DST_PORT;
        proto.extend(attribute(CTA_PROTO_DST_PORT, &port.to_be_bytes()));
    }
    let tuple = attribute(CTA_TUPLE_PROTO | NLA_F_NESTED, &proto);
    let mut filter = attribute(FILTER_ORIG_FLAGS, &flags.to_ne_bytes());
    filter.extend(attribute(FILTER_REPLY_FLAGS, &0u32.to_ne_bytes()));
    vec![
        DefaultNla::new(CTA_TUPLE_ORIG | NLA_F_NESTED, tuple),
        DefaultNla::new(CTA_FILTER | NLA_F_NESTED, filter),
    ]
}

/// One short attribute with its header and padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    use netlink_packet_core::Emitable;
    let nla = DefaultNla::new(kind, value.to_vec());
    let mut bytes = vec![0; nla.buffer_len()];
    nla.emit(&mut bytes);
    bytes
}

/// The protocol number and the flow; `None` for flows without ports.
pub(crate) fn parse(payload: &[u8]) -> Option<(u8, Flow)> {
    const NFGENMSG: usize = 4;
    let parts = attributes(payload.get(NFGENMSG..)?)?;
    let find = |kind| parts.iter().find(|(k, _)| *k == kind).map(|(_, value)| *value);
    let (number, original) = endpoints(find(CTA_TUPLE_ORIG)?)?;
    let (_, reply) = endpoints(find(CTA_TUPLE_REPLY)?)?;
    let mut identity = vec![(CTA_TUPLE_ORIG | NLA_F_NESTED, find(CTA_TUPLE_ORIG)?.to_vec())];
    for kind in [CTA_ID, CTA_ZONE] {
        identity.extend(find(kind).map(|value| (kind, value.to_vec())));
    }
    Some((number, Flow { original, reply, identity }))
}

fn endpoints(tuple: &[u8]) -> Option<(u8, Endpoints)> {
    let parts = attributes(tuple)?;
    let nested = |kind: u16| attributes(parts.iter().find(|(k, _)| *k == kind)?.1);
    let (ip, proto) = (nested(CTA_TUPLE_IP)?, nested(CTA_TUPLE_PROTO)?);
    let address = |v4_kind: u16, v6_kind: u16| {
        ip.iter().find_map(|(kind, value)| {
            if *kind == v4_kind {
                Some(Ipv4Addr::from(<[u8; 4]>::try_from(*value).ok()?).into())
            } else if *kind == v6_kind {
                Some(Ipv6Addr::from(<[u8; 16]>::try_from(*value).ok()?).into())
            } else {
                None
            }
        })
    };
    let number = |kind: u16| proto.iter().find(|(k, _)| *k == kind).map(|(_, value)| *value);
    let port = |kind| Some(u16::from_be_bytes(number(kind)?.try_into().ok()?));
    let endpoints = Endpoints {
        source: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        source_port: port(CTA_PROTO_SRC_PORT)?,
        destination: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        destination_port: port(CTA_PROTO_DST_PORT)?,
    };
    Some((*number(CTA_PROTO_NUM)?.first()?, endpoints))
}
