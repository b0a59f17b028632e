//! Protocol versions: the seven that exist, and the numeric form CHECK, GC and STATUS compare.

use std::fmt;

use super::error::{CniError, ErrorCode};

/// A released version of the CNI spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CniVersion {
    /// 0.1.0
    V0_1_0,
    /// 0.2.0
    V0_2_0,
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0
    V0_4_0,
    /// 1.0.0
    V1_0_0,
    /// 1.1.0
    V1_1_0,
}

impl CniVersion {
    /// All versions, oldest first.
    pub const ALL: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// The newest version.
    pub const CURRENT: Self = Self::V1_1_0;

    /// The version in text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version with exactly this text; the empty text is 0.1.0.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::V0_1_0);
        }
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    fn numeric(self) -> NumericVersion {
        match self {
            Self::V0_1_0 => NumericVersion([0, 1, 0]),
            Self::V0_2_0 => NumericVersion([0, 2, 0]),
            Self::V0_3_0 => NumericVersion([0, 3, 0]),
            Self::V0_3_1 => NumericVersion([0, 3, 1]),
            Self::V0_4_0 => NumericVersion([0, 4, 0]),
            Self::V1_0_0 => NumericVersion([1, 0, 0]),
            Self::V1_1_0 => NumericVersion([1, 1, 0]),
        }
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Up to three dot-separated numbers; what is missing counts as 0, the empty text as 0.1.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NumericVersion([u64; 3]);

impl NumericVersion {
    /// Parses the text; the error names the part that is no number.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(CniVersion::V0_1_0.numeric());
        }
        let parts: Vec<&str> = text.split('.').collect();
        if parts.len() > 3 {
            return Err(format!("version {text:?} has more than three parts"));
        }
        let mut numbers = [0; 3];
        for ((number, part), which) in
            numbers.iter_mut().zip(&parts).zip(["major", "minor", "micro"])
        {
            *number = part.parse().map_err(|_| {
                format!("failed to convert {which} version part {part:?} of {text:?}")
            })?;
        }
        Ok(Self(numbers))
    }

    /// Whether this is at least the given released version.
    #[must_use]
    pub fn at_least(self, version: CniVersion) -> bool {
        self >= version.numeric()
    }
}

/// The exact-match rule of ADD and DEL: the text must be one of the supported versions.
pub fn select(text: &str) -> Result<CniVersion, CniError> {
    CniVersion::from_text(text).ok_or_else(|| {
        let supported: Vec<String> =
            CniVersion::ALL.iter().map(|version| format!("\"{version}\"")).collect();
        CniError::new(ErrorCode::IncompatibleVersion, "incompatible CNI versions")
            .with_details(format!("config is {text:?}, plugin supports [{}]", supported.join(" ")))
    })
}

/// The rule of the younger commands: numerically at least `minimum`, not newer than ours, and
/// then an exact match.
pub fn select_for(text: &str, command: &str, minimum: CniVersion) -> Result<CniVersion, CniError> {
    let numeric =
        NumericVersion::parse(text).map_err(|reason| CniError::new(ErrorCode::Decoding, reason))?;
    let refuse = |whose: &str| {
        Err(CniError::new(
            ErrorCode::IncompatibleVersion,
            format!("{whose} version does not allow {command}"),
        ))
    };
    if !numeric.at_least(minimum) {
        return refuse("config").map_err(|error: CniError| {
            error.with_details(format!(
                "{command} needs cniVersion {minimum} or newer, config is {text:?}"
            ))
        });
    }
    if numeric > CniVersion::CURRENT.numeric() {
        return refuse("plugin");
    }
    select(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_match_only() {
        assert_eq!(select("").ok(), Some(CniVersion::V0_1_0));
        assert_eq!(select("1.0.0").ok(), Some(CniVersion::V1_0_0));
        for bad in ["1.0", " 1.0.0", "abc", "9.9.9", "1.1.0\n"] {
            let error = select(bad).expect_err(bad);
            assert_eq!(
                (error.code, error.msg.as_str()),
                (ErrorCode::IncompatibleVersion, "incompatible CNI versions")
            );
        }
        assert_eq!(
            select("9.9.9").expect_err("9.9.9").details,
            r#"config is "9.9.9", plugin supports ["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]"#
        );
    }

    #[test]
    fn younger_commands() {
        let check = |text| {
            select_for(text, "CHECK", CniVersion::V0_4_0).map_err(|e| (e.code.number(), e.msg))
        };
        assert_eq!(check("0.4.0"), Ok(CniVersion::V0_4_0));
        for old in ["", "0.3.0", "0.3.1"] {
            assert_eq!(check(old), Err((1, "config version does not allow CHECK".into())));
        }
        assert_eq!(check("abc").expect_err("abc").0, 6);
        assert_eq!(check("1.0.0.0").expect_err("four parts").0, 6);
        assert_eq!(check("0.5.0"), Err((1, "incompatible CNI versions".into())));
        assert_eq!(check("1.2.0"), Err((1, "plugin version does not allow CHECK".into())));
    }
}
