//! What a file that keeps originals can hold.

use cni_common::cni::protocol::{CniError, ErrorCode};

/// The outcome of reading such a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kept<T> {
    /// There is no file.
    Nothing,
    Originals(T),
    /// Nothing that can be used: which file, and why.
    Corrupt(String),
}

impl<T> Kept<T> {
    /// For DEL: what is of no use goes to `warnings`.
    pub(crate) fn or_warn(self, warnings: &mut Vec<String>) -> Option<T> {
        match self {
            Self::Nothing => None,
            Self::Originals(originals) => Some(originals),
            Self::Corrupt(what) => {
                warnings.push(format!("{what}; the originals in it are lost"));
                None
            }
        }
    }

    /// For ADD, which must not keep what an earlier ADD set in place of what was there first.
    pub(crate) fn or_refuse(self) -> Result<Option<T>, CniError> {
        match self {
            Self::Nothing => Ok(None),
            Self::Originals(originals) => Ok(Some(originals)),
            Self::Corrupt(what) => Err(CniError::new(
                ErrorCode::IoFailure,
                format!(
                    "{what}; what is set now would be taken for the originals: delete the attachment first, or remove the file"
                ),
            )),
        }
    }
}
