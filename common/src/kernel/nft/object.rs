//! What an `nf_tables` table is made of, typed.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::family::Family;
use super::l4::L4Protocol;
use super::statement::Statement;

/// A table: the only name that its objects share with the rest of the ruleset.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: Cow<'static, str>,
}

impl Table {
    /// A table with a fixed name.
    #[must_use]
    pub const fn new(family: Family, name: &'static str) -> Self {
        Self { family, name: Cow::Borrowed(name) }
    }
}

/// As in `nft list table inet cni_portmap`.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family.as_str(), self.name)
    }
}

/// A chain; one with a hook is a base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where packets enter it from the kernel, if they do.
    pub base: Option<BaseChain>,
}

/// A base chain's place in the packet path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// `filter`, `nat` or `route`.
    pub kind: ChainKind,
    /// The netfilter hook.
    pub hook: Hook,
    /// Smaller runs first.
    pub priority: Priority,
}

/// A base chain's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of each connection.
    Nat,
}

impl ChainKind {
    /// nft's keyword.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// Netfilter hooks of the inet families (`NF_INET_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// To a local process.
    Input,
    /// Routed through.
    Forward,
    /// From a local process.
    Output,
    /// Leaving.
    Postrouting,
}

impl Hook {
    /// nft's keyword.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }

    /// The kernel's number.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

/// A base chain's priority within its hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(pub i32);

impl Priority {
    /// `raw`: before connection tracking.
    pub const RAW: Self = Self(-300);
    /// `dstnat`: where kube-proxy and other NAT tables look at destinations.
    pub const DSTNAT: Self = Self(-100);
    /// `filter`.
    pub const FILTER: Self = Self(0);
    /// `srcnat`.
    pub const SRCNAT: Self = Self(100);
}

/// A type that a set's key or a map's data is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    /// IPv4 address.
    Ipv4Addr,
    /// IPv6 address.
    Ipv6Addr,
    /// Transport protocol number.
    InetProto,
    /// Transport port.
    InetService,
    /// 32 bits that mean what their user wants.
    Mark,
    /// Text of up to 15 bytes.
    IfName,
}

impl DataType {
    /// nft's keyword.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4Addr => "ipv4_addr",
            Self::Ipv6Addr => "ipv6_addr",
            Self::InetProto => "inet_proto",
            Self::InetService => "inet_service",
            Self::Mark => "mark",
            Self::IfName => "ifname",
        }
    }

    /// nft's type number (`enum datatypes` of nftables' datatype.h), which the kernel stores for
    /// listings only.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::InetProto => 12,
            Self::InetService => 13,
            Self::Mark => 19,
            Self::IfName => 41,
        }
    }

    /// Bytes in a register, padded to 32 bits.
    #[must_use]
    pub fn padded_len(self) -> u32 {
        match self {
            Self::Ipv4Addr | Self::InetProto | Self::InetService | Self::Mark => 4,
            Self::Ipv6Addr | Self::IfName => 16,
        }
    }
}

/// A named set or, with `data`, a map. Keys and data may be concatenations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// The key's parts.
    pub key: Vec<DataType>,
    /// The data's parts; empty for a set.
    pub data: Vec<DataType>,
}

impl Set {
    /// `map` or `set`, as nft says.
    #[must_use]
    pub fn keyword(&self) -> &'static str {
        if self.data.is_empty() { "set" } else { "map" }
    }
}

/// One part of an element's key or data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// An address of either family.
    Address(IpAddr),
    /// A transport protocol number.
    Protocol(L4Protocol),
    /// A transport port.
    Port(u16),
    /// A mark.
    Mark(u32),
    /// A name.
    Name(String),
}

impl Value {
    /// Appends the register image: network byte order, padded to 32 bits (nft's own layout).
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Address(IpAddr::V4(address)) => bytes.extend(address.octets()),
            Self::Address(IpAddr::V6(address)) => bytes.extend(address.octets()),
            Self::Protocol(protocol) => bytes.extend([protocol.number(), 0, 0, 0]),
            Self::Port(port) => {
                bytes.extend(port.to_be_bytes());
                bytes.extend([0, 0]);
            }
            // Marks are the one type that the kernel keeps in host byte order.
            Self::Mark(mark) => bytes.extend(mark.to_ne_bytes()),
            Self::Name(name) => {
                let mut padded = [0; 16];
                for (slot, byte) in padded.iter_mut().zip(name.bytes().take(15)) {
                    *slot = byte;
                }
                bytes.extend(padded);
            }
        }
    }

    /// Reads one part of a register image and returns what follows it.
    #[must_use]
    pub fn decode(kind: DataType, bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_at_checked(kind.padded_len() as usize)?;
        let value = match kind {
            DataType::Ipv4Addr => {
                Self::Address(Ipv4Addr::from(<[u8; 4]>::try_from(head).ok()?).into())
            }
            DataType::Ipv6Addr => {
                Self::Address(Ipv6Addr::from(<[u8; 16]>::try_from(head).ok()?).into())
            }
            DataType::InetProto => Self::Protocol(
                L4Protocol::ALL.into_iter().find(|protocol| protocol.number() == head[0])?,
            ),
            DataType::InetService => Self::Port(u16::from_be_bytes([head[0], head[1]])),
            DataType::Mark => Self::Mark(u32::from_ne_bytes(head.try_into().ok()?)),
            DataType::IfName => {
                let end = head.iter().position(|byte| *byte == 0).unwrap_or(head.len());
                Self::Name(String::from_utf8_lossy(&head[..end]).into_owned())
            }
        };
        Some((value, rest))
    }
}

/// As nft prints it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Protocol(protocol) => protocol.fmt(f),
            Self::Port(port) => port.fmt(f),
            Self::Mark(mark) => write!(f, "0x{mark:08x}"),
            Self::Name(name) => write!(f, "\"{name}\""),
        }
    }
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The key's parts.
    pub key: Vec<Value>,
    /// The data's parts; empty in a set.
    pub data: Vec<Value>,
    /// The owner tag, or whatever else was written there.
    pub comment: Option<String>,
}

/// The parts joined by ` . `, as nft prints a concatenation.
#[must_use]
pub fn concatenation(parts: &[Value]) -> String {
    parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" . ")
}

/// A rule: statements that are run in order until one does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The chain it is appended to.
    pub chain: String,
    /// What it does.
    pub statements: Vec<Statement>,
    /// The owner tag, if one attachment or network owns the rule.
    pub comment: Option<String>,
}

/// A chain as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledChain {
    /// Name and hook.
    pub chain: Chain,
    /// How many rules it has, plus how many rules lead to it.
    pub uses: u32,
    /// Whether a base chain's policy drops what no rule decided.
    pub drops: bool,
}

/// A rule as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledRule {
    /// Its chain.
    pub chain: String,
    /// The kernel's handle.
    pub handle: u64,
    /// The expression list in netlink form; see [`super::compare::is_rule`].
    pub expressions: Vec<u8>,
    /// Its comment.
    pub comment: Option<String>,
}

/// What an element of a set or map of any types leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A set has the key.
    Member,
    /// A map has these bytes for it.
    Value(Vec<u8>),
    /// A verdict map has this attribute for it (`NFTA_DATA_VERDICT`).
    Verdict(Vec<u8>),
}
