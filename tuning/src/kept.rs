//! What a file that keeps originals can hold.

/// The outcome of reading such a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kept<T> {
    /// There is no file.
    Nothing,
    Originals(T),
    /// Nothing that can be used; why.
    Corrupt(String),
}

impl<T> Kept<T> {
    /// The originals. What is wrong with them goes to `warnings`.
    pub(crate) fn or_warn(self, warnings: &mut Vec<String>) -> Option<T> {
        match self {
            Self::Nothing => None,
            Self::Originals(originals) => Some(originals),
            Self::Corrupt(why) => {
                warnings.push(why);
                None
            }
        }
    }
}
