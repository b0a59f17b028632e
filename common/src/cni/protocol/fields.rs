//! Typed access to a configuration, with errors that name the field by its full path.

use std::fmt;

use super::error::CniError;
use super::json::{Json, Object};

/// One place in a configuration and the value found there, if any.
///
/// Places form a chain back to the document's root; the path's text is built only for an error.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    value: Option<&'a Json>,
    parent: Option<&'a Field<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

/// The members of an object field.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    object: &'a Object,
    at: &'a Field<'a>,
}

impl<'a> Field<'a> {
    /// The root of a document.
    #[must_use]
    pub fn root(value: &'a Json) -> Self {
        Self { value: Some(value), parent: None, step: Step::Root }
    }

    /// The value, unless it is absent or `null`.
    #[must_use]
    pub fn value(&self) -> Option<&'a Json> {
        self.value.filter(|value| **value != Json::Null)
    }

    /// The value as an object's members.
    pub fn object(&'a self) -> Result<Option<Fields<'a>>, CniError> {
        match self.value() {
            None => Ok(None),
            Some(Json::Object(object)) => Ok(Some(Fields { object, at: self })),
            Some(_) => Err(self.expected("an object")),
        }
    }

    /// The value as a list.
    pub fn list(&'a self) -> Result<Option<impl Iterator<Item = Field<'a>>>, CniError> {
        match self.value() {
            None => Ok(None),
            Some(Json::Array(items)) => Ok(Some(items.iter().enumerate().map(|(index, item)| {
                Field { value: Some(item), parent: Some(self), step: Step::Index(index) }
            }))),
            Some(_) => Err(self.expected("a list")),
        }
    }

    /// The value as a string.
    pub fn string(&self) -> Result<Option<&'a str>, CniError> {
        match self.value() {
            None => Ok(None),
            Some(Json::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.expected("a string")),
        }
    }

    /// The value as a boolean.
    pub fn boolean(&self) -> Result<Option<bool>, CniError> {
        match self.value() {
            None => Ok(None),
            Some(Json::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(self.expected("true or false")),
        }
    }

    /// The value as an integer in `range`. `80.0` counts as 80: libcni rewrites numbers so.
    pub fn integer(&self, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, CniError> {
        let Some(value) = self.value() else { return Ok(None) };
        let number = match value {
            Json::Number(number) => number.as_u64().or_else(|| number.as_f64().and_then(whole)),
            _ => None,
        };
        match number {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                Err(self.expected(&format!("an integer from {} to {}", range.start(), range.end())))
            }
        }
    }

    /// The error for a value of the wrong type or outside its range.
    #[must_use]
    pub fn expected(&self, what: &str) -> CniError {
        let found = match self.value {
            None => "nothing".to_owned(),
            Some(value @ (Json::Array(_) | Json::Object(_))) => value.kind().to_owned(),
            Some(value) => shorten(&value.to_string()),
        };
        CniError::config(format!("{self} must be {what}, but is {found}"))
    }
}

/// The path as it would be written in jq, for instance `runtimeConfig.portMappings[1].hostPort`.
impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.parent.filter(|parent| !matches!(parent.step, Step::Root));
        if let Some(parent) = inner {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => f.write_str("the configuration"),
            Step::Key(key) if inner.is_some() => write!(f, ".{key}"),
            Step::Key(key) => f.write_str(key),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl<'a> Fields<'a> {
    /// The member with this key, matched without regard to case.
    #[must_use]
    pub fn field(&self, key: &'a str) -> Field<'a> {
        Field { value: self.object.get(key), parent: Some(self.at), step: Step::Key(key) }
    }

    /// The members themselves, for free-form maps.
    #[must_use]
    pub fn members(&self) -> &'a Object {
        self.object
    }
}

/// The integer a float stands for, if it is one that a float holds exactly.
fn whole(value: f64) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded above")]
    (value.fract() == 0.0 && (0.0..=EXACT).contains(&value)).then_some(value as u64)
}

/// Keeps hostile input from filling the runtime's log.
pub(crate) fn shorten(text: &str) -> String {
    const LIMIT: usize = 80;
    if text.chars().count() <= LIMIT {
        return text.to_owned();
    }
    let head: String = text.chars().take(LIMIT).collect();
    format!("{head}… ({} bytes)", text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_path_and_what_was_found() {
        let json = Json::parse(br#"{"runtimeConfig":{"PortMappings":[{},{"HostPort":"80"}]}}"#)
            .expect("json");
        let root = Field::root(&json);
        let top = root.object().expect("object").expect("present");
        let runtime = top.field("runtimeConfig");
        let runtime = runtime.object().expect("object").expect("present");
        let mappings = runtime.field("portMappings");
        let second = mappings.list().expect("list").expect("present").nth(1).expect("second");
        let entry = second.object().expect("object").expect("present");
        let error = entry.field("hostPort").integer(1..=65535).expect_err("a string");
        assert_eq!(
            error.msg,
            r#"runtimeConfig.portMappings[1].hostPort must be an integer from 1 to 65535, but is "80""#
        );
    }

    #[test]
    fn integers() {
        let read = |text: &str| {
            let json = Json::parse(text.as_bytes()).expect("json");
            Field::root(&json).integer(1..=65535).map_err(|_| ())
        };
        assert_eq!(read("80"), Ok(Some(80)));
        assert_eq!(read("80.0"), Ok(Some(80)));
        assert_eq!(read("8e1"), Ok(Some(80)));
        assert_eq!(read("null"), Ok(None));
        for bad in ["0", "65536", "-1", "80.5", "1e400", "\"80\"", "true", "[]"] {
            if Json::parse(bad.as_bytes()).is_ok() {
                assert_eq!(read(bad), Err(()), "{bad}");
            }
        }
    }
}
