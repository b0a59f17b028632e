//! Requests, written attribute by attribute into one buffer.
//!
//! A message of the netlink crates is a tree of owned values, each measured several times before it is
//! written. For `nf_tables`, which is asked in many small attributes, that was a third of a call.

/// The attribute holds attributes.
const NLA_F_NESTED: u16 = 1 << 15;
/// Of a message and of an attribute.
const ALIGNMENT: usize = 4;

/// Messages that are sent in one go, one behind the other.
#[derive(Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    /// What marks an attribute of attributes.
    nested: u16,
}

impl Default for Request {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl Request {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), nested: NLA_F_NESTED }
    }

    /// For attributes as `nf_tables` lists them: nothing marks those that are nested.
    pub(crate) fn listing(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), nested: 0 }
    }

    /// Forgets what was written, and keeps the room for it.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// A message; `body` writes what follows its netlink header.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        // The sender's port, which the kernel fills in.
        self.bytes.extend([0; 4]);
        body(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.overwrite(start, &length.to_ne_bytes());
    }

    /// Sets flags of the message that begins at this byte.
    pub(crate) fn add_flags(&mut self, start: usize, flags: u16) {
        const FLAGS: usize = 6;
        if let Some(&[low, high]) = self.bytes.get(start + FLAGS..start + FLAGS + 2) {
            let flags = u16::from_ne_bytes([low, high]) | flags;
            self.overwrite(start + FLAGS, &flags.to_ne_bytes());
        }
    }

    /// What is no attribute: a protocol's own header.
    pub(crate) fn header(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Attributes that were written elsewhere, within one.
    pub(crate) fn list(&mut self, kind: u16, attributes: &[u8]) {
        self.bytes(kind | self.nested, attributes);
    }

    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(value);
        self.end(start);
    }

    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        const LENGTH: [u8; 2] = 8_u16.to_ne_bytes();
        let ([kind_0, kind_1], [value_0, value_1, value_2, value_3]) =
            (kind.to_ne_bytes(), value.to_be_bytes());
        let [length_0, length_1] = LENGTH;
        let attribute = [length_0, length_1, kind_0, kind_1, value_0, value_1, value_2, value_3];
        self.bytes.extend_from_slice(&attribute);
    }

    /// Text, which ends in a zero byte.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.end(start);
    }

    /// An attribute of those that `body` writes.
    pub(crate) fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.begin(kind | self.nested);
        body(self);
        self.end(start);
    }

    fn begin(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        let [kind_0, kind_1] = kind.to_ne_bytes();
        self.bytes.extend_from_slice(&[0, 0, kind_0, kind_1]);
        start
    }

    fn end(&mut self, start: usize) {
        let length = self.bytes.len() - start;
        let padding = length.next_multiple_of(ALIGNMENT) - length;
        self.bytes.extend_from_slice(&[0; ALIGNMENT][..padding]);
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.overwrite(start, &length.to_ne_bytes());
    }

    fn overwrite(&mut self, start: usize, with: &[u8]) {
        if let Some(place) = self.bytes.get_mut(start..start + with.len()) {
            place.copy_from_slice(with);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::attributes::{Attributes, list};

    #[test]
    fn what_is_written_can_be_read() {
        let mut request = Request::with_capacity(64);
        request.message(7, 1, 9, |message| {
            message.header(&[2, 0, 0, 0]);
            message.text(1, "name");
            message.nested(2, |inner| inner.be32(3, 0x0102_0304));
        });
        let first = request.as_slice().len();
        request.message(8, 1, 10, |message| message.bytes(1, &[5]));
        request.add_flags(first, 4);
        let bytes = request.as_slice();
        let (one, two) = bytes.split_at(first);
        assert_eq!(one[..4], u32::try_from(first).expect("short").to_ne_bytes());
        assert_eq!((&one[4..8], &one[8..12]), (&[7, 0, 1, 0][..], &9_u32.to_ne_bytes()[..]));
        let attributes = Attributes::parse(&one[20..]).expect("attributes");
        assert_eq!(attributes.text(1).as_deref(), Some("name"));
        let inner = attributes.nested(2).expect("nested");
        assert_eq!(inner.get(3), Some(&[1, 2, 3, 4][..]));
        assert_eq!(two[6..8], 5_u16.to_ne_bytes());
        assert_eq!(list(&two[16..]), Some(vec![(1, &[5][..])]));
        assert!(bytes.len().is_multiple_of(ALIGNMENT));
    }
}
