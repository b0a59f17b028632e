//! A rule's statements as expressions: registers, loads, comparisons, verdicts.
//!
//! Numbers are those of `include/uapi/linux/netfilter/nf_tables.h`; the sequences are the ones that
//! nft itself sends, so that `nft list` shows the rules as they are written in `text`, and a table
//! that was listed and loaded again holds what we sent.

use ipnet::IpNet;

use super::family::Family;
use super::l4::L4Protocol;
use super::object::Rule;
use super::register::{
    Field, Image, REG_1, REG_VERDICT, REGISTER, interface_image, octets, register, slots,
};
use super::statement::{KeyPart, Operand, Selector, Statement};
use crate::kernel::ip::IpVersion;
use crate::kernel::request::Request;

/// A rule's expression list as the kernel lists it, for comparison with what it holds. Only sets
/// without a name have other names there.
#[must_use]
pub fn rule_expressions(family: Family, rule: &Rule) -> Vec<u8> {
    listed_expressions(family, rule, Request::listing(512)).into_bytes()
}

/// The same, in the room of a list that is not needed any more.
pub(super) fn listed_expressions(family: Family, rule: &Rule, mut room: Request) -> Request {
    room.clear();
    let mut body = RuleEncoder::writing(family, room, 0);
    rule.statements.iter().for_each(|statement| body.statement(statement));
    body.expressions
}

/// Builds one rule's expression list.
pub(super) struct RuleEncoder<'a> {
    inet: bool,
    pub(super) expressions: Request,
    /// The address family that the rule has been narrowed to so far.
    narrowed: Option<u8>,
    /// Sets without a name, by their number in the batch.
    pub(super) anonymous: Vec<(u32, &'a [L4Protocol])>,
    pub(super) next_set: u32,
}

const FIRST_SLOT: usize = 0;

impl<'a> RuleEncoder<'a> {
    /// `sets` is how many sets without a name the batch has so far.
    pub(super) fn new(family: Family, sets: u32) -> Self {
        Self::writing(family, Request::with_capacity(1024), sets)
    }

    fn writing(family: Family, expressions: Request, sets: u32) -> Self {
        Self {
            inet: family == Family::Inet,
            expressions,
            narrowed: None,
            anonymous: Vec::new(),
            next_set: sets,
        }
    }

    /// An expression, of which `data` writes the attributes: those that the kernel lists, in its order,
    /// defaults as well. So a rule that is as we sent it is compared byte by byte.
    fn push(&mut self, name: &str, data: impl FnOnce(&mut Request)) {
        self.expressions.nested(LIST_ELEMENT, |expression| {
            expression.text(EXPRESSION_NAME, name);
            expression.nested(EXPRESSION_DATA, data);
        });
    }

    pub(super) fn statement(&mut self, statement: &'a Statement) {
        match statement {
            Statement::Match { selector, negated, operand } => {
                self.matches(*selector, *negated, operand);
            }
            Statement::ProtocolIn(protocols) => {
                // Numbers below this belong to named sets, which all use 1.
                self.next_set = self.next_set.max(1) + 1;
                self.anonymous.push((self.next_set, protocols));
                self.load(FIRST_SLOT, Selector::L4Protocol);
                let id = self.next_set;
                self.push("lookup", |lookup| {
                    lookup.text(lookup::SET, ANONYMOUS);
                    lookup.be32(lookup::SOURCE, register(FIRST_SLOT));
                    lookup.be32(lookup::SET_ID, id);
                    lookup.be32(lookup::FLAGS, 0);
                });
            }
            Statement::DestinationIsLocal => self.destination_is_local(),
            Statement::DestinationIsNotOfInputInterface => self.destination_is_not_of_input(),
            Statement::ConnectionIsDnat => self.connection_status(IPS_DST_NAT),
            Statement::ConnectionIsTranslated => self.connection_status(IPS_SRC_NAT | IPS_DST_NAT),
            Statement::ConnectionIsEstablished => self.connection_is_established(),
            Statement::InSet { key, set } => {
                self.load_key(key);
                self.push("lookup", |lookup| {
                    lookup.text(lookup::SET, set);
                    lookup.be32(lookup::SOURCE, register(FIRST_SLOT));
                    lookup.be32(lookup::FLAGS, 0);
                });
            }
            Statement::DnatByMap { version, key, map } => {
                self.dnat_by_map(*version, key, map);
            }
            Statement::MarkSet(bits) => self.change_mark(*bits, *bits),
            Statement::MarkClear(bits) => self.change_mark(*bits, 0),
            Statement::Trace => self.trace(),
            Statement::Masquerade => self.push("masq", |_| {}),
            Statement::Accept => self.verdict(VERDICT_ACCEPT, None),
            Statement::Drop => self.verdict(VERDICT_DROP, None),
            Statement::Jump(chain) => self.verdict(VERDICT_JUMP, Some(chain)),
            Statement::Goto(chain) => self.verdict(VERDICT_GOTO, Some(chain)),
            Statement::Return => self.verdict(VERDICT_RETURN, None),
        }
    }

    fn matches(&mut self, selector: Selector, negated: bool, operand: &Operand) {
        if !matches!(operand, Operand::Network(_)) {
            self.load(FIRST_SLOT, selector);
        }
        let value = match operand {
            Operand::Network(network) => self.network(selector, *network),
            Operand::Port(port) => Image::of(&port.to_be_bytes()),
            Operand::Protocol(protocol) => Image::of(&[protocol.number()]),
            Operand::Interface(name) => interface_image(name),
            Operand::EtherType(IpVersion::V4) => Image::of(&ETHERTYPE_IPV4.to_be_bytes()),
            Operand::EtherType(IpVersion::V6) => Image::of(&ETHERTYPE_IPV6.to_be_bytes()),
            Operand::Mark { value, mask } => {
                if *mask != u32::MAX {
                    self.mask(FIRST_SLOT, &mask.to_ne_bytes());
                }
                Image::of(&value.to_ne_bytes())
            }
        };
        self.compare(if negated { NOT_EQUAL } else { EQUAL }, &value);
    }

    /// Loads what counts of an address, and returns what it is compared with. A prefix of whole
    /// bytes is loaded alone, as nft does.
    fn network(&mut self, selector: Selector, network: IpNet) -> Image {
        let mut value = octets(network.network());
        let prefix = usize::from(network.prefix_len());
        if prefix > 0 && prefix.is_multiple_of(8) {
            value = value.cut(prefix / 8);
            self.load_bytes(FIRST_SLOT, selector, value.len());
        } else {
            self.load(FIRST_SLOT, selector);
            self.mask(FIRST_SLOT, &octets(network.netmask()));
        }
        value
    }

    fn destination_is_local(&mut self) {
        self.address_type(FIB_DADDR, EQUAL);
    }

    fn destination_is_not_of_input(&mut self) {
        self.address_type(FIB_DADDR | FIB_IIF, NOT_EQUAL);
    }

    /// Compares the type of the address that `flags` choose with "local".
    fn address_type(&mut self, flags: u32, operator: u32) {
        const RESULT_ADDRTYPE: u32 = 3;
        const RTN_LOCAL: u32 = 2;
        self.push("fib", |fib| {
            fib.be32(1, REG_1);
            fib.be32(2, RESULT_ADDRTYPE);
            fib.be32(3, flags);
        });
        self.compare(operator, &RTN_LOCAL.to_ne_bytes());
    }

    /// Goes on if the connection has any of these `IPS_*`.
    fn connection_status(&mut self, bits: u32) {
        const CT_KEY_STATUS: u32 = 2;
        self.connection(CT_KEY_STATUS, bits);
    }

    fn connection_is_established(&mut self) {
        const CT_KEY_STATE: u32 = 0;
        const ESTABLISHED: u32 = 1 << 1;
        const RELATED: u32 = 1 << 2;
        self.connection(CT_KEY_STATE, ESTABLISHED | RELATED);
    }

    /// Goes on if the connection has any of these bits.
    fn connection(&mut self, key: u32, bits: u32) {
        self.push("ct", |ct| {
            ct.be32(1, REG_1);
            ct.be32(2, key);
        });
        self.mask(FIRST_SLOT, &bits.to_ne_bytes());
        self.compare(NOT_EQUAL, &[0; 4]);
    }

    fn dnat_by_map(&mut self, version: IpVersion, key: &[KeyPart], map: &str) {
        const NAT_TYPE_DNAT: u32 = 1;
        // NF_NAT_RANGE_*
        const MAP_IPS: u32 = 1;
        const PROTO_SPECIFIED: u32 = 1 << 1;
        let (nfproto, address_slots) = match version {
            IpVersion::V4 => (NFPROTO_IPV4, 1),
            IpVersion::V6 => (NFPROTO_IPV6, 4),
        };
        self.load_key(key);
        self.push("lookup", |lookup| {
            lookup.text(lookup::SET, map);
            lookup.be32(lookup::SOURCE, register(FIRST_SLOT));
            lookup.be32(lookup::DESTINATION, register(FIRST_SLOT));
            lookup.be32(lookup::FLAGS, 0);
        });
        let (address, port) = (register(FIRST_SLOT), register(FIRST_SLOT + address_slots));
        self.push("nat", |nat| {
            nat.be32(1, NAT_TYPE_DNAT);
            nat.be32(2, nfproto.into());
            // From one to the other, which are the same.
            nat.be32(3, address);
            nat.be32(4, address);
            nat.be32(5, port);
            nat.be32(6, port);
            nat.be32(7, MAP_IPS | PROTO_SPECIFIED);
        });
    }

    /// `mark = (mark & !bits) ^ value`
    fn change_mark(&mut self, bits: u32, value: u32) {
        self.load(FIRST_SLOT, Selector::PacketMark);
        self.bitwise(FIRST_SLOT, &(!bits).to_ne_bytes(), &value.to_ne_bytes());
        self.push("meta", |meta| {
            meta.be32(meta::KEY, meta::MARK);
            meta.be32(meta::SOURCE, register(FIRST_SLOT));
        });
    }

    fn trace(&mut self) {
        self.push("immediate", |immediate| {
            immediate.be32(1, register(FIRST_SLOT));
            immediate.nested(2, |data| data.bytes(DATA_VALUE, &[1]));
        });
        self.push("meta", |meta| {
            meta.be32(meta::KEY, meta::NFTRACE);
            meta.be32(meta::SOURCE, register(FIRST_SLOT));
        });
    }

    fn load_key(&mut self, key: &[KeyPart]) {
        let mut slot = FIRST_SLOT;
        for part in key {
            self.load(slot, part.selector);
            if let Some(mask) = part.mask {
                self.mask(slot, &octets(mask));
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
        match selector {
            Selector::Ip4Source => self.load_field(slot, Field::IP4_SADDR, most),
            Selector::Ip4Destination => self.load_field(slot, Field::IP4_DADDR, most),
            Selector::Ip6Source => self.load_field(slot, Field::IP6_SADDR, most),
            Selector::Ip6Destination => self.load_field(slot, Field::IP6_DADDR, most),
            Selector::SourcePort => self.load_field(slot, Field::TH_SPORT, most),
            Selector::DestinationPort => self.load_field(slot, Field::TH_DPORT, most),
            Selector::EtherType => self.load_field(slot, Field::ETHER_TYPE, most),
            Selector::L4Protocol => self.load_meta(slot, meta::L4PROTO),
            Selector::InputInterface => self.load_meta(slot, meta::IIFNAME),
            Selector::OutputInterface => self.load_meta(slot, meta::OIFNAME),
            Selector::PacketMark => self.load_meta(slot, meta::MARK),
        }
    }

    fn load_field(&mut self, slot: usize, field: Field, most: usize) {
        let length = u32::try_from(most).unwrap_or(u32::MAX).min(field.length);
        self.push("payload", |payload| {
            payload.be32(1, register(slot));
            payload.be32(2, field.base);
            payload.be32(3, field.offset);
            payload.be32(4, length);
        });
    }

    fn load_meta(&mut self, slot: usize, key: u32) {
        self.push("meta", |meta| {
            meta.be32(meta::KEY, key);
            meta.be32(meta::DESTINATION, register(slot));
        });
    }

    /// In an inet table, a rule on addresses of one family first asks for that family, once.
    fn narrow(&mut self, family: u8) {
        if self.inet && self.narrowed != Some(family) {
            self.narrowed = Some(family);
            self.load_meta(FIRST_SLOT, meta::NFPROTO);
            self.compare(EQUAL, &[family]);
        }
    }

    fn mask(&mut self, slot: usize, mask: &[u8]) {
        const NOTHING: [u8; REGISTER] = [0; REGISTER];
        self.bitwise(slot, mask, &NOTHING[..mask.len().min(REGISTER)]);
    }

    fn bitwise(&mut self, slot: usize, mask: &[u8], xor: &[u8]) {
        /// `NFT_BITWISE_MASK_XOR`
        const MASK_AND_XOR: u32 = 0;
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        self.push("bitwise", |bitwise| {
            bitwise.be32(1, register(slot));
            bitwise.be32(2, register(slot));
            bitwise.be32(3, length);
            bitwise.be32(6, MASK_AND_XOR);
            bitwise.nested(4, |data| data.bytes(DATA_VALUE, mask));
            bitwise.nested(5, |data| data.bytes(DATA_VALUE, xor));
        });
    }

    fn compare(&mut self, operator: u32, value: &[u8]) {
        self.push("cmp", |cmp| {
            cmp.be32(1, register(FIRST_SLOT));
            cmp.be32(2, operator);
            cmp.nested(3, |data| data.bytes(DATA_VALUE, value));
        });
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) {
        self.push("immediate", |immediate| {
            immediate.be32(1, REG_VERDICT);
            immediate.nested(2, |data| {
                data.nested(DATA_VERDICT, |verdict| {
                    verdict.be32(1, code.cast_unsigned());
                    if let Some(chain) = chain {
                        verdict.text(2, chain);
                    }
                });
            });
        });
    }
}

/// What a set without a name is called until the kernel numbers it.
pub(super) const ANONYMOUS: &str = "__set%d";

// enum nft_list_attributes, nft_expr_attributes, nft_data_attributes
pub(super) const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
pub(super) const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

/// enum `nft_lookup_attributes`
mod lookup {
    pub(super) const SET: u16 = 1;
    pub(super) const SOURCE: u16 = 2;
    pub(super) const DESTINATION: u16 = 3;
    pub(super) const SET_ID: u16 = 4;
    pub(super) const FLAGS: u16 = 5;
}

/// enum `nft_meta_attributes`, `nft_meta_keys`
mod meta {
    pub(super) const DESTINATION: u16 = 1;
    pub(super) const KEY: u16 = 2;
    pub(super) const SOURCE: u16 = 3;

    pub(super) const MARK: u32 = 3;
    pub(super) const IIFNAME: u32 = 6;
    pub(super) const OIFNAME: u32 = 7;
    pub(super) const NFTRACE: u32 = 12;
    pub(super) const NFPROTO: u32 = 15;
    pub(super) const L4PROTO: u32 = 16;
}

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// `ETH_P_IP`, `ETH_P_IPV6`
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// `NFT_CMP_EQ`, `NFT_CMP_NEQ`
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
/// `NFTA_FIB_F_*`
/// Of `include/uapi/linux/netfilter/nf_conntrack_common.h`.
const IPS_SRC_NAT: u32 = 1 << 4;
const IPS_DST_NAT: u32 = 1 << 5;

const FIB_DADDR: u32 = 1 << 1;
const FIB_IIF: u32 = 1 << 3;
// enum nft_verdicts, and those of netfilter itself
const VERDICT_DROP: i32 = 0;
const VERDICT_ACCEPT: i32 = 1;
const VERDICT_JUMP: i32 = -3;
const VERDICT_GOTO: i32 = -4;
const VERDICT_RETURN: i32 = -5;

fn family_of(selector: Selector) -> Option<u8> {
    match selector {
        Selector::Ip4Source | Selector::Ip4Destination => Some(NFPROTO_IPV4),
        Selector::Ip6Source | Selector::Ip6Destination => Some(NFPROTO_IPV6),
        _ => None,
    }
}
