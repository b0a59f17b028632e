//! What `nf_tables` tells whoever listens, message by message. Pure.

use cni_common::kernel::attributes::Attributes;

/// `NFNL_SUBSYS_NFTABLES` as the upper byte of a message's type.
const NFTABLES: u16 = 10 << 8;

/// A message to a multicast group.
pub(crate) struct Notification<'a> {
    /// `NFT_MSG_*` of `<linux/netfilter/nf_tables.h>`.
    pub(crate) kind: u16,
    /// The table's family, in nft's word.
    pub(crate) family: &'static str,
    pub(crate) attributes: Attributes<'a>,
}

/// The messages of a datagram; what is not whole or of another subsystem is passed over.
pub(crate) fn read(datagram: &[u8]) -> Vec<Notification<'_>> {
    const HEADER: usize = 16;
    let mut found = Vec::new();
    let mut rest = datagram;
    while let Some(length) = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
        if length < HEADER {
            break;
        }
        let Some(message) = rest.get(..length) else { break };
        found.extend(notification(message));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn notification(message: &[u8]) -> Option<Notification<'_>> {
    const TYPE: usize = 4;
    /// `struct nfgenmsg`, which begins with the family.
    const NFGENMSG: usize = 16;
    const ATTRIBUTES: usize = 20;
    let kind = u16::from_ne_bytes(*message.get(TYPE..)?.first_chunk()?);
    Some(Notification {
        kind: kind.checked_sub(NFTABLES).filter(|kind| *kind <= 0xff)?,
        family: family(*message.get(NFGENMSG)?),
        attributes: Attributes::parse(message.get(ATTRIBUTES..)?)?,
    })
}

/// `NFPROTO_*` of `<linux/netfilter.h>`.
fn family(number: u8) -> &'static str {
    match number {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "unknown",
    }
}

/// Messages for the tests of whoever reads them.
#[cfg(test)]
pub(crate) mod made {
    /// An attribute.
    pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).expect("short");
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// A message with these attributes; the kind has its subsystem.
    pub(crate) fn message(kind: u16, family: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = attributes.concat();
        let length = u32::try_from(20 + body.len()).expect("short");
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(16, 0);
        bytes.extend([family, 0, 0, 0]);
        bytes.extend(body);
        bytes
    }
}
