//! One message of the kernel about a packet (`NFT_MSG_TRACE`). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use cni_common::kernel::attributes::Attributes;

use crate::notification::{self, Notification};
use crate::rules::verdict::Verdict;

/// What the kernel tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// The same for all that is told of one packet.
    pub(super) packet: u32,
    /// The table's family, in nft's word, and its name.
    pub(super) table: (&'static str, String),
    pub(super) chain: String,
    pub(super) kind: Kind,
    pub(super) verdict: Verdict,
    /// Where it comes from and goes to, as it is at this point; told now and then.
    pub(super) ends: Option<(SocketAddr, SocketAddr)>,
    /// Indices of the interfaces that it came in by and goes out by.
    pub(super) input: Option<u32>,
    pub(super) output: Option<u32>,
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A rule, by its handle.
    Rule(u64),
    /// The end of a chain that was jumped to.
    Return,
    /// A base chain's policy.
    Policy,
}

/// The traces in a datagram; what is anything else is passed over.
pub(super) fn read(datagram: &[u8]) -> Vec<Event> {
    notification::read(datagram).iter().filter_map(event).collect()
}

fn event(told: &Notification<'_>) -> Option<Event> {
    const NFT_MSG_TRACE: u16 = 17;
    // enum nft_trace_attributes
    const TABLE: u16 = 1;
    const CHAIN: u16 = 2;
    const RULE_HANDLE: u16 = 3;
    const TYPE: u16 = 4;
    const VERDICT: u16 = 5;
    const ID: u16 = 6;
    const IIF: u16 = 10;
    const OIF: u16 = 12;
    const POLICY: u16 = 16;
    if told.kind != NFT_MSG_TRACE {
        return None;
    }
    let parts = &told.attributes;
    let (kind, verdict) = match parts.be32(TYPE)? {
        1 => (Kind::Policy, Verdict::of(parts.be32(POLICY)?, None)),
        2 => (Kind::Return, Verdict::Return),
        3 => {
            let handle = u64::from_be_bytes(parts.get(RULE_HANDLE)?.try_into().ok()?);
            (Kind::Rule(handle), Verdict::read(&parts.nested(VERDICT)?)?)
        }
        _ => return None,
    };
    Some(Event {
        packet: parts.be32(ID)?,
        table: (told.family, parts.text(TABLE)?),
        chain: parts.text(CHAIN)?,
        kind,
        verdict,
        ends: ends(parts),
        input: parts.be32(IIF),
        output: parts.be32(OIF),
    })
}

/// Source and destination by the headers of RFC 791, RFC 8200, and the ports before all else of TCP,
/// UDP and SCTP.
fn ends(parts: &Attributes<'_>) -> Option<(SocketAddr, SocketAddr)> {
    const NETWORK_HEADER: u16 = 8;
    const TRANSPORT_HEADER: u16 = 9;
    let network = parts.get(NETWORK_HEADER)?;
    let transport = parts.get(TRANSPORT_HEADER)?;
    let (source, destination): (IpAddr, IpAddr) = match network.first()? >> 4 {
        4 => {
            let address = |at: usize| Some(Ipv4Addr::from(*network.get(at..)?.first_chunk::<4>()?));
            (address(12)?.into(), address(16)?.into())
        }
        6 => {
            let address =
                |at: usize| Some(Ipv6Addr::from(*network.get(at..)?.first_chunk::<16>()?));
            (address(8)?.into(), address(24)?.into())
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(*transport.get(at..)?.first_chunk()?));
    Some((SocketAddr::new(source, port(0)?), SocketAddr::new(destination, port(2)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::made::{attribute, message};

    const TRACE: u16 = 0x0a11;

    fn datagram(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
        message(kind, 1, attributes)
    }

    fn start(kind: u32) -> Vec<Vec<u8>> {
        vec![
            attribute(1, b"t\0"),
            attribute(2, b"c\0"),
            attribute(4, &kind.to_be_bytes()),
            attribute(6, &7_u32.to_be_bytes()),
        ]
    }

    #[test]
    fn a_rule_and_a_policy() {
        let verdict = [attribute(1, &(-3_i32).to_be_bytes()), attribute(2, b"to\0")].concat();
        let mut network = vec![0x45; 20];
        network[12..20].copy_from_slice(&[192, 0, 2, 7, 192, 0, 2, 1]);
        let mut rule = start(3);
        rule.extend([
            attribute(3, &5_u64.to_be_bytes()),
            attribute(5, &verdict),
            attribute(8, &network),
            attribute(9, &[0x10, 0x00, 0x1f, 0x90]),
            attribute(10, &3_u32.to_be_bytes()),
        ]);
        let mut policy = start(1);
        policy.push(attribute(16, &0_u32.to_be_bytes()));
        let both = [datagram(TRACE, &rule), datagram(TRACE, &policy)].concat();
        let [rule, policy] = read(&both).try_into().expect("two");
        assert_eq!((rule.kind, rule.verdict), (Kind::Rule(5), Verdict::Jump("to".into())));
        let ends = ["192.0.2.7:4096", "192.0.2.1:8080"].map(|text| text.parse().expect("a socket"));
        assert_eq!(rule.ends, Some(ends.into()));
        assert_eq!((rule.packet, rule.table, rule.input), (7, ("inet", "t".into()), Some(3)));
        assert_eq!((policy.kind, policy.verdict), (Kind::Policy, Verdict::Drop));
    }

    #[test]
    fn what_is_none() {
        for bytes in [&[][..], &[3, 0, 0, 0], &[200, 0, 0, 0, 1], &datagram(0x0a00, &start(3))] {
            assert_eq!(read(bytes), []);
        }
        assert_eq!(read(&datagram(TRACE, &start(3)[..2])), []);
    }
}
