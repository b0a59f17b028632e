//! What the kernel answers, read attribute by attribute.
//!
//! The netlink crate's own list parser formats its whole input for every item, in case of an
//! error; on a map of 10,000 elements that takes seconds. Walking the attributes takes
//! milliseconds.

use super::object::{
    BaseChain, Chain, ChainKind, DataType, Element, Found, Hook, InstalledChain, InstalledRule,
    Priority, Set, Value, concatenation,
};
use super::transaction::{Object, Operation};
use super::userdata::read_comment;
use crate::kernel::attributes::list as attributes;

/// The netfilter header (`struct nfgenmsg`) before the attributes.
const NFGENMSG: usize = 4;
const NETLINK_HEADER: usize = 16;

fn body(payload: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    attributes(payload.get(NFGENMSG..)?)
}

fn find<'a>(list: &[(u16, &'a [u8])], kind: u16) -> Option<&'a [u8]> {
    list.iter().find(|(k, _)| *k == kind).map(|(_, value)| *value)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

pub(crate) fn generation(payload: &[u8]) -> Option<u32> {
    const ID: u16 = 1;
    be32(find(&body(payload)?, ID)?)
}

/// The elements of one message. An element of another type than the set's is an error.
pub(crate) fn elements(payload: &[u8], set: &Set) -> Option<Vec<Element>> {
    const ELEMENTS: u16 = 3;
    let message = body(payload)?;
    let list = find(&message, ELEMENTS).unwrap_or_default();
    attributes(list)?.into_iter().map(|(_, item)| element(item, set)).collect()
}

fn element(item: &[u8], set: &Set) -> Option<Element> {
    const KEY: u16 = 1;
    const DATA: u16 = 2;
    const USERDATA: u16 = 6;
    const VALUE: u16 = 1;
    let parts = attributes(item)?;
    let values = |kind, types: &[DataType]| {
        let nested = attributes(find(&parts, kind)?)?;
        decode_values(types, find(&nested, VALUE)?)
    };
    Some(Element {
        key: values(KEY, &set.key)?,
        data: if set.data.is_empty() { Vec::new() } else { values(DATA, &set.data)? },
        comment: find(&parts, USERDATA).and_then(read_comment),
    })
}

/// What the first element of a message leads to, whatever its types.
pub(super) fn found(payload: &[u8]) -> Option<Found> {
    const ELEMENTS: u16 = 3;
    const DATA: u16 = 2;
    const VALUE: u16 = 1;
    const VERDICT: u16 = 2;
    let message = body(payload)?;
    let list = attributes(find(&message, ELEMENTS)?)?;
    let (_, item) = list.first()?;
    let parts = attributes(item)?;
    let Some(data) = find(&parts, DATA) else { return Some(Found::Member) };
    let data = attributes(data)?;
    let value = find(&data, VALUE).map(|value| Found::Value(value.to_vec()));
    value.or_else(|| Some(Found::Verdict(find(&data, VERDICT)?.to_vec())))
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
pub(crate) fn chain(payload: &[u8]) -> Option<(String, InstalledChain)> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const USE: u16 = 6;
    const TYPE: u16 = 7;
    const DROP: u32 = 0;
    let parts = body(payload)?;
    let base = match find(&parts, HOOK) {
        None => None,
        Some(hook) => base_chain(hook, find(&parts, TYPE).map(text).as_deref()),
    };
    let chain = Chain { name: text(find(&parts, NAME)?), base };
    let uses = find(&parts, USE).and_then(be32).unwrap_or(0);
    let drops = find(&parts, POLICY).and_then(be32) == Some(DROP);
    Some((text(find(&parts, TABLE)?), InstalledChain { chain, uses, drops }))
}

/// `None` for a hook or type that none of our chains has; it then equals none of them.
fn base_chain(hook: &[u8], kind: Option<&str>) -> Option<BaseChain> {
    const NUMBER: u16 = 1;
    const PRIORITY: u16 = 2;
    let parts = attributes(hook)?;
    let number = be32(find(&parts, NUMBER)?)?;
    let priority = be32(find(&parts, PRIORITY)?)?.cast_signed();
    let hooks = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];
    Some(BaseChain {
        kind: [ChainKind::Filter, ChainKind::Nat].into_iter().find(|k| Some(k.as_str()) == kind)?,
        hook: hooks.into_iter().find(|hook| hook.number() == number)?,
        priority: Priority(priority),
    })
}

/// A rule and its table's name.
pub(crate) fn rule(payload: &[u8]) -> Option<(String, InstalledRule)> {
    const TABLE: u16 = 1;
    const CHAIN: u16 = 2;
    const HANDLE: u16 = 3;
    const EXPRESSIONS: u16 = 4;
    const USERDATA: u16 = 7;
    let parts = body(payload)?;
    let rule = InstalledRule {
        chain: text(find(&parts, CHAIN)?),
        handle: u64::from_be_bytes(find(&parts, HANDLE)?.try_into().ok()?),
        expressions: find(&parts, EXPRESSIONS).unwrap_or_default().to_vec(),
        comment: find(&parts, USERDATA).and_then(read_comment),
    };
    Some((text(find(&parts, TABLE)?), rule))
}

/// A set's name and its table's.
pub(crate) fn set_name(payload: &[u8]) -> Option<(String, String)> {
    const TABLE: u16 = 1;
    const NAME: u16 = 2;
    let parts = body(payload)?;
    Some((text(find(&parts, TABLE)?), text(find(&parts, NAME)?)))
}

/// Names the element that an extended ack's offset points into. The offset counts from the
/// start of the request's netlink header.
pub(super) fn element_at_offset(
    message: &[u8],
    offset: usize,
    operation: &Operation,
) -> Option<String> {
    const ELEMENTS: u16 = 3;
    let Object::Elements(set, _) = &operation.object else { return None };
    let length = u32::from_ne_bytes(*message.first_chunk()?) as usize;
    let message = message.get(..length)?;
    let parts = attributes(message.get(NETLINK_HEADER + NFGENMSG..)?)?;
    let start = message.as_ptr().addr();
    let inside = |item: &[u8]| {
        // The attribute's own header counts as part of it.
        let begin = item.as_ptr().addr() - start;
        (begin - 4..begin + item.len()).contains(&offset)
    };
    let list = attributes(find(&parts, ELEMENTS)?)?;
    let item = list.into_iter().map(|(_, item)| item).find(|item| inside(item))?;
    let element = element_key(item, set)?;
    Some(format!("element {{ {element} }} of {} {} {}", set.keyword(), operation.table, set.name))
}

fn element_key(item: &[u8], set: &Set) -> Option<String> {
    const KEY: u16 = 1;
    const VALUE: u16 = 1;
    let parts = attributes(item)?;
    let nested = attributes(find(&parts, KEY)?)?;
    Some(concatenation(&decode_values(&set.key, find(&nested, VALUE)?)?))
}
