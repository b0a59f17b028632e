//! What is known of the packet whose way is followed: the first of a connection.

use std::net::IpAddr;

use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::L4Protocol;

/// The first packet of a connection at one hook.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) source: Option<IpAddr>,
    /// Where it goes; where that may be any address, it tells the version alone.
    pub(crate) destination: IpAddr,
    pub(crate) is_any_destination: bool,
    pub(crate) protocol: L4Protocol,
    pub(crate) destination_port: u16,
    /// The interface it came in by.
    pub(crate) input: Option<String>,
    /// The interface it goes out by.
    pub(crate) output: Option<String>,
    /// Whether its destination was translated.
    pub(crate) is_dnat: bool,
    /// Whether its destination is an address of this host.
    pub(crate) is_local: bool,
}

/// `NF_CT_STATE_BIT(IP_CT_NEW)` of `<linux/netfilter/nf_conntrack_common.h>`; a first packet has no
/// other state.
pub(super) const STATE_NEW: u32 = 8;
/// `IPS_DST_NAT` of the same header.
pub(super) const STATUS_DST_NAT: u32 = 1 << 5;

impl Packet {
    pub(super) fn version(&self) -> IpVersion {
        IpVersion::of(self.destination)
    }

    /// A byte of the IP header.
    pub(super) fn network_byte(&self, offset: usize) -> Option<u8> {
        let (source_at, destination_at, len, protocol_at) = match self.version() {
            IpVersion::V4 => (12, 16, 4, 9),
            IpVersion::V6 => (8, 24, 16, 6),
        };
        if (destination_at..destination_at + len).contains(&offset) {
            if self.is_any_destination {
                return None;
            }
            return octets(self.destination).get(offset - destination_at).copied();
        }
        if (source_at..source_at + len).contains(&offset) {
            return octets(self.source?).get(offset - source_at).copied();
        }
        (offset == protocol_at).then_some(self.protocol.number())
    }

    /// A byte of the TCP, UDP or SCTP header: only the destination's port is known.
    pub(super) fn transport_byte(&self, offset: usize) -> Option<u8> {
        self.destination_port.to_be_bytes().get(offset.checked_sub(2)?).copied()
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
