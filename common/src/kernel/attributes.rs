//! Netlink attributes, read one by one.
//!
//! The netlink crate's own list parser formats its whole input for every item, in case of an
//! error; on a map of 10,000 elements that takes seconds. Walking the attributes takes
//! milliseconds.

/// The highest bits of a kind say that an attribute is nested or in network byte order.
const TYPE_MASK: u16 = 0x3fff;

/// Attributes one after the other, kinds without their flags; `None` for one that is malformed,
/// which is the last.
#[derive(Clone, Debug)]
pub(crate) struct Walk<'a> {
    rest: &'a [u8],
}

/// The attributes of a list.
pub(crate) fn walk(bytes: &[u8]) -> Walk<'_> {
    Walk { rest: bytes }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Option<(u16, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        const HEADER: usize = 4;
        if self.rest.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.rest);
        let [length_0, length_1, kind_0, kind_1, ..] = *bytes else { return Some(None) };
        let length = usize::from(u16::from_ne_bytes([length_0, length_1]));
        let kind = u16::from_ne_bytes([kind_0, kind_1]) & TYPE_MASK;
        let Some(value) = bytes.get(HEADER..length) else { return Some(None) };
        self.rest = bytes.get(length.next_multiple_of(HEADER)..).unwrap_or_default();
        Some(Some((kind, value)))
    }
}

/// The attributes of a list; `None` if they are malformed.
#[must_use]
pub fn list(bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut list = Vec::with_capacity(8);
    for attribute in walk(bytes) {
        list.push(attribute?);
    }
    Some(list)
}

/// The attributes of a list by their kinds, as far as these are below `N`, the first of each; `None` if
/// the list is malformed.
pub(crate) fn by_kind<const N: usize>(bytes: &[u8]) -> Option<[Option<&[u8]>; N]> {
    let mut found = [None; N];
    for attribute in walk(bytes) {
        let (kind, value) = attribute?;
        if let Some(place) = found.get_mut(usize::from(kind)) {
            place.get_or_insert(value);
        }
    }
    Some(found)
}

/// The first attribute of this kind in a list.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    walk(bytes).flatten().find(|(found, _)| *found == kind).map(|(_, value)| value)
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
        self.0.iter().find(|(found, _)| *found == kind).map(|(_, value)| *value)
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

    /// A 32-bit word in network byte order, as netfilter's subsystems have them.
    #[must_use]
    pub fn be32(&self, kind: u16) -> Option<u32> {
        be32(self.get(kind)?)
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

/// The 32-bit word in network byte order that these bytes are.
pub(crate) fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}
