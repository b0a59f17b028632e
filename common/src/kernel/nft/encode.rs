//! Operations and rules in netlink form.
//!
//! Numbers are those of `include/uapi/linux/netfilter/nf_tables.h`; expression sequences are the
//! ones that nft itself sends, so that `nft list` shows the rules as they are written in `text`.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, Emitable, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions,
    Hook as HookAttribute, Immediate, InetHookNumber, ListAttribute, Lookup, Meta, MetaKey,
    NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage, SetAttribute,
    SetElementAttribute, SetElementList, SetElementMessage, SetFlags, SetMessage, TableAttribute,
    TableMessage, Verdict, VerdictAttribute,
};

use crate::kernel::attributes::list as attributes;

use super::family::Family;
use super::l4::L4Protocol;
use super::object::{Chain, DataType, Element, Hook, Rule, Set, Table, Value};
use super::statement::{KeyPart, Operand, Selector, Statement};
use super::transaction::{Object, Operation, Verb};
use crate::kernel::ip::IpVersion;

/// Make it; refuse if it is there.
pub(super) const CREATE_EXCLUSIVELY: u16 = NLM_F_CREATE | NLM_F_EXCL;
/// Make it behind the others.
const CREATE_BEHIND: u16 = NLM_F_CREATE | NLM_F_APPEND;

/// A netlink attribute's length has 16 bits; the kernel reads a longer list as garbage.
const ELEMENTS_PER_MESSAGE: usize = 200;

/// One netlink message of a batch.
pub(super) struct Message {
    pub(super) inner: NfTablesMessage,
    pub(super) flags: u16,
}

/// Numbers anonymous sets within one batch.
#[derive(Default)]
pub(super) struct Encoder {
    sets: u32,
}

/// `NFPROTO_*`
pub(super) fn family_number(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::Ip => 2,
        Family::Ip6 => 10,
    }
}

impl Encoder {
    /// The messages of one operation.
    pub(super) fn operation(&mut self, operation: &Operation) -> Vec<Message> {
        let Operation { verb, table, object } = operation;
        match object {
            Object::Table(comment) => vec![table_message(*verb, table, *comment)],
            Object::Chain(chain) if *verb == Verb::Flush => vec![flush_rules(table, &chain.name)],
            Object::Chain(chain) => vec![chain_message(*verb, table, chain)],
            Object::Rule(rule) => self.rule_messages(table, rule, CREATE_BEHIND),
            Object::FirstRule(rule) => self.rule_messages(table, rule, NLM_F_CREATE),
            Object::RuleHandle(chain, handle) => vec![delete_rule(table, chain, *handle)],
            Object::Set(set) if *verb == Verb::Flush => {
                vec![Message {
                    inner: elements_message(Verb::Delete, table, &set.name, None),
                    flags: 0,
                }]
            }
            Object::Set(set) => vec![set_message(*verb, table, set)],
            Object::Elements(set, elements) => element_messages(*verb, table, set, elements),
        }
    }

    fn rule_messages(&mut self, table: &Table, rule: &Rule, flags: u16) -> Vec<Message> {
        let mut body = RuleEncoder::new(table.family, self.sets);
        rule.statements.iter().for_each(|statement| body.statement(statement));
        self.sets = body.next_set;

        let mut messages: Vec<Message> = Vec::new();
        for (id, protocols) in body.anonymous {
            messages.extend(anonymous_protocol_set(table, id, &protocols));
        }
        let mut attributes = vec![
            RuleAttribute::Table(table.name.clone().into_owned()),
            RuleAttribute::Chain(rule.chain.clone()),
            RuleAttribute::Expressions(body.expressions),
        ];
        if let Some(comment) = &rule.comment {
            attributes.push(RuleAttribute::UserData(comment_userdata(comment)));
        }
        messages
            .push(Message { inner: NfTablesMessage::NewRule(RuleMessage { attributes }), flags });
        messages
    }
}

/// The netlink form of a rule's expression list, for comparison with what the kernel holds.
#[must_use]
pub fn rule_expressions(family: Family, rule: &Rule) -> Vec<u8> {
    let mut body = RuleEncoder::new(family, 0);
    rule.statements.iter().for_each(|statement| body.statement(statement));
    let mut bytes = vec![0; body.expressions.as_slice().buffer_len()];
    body.expressions.as_slice().emit(&mut bytes);
    bytes
}

/// Whether `installed` has the expressions of `wanted`, in order, each with at least the
/// attributes of its twin. The kernel adds defaults that nobody sent.
#[must_use]
pub fn same_expressions(wanted: &[u8], installed: &[u8]) -> bool {
    let lists = (attributes(wanted), attributes(installed));
    let (Some(wanted), Some(installed)) = lists else { return false };
    wanted.len() == installed.len()
        && wanted.iter().zip(&installed).all(|((_, want), (_, have))| same_expression(want, have))
}

fn same_expression(wanted: &[u8], installed: &[u8]) -> bool {
    const NAME: u16 = 1;
    const DATA: u16 = 2;
    let find = |list: &[(u16, &[u8])], kind| {
        list.iter().find(|(k, _)| *k == kind).map(|(_, v)| v.to_vec())
    };
    let lists = (attributes(wanted), attributes(installed));
    let (Some(wanted), Some(installed)) = lists else { return false };
    let name = find(&wanted, NAME);
    name.is_some()
        && name == find(&installed, NAME)
        && match (find(&wanted, DATA), find(&installed, DATA)) {
            (Some(want), Some(have)) => {
                contains_attributes(&want, &have, name.as_deref().unwrap_or_default())
            }
            (want, _) => want.is_none_or(|want| want.is_empty()),
        }
}

fn contains_attributes(wanted: &[u8], installed: &[u8], expression: &[u8]) -> bool {
    const LOOKUP_SET: u16 = 1;
    const LOOKUP_SET_ID: u16 = 4;
    const IMMEDIATE_DATA: u16 = 2;
    let (Some(wanted), Some(installed)) = (attributes(wanted), attributes(installed)) else {
        return false;
    };
    let same = |kind: u16, want: &[u8], have: &[u8]| match (expression, kind) {
        // The kernel numbers anonymous sets; their content cannot change.
        (b"lookup\0", LOOKUP_SET) => {
            want == have || (want.starts_with(b"__set") && have.starts_with(b"__set"))
        }
        (b"immediate\0", IMMEDIATE_DATA) => same_nested(want, have),
        _ => want == have,
    };
    wanted
        .iter()
        // A set's ID means something within its batch only.
        .filter(|(kind, _)| (expression, *kind) != (b"lookup\0", LOOKUP_SET_ID))
        .all(|(kind, want)| installed.iter().any(|(k, have)| k == kind && same(*kind, want, have)))
}

/// Compares a verdict, whose nested attributes the kernel reports without the nested flag.
fn same_nested(wanted: &[u8], installed: &[u8]) -> bool {
    let lists = (attributes(wanted), attributes(installed));
    let (Some(wanted), Some(installed)) = lists else { return false };
    wanted.len() == installed.len()
        && wanted.iter().zip(&installed).all(|((want_kind, want), (have_kind, have))| {
            want_kind == have_kind
                && match (attributes(want), attributes(have)) {
                    (Some(want), Some(have)) => want == have,
                    _ => want == have,
                }
        })
}

/// nftables' user data: type, length, NUL-terminated text. Type 0 is a comment on rules and elements.
fn comment_userdata(comment: &str) -> Vec<u8> {
    tlv(0, &[comment.as_bytes(), &[0]].concat())
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, u8::try_from(value.len()).unwrap_or(u8::MAX)];
    bytes.extend(&value[..value.len().min(255)]);
    bytes
}

/// The comment in user data, if it has one.
pub(super) fn userdata_comment(mut bytes: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = bytes {
        let (value, tail) = rest.split_at_checked(usize::from(*length))?;
        if *kind == 0 {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        bytes = tail;
    }
    None
}

fn make_flags(verb: Verb) -> u16 {
    match verb {
        Verb::Add => NLM_F_CREATE,
        Verb::Create => CREATE_EXCLUSIVELY,
        Verb::Delete | Verb::Flush => 0,
    }
}

fn table_message(verb: Verb, table: &Table, comment: Option<&str>) -> Message {
    let mut attributes = vec![TableAttribute::Name(table.name.clone().into_owned())];
    if let (Verb::Add | Verb::Create, Some(comment)) = (verb, comment) {
        attributes.push(TableAttribute::UserData(comment_userdata(comment)));
    }
    let inner = match verb {
        Verb::Add | Verb::Create => NfTablesMessage::NewTable(TableMessage { attributes }),
        Verb::Delete | Verb::Flush => NfTablesMessage::DeleteTable(TableMessage { attributes }),
    };
    Message { inner, flags: make_flags(verb) }
}

fn chain_message(verb: Verb, table: &Table, chain: &Chain) -> Message {
    const ACCEPT: u32 = 1;
    let mut attributes = vec![
        ChainAttribute::Table(table.name.clone().into_owned()),
        ChainAttribute::Name(chain.name.clone()),
    ];
    if let (Verb::Add | Verb::Create, Some(base)) = (verb, &chain.base) {
        let hook = match base.hook {
            Hook::Prerouting => InetHookNumber::PreRouting,
            Hook::Input => InetHookNumber::LocalIn,
            Hook::Forward => InetHookNumber::Forward,
            Hook::Output => InetHookNumber::LocalOut,
            Hook::Postrouting => InetHookNumber::PostRouting,
        };
        attributes.push(ChainAttribute::Hook(vec![
            HookAttribute::Number(hook.into()),
            HookAttribute::Priority(base.priority.0.cast_unsigned()),
        ]));
        attributes.push(ChainAttribute::Policy(ACCEPT));
        attributes.push(ChainAttribute::Type(base.kind.as_str().to_owned()));
    }
    let inner = match verb {
        Verb::Add | Verb::Create => NfTablesMessage::NewChain(ChainMessage { attributes }),
        Verb::Delete | Verb::Flush => NfTablesMessage::DeleteChain(ChainMessage { attributes }),
    };
    Message { inner, flags: make_flags(verb) }
}

fn flush_rules(table: &Table, chain: &str) -> Message {
    let attributes = vec![
        RuleAttribute::Table(table.name.clone().into_owned()),
        RuleAttribute::Chain(chain.to_owned()),
    ];
    Message { inner: NfTablesMessage::DeleteRule(RuleMessage { attributes }), flags: 0 }
}

fn delete_rule(table: &Table, chain: &str, handle: u64) -> Message {
    let attributes = vec![
        RuleAttribute::Table(table.name.clone().into_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Handle(handle),
    ];
    let inner = NfTablesMessage::DeleteRule(RuleMessage { attributes });
    Message { inner, flags: 0 }
}

fn set_message(verb: Verb, table: &Table, set: &Set) -> Message {
    let mut attributes = vec![
        SetAttribute::Table(table.name.clone().into_owned()),
        SetAttribute::Name(set.name.clone()),
    ];
    if matches!(verb, Verb::Add | Verb::Create) {
        let flags = if set.data.is_empty() { SetFlags::empty() } else { SetFlags::Map };
        attributes.push(SetAttribute::Flags(flags));
        attributes.push(SetAttribute::KeyType(type_number(&set.key)));
        attributes.push(SetAttribute::KeyLen(byte_len(&set.key)));
        if !set.data.is_empty() {
            attributes.push(SetAttribute::DataType(type_number(&set.data)));
            attributes.push(SetAttribute::DataLen(byte_len(&set.data)));
        }
        // Only lets rules refer to the set within the same batch, but the kernel insists on it.
        attributes.push(SetAttribute::Id(1));
        attributes.push(SetAttribute::UserData(byte_order(set)));
    }
    let inner = match verb {
        Verb::Add | Verb::Create => NfTablesMessage::NewSet(SetMessage { attributes }),
        Verb::Delete | Verb::Flush => NfTablesMessage::DeleteSet(SetMessage { attributes }),
    };
    Message { inner, flags: make_flags(verb) }
}

/// What nft stores so that it can print keys and data: `NFTNL_UDATA_SET_KEYBYTEORDER` (0) and
/// `..._DATABYTEORDER` (1), each 1 for host order or 2 for network order.
fn byte_order(set: &Set) -> Vec<u8> {
    let order = |types: &[DataType]| -> u32 {
        let host = |kind: &DataType| matches!(kind, DataType::Mark | DataType::IfName);
        if types.iter().all(host) { 1 } else { 2 }
    };
    let mut bytes = tlv(0, &order(&set.key).to_ne_bytes());
    if !set.data.is_empty() {
        bytes.extend(tlv(1, &order(&set.data).to_ne_bytes()));
    }
    bytes
}

/// A concatenation's type is its parts' types, six bits each.
fn type_number(types: &[DataType]) -> u32 {
    types.iter().fold(0, |number, kind| number << 6 | kind.number())
}

fn byte_len(types: &[DataType]) -> u32 {
    types.iter().map(|kind| kind.padded_len()).sum()
}

fn element_messages(verb: Verb, table: &Table, set: &Set, elements: &[Element]) -> Vec<Message> {
    elements
        .chunks(ELEMENTS_PER_MESSAGE)
        .map(|chunk| {
            let list = chunk.iter().map(|element| element_attribute(verb, element)).collect();
            Message {
                inner: elements_message(verb, table, &set.name, Some(list)),
                flags: make_flags(verb),
            }
        })
        .collect()
}

pub(super) fn elements_message(
    verb: Verb,
    table: &Table,
    set: &str,
    elements: Option<Vec<ListAttribute<SetElementAttribute>>>,
) -> NfTablesMessage {
    let mut attributes = vec![
        SetElementList::Table(table.name.clone().into_owned()),
        SetElementList::Set(set.to_owned()),
    ];
    attributes.extend(elements.map(SetElementList::Elements));
    match verb {
        Verb::Add | Verb::Create => {
            NfTablesMessage::NewSetElement(SetElementMessage { attributes })
        }
        Verb::Delete | Verb::Flush => {
            NfTablesMessage::DeleteSetElement(SetElementMessage { attributes })
        }
    }
}

/// The register image of a key or of data.
#[must_use]
pub fn image(values: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24);
    for value in values {
        value.encode(&mut bytes);
    }
    bytes
}

fn element_attribute(verb: Verb, element: &Element) -> ListAttribute<SetElementAttribute> {
    let mut attributes = vec![key_attribute(&element.key)];
    if matches!(verb, Verb::Add | Verb::Create) {
        if !element.data.is_empty() {
            attributes.push(SetElementAttribute::Data(DataAttribute::Value(image(&element.data))));
        }
        if let Some(comment) = &element.comment {
            attributes.push(SetElementAttribute::UserData(comment_userdata(comment)));
        }
    }
    ListAttribute::Element(attributes)
}

pub(super) fn key_attribute(key: &[Value]) -> SetElementAttribute {
    SetElementAttribute::Key(DataAttribute::Value(image(key)))
}

fn anonymous_protocol_set(table: &Table, id: u32, protocols: &[L4Protocol]) -> [Message; 2] {
    let key = DataType::InetProto;
    let set = NfTablesMessage::NewSet(SetMessage {
        attributes: vec![
            SetAttribute::Table(table.name.clone().into_owned()),
            SetAttribute::Name("__set%d".to_owned()),
            SetAttribute::Flags(SetFlags::Anonymous | SetFlags::Constant),
            SetAttribute::KeyType(key.number()),
            SetAttribute::KeyLen(1),
            SetAttribute::Id(id),
        ],
    });
    let elements = protocols
        .iter()
        .map(|protocol| {
            let value = DataAttribute::Value(vec![protocol.number()]);
            ListAttribute::Element(vec![SetElementAttribute::Key(value)])
        })
        .collect();
    let list = NfTablesMessage::NewSetElement(SetElementMessage {
        attributes: vec![
            SetElementList::Table(table.name.clone().into_owned()),
            SetElementList::Set("__set%d".to_owned()),
            SetElementList::SetId(id),
            SetElementList::Elements(elements),
        ],
    });
    [Message { inner: set, flags: NLM_F_CREATE }, Message { inner: list, flags: NLM_F_CREATE }]
}

/// Builds one rule's expression list.
struct RuleEncoder {
    inet: bool,
    expressions: Vec<ListAttribute<ExpressionAttribute>>,
    /// The address family that the rule has been narrowed to so far.
    narrowed: Option<u8>,
    anonymous: Vec<(u32, Vec<L4Protocol>)>,
    next_set: u32,
}

const FIRST_SLOT: usize = 0;

impl RuleEncoder {
    fn new(family: Family, sets: u32) -> Self {
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

    fn statement(&mut self, statement: &Statement) {
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
            Statement::Masquerade => self.push(other("masq", vec![])),
            Statement::Accept => self.verdict(VERDICT_ACCEPT, None),
            Statement::Drop => self.verdict(VERDICT_DROP, None),
            Statement::Jump(chain) => self.verdict(Verdict::Jump.into(), Some(chain)),
            Statement::Goto(chain) => self.verdict(Verdict::Goto.into(), Some(chain)),
            Statement::Return => self.verdict(Verdict::Return.into(), None),
        }
    }

    fn matches(&mut self, selector: Selector, negated: bool, operand: &Operand) {
        self.load(FIRST_SLOT, selector);
        let value = match operand {
            Operand::Network(network) => {
                if network.prefix_len() < network.max_prefix_len() {
                    self.mask(FIRST_SLOT, octets(network.netmask()));
                }
                octets(match network {
                    IpNet::V4(v4) => IpAddr::V4(v4.network()),
                    IpNet::V6(v6) => IpAddr::V6(v6.network()),
                })
            }
            Operand::Port(port) => port.to_be_bytes().to_vec(),
            Operand::Protocol(protocol) => vec![protocol.number()],
            Operand::Interface(name) => interface_image(name),
            Operand::Mark { value, mask } => {
                if *mask != u32::MAX {
                    self.mask(FIRST_SLOT, mask.to_ne_bytes().to_vec());
                }
                value.to_ne_bytes().to_vec()
            }
        };
        self.compare(if negated { Operator::NotEqual } else { Operator::Equal }, value);
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
        const NETWORK_HEADER: u32 = 1;
        const TRANSPORT_HEADER: u32 = 2;
        if let Some(family) = family_of(selector) {
            self.narrow(family);
        }
        let dreg = register(slot);
        let expression = match selector {
            Selector::Ip4Source => payload(dreg, NETWORK_HEADER, 12, 4),
            Selector::Ip4Destination => payload(dreg, NETWORK_HEADER, 16, 4),
            Selector::Ip6Source => payload(dreg, NETWORK_HEADER, 8, 16),
            Selector::Ip6Destination => payload(dreg, NETWORK_HEADER, 24, 16),
            Selector::SourcePort => payload(dreg, TRANSPORT_HEADER, 0, 2),
            Selector::DestinationPort => payload(dreg, TRANSPORT_HEADER, 2, 2),
            Selector::L4Protocol => meta(dreg, MetaKey::L4Proto),
            Selector::InputInterface => meta(dreg, MetaKey::Iifname),
            Selector::OutputInterface => meta(dreg, MetaKey::Oifname),
            Selector::PacketMark => meta(dreg, MetaKey::Mark),
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

fn payload(dreg: Register, base: u32, offset: u32, len: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(dreg),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(len),
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

pub(super) fn sets_query(table: &Table) -> NfTablesMessage {
    let attributes = vec![SetAttribute::Table(table.name.clone().into_owned())];
    NfTablesMessage::GetSet(SetMessage { attributes })
}
