//! The number of a layout: of the shape that a plugin gives to what it leaves on a host.
//!
//! What has no number is of layout 1. A plugin takes over older layouts, and leaves newer ones alone.

use std::fmt;

/// Something that only a newer version of the plugin can read and change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newer {
    /// What has the layout, as in `table inet cni_portmap`.
    pub place: String,
    /// Its layout's number.
    pub number: u32,
    /// The newest that is known here.
    pub known: u32,
}

impl Newer {
    /// What the operator can do about it.
    pub const REMEDY: &str = "upgrade this plugin, or run the newer version again";

    /// Fails if the number that something has is above those that are known.
    pub fn refuse(
        number: Option<u32>,
        known: u32,
        place: impl FnOnce() -> String,
    ) -> Result<(), Self> {
        match number {
            Some(number) if number > known => Err(Self { place: place(), number, known }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Newer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, number, known } = self;
        write!(
            f,
            "{place} has layout {number}, which a newer version made, and this one knows layouts up to {known}"
        )
    }
}

impl std::error::Error for Newer {}
