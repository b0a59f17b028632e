//! Operations as netlink messages.
//!
//! Numbers are those of `include/uapi/linux/netfilter/nf_tables.h`.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};

use super::expressions::{ANONYMOUS, DATA_VALUE, LIST_ELEMENT, RuleEncoder};
use super::family::Family;
use super::l4::L4Protocol;
use super::object::{Chain, DataType, Element, Rule, Set, Table};
use super::transaction::{Object, Operation, Verb};
use super::userdata;
use crate::kernel::netlink::Connection;
use crate::kernel::request::Request;

/// Make it; refuse if it is there.
pub(super) const CREATE_EXCLUSIVELY: u16 = NLM_F_CREATE | NLM_F_EXCL;
/// Make it behind the others.
const CREATE_BEHIND: u16 = NLM_F_CREATE | NLM_F_APPEND;

/// A netlink attribute's length has 16 bits; the kernel reads a longer list as garbage.
const ELEMENTS_PER_MESSAGE: usize = 200;

/// `enum nf_tables_msg_types`: what is made or removed, and asked for.
#[derive(Clone, Copy)]
pub(super) enum Message {
    NewTable = 0,
    GetTable = 1,
    DeleteTable = 2,
    NewChain = 3,
    GetChain = 4,
    DeleteChain = 5,
    NewRule = 6,
    GetRule = 7,
    DeleteRule = 8,
    NewSet = 9,
    GetSet = 10,
    DeleteSet = 11,
    NewElement = 12,
    GetElement = 13,
    DeleteElement = 14,
    GetGeneration = 16,
}

/// A message to `nf_tables` about a family; `attributes` writes what it says.
pub(super) fn message(
    request: &mut Request,
    sequence: u32,
    flags: u16,
    family: u8,
    message: Message,
    attributes: impl FnOnce(&mut Request),
) {
    const NFNL_SUBSYS_NFTABLES: u16 = 10;
    let kind = NFNL_SUBSYS_NFTABLES << 8 | message as u16;
    request.message(kind, flags, sequence, |body| {
        // struct nfgenmsg
        body.header(&[family, 0, 0, 0]);
        attributes(body);
    });
}

/// A batch's messages, while they are written.
pub(super) struct Batch<'a> {
    connection: &'a mut Connection,
    pub(super) request: Request,
    /// Of each message, by its distance from the first: the operation, and where it is.
    pub(super) senders: Vec<(usize, usize)>,
    /// The operation that is being written.
    operation: usize,
    family: u8,
    /// How many sets without a name there are.
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

impl<'a> Batch<'a> {
    /// Goes on behind what the request holds.
    pub(super) fn new(connection: &'a mut Connection, request: Request) -> Self {
        Self { connection, request, senders: Vec::new(), operation: 0, family: 0, sets: 0 }
    }

    /// Writes the messages of the operation at this place of a transaction.
    pub(super) fn operation(&mut self, index: usize, operation: &Operation) {
        let Operation { verb, table, object } = operation;
        (self.operation, self.family) = (index, family_number(table.family));
        match object {
            Object::Table(comment) => self.table(*verb, table, *comment),
            Object::OwnedTable => self.owned_table(*verb, table),
            Object::Chain(chain) if *verb == Verb::Flush => {
                self.delete_rules(table, &chain.name, None);
            }
            Object::Chain(chain) => self.chain(*verb, table, chain),
            Object::Rule(rule) => self.rule(table, rule, CREATE_BEHIND),
            Object::FirstRule(rule) => self.rule(table, rule, NLM_F_CREATE),
            Object::RuleHandle(chain, handle) => self.delete_rules(table, chain, Some(*handle)),
            Object::Set(set) if *verb == Verb::Flush => {
                self.message(Message::DeleteElement, 0, |list| in_set(list, table, &set.name));
            }
            Object::Set(set) => self.set(*verb, table, set),
            Object::Elements(set, elements) => self.elements(*verb, table, set, elements),
        }
    }

    fn message(&mut self, kind: Message, flags: u16, attributes: impl FnOnce(&mut Request)) {
        let start = self.request.as_slice().len();
        self.senders.push((self.operation, start));
        let (sequence, flags) = (self.connection.next_sequence(), NLM_F_REQUEST | flags);
        message(&mut self.request, sequence, flags, self.family, kind, attributes);
    }

    fn table(&mut self, verb: Verb, table: &Table, comment: Option<&str>) {
        const USERDATA: u16 = 6;
        let kind = if makes(verb) { Message::NewTable } else { Message::DeleteTable };
        self.message(kind, make_flags(verb), |attributes| {
            named_table(attributes, table);
            if let Some(comment) = comment.filter(|_| makes(verb)) {
                attributes.bytes(USERDATA, &userdata::comment(comment));
            }
        });
    }

    fn owned_table(&mut self, verb: Verb, table: &Table) {
        const NAME: u16 = 1;
        const FLAGS: u16 = 2;
        const NFT_TABLE_F_OWNER: u32 = 1 << 1;
        let kind = if makes(verb) { Message::NewTable } else { Message::DeleteTable };
        self.message(kind, make_flags(verb), |attributes| {
            attributes.text(NAME, &table.name);
            if makes(verb) {
                attributes.be32(FLAGS, NFT_TABLE_F_OWNER);
            }
        });
    }

    fn chain(&mut self, verb: Verb, table: &Table, chain: &Chain) {
        const HOOK: u16 = 4;
        const POLICY: u16 = 5;
        const TYPE: u16 = 7;
        const HOOK_NUMBER: u16 = 1;
        const HOOK_PRIORITY: u16 = 2;
        const ACCEPT: u32 = 1;
        let kind = if makes(verb) { Message::NewChain } else { Message::DeleteChain };
        self.message(kind, make_flags(verb), |attributes| {
            named_chain(attributes, table, &chain.name);
            if let Some(base) = chain.base.filter(|_| makes(verb)) {
                attributes.nested(HOOK, |hook| {
                    hook.be32(HOOK_NUMBER, base.hook.number());
                    hook.be32(HOOK_PRIORITY, base.priority.0.cast_unsigned());
                });
                attributes.be32(POLICY, ACCEPT);
                attributes.text(TYPE, base.kind.as_str());
            }
        });
    }

    fn rule(&mut self, table: &Table, rule: &Rule, flags: u16) {
        const EXPRESSIONS: u16 = 4;
        const USERDATA: u16 = 7;
        let mut body = RuleEncoder::new(table.family, self.sets);
        rule.statements.iter().for_each(|statement| body.statement(statement));
        self.sets = body.next_set;
        for (id, protocols) in body.anonymous {
            self.protocol_set(table, id, protocols);
        }
        self.message(Message::NewRule, flags, |attributes| {
            rules_of(attributes, table, Some(&rule.chain));
            attributes.list(EXPRESSIONS, body.expressions.as_slice());
            if let Some(comment) = &rule.comment {
                attributes.bytes(USERDATA, &userdata::comment(comment));
            }
        });
    }

    /// One rule of a chain, or all.
    fn delete_rules(&mut self, table: &Table, chain: &str, handle: Option<u64>) {
        const HANDLE: u16 = 3;
        self.message(Message::DeleteRule, 0, |attributes| {
            rules_of(attributes, table, Some(chain));
            if let Some(handle) = handle {
                attributes.bytes(HANDLE, &handle.to_be_bytes());
            }
        });
    }

    fn set(&mut self, verb: Verb, table: &Table, set: &Set) {
        let kind = if makes(verb) { Message::NewSet } else { Message::DeleteSet };
        self.message(kind, make_flags(verb), |attributes| {
            attributes.text(set_attribute::TABLE, &table.name);
            attributes.text(set_attribute::NAME, &set.name);
            if !makes(verb) {
                return;
            }
            let flags = if set.data.is_empty() { 0 } else { set_attribute::IS_MAP };
            attributes.be32(set_attribute::FLAGS, flags);
            attributes.be32(set_attribute::KEY_TYPE, type_number(&set.key));
            attributes.be32(set_attribute::KEY_LEN, byte_len(&set.key));
            if !set.data.is_empty() {
                attributes.be32(set_attribute::DATA_TYPE, type_number(&set.data));
                attributes.be32(set_attribute::DATA_LEN, byte_len(&set.data));
            }
            // Only lets rules refer to the set within the same batch, but the kernel insists on it.
            attributes.be32(set_attribute::ID, 1);
            attributes.bytes(set_attribute::USERDATA, &byte_order(set));
        });
    }

    fn protocol_set(&mut self, table: &Table, id: u32, protocols: &[L4Protocol]) {
        const IS_ANONYMOUS: u32 = 1;
        const IS_CONSTANT: u32 = 1 << 1;
        let key = DataType::InetProto;
        self.message(Message::NewSet, NLM_F_CREATE, |attributes| {
            attributes.text(set_attribute::TABLE, &table.name);
            attributes.text(set_attribute::NAME, ANONYMOUS);
            attributes.be32(set_attribute::FLAGS, IS_ANONYMOUS | IS_CONSTANT);
            attributes.be32(set_attribute::KEY_TYPE, key.number());
            attributes.be32(set_attribute::KEY_LEN, 1);
            attributes.be32(set_attribute::ID, id);
        });
        self.message(Message::NewElement, NLM_F_CREATE, |list| {
            in_set(list, table, ANONYMOUS);
            list.be32(list_attribute::SET_ID, id);
            list.nested(list_attribute::ELEMENTS, |elements| {
                for protocol in protocols {
                    element(elements, &[protocol.number()], |_| {});
                }
            });
        });
    }

    fn elements(&mut self, verb: Verb, table: &Table, set: &Set, elements: &[Element]) {
        let kind = if makes(verb) { Message::NewElement } else { Message::DeleteElement };
        let mut bytes = Vec::with_capacity(64);
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.message(kind, make_flags(verb), |list| {
                in_set(list, table, &set.name);
                list.nested(list_attribute::ELEMENTS, |list| {
                    for one in chunk {
                        write_element(list, one, makes(verb), &mut bytes);
                    }
                });
            });
        }
    }
}

/// `enum nft_set_attributes`, `nft_set_flags`
mod set_attribute {
    pub(super) const TABLE: u16 = 1;
    pub(super) const NAME: u16 = 2;
    pub(super) const FLAGS: u16 = 3;
    pub(super) const KEY_TYPE: u16 = 4;
    pub(super) const KEY_LEN: u16 = 5;
    pub(super) const DATA_TYPE: u16 = 6;
    pub(super) const DATA_LEN: u16 = 7;
    pub(super) const ID: u16 = 10;
    pub(super) const USERDATA: u16 = 13;

    pub(super) const IS_MAP: u32 = 1 << 3;
}

/// `enum nft_set_elem_list_attributes`
mod list_attribute {
    pub(super) const TABLE: u16 = 1;
    pub(super) const SET: u16 = 2;
    pub(super) const ELEMENTS: u16 = 3;
    pub(super) const SET_ID: u16 = 4;
}

fn makes(verb: Verb) -> bool {
    matches!(verb, Verb::Add | Verb::Create)
}

fn make_flags(verb: Verb) -> u16 {
    match verb {
        Verb::Add => NLM_F_CREATE,
        Verb::Create => CREATE_EXCLUSIVELY,
        Verb::Delete | Verb::Flush => 0,
    }
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

/// An element, with all that it says or only what names it; `bytes` is room for the images of its
/// registers.
fn write_element(list: &mut Request, what: &Element, whole: bool, bytes: &mut Vec<u8>) {
    const DATA: u16 = 2;
    const USERDATA: u16 = 6;
    bytes.clear();
    what.key.iter().for_each(|value| value.encode(bytes));
    let key_length = bytes.len();
    what.data.iter().for_each(|value| value.encode(bytes));
    let (key, data) = bytes.split_at(key_length);
    element(list, key, |element| {
        if !whole {
            return;
        }
        if !data.is_empty() {
            element.nested(DATA, |nested| nested.bytes(DATA_VALUE, data));
        }
        if let Some(comment) = &what.comment {
            element.bytes(USERDATA, &userdata::comment(comment));
        }
    });
}

/// An element with its key, of which `rest` writes more.
fn element(list: &mut Request, key: &[u8], rest: impl FnOnce(&mut Request)) {
    const KEY: u16 = 1;
    list.nested(LIST_ELEMENT, |element| {
        element.nested(KEY, |data| data.bytes(DATA_VALUE, key));
        rest(element);
    });
}

/// Which set elements are of.
pub(super) fn in_set(list: &mut Request, table: &Table, set: &str) {
    list.text(list_attribute::TABLE, &table.name);
    list.text(list_attribute::SET, set);
}

/// The question for the element that has this key.
pub(super) fn key(list: &mut Request, key: &[u8]) {
    list.nested(list_attribute::ELEMENTS, |list| element(list, key, |_| {}));
}

/// A table's name.
pub(super) fn named_table(attributes: &mut Request, table: &Table) {
    const NAME: u16 = 1;
    attributes.text(NAME, &table.name);
}

/// Which table sets are of.
pub(super) fn sets_of(attributes: &mut Request, table: &Table) {
    attributes.text(set_attribute::TABLE, &table.name);
}

/// Which table, and chain, rules are of.
pub(super) fn rules_of(attributes: &mut Request, table: &Table, chain: Option<&str>) {
    const TABLE: u16 = 1;
    const CHAIN: u16 = 2;
    attributes.text(TABLE, &table.name);
    if let Some(chain) = chain {
        attributes.text(CHAIN, chain);
    }
}

/// A chain's name and its table's.
pub(super) fn named_chain(attributes: &mut Request, table: &Table, chain: &str) {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    attributes.text(TABLE, &table.name);
    attributes.text(NAME, chain);
}
