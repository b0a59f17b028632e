//! One message of the kernel about a packet (`NFT_MSG_TRACE`). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use cni_common::kernel::attributes::Attributes;

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

/// What it decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Continue,
    Return,
    Jump(String),
    Goto(String),
    Other,
}

/// `NFNL_SUBSYS_NFTABLES` (10) and `NFT_MSG_TRACE` (17).
const TRACE: u16 = 0x0a11;

/// The traces in a datagram; what is anything else is passed over.
pub(super) fn read(datagram: &[u8]) -> Vec<Event> {
    const HEADER: usize = 16;
    let mut events = Vec::new();
    let mut rest = datagram;
    while let Some(length) = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
        if length < HEADER || length > rest.len() {
            break;
        }
        events.extend(message(&rest[..length]));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    events
}

fn message(bytes: &[u8]) -> Option<Event> {
    const NFGENMSG: usize = 16;
    const ATTRIBUTES: usize = 20;
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
    if u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?) != TRACE {
        return None;
    }
    let parts = Attributes::parse(bytes.get(ATTRIBUTES..)?)?;
    let (kind, verdict) = match be32(parts.get(TYPE)?)? {
        1 => (Kind::Policy, decision(be32(parts.get(POLICY)?)?, None)),
        2 => (Kind::Return, Verdict::Return),
        3 => {
            let handle = u64::from_be_bytes(parts.get(RULE_HANDLE)?.try_into().ok()?);
            (Kind::Rule(handle), verdict(&parts.nested(VERDICT)?)?)
        }
        _ => return None,
    };
    Some(Event {
        packet: be32(parts.get(ID)?)?,
        table: (family(*bytes.get(NFGENMSG)?), parts.text(TABLE)?),
        chain: parts.text(CHAIN)?,
        kind,
        verdict,
        ends: ends(&parts),
        input: parts.get(IIF).and_then(be32),
        output: parts.get(OIF).and_then(be32),
    })
}

fn verdict(parts: &Attributes<'_>) -> Option<Verdict> {
    // enum nft_verdict_attributes
    const CODE: u16 = 1;
    const CHAIN: u16 = 2;
    Some(decision(be32(parts.get(CODE)?)?, parts.text(CHAIN)))
}

/// enum `nft_verdicts`, and `NF_DROP` and `NF_ACCEPT` of `<linux/netfilter.h>`.
fn decision(code: u32, chain: Option<String>) -> Verdict {
    match (code.cast_signed(), chain) {
        (0, _) => Verdict::Drop,
        (1, _) => Verdict::Accept,
        (-1, _) => Verdict::Continue,
        (-3, Some(chain)) => Verdict::Jump(chain),
        (-4, Some(chain)) => Verdict::Goto(chain),
        (-5, _) => Verdict::Return,
        _ => Verdict::Other,
    }
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

/// `NFPROTO_*` of `<linux/netfilter.h>`.
fn family(number: u8) -> &'static str {
    match number {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        7 => "bridge",
        5 => "netdev",
        _ => "unknown",
    }
}

fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).expect("short");
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn datagram(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = attributes.concat();
        let length = u32::try_from(20 + body.len()).expect("short");
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(16, 0);
        bytes.extend([1, 0, 0, 0]);
        bytes.extend(body);
        bytes
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
