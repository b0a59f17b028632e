//! What stands in registers: where it comes from, and what it is compared with.

use std::net::IpAddr;
use std::ops::Deref;

use super::statement::Selector;

/// `NFT_REG_VERDICT`, and the first of those for data.
pub(super) const REG_VERDICT: u32 = 0;
pub(super) const REG_1: u32 = 1;
/// A register's length in bytes.
pub(super) const REGISTER: usize = 16;

pub(super) fn slots(selector: Selector) -> usize {
    match selector {
        Selector::Ip6Source
        | Selector::Ip6Destination
        | Selector::InputInterface
        | Selector::OutputInterface => 4,
        _ => 1,
    }
}

/// The kernel names registers by 16 bytes where it can, and reports them so.
pub(super) fn register(slot: usize) -> u32 {
    const REG32_00: u32 = 8;
    let slot = u32::try_from(slot).unwrap_or(u32::MAX);
    if slot.is_multiple_of(4) { REG_1 + slot / 4 } else { REG32_00 + slot }
}

/// A field of a packet's header: where the kernel counts from, and its place there in bytes.
#[derive(Clone, Copy)]
pub(super) struct Field {
    pub(super) base: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// `NFT_PAYLOAD_LL_HEADER`
const LINK_HEADER: u32 = 0;
/// `NFT_PAYLOAD_NETWORK_HEADER`
const NETWORK_HEADER: u32 = 1;
/// `NFT_PAYLOAD_TRANSPORT_HEADER`
const TRANSPORT_HEADER: u32 = 2;

impl Field {
    // A frame with a VLAN tag has the tag's type there.
    pub(super) const ETHER_TYPE: Self = Self { base: LINK_HEADER, offset: 12, length: 2 };
    // RFC 791, RFC 8200; ports are in the same place in TCP, UDP and SCTP.
    pub(super) const IP4_SADDR: Self = Self { base: NETWORK_HEADER, offset: 12, length: 4 };
    pub(super) const IP4_DADDR: Self = Self { base: NETWORK_HEADER, offset: 16, length: 4 };
    pub(super) const IP6_SADDR: Self = Self { base: NETWORK_HEADER, offset: 8, length: 16 };
    pub(super) const IP6_DADDR: Self = Self { base: NETWORK_HEADER, offset: 24, length: 16 };
    pub(super) const TH_SPORT: Self = Self { base: TRANSPORT_HEADER, offset: 0, length: 2 };
    pub(super) const TH_DPORT: Self = Self { base: TRANSPORT_HEADER, offset: 2, length: 2 };
}

/// What a register is compared or masked with.
pub(super) struct Image {
    bytes: [u8; REGISTER],
    length: usize,
}

impl Image {
    /// The first so many bytes of it.
    pub(super) fn cut(self, length: usize) -> Self {
        Self { length: length.min(self.length), ..self }
    }

    /// Of no more bytes than a register has.
    pub(super) fn of(value: &[u8]) -> Self {
        let mut bytes = [0; REGISTER];
        bytes.iter_mut().zip(value).for_each(|(place, byte)| *place = *byte);
        Self { bytes, length: value.len().min(REGISTER) }
    }
}

impl Deref for Image {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

pub(super) fn octets(address: IpAddr) -> Image {
    match address {
        IpAddr::V4(v4) => Image::of(&v4.octets()),
        IpAddr::V6(v6) => Image::of(&v6.octets()),
    }
}

/// A name is compared with its padding; a prefix (`veth*`) without.
pub(super) fn interface_image(name: &str) -> Image {
    if let Some(prefix) = name.strip_suffix('*') {
        return Image::of(prefix.as_bytes());
    }
    let name = name.as_bytes();
    Image { length: REGISTER, ..Image::of(&name[..name.len().min(REGISTER - 1)]) }
}
