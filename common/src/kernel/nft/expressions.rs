//! A rule's statements as expressions: registers, loads, comparisons, verdicts.
//!
//! Numbers are those of `include/uapi/linux/netfilter/nf_tables.h`; the sequences are the ones that
//! nft itself sends, so that `nft list` shows the rules as they are written in `text`, and a table
//! that was listed and loaded again holds what we sent.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, Emitable};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute,
    Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict, VerdictAttribute,
};

use super::family::Family;
use super::l4::L4Protocol;
use super::object::Rule;
use super::statement::{KeyPart, Operand, Selector, Statement};
use crate::kernel::ip::IpVersion;

/// The netlink form of a rule's expression list, for comparison with what the kernel holds.
pub(super) fn rule_expressions(family: Family, rule: &Rule) -> Vec<u8> {
    let mut body = RuleEncoder::new(family, 0);
    rule.statements.iter().for_each(|statement| body.statement(statement));
    let mut bytes = vec![0; body.expressions.as_slice().buffer_len()];
    body.expressions.as_slice().emit(&mut bytes);
    bytes
}

/// Builds one rule's expression list.
pub(super) struct RuleEncoder {
    inet: bool,
    pub(super) expressions: Vec<ListAttribute<ExpressionAttribute>>,
    /// The address family that the rule has been narrowed to so far.
    narrowed: Option<u8>,
    /// Sets without a name, by their number in the batch.
    pub(super) anonymous: Vec<(u32, Vec<L4Protocol>)>,
    pub(super) next_set: u32,
}

const FIRST_SLOT: usize = 0;

impl RuleEncoder {
    /// `sets` is how many sets without a name the batch has so far.
    pub(super) fn new(family: Family, sets: u32) -> Self {
        Self {
            inet: family == Family::Inet,
            expressions: Vec::new(),
            narrowed: None,
            anonymous: Vec::new(),
            next_set: sets,
        }
    }

    fn push(&mut self, expressions: Expressions) {
        self.expressions.push(expressions.into());
    }

    pub(super) fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Match { selector, negated, operand } => {
                self.matches(*selector, *negated, operand);
            }
            Statement::ProtocolIn(protocols) => {
                // Numbers below this belong to named sets, which all use 1.
                self.next_set = self.next_set.max(1) + 1;
                self.anonymous.push((self.next_set, protocols.clone()));
                self.load(FIRST_SLOT, Selector::L4Protocol);
                self.push(Expressions::Lookup(vec![
                    Lookup::Set("__set%d".to_owned()),
                    Lookup::SourceRegister(register(FIRST_SLOT)),
                    Lookup::SetId(self.next_set),
                ]));
            }
            Statement::DestinationIsLocal => self.destination_is_local(),
            Statement::DestinationIsNotOfInputInterface => self.destination_is_not_of_input(),
            Statement::ConnectionIsDnat => self.connection_is_dnat(),
            Statement::ConnectionIsEstablished => self.connection_is_established(),
            Statement::InSet { key, set } => {
                self.load_key(key);
                self.push(Expressions::Lookup(vec![
                    Lookup::Set(set.clone()),
                    Lookup::SourceRegister(register(FIRST_SLOT)),
                ]));
            }
            Statement::DnatByMap { version, key, map } => {
                self.dnat_by_map(*version, key, map);
            }
            Statement::MarkSet(bits) => self.change_mark(*bits, *bits),
            Statement::MarkClear(bits) => self.change_mark(*bits, 0),
            Statement::Trace => self.trace(),
            Statement::Masquerade => self.push(other("masq", vec![])),
            Statement::Accept => self.verdict(VERDICT_ACCEPT, None),
            Statement::Drop => self.verdict(VERDICT_DROP, None),
            Statement::Jump(chain) => self.verdict(Verdict::Jump.into(), Some(chain)),
            Statement::Goto(chain) => self.verdict(Verdict::Goto.into(), Some(chain)),
            Statement::Return => self.verdict(Verdict::Return.into(), None),
        }
    }

    fn matches(&mut self, selector: Selector, negated: bool, operand: &Operand) {
        if !matches!(operand, Operand::Network(_)) {
            self.load(FIRST_SLOT, selector);
        }
        let value = match operand {
            Operand::Network(network) => self.network(selector, *network),
            Operand::Port(port) => port.to_be_bytes().to_vec(),
            Operand::Protocol(protocol) => vec![protocol.number()],
            Operand::Interface(name) => interface_image(name),
            Operand::EtherType(IpVersion::V4) => ETHERTYPE_IPV4.to_be_bytes().to_vec(),
            Operand::EtherType(IpVersion::V6) => ETHERTYPE_IPV6.to_be_bytes().to_vec(),
            Operand::Mark { value, mask } => {
                if *mask != u32::MAX {
                    self.mask(FIRST_SLOT, mask.to_ne_bytes().to_vec());
                }
                value.to_ne_bytes().to_vec()
            }
        };
        self.compare(if negated { Operator::NotEqual } else { Operator::Equal }, value);
    }

    /// Loads what counts of an address, and returns what it is compared with. A prefix of whole
    /// bytes is loaded alone, as nft does.
    fn network(&mut self, selector: Selector, network: IpNet) -> Vec<u8> {
        let mut value = octets(network.network());
        let prefix = usize::from(network.prefix_len());
        if prefix > 0 && prefix.is_multiple_of(8) {
            value.truncate(prefix / 8);
            self.load_bytes(FIRST_SLOT, selector, value.len());
        } else {
            self.load(FIRST_SLOT, selector);
            self.mask(FIRST_SLOT, octets(network.netmask()));
        }
        value
    }

    fn destination_is_local(&mut self) {
        self.address_type(FIB_DADDR, Operator::Equal);
    }

    fn destination_is_not_of_input(&mut self) {
        self.address_type(FIB_DADDR | FIB_IIF, Operator::NotEqual);
    }

    /// Compares the type of the address that `flags` choose with "local".
    fn address_type(&mut self, flags: u32, operator: Operator) {
        const RESULT_ADDRTYPE: u32 = 3;
        const RTN_LOCAL: u32 = 2;
        self.push(other("fib", vec![(1, REG_1), (2, RESULT_ADDRTYPE), (3, flags)]));
        self.compare(operator, RTN_LOCAL.to_ne_bytes().to_vec());
    }

    fn connection_is_dnat(&mut self) {
        const CT_KEY_STATUS: u32 = 2;
        const IPS_DST_NAT: u32 = 1 << 5;
        self.push(other("ct", vec![(1, REG_1), (2, CT_KEY_STATUS)]));
        self.mask(FIRST_SLOT, IPS_DST_NAT.to_ne_bytes().to_vec());
        self.compare(Operator::NotEqual, vec![0; 4]);
    }

    fn connection_is_established(&mut self) {
        const CT_KEY_STATE: u32 = 0;
        const ESTABLISHED: u32 = 1 << 1;
        const RELATED: u32 = 1 << 2;
        self.push(other("ct", vec![(1, REG_1), (2, CT_KEY_STATE)]));
        self.mask(FIRST_SLOT, (ESTABLISHED | RELATED).to_ne_bytes().to_vec());
        self.compare(Operator::NotEqual, vec![0; 4]);
    }

    fn dnat_by_map(&mut self, version: IpVersion, key: &[KeyPart], map: &str) {
        const NAT_TYPE_DNAT: u32 = 1;
        let (nfproto, address_slots) = match version {
            IpVersion::V4 => (NFPROTO_IPV4, 1),
            IpVersion::V6 => (NFPROTO_IPV6, 4),
        };
        self.load_key(key);
        self.push(Expressions::Lookup(vec![
            Lookup::Set(map.to_owned()),
            Lookup::SourceRegister(register(FIRST_SLOT)),
            Lookup::DestinationRegister(register(FIRST_SLOT)),
        ]));
        let address = register_number(FIRST_SLOT);
        let port = register_number(FIRST_SLOT + address_slots);
        self.push(other(
            "nat",
            vec![
                (1, NAT_TYPE_DNAT),
                (2, nfproto.into()),
                (3, address),
                (4, address),
                (5, port),
                (6, port),
            ],
        ));
    }

    /// `mark = (mark & !bits) ^ value`
    fn change_mark(&mut self, bits: u32, value: u32) {
        let mask = (!bits).to_ne_bytes().to_vec();
        self.load(FIRST_SLOT, Selector::PacketMark);
        self.bitwise(FIRST_SLOT, mask, value.to_ne_bytes().to_vec());
        self.push(Expressions::Meta(vec![
            Meta::SourceRegister(register(FIRST_SLOT)),
            Meta::Key(MetaKey::Mark),
        ]));
    }

    fn trace(&mut self) {
        self.push(Expressions::Immediate(vec![
            Immediate::DestinationRegister(register(FIRST_SLOT)),
            Immediate::Data(DataAttribute::Value(vec![1])),
        ]));
        self.push(Expressions::Meta(vec![
            Meta::SourceRegister(register(FIRST_SLOT)),
            Meta::Key(MetaKey::NftraceBit),
        ]));
    }

    fn load_key(&mut self, key: &[KeyPart]) {
        let mut slot = FIRST_SLOT;
        for part in key {
            self.load(slot, part.selector);
            if let Some(mask) = part.mask {
                self.mask(slot, octets(mask));
            }
            slot += slots(part.selector);
        }
    }

    /// Loads a packet property into the register that starts at this 32-bit slot.
    fn load(&mut self, slot: usize, selector: Selector) {
        self.load_bytes(slot, selector, usize::MAX);
    }

    /// The same, but of a header's field no more than its first `most` bytes.
    fn load_bytes(&mut self, slot: usize, selector: Selector, most: usize) {
        if let Some(family) = family_of(selector) {
            self.narrow(family);
        }
        let dreg = register(slot);
        let field = |field: Field| payload(dreg, field, most);
        let expression = match selector {
            Selector::Ip4Source => field(Field::IP4_SADDR),
            Selector::Ip4Destination => field(Field::IP4_DADDR),
            Selector::Ip6Source => field(Field::IP6_SADDR),
            Selector::Ip6Destination => field(Field::IP6_DADDR),
            Selector::SourcePort => field(Field::TH_SPORT),
            Selector::DestinationPort => field(Field::TH_DPORT),
            Selector::L4Protocol => meta(dreg, MetaKey::L4Proto),
            Selector::InputInterface => meta(dreg, MetaKey::Iifname),
            Selector::OutputInterface => meta(dreg, MetaKey::Oifname),
            Selector::PacketMark => meta(dreg, MetaKey::Mark),
            Selector::EtherType => field(Field::ETHER_TYPE),
        };
        self.push(expression);
    }

    /// In an inet table, a rule on addresses of one family first asks for that family, once.
    fn narrow(&mut self, family: u8) {
        if self.inet && self.narrowed != Some(family) {
            self.narrowed = Some(family);
            self.push(meta(register(FIRST_SLOT), MetaKey::Nfproto));
            self.compare(Operator::Equal, vec![family]);
        }
    }

    fn mask(&mut self, slot: usize, mask: Vec<u8>) {
        let nothing = vec![0; mask.len()];
        self.bitwise(slot, mask, nothing);
    }

    fn bitwise(&mut self, slot: usize, mask: Vec<u8>, xor: Vec<u8>) {
        let length = mask.len();
        self.push(Expressions::Bitwise(vec![
            Bitwise::SourceRegister(register(slot)),
            Bitwise::DestinationRegister(register(slot)),
            Bitwise::Length(u32::try_from(length).unwrap_or(u32::MAX)),
            Bitwise::Mask(DataAttribute::Value(mask)),
            Bitwise::Xor(DataAttribute::Value(xor)),
        ]));
    }

    fn compare(&mut self, operator: Operator, value: Vec<u8>) {
        self.push(Expressions::Cmp(vec![
            Cmp::SourceRegister(register(FIRST_SLOT)),
            Cmp::Op(operator),
            Cmp::Data(DataAttribute::Value(value)),
        ]));
    }

    fn verdict(&mut self, code: u32, chain: Option<&String>) {
        let mut verdict = vec![VerdictAttribute::Code(code.into())];
        verdict.extend(chain.cloned().map(VerdictAttribute::Chain));
        self.push(Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Verdict),
            Immediate::Data(DataAttribute::Verdict(verdict)),
        ]));
    }
}

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const REG_1: u32 = 1;
/// `NFTA_FIB_F_*`
const FIB_DADDR: u32 = 1 << 1;
const FIB_IIF: u32 = 1 << 3;
const VERDICT_DROP: u32 = 0;
const VERDICT_ACCEPT: u32 = 1;

fn family_of(selector: Selector) -> Option<u8> {
    match selector {
        Selector::Ip4Source | Selector::Ip4Destination => Some(NFPROTO_IPV4),
        Selector::Ip6Source | Selector::Ip6Destination => Some(NFPROTO_IPV6),
        _ => None,
    }
}

fn slots(selector: Selector) -> usize {
    match selector {
        Selector::Ip6Source
        | Selector::Ip6Destination
        | Selector::InputInterface
        | Selector::OutputInterface => 4,
        _ => 1,
    }
}

/// The kernel names registers by 16 bytes where it can, and reports them so.
fn register_number(slot: usize) -> u32 {
    const REG32_00: u32 = 8;
    let slot = u32::try_from(slot).unwrap_or(u32::MAX);
    if slot.is_multiple_of(4) { REG_1 + slot / 4 } else { REG32_00 + slot }
}

fn register(slot: usize) -> Register {
    register_number(slot).into()
}

/// A field of a packet's header: where the kernel counts from, and its place there in bytes.
#[derive(Clone, Copy)]
struct Field {
    base: u32,
    offset: u32,
    length: u32,
}

/// `ETH_P_IP`, `ETH_P_IPV6`
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// `NFT_PAYLOAD_LL_HEADER`
const LINK_HEADER: u32 = 0;
/// `NFT_PAYLOAD_NETWORK_HEADER`
const NETWORK_HEADER: u32 = 1;
/// `NFT_PAYLOAD_TRANSPORT_HEADER`
const TRANSPORT_HEADER: u32 = 2;

impl Field {
    // A frame with a VLAN tag has the tag's type there.
    const ETHER_TYPE: Self = Self { base: LINK_HEADER, offset: 12, length: 2 };
    // RFC 791, RFC 8200; ports are in the same place in TCP, UDP and SCTP.
    const IP4_SADDR: Self = Self { base: NETWORK_HEADER, offset: 12, length: 4 };
    const IP4_DADDR: Self = Self { base: NETWORK_HEADER, offset: 16, length: 4 };
    const IP6_SADDR: Self = Self { base: NETWORK_HEADER, offset: 8, length: 16 };
    const IP6_DADDR: Self = Self { base: NETWORK_HEADER, offset: 24, length: 16 };
    const TH_SPORT: Self = Self { base: TRANSPORT_HEADER, offset: 0, length: 2 };
    const TH_DPORT: Self = Self { base: TRANSPORT_HEADER, offset: 2, length: 2 };
}

fn payload(dreg: Register, field: Field, most: usize) -> Expressions {
    let length = u32::try_from(most).unwrap_or(u32::MAX).min(field.length);
    Expressions::Payload(vec![
        Payload::DestinationRegister(dreg),
        Payload::Base(field.base),
        Payload::Offset(field.offset),
        Payload::Len(length),
    ])
}

fn meta(dreg: Register, key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::DestinationRegister(dreg), Meta::Key(key)])
}

/// An expression that the netlink crate has no type for, from its big-endian attributes.
fn other(name: &str, attributes: Vec<(u16, u32)>) -> Expressions {
    Expressions::Other {
        expression_type: name.to_owned(),
        attributes: attributes
            .into_iter()
            .map(|(kind, value)| DefaultNla::new(kind, value.to_be_bytes().to_vec()))
            .collect(),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A name is compared with its padding; a prefix (`veth*`) without.
fn interface_image(name: &str) -> Vec<u8> {
    if let Some(prefix) = name.strip_suffix('*') {
        return prefix.bytes().collect();
    }
    let mut bytes: Vec<u8> = name.bytes().take(15).collect();
    bytes.resize(16, 0);
    bytes
}
