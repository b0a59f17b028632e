//! The error every command can end with: one JSON object on stdout (CNI spec, "Error").

use std::collections::HashSet;
use std::fmt;

use super::json::{Json, Object};

/// Error codes of the CNI spec and, where it has none, of the Go libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// 1: the configuration's `cniVersion` is not supported, or has no such command.
    IncompatibleVersion,
    /// 2: a field of the configuration cannot be honoured; the message holds key and value.
    UnsupportedField,
    /// 3: the container is unknown or does not exist.
    UnknownContainer,
    /// 4: an environment variable is missing or invalid; the message names it.
    InvalidEnvironment,
    /// 5: reading stdin or another input failed.
    IoFailure,
    /// 6: stdin cannot be decoded.
    Decoding,
    /// 7: the configuration was decoded, but its content is not valid.
    InvalidNetworkConfig,
    /// 8: `CNI_NETNS` is not usable, or is the plugin's own namespace.
    InvalidNetns,
    /// 11: a transient condition; the same call may succeed later.
    TryAgainLater,
    /// 50: STATUS: this plugin cannot serve ADD.
    NotAvailable,
    /// 51: STATUS: this plugin cannot serve ADD and existing containers may be affected.
    LimitedConnectivity,
    /// 100: CHECK found the attachment's state missing or different from what ADD made.
    CheckFailed,
    /// 101: the kernel refused a change.
    Kernel,
    /// 102: a host port is held by another attachment, and ADD was not to take it, or CHECK finds that it waits.
    PortConflict,
    /// 999: anything else; a defect of the plugin.
    Internal,
    /// Another program's code, kept as it came.
    Other(u32),
}

impl ErrorCode {
    /// The number that goes into the JSON.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnsupportedField => 2,
            Self::UnknownContainer => 3,
            Self::InvalidEnvironment => 4,
            Self::IoFailure => 5,
            Self::Decoding => 6,
            Self::InvalidNetworkConfig => 7,
            Self::InvalidNetns => 8,
            Self::TryAgainLater => 11,
            Self::NotAvailable => 50,
            Self::LimitedConnectivity => 51,
            Self::CheckFailed => 100,
            Self::Kernel => 101,
            Self::PortConflict => 102,
            Self::Internal => 999,
            Self::Other(number) => number,
        }
    }
}

/// A CNI error: a code, a message that names the object and the remedy, and optional details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    /// What kind of failure this is.
    pub code: ErrorCode,
    /// One sentence for the person who reads the runtime's log.
    pub msg: String,
    /// The underlying cause, for instance the errno and the kernel's own words.
    pub details: String,
}

impl CniError {
    /// An error without details.
    pub fn new(code: ErrorCode, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// The same error with details.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// Code 7.
    pub fn config(msg: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidNetworkConfig, msg)
    }

    /// The object printed on stdout.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let mut object = Object::default();
        object.push("code", u64::from(self.code.number()));
        object.push("msg", self.msg.as_str());
        if !self.details.is_empty() {
            object.push("details", self.details.as_str());
        }
        object.into()
    }

    /// Reads an error object that another plugin printed; `None` if it is none.
    #[must_use]
    pub fn from_json(json: &Json) -> Option<Self> {
        let object = json.as_object()?;
        let text = |key| object.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
        let code = match object.get("code") {
            Some(Json::Number(number)) => u32::try_from(number.as_u64()?).ok()?,
            None => 0,
            Some(_) => return None,
        };
        Some(Self { code: ErrorCode::Other(code), msg: text("msg"), details: text("details") })
    }
}

impl CniError {
    /// The outcome of a CHECK: an error (code 100) if it found mismatches. The message has the first, the
    /// details up to twenty others; each is told once.
    pub fn unless_sound(claim: &str, mismatches: &[String], remedy: &str) -> Result<(), Self> {
        const MOST: usize = 20;
        let mut told = HashSet::new();
        let mut distinct = mismatches.iter().map(String::as_str).filter(|text| told.insert(*text));
        let Some(first) = distinct.next() else { return Ok(()) };
        let others: Vec<&str> = distinct.collect();
        let more = match others.len() {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let details = others[..others.len().min(MOST)].join("; ");
        let msg = format!("{claim}: {first}{more}; {remedy}");
        Err(Self::new(ErrorCode::CheckFailed, msg).with_details(details))
    }
}

/// `msg` or `msg; details`, as every Go runtime prints it.
impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if !self.details.is_empty() {
            write!(f, "; {}", self.details)?;
        }
        Ok(())
    }
}

impl std::error::Error for CniError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_tells_each_mismatch_once() {
        let faults = ["a is gone", "b is gone", "a is gone"].map(str::to_owned);
        let error = CniError::unless_sound("two are wrong", &faults, "put them back");
        assert_eq!(
            error.expect_err("faults").to_string(),
            "two are wrong: a is gone (and 1 more); put them back; b is gone"
        );
        let error = CniError::unless_sound("one is wrong", &faults[..1], "put it back");
        assert_eq!(error.expect_err("a fault").to_string(), "one is wrong: a is gone; put it back");
        assert_eq!(CniError::unless_sound("all is well", &[], ""), Ok(()));
    }
}
