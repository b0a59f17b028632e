//! A JSON tree that keeps what CNI needs and `serde_json::Value` loses.
//!
//! Go decodes a network configuration into structs: keys match without regard to case, the last
//! duplicate wins in document order, and `null` means "not given". Runtimes rely on all three
//! (containerd sends `HostPort`), so objects keep every member in the order it was written and
//! are searched by [`Object::get`] or, for free-form maps, [`Object::get_exact`].

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
pub use serde_json::Number;

/// Any JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`, which in a configuration means "not given".
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number; integers up to 64 bits are exact.
    Number(Number),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object.
    Object(Object),
}

/// The members of a JSON object in document order, duplicates included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(Vec<(Arc<str>, Json)>);

/// More values than this are refused: a text of two bytes for each would fill the memory.
const MOST_VALUES: usize = 1 << 23;
/// From this length of a text on, a tree is made to take little memory instead of little time:
/// equal keys are one, and nothing has room to grow.
const LONG_TEXT: usize = 1 << 16;
/// How many different keys are shared; a search in more of them would take too long.
const SHARED_KEYS: usize = 64;
/// An indentation can make a text of many small values a hundred times as long.
const LONGEST_INDENTED: usize = 64 << 20;

impl Json {
    /// Parses exactly one JSON value of at most some million values. Invalid UTF-8 inside it
    /// becomes U+FFFD, as Go does it.
    pub fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        match std::str::from_utf8(text) {
            Ok(text) => Self::parse_text(text, MOST_VALUES),
            Err(_) => Self::parse_text(&String::from_utf8_lossy(text), MOST_VALUES),
        }
    }

    fn parse_text(text: &str, most_values: usize) -> Result<Self, serde_json::Error> {
        let tree = Tree {
            most_values,
            values: Cell::new(0),
            saves_memory: text.len() >= LONG_TEXT,
            keys: RefCell::default(),
        };
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let json = tree.deserialize(&mut deserializer)?;
        deserializer.end().map(|()| json)
    }

    /// The text with the four-space indentation that CNI plugins print.
    #[must_use]
    pub fn to_pretty(&self) -> String {
        pretty(self)
    }

    /// What kind of value this is, in the words of an error message.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// The object, if this is one.
    #[must_use]
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The string, if this is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The list, if this is one.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Json]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }
}

/// The text of a tree, or of what would make one, with an indentation of four spaces.
pub(super) fn pretty(value: &impl Serialize) -> String {
    in_memory(indented(value, Vec::new()).and_then(utf8))
}

/// The same, but without an indentation where that makes it too long. It asks for the length at each write.
pub(super) fn pretty_unless_long(value: &impl Serialize) -> String {
    let room = Room { text: Vec::new(), longest: LONGEST_INDENTED };
    let text = indented(value, room).and_then(|room| utf8(room.text));
    text.unwrap_or_else(|_| in_memory(serde_json::to_string(value)))
}

fn indented<W: io::Write>(value: &impl Serialize, mut text: W) -> Result<W, serde_json::Error> {
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
    Ok(text)
}

fn utf8(text: Vec<u8>) -> Result<String, serde_json::Error> {
    String::from_utf8(text).map_err(serde::ser::Error::custom)
}

/// Writing strings and numbers into memory has no way to fail.
fn in_memory(text: Result<String, serde_json::Error>) -> String {
    text.unwrap_or_else(|error| unreachable!("serialising JSON into memory: {error}"))
}

/// Memory for a text up to a length.
struct Room {
    text: Vec<u8>,
    longest: usize,
}

impl io::Write for Room {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.text.len() + part.len() > self.longest {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Object {
    /// The last member that is not `null` and whose key equals `key` without regard to case.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.find(|candidate| candidate.eq_ignore_ascii_case(key))
    }

    /// The last member that is not `null` and has exactly this key.
    #[must_use]
    pub fn get_exact(&self, key: &str) -> Option<&Json> {
        self.find(|candidate| candidate == key)
    }

    fn find(&self, matches: impl Fn(&str) -> bool) -> Option<&Json> {
        self.0.iter().rev().find(|(k, v)| matches(k) && *v != Json::Null).map(|(_, v)| v)
    }

    /// Sets a member, replacing every earlier spelling of the key.
    pub fn set(&mut self, key: &str, value: impl Into<Json>) {
        self.remove(key);
        self.0.push((key.into(), value.into()));
    }

    /// Appends a member without looking for an earlier one.
    pub fn push(&mut self, key: impl Into<Arc<str>>, value: impl Into<Json>) {
        self.0.push((key.into(), value.into()));
    }

    /// Removes every spelling of the key.
    pub fn remove(&mut self, key: &str) {
        self.0.retain(|(candidate, _)| !candidate.eq_ignore_ascii_case(key));
    }

    /// All members in document order.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &Json)> {
        self.0.iter().map(|(key, value)| (&**key, value))
    }

    /// Whether there is no member at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(String, Json)> for Object {
    fn from_iter<I: IntoIterator<Item = (String, Json)>>(members: I) -> Self {
        Self(members.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }
}

impl From<Object> for Json {
    fn from(object: Object) -> Self {
        Self::Object(object)
    }
}
impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}
impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}
impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}
impl From<u64> for Json {
    fn from(value: u64) -> Self {
        Self::Number(value.into())
    }
}
impl From<i64> for Json {
    fn from(value: i64) -> Self {
        Self::Number(value.into())
    }
}
impl<T: Into<Json>> From<Vec<T>> for Json {
    fn from(items: Vec<T>) -> Self {
        Self::Array(items.into_iter().map(Into::into).collect())
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(value) => value.serialize(serializer),
            Self::String(value) => serializer.serialize_str(value),
            Self::Array(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(item)?;
                }
                seq.end()
            }
            Self::Object(object) => {
                let mut map = serializer.serialize_map(Some(object.0.len()))?;
                for (key, value) in &object.0 {
                    map.serialize_entry(&**key, value)?;
                }
                map.end()
            }
        }
    }
}

/// Compact text.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// What one parse remembers.
struct Tree {
    most_values: usize,
    values: Cell<usize>,
    saves_memory: bool,
    keys: RefCell<Vec<Arc<str>>>,
}

impl Tree {
    fn key(&self, text: &str) -> Arc<str> {
        if !self.saves_memory {
            return text.into();
        }
        let mut keys = self.keys.borrow_mut();
        if let Some(key) = keys.iter().find(|key| ***key == *text) {
            return Arc::clone(key);
        }
        let key: Arc<str> = text.into();
        if keys.len() < SHARED_KEYS {
            keys.push(Arc::clone(&key));
        }
        key
    }

    /// What `Vec` does by itself makes room for four at first, and what three of them leave between other lists
    /// when they go is of no use to anybody.
    #[inline]
    fn push<T>(&self, items: &mut Vec<T>, item: T) {
        if self.saves_memory && items.len() == items.capacity() {
            items.reserve_exact(items.len().max(1));
        }
        items.push(item);
    }

    fn no_more<T>(&self, items: &mut Vec<T>) {
        if self.saves_memory {
            items.shrink_to_fit();
        }
    }
}

impl<'de> DeserializeSeed<'de> for &Tree {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        let values = self.values.get() + 1;
        if values > self.most_values {
            return Err(D::Error::custom(format!("more than {} values", self.most_values)));
        }
        self.values.set(values);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &Tree {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }
    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            self.push(&mut items, item);
        }
        self.no_more(&mut items);
        Ok(Json::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry_seed(Key(self), self)? {
            self.push(&mut members, member);
        }
        self.no_more(&mut members);
        Ok(Json::Object(Object(members)))
    }
}

struct Key<'a>(&'a Tree);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Arc<str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Arc<str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Arc<str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E>(self, text: &str) -> Result<Arc<str>, E> {
        Ok(self.0.key(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Object {
        match Json::parse(text.as_bytes()) {
            Ok(Json::Object(object)) => object,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn keys_match_without_case_and_the_last_one_wins() {
        let o = object(r#"{"hostPort":1,"HOSTPORT":2,"other":3}"#);
        assert_eq!(o.get("HostPort"), Some(&Json::from(2u64)));
        assert_eq!(o.get_exact("hostPort"), Some(&Json::from(1u64)));
    }

    #[test]
    fn null_means_not_given() {
        let o = object(r#"{"snat":false,"SNAT":null,"x":null}"#);
        assert_eq!(o.get("snat"), Some(&Json::Bool(false)));
        assert_eq!(o.get("x"), None);
    }

    #[test]
    fn integers_are_exact_and_order_survives() {
        let text = r#"{"b":18446744073709551615,"a":[-9223372036854775808,1.5],"b2":"é"}"#;
        assert_eq!(Json::from(object(text)).to_string(), text);
    }

    #[test]
    fn invalid_utf8_is_replaced_and_trailing_text_is_an_error() {
        assert_eq!(Json::parse(b"\"a\xffb\"").ok(), Some(Json::from("a\u{fffd}b")));
        assert!(Json::parse(b"{} {}").is_err());
        assert!(Json::parse(b"").is_err());
        assert!(Json::parse(b"\xef\xbb\xbf{}").is_err());
    }

    #[test]
    fn more_values_than_memory_has_room_for_are_an_error() {
        let parse = |most| Json::parse_text(r#"{"a":[1,{"b":null}]}"#, most);
        assert!(parse(5).is_ok());
        let error = parse(4).expect_err("one too many");
        assert!(error.is_data() && error.to_string().starts_with("more than 4 values"), "{error}");
        assert!(!Json::parse(b"[").expect_err("no JSON").is_data());
    }

    #[test]
    fn keys_of_a_long_text_are_those_of_a_short_one() {
        let members: Vec<String> = (0..20_000).map(|n| format!("\"k{}\":{n}", n % 100)).collect();
        let text = format!("{{{}}}", members.join(","));
        assert!(text.len() > LONG_TEXT);
        assert_eq!(Json::from(object(&text)).to_string(), text);
    }

    #[test]
    fn a_text_that_its_indentation_makes_too_long_has_none() {
        let json = Json::from(object(r#"{"a":[1,{"b":null}]}"#));
        assert_eq!(pretty_unless_long(&json), json.to_pretty());
        let long = format!(r#"{{"a":[{}0]}}"#, "0,".repeat(LONGEST_INDENTED / 10));
        assert_eq!(pretty_unless_long(&Json::from(object(&long))), long);
    }

    #[test]
    fn nesting_that_would_exhaust_the_stack_is_an_error() {
        assert!(Json::parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
