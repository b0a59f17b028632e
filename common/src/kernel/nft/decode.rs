//! What the kernel answers, read attribute by attribute.
//!
//! The netlink crate's own list parser formats its whole input for every item, in case of an
//! error; on a map of 10,000 elements that takes seconds. Walking the attributes takes
//! milliseconds.

use std::borrow::Cow;

use super::object::{
    BaseChain, Chain, ChainKind, DataType, Element, Found, Hook, InstalledChain, InstalledRule,
    Priority, Set, Value, concatenation,
};
use super::transaction::{Object, Operation};
use super::userdata::read_comment;
use crate::kernel::attributes::{be32, by_kind, find, walk};

/// The netfilter header (`struct nfgenmsg`) before the attributes.
const NFGENMSG: usize = 4;
const NETLINK_HEADER: usize = 16;

/// A message's attributes by their kinds.
fn body<const N: usize>(payload: &[u8]) -> Option<[Option<&[u8]>; N]> {
    by_kind(payload.get(NFGENMSG..)?)
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    // Names of what is ours are ASCII: the lossy reading is for others'.
    str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

pub(crate) fn generation(payload: &[u8]) -> Option<u32> {
    const ID: usize = 1;
    be32(body::<2>(payload)?[ID]?)
}

/// How many chains, sets and other objects a table has.
pub(super) fn table_size(payload: &[u8]) -> Option<u32> {
    const USE: usize = 3;
    be32(body::<4>(payload)?[USE]?)
}

// enum nft_set_elem_list_attributes, nft_set_elem_attributes, nft_data_attributes
const ELEMENTS: usize = 3;
const ELEMENT_KEY: usize = 1;
const ELEMENT_DATA: usize = 2;
const ELEMENT_USERDATA: usize = 6;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

/// The elements of one message. An element of another type than the set's is an error.
pub(crate) fn elements(payload: &[u8], set: &Set) -> Option<Vec<Element>> {
    let list = body::<4>(payload)?[ELEMENTS].unwrap_or_default();
    walk(list).map(|item| element(item?.1, set)).collect()
}

fn element(item: &[u8], set: &Set) -> Option<Element> {
    let parts: [_; 7] = by_kind(item)?;
    let values = |data: Option<&[u8]>, types| decode_values(types, find(data?, DATA_VALUE)?);
    Some(Element {
        key: values(parts[ELEMENT_KEY], &set.key)?,
        data: match set.data.as_slice() {
            [] => Vec::new(),
            types => values(parts[ELEMENT_DATA], types)?,
        },
        comment: parts[ELEMENT_USERDATA].and_then(read_comment),
    })
}

/// What the first element of a message leads to, whatever its types.
pub(super) fn found(payload: &[u8]) -> Option<Found> {
    let (_, item) = walk(body::<4>(payload)?[ELEMENTS]?).next()??;
    let Some(data) = by_kind::<3>(item)?[ELEMENT_DATA] else { return Some(Found::Member) };
    let value = find(data, DATA_VALUE).map(|value| Found::Value(value.to_vec()));
    value.or_else(|| Some(Found::Verdict(find(data, DATA_VERDICT)?.to_vec())))
}

fn decode_values(types: &[DataType], mut image: &[u8]) -> Option<Vec<Value>> {
    let mut values = Vec::with_capacity(types.len());
    for kind in types {
        let (value, rest) = Value::decode(*kind, image)?;
        values.push(value);
        image = rest;
    }
    Some(values)
}

/// A chain and its table's name.
pub(crate) fn chain(payload: &[u8]) -> Option<(Cow<'_, str>, InstalledChain)> {
    const TABLE: usize = 1;
    const NAME: usize = 3;
    const HOOK: usize = 4;
    const POLICY: usize = 5;
    const USE: usize = 6;
    const TYPE: usize = 7;
    const DROP: u32 = 0;
    let parts: [_; 8] = body(payload)?;
    let base = parts[HOOK].and_then(|hook| base_chain(hook, parts[TYPE]));
    let chain = Chain { name: text(parts[NAME]?).into_owned(), base };
    let uses = parts[USE].and_then(be32).unwrap_or(0);
    let drops = parts[POLICY].and_then(be32) == Some(DROP);
    Some((text(parts[TABLE]?), InstalledChain { chain, uses, drops }))
}

/// `None` for a hook or type that none of our chains has; it then equals none of them.
fn base_chain(hook: &[u8], kind: Option<&[u8]>) -> Option<BaseChain> {
    const NUMBER: u16 = 1;
    const PRIORITY: u16 = 2;
    let number = be32(find(hook, NUMBER)?)?;
    let priority = be32(find(hook, PRIORITY)?)?.cast_signed();
    let kind = kind?.strip_suffix(&[0])?;
    let hooks = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];
    Some(BaseChain {
        kind: [ChainKind::Filter, ChainKind::Nat]
            .into_iter()
            .find(|k| k.as_str().as_bytes() == kind)?,
        hook: hooks.into_iter().find(|hook| hook.number() == number)?,
        priority: Priority(priority),
    })
}

/// A rule and its table's name.
pub(crate) fn rule(payload: &[u8]) -> Option<(Cow<'_, str>, InstalledRule)> {
    const TABLE: usize = 1;
    const CHAIN: usize = 2;
    const HANDLE: usize = 3;
    const EXPRESSIONS: usize = 4;
    const USERDATA: usize = 7;
    let parts: [_; 8] = body(payload)?;
    let rule = InstalledRule {
        chain: text(parts[CHAIN]?).into_owned(),
        handle: u64::from_be_bytes(parts[HANDLE]?.try_into().ok()?),
        expressions: parts[EXPRESSIONS].unwrap_or_default().to_vec(),
        comment: parts[USERDATA].and_then(read_comment),
    };
    Some((text(parts[TABLE]?), rule))
}

/// A set's name and its table's.
pub(crate) fn set_name(payload: &[u8]) -> Option<(Cow<'_, str>, String)> {
    const TABLE: usize = 1;
    const NAME: usize = 2;
    let parts: [_; 3] = body(payload)?;
    Some((text(parts[TABLE]?), text(parts[NAME]?).into_owned()))
}

/// Names the element that an extended ack's offset points into. The offset counts from the
/// start of the request's netlink header.
pub(super) fn element_at_offset(
    message: &[u8],
    offset: usize,
    operation: &Operation,
) -> Option<String> {
    let Object::Elements(set, _) = &operation.object else { return None };
    let length = u32::from_ne_bytes(*message.first_chunk()?) as usize;
    let message = message.get(..length)?;
    let parts: [_; 4] = body(message.get(NETLINK_HEADER..)?)?;
    let start = message.as_ptr().addr();
    let inside = |item: &[u8]| {
        // The attribute's own header counts as part of it.
        let begin = item.as_ptr().addr() - start;
        (begin - 4..begin + item.len()).contains(&offset)
    };
    let items = walk(parts[ELEMENTS]?).map_while(|item| item);
    let item = items.map(|(_, item)| item).find(|item| inside(item))?;
    let element = element_key(item, set)?;
    Some(format!("element {{ {element} }} of {} {} {}", set.keyword(), operation.table, set.name))
}

fn element_key(item: &[u8], set: &Set) -> Option<String> {
    let key = by_kind::<2>(item)?[ELEMENT_KEY]?;
    Some(concatenation(&decode_values(&set.key, find(key, DATA_VALUE)?)?))
}
