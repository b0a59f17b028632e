//! Operations as netlink messages.
//!
//! Numbers are those of `include/uapi/linux/netfilter/nf_tables.h`.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, Hook as HookAttribute, InetHookNumber,
    ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute, SetElementAttribute,
    SetElementList, SetElementMessage, SetFlags, SetMessage, TableAttribute, TableFlags,
    TableMessage,
};

use super::expressions::RuleEncoder;
use super::family::Family;
use super::l4::L4Protocol;
use super::object::{Chain, DataType, Element, Hook, Rule, Set, Table, Value};
use super::transaction::{Object, Operation, Verb};
use super::userdata;

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
        Family::Bridge => 7,
    }
}

impl Encoder {
    /// The messages of one operation.
    pub(super) fn operation(&mut self, operation: &Operation) -> Vec<Message> {
        let Operation { verb, table, object } = operation;
        match object {
            Object::Table(comment) => vec![table_message(*verb, table, *comment)],
            Object::OwnedTable => vec![owned_table_message(*verb, table)],
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
            attributes.push(RuleAttribute::UserData(userdata::comment(comment)));
        }
        messages
            .push(Message { inner: NfTablesMessage::NewRule(RuleMessage { attributes }), flags });
        messages
    }
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
        attributes.push(TableAttribute::UserData(userdata::comment(comment)));
    }
    let inner = match verb {
        Verb::Add | Verb::Create => NfTablesMessage::NewTable(TableMessage { attributes }),
        Verb::Delete | Verb::Flush => NfTablesMessage::DeleteTable(TableMessage { attributes }),
    };
    Message { inner, flags: make_flags(verb) }
}

fn owned_table_message(verb: Verb, table: &Table) -> Message {
    let mut message = table_message(verb, table, None);
    if let NfTablesMessage::NewTable(TableMessage { attributes }) = &mut message.inner {
        attributes.push(TableAttribute::Flags(TableFlags::Owner));
    }
    message
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
    let mut bytes = userdata::tlv(0, &order(&set.key).to_ne_bytes());
    if !set.data.is_empty() {
        bytes.extend(userdata::tlv(1, &order(&set.data).to_ne_bytes()));
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
fn image(values: &[Value]) -> Vec<u8> {
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
            attributes.push(SetElementAttribute::UserData(userdata::comment(comment)));
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

pub(super) fn sets_query(table: &Table) -> NfTablesMessage {
    let attributes = vec![SetAttribute::Table(table.name.clone().into_owned())];
    NfTablesMessage::GetSet(SetMessage { attributes })
}
