//! A JSON tree that keeps what CNI needs and `serde_json::Value` loses.
//!
//! Go decodes a network configuration into structs: keys match without regard to case, the last
//! duplicate wins in document order, and `null` means "not given". Runtimes rely on all three
//! (containerd sends `HostPort`), so objects keep every member in the order it was written and
//! are searched by [`Object::get`] or, for free-form maps, [`Object::get_exact`].

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
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
pub struct Object(Vec<(String, Json)>);

impl Json {
    /// Parses exactly one JSON value. Invalid UTF-8 inside it becomes U+FFFD, as Go does it.
    pub fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        match std::str::from_utf8(text) {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_str(&String::from_utf8_lossy(text)),
        }
    }

    /// The text with the four-space indentation that CNI plugins print.
    #[must_use]
    pub fn to_pretty(&self) -> String {
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
        match self.serialize(&mut serializer) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            // Writing a tree of strings and numbers into memory has no way to fail.
            Err(error) => unreachable!("serialising JSON into memory: {error}"),
        }
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
        self.0.push((key.to_owned(), value.into()));
    }

    /// Appends a member without looking for an earlier one.
    pub fn push(&mut self, key: impl Into<String>, value: impl Into<Json>) {
        self.0.push((key.into(), value.into()));
    }

    /// Removes every spelling of the key.
    pub fn remove(&mut self, key: &str) {
        self.0.retain(|(candidate, _)| !candidate.eq_ignore_ascii_case(key));
    }

    /// All members in document order.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &Json)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Whether there is no member at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(String, Json)> for Object {
    fn from_iter<I: IntoIterator<Item = (String, Json)>>(members: I) -> Self {
        Self(members.into_iter().collect())
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
                    map.serialize_entry(key, value)?;
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

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TreeVisitor;

        impl<'de> Visitor<'de> for TreeVisitor {
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
            fn visit_string<E>(self, value: String) -> Result<Json, E> {
                Ok(Json::String(value))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Json::Array(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Json::Object(Object(members)))
            }
        }

        deserializer.deserialize_any(TreeVisitor)
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
    fn nesting_that_would_exhaust_the_stack_is_an_error() {
        assert!(Json::parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
