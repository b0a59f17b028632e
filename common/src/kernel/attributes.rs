//! Netlink attributes, read one by one.
//!
//! The netlink crate's own list parser formats its whole input for every item, in case of an
//! error; on a map of 10,000 elements that takes seconds. Walking the attributes takes
//! milliseconds.

use netlink_packet_core::NlasIterator;

/// The attributes of a list, kinds without the flags of the highest bits; `None` if they are
/// malformed.
#[must_use]
pub fn list(bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    const HEADER: usize = 4;
    let mut list = Vec::new();
    for attribute in NlasIterator::new(bytes) {
        let attribute = attribute.ok()?;
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        list.push((kind, attribute.into_inner().get(HEADER..length)?));
    }
    Some(list)
}

/// A message's attributes by number.
#[derive(Debug, Default)]
pub struct Attributes<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Attributes<'a> {
    /// Reads a list; `None` if it is malformed.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        list(bytes).map(Self)
    }

    /// The value of the first attribute of a kind.
    #[must_use]
    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        /// The highest bits say that an attribute is nested or in network byte order.
        const TYPE_MASK: u16 = 0x3fff;
        self.0.iter().find(|(found, _)| found & TYPE_MASK == kind).map(|(_, value)| *value)
    }

    /// The value of the first attribute.
    #[must_use]
    pub fn first(&self) -> Option<&'a [u8]> {
        self.0.first().map(|(_, value)| *value)
    }

    /// The attributes within one.
    #[must_use]
    pub fn nested(&self, kind: u16) -> Option<Self> {
        Self::parse(self.get(kind)?)
    }

    /// Text, without the zero byte at its end.
    #[must_use]
    pub fn text(&self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        Some(String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned())
    }

    /// A 32-bit word in the machine's byte order.
    #[must_use]
    pub fn word(&self, kind: u16) -> Option<u32> {
        word(self.get(kind)?, 0)
    }
}

/// The 32-bit word in the machine's byte order at an offset in bytes.
#[must_use]
pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}
