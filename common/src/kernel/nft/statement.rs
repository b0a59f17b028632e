//! The statements that our rules are made of, and their nft syntax.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::family::Family;
use super::l4::L4Protocol;
use crate::kernel::ip::IpVersion;

/// A property of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selector {
    /// `ip saddr`
    Ip4Source,
    /// `ip daddr`
    Ip4Destination,
    /// `ip6 saddr`
    Ip6Source,
    /// `ip6 daddr`
    Ip6Destination,
    /// `meta l4proto`
    L4Protocol,
    /// `th sport`
    SourcePort,
    /// `th dport`
    DestinationPort,
    /// `iifname`
    InputInterface,
    /// `oifname`
    OutputInterface,
    /// `meta mark`
    PacketMark,
    /// `ether type`: what a frame carries, behind no VLAN tag.
    EtherType,
}

impl Selector {
    /// nft's words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ip4Source => "ip saddr",
            Self::Ip4Destination => "ip daddr",
            Self::Ip6Source => "ip6 saddr",
            Self::Ip6Destination => "ip6 daddr",
            Self::L4Protocol => "meta l4proto",
            Self::SourcePort => "th sport",
            Self::DestinationPort => "th dport",
            Self::InputInterface => "iifname",
            Self::OutputInterface => "oifname",
            Self::PacketMark => "meta mark",
            Self::EtherType => "ether type",
        }
    }
}

/// What a selector is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// An address or network; host bits are ignored.
    Network(IpNet),
    /// A port.
    Port(u16),
    /// A transport protocol.
    Protocol(L4Protocol),
    /// An interface name; a trailing `*` matches any end.
    Interface(String),
    /// The Ethernet type of a version of IP.
    EtherType(IpVersion),
    /// A mark, after masking with `mask`.
    Mark {
        /// The value wanted.
        value: u32,
        /// Bits that count.
        mask: u32,
    },
}

/// A selector as part of a concatenated key, masked first if `mask` is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPart {
    /// The packet property.
    pub selector: Selector,
    /// Netmask applied to an address.
    pub mask: Option<IpAddr>,
}

impl From<Selector> for KeyPart {
    fn from(selector: Selector) -> Self {
        Self { selector, mask: None }
    }
}

/// One statement of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Continue if the selector equals (or, negated, differs from) the operand.
    Match {
        /// The packet property.
        selector: Selector,
        /// Whether the comparison is `!=`.
        negated: bool,
        /// What it is compared with.
        operand: Operand,
    },
    /// Continue if the transport protocol is one of these.
    ProtocolIn(Vec<L4Protocol>),
    /// Continue if the destination is an address of this host.
    DestinationIsLocal,
    /// Continue if the destination is no address of the interface that the packet came in by.
    DestinationIsNotOfInputInterface,
    /// Continue if the connection's destination was translated.
    ConnectionIsDnat,
    /// Continue if the connection's source or destination was translated.
    ConnectionIsTranslated,
    /// Continue if the packet belongs to a connection that both sides know, or to an error about
    /// one.
    ConnectionIsEstablished,
    /// Continue if the key is an element of the set.
    InSet {
        /// The key's parts.
        key: Vec<KeyPart>,
        /// The set's name.
        set: String,
    },
    /// Look the key up and translate the destination to the address and port found; continue
    /// with the next rule when there is no such element.
    DnatByMap {
        /// Which addresses the map leads to.
        version: IpVersion,
        /// The key's parts.
        key: Vec<KeyPart>,
        /// The map's name.
        map: String,
    },
    /// Set these bits of the packet's mark.
    MarkSet(u32),
    /// Clear these bits of the packet's mark.
    MarkClear(u32),
    /// Have the kernel tell whoever listens what rules the packet passes from here on.
    Trace,
    /// Translate the source to the outgoing interface's address.
    Masquerade,
    /// Accept.
    Accept,
    /// Drop.
    Drop,
    /// Continue in another chain and come back.
    Jump(String),
    /// Continue in another chain for good.
    Goto(String),
    /// Go back to where this chain was jumped to from.
    Return,
}

/// The rule in nft's syntax, as `nft list` prints it.
impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Match { selector, negated, operand } => {
                let operator = if *negated { " !=" } else { "" };
                match operand {
                    Operand::Mark { value, mask } if *mask != u32::MAX => {
                        let operator = if *negated { "!=" } else { "==" };
                        write!(f, "meta mark & 0x{mask:08x} {operator} 0x{value:08x}")
                    }
                    _ => write!(f, "{}{operator} {operand}", selector.as_str()),
                }
            }
            Self::ProtocolIn(protocols) => {
                let names: Vec<_> = protocols.iter().map(|protocol| protocol.as_str()).collect();
                write!(f, "meta l4proto {{ {} }}", names.join(", "))
            }
            Self::DestinationIsLocal => f.write_str("fib daddr type local"),
            Self::DestinationIsNotOfInputInterface => f.write_str("fib daddr . iif type != local"),
            Self::ConnectionIsDnat => f.write_str("ct status dnat"),
            Self::ConnectionIsTranslated => f.write_str("ct status snat,dnat"),
            Self::ConnectionIsEstablished => f.write_str("ct state established,related"),
            Self::InSet { key, set } => write!(f, "{} @{set}", key_text(key)),
            Self::DnatByMap { version, key, map } => {
                let family = Family::of(*version).as_str();
                write!(f, "dnat {family} to {} map @{map}", key_text(key))
            }
            Self::MarkSet(bits) => write!(f, "meta mark set meta mark | 0x{bits:08x}"),
            Self::MarkClear(bits) => write!(f, "meta mark set meta mark & 0x{:08x}", !bits),
            Self::Trace => f.write_str("meta nftrace set 1"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Return => f.write_str("return"),
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) if network.prefix_len() == network.max_prefix_len() => {
                network.addr().fmt(f)
            }
            Self::Network(network) => network.trunc().fmt(f),
            Self::Port(port) => port.fmt(f),
            Self::Protocol(protocol) => protocol.fmt(f),
            Self::Interface(name) => write!(f, "\"{name}\""),
            Self::EtherType(version) => f.write_str(Family::of(*version).as_str()),
            Self::Mark { value, .. } => write!(f, "0x{value:08x}"),
        }
    }
}

fn key_text(key: &[KeyPart]) -> String {
    key.iter()
        .map(|part| match part.mask {
            Some(mask) => format!("{} & {mask}", part.selector.as_str()),
            None => part.selector.as_str().to_owned(),
        })
        .collect::<Vec<_>>()
        .join(" . ")
}
