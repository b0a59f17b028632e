//! What of an attachment can be restored.

use std::fmt;
use std::str::FromStr;

use crate::runner::plugins::MetaPlugin;

/// Something of an attachment that a flush takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What a plugin of this collection made.
    Plugin(MetaPlugin),
    /// The masquerade rules that the plugin of the interface made for `ipMasq`.
    Masquerading,
}

const MASQUERADING: &str = "ipMasq";

/// By the plugin's name, or by the key that asks for it.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plugin(plugin) => plugin.fmt(f),
            Self::Masquerading => f.write_str(MASQUERADING),
        }
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case(MASQUERADING) {
            return Ok(Self::Masquerading);
        }
        text.parse().map(Self::Plugin).map_err(|error| format!("{error}, {MASQUERADING}"))
    }
}
