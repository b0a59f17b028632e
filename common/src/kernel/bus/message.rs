//! Messages of D-Bus: calls whose arguments are text, and what answers them. Pure.

/// A call of a method. All that is ever asked takes text.
#[derive(Clone, Copy, Debug)]
pub struct MethodCall<'a> {
    /// Whom it is for.
    pub destination: &'a str,
    /// Its object.
    pub object: &'a str,
    /// The interface of the method.
    pub interface: &'a str,
    /// The method.
    pub method: &'a str,
    /// Its arguments.
    pub arguments: &'a [&'a str],
}

/// What a method returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// Yes or no.
    Truth(bool),
    /// Nothing, or something of another type.
    Other,
}

/// A message that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The call with this number returned something.
    Return(u32, Value),
    /// The call with this number failed: the error's name, and its text.
    Error(u32, String, String),
    /// It answers no call.
    Other,
}

/// What came in is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Garbled;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const PROTOCOL_VERSION: u8 = 1;
const LITTLE_ENDIAN: u8 = b'l';
const BIG_ENDIAN: u8 = b'B';

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// What comes before the header's fields, with their length.
const FIXED: usize = 16;
/// Far more than any answer to these calls. A length beyond it is none.
const LONGEST: usize = 1 << 20;

impl MethodCall<'_> {
    /// The bytes of the call with this number.
    pub(super) fn encode(&self, serial: u32) -> Vec<u8> {
        let mut body = Writer::default();
        for argument in self.arguments {
            body.text(argument);
        }
        let mut message = Writer(vec![LITTLE_ENDIAN, METHOD_CALL, 0, PROTOCOL_VERSION]);
        message.number(length(&body.0));
        message.number(serial);
        message.number(0);
        for (code, kind, text) in [
            (PATH, b'o', self.object),
            (DESTINATION, b's', self.destination),
            (INTERFACE, b's', self.interface),
            (MEMBER, b's', self.method),
        ] {
            message.field(code, kind);
            message.text(text);
        }
        if !self.arguments.is_empty() {
            message.field(SIGNATURE, b'g');
            message.signature(&"s".repeat(self.arguments.len()));
        }
        let fields = length(&message.0[FIXED..]);
        message.0[FIXED - 4..FIXED].copy_from_slice(&fields.to_le_bytes());
        message.align(8);
        message.0.extend(body.0);
        message.0
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Writes little-endian, each value where its alignment wants it.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(length(text.as_bytes()));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// The beginning of a header field, whose value has the type of this letter.
    fn field(&mut self, code: u8, kind: u8) {
        self.align(8);
        self.0.extend([code, 1, kind, 0]);
    }
}

/// The first message of what was received, and how long it is; none while not all of it is there.
pub(super) fn decode(bytes: &[u8]) -> Result<Option<(Message, usize)>, Garbled> {
    if bytes.len() < FIXED {
        return Ok(None);
    }
    let big_endian = match (bytes[0], bytes[3]) {
        (LITTLE_ENDIAN, PROTOCOL_VERSION) => false,
        (BIG_ENDIAN, PROTOCOL_VERSION) => true,
        _ => return Err(Garbled),
    };
    let mut reader = Reader { bytes, at: 4, big_endian };
    let body = reader.number()?;
    let _serial = reader.number()?;
    let fields_end = FIXED.saturating_add(reader.number()?);
    let body_start = fields_end.next_multiple_of(8);
    let end = body_start.saturating_add(body);
    if end > LONGEST {
        return Err(Garbled);
    }
    if bytes.len() < end {
        return Ok(None);
    }
    let mut reader = Reader { bytes: &bytes[..fields_end], at: FIXED, big_endian };
    let fields = reader.fields()?;
    let mut reader = Reader { bytes: &bytes[..end], at: body_start, big_endian };
    let message = match (bytes[1], fields.reply_to) {
        (METHOD_RETURN, Some(call)) => Message::Return(call, reader.value(fields.signature)?),
        (ERROR, Some(call)) => {
            let Value::Text(text) = reader.value(fields.signature)? else {
                return Ok(Some((
                    Message::Error(call, fields.error.to_owned(), String::new()),
                    end,
                )));
            };
            Message::Error(call, fields.error.to_owned(), text)
        }
        (METHOD_RETURN | ERROR, None) => return Err(Garbled),
        _ => Message::Other,
    };
    Ok(Some((message, end)))
}

/// What of a header is of interest.
#[derive(Default)]
struct Fields<'a> {
    reply_to: Option<u32>,
    error: &'a str,
    signature: &'a str,
}

/// Reads values one after the other.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Garbled> {
        let end = self.at.saturating_add(count);
        let taken = self.bytes.get(self.at..end).ok_or(Garbled)?;
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> Result<u8, Garbled> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn word(&mut self) -> Result<u32, Garbled> {
        self.align(4);
        let bytes = self.take(4)?.try_into().map_err(|_| Garbled)?;
        Ok(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn number(&mut self) -> Result<usize, Garbled> {
        usize::try_from(self.word()?).map_err(|_| Garbled)
    }

    /// So many bytes and a 0.
    fn string(&mut self, length: usize) -> Result<&'a str, Garbled> {
        let text = self.take(length)?;
        match self.byte()? {
            0 => std::str::from_utf8(text).map_err(|_| Garbled),
            _ => Err(Garbled),
        }
    }

    fn text(&mut self) -> Result<&'a str, Garbled> {
        let length = self.number()?;
        self.string(length)
    }

    fn signature(&mut self) -> Result<&'a str, Garbled> {
        let length = self.byte()?;
        self.string(length.into())
    }

    fn fields(&mut self) -> Result<Fields<'a>, Garbled> {
        let mut fields = Fields::default();
        while self.at < self.bytes.len() {
            self.align(8);
            let code = self.byte()?;
            match (code, self.signature()?) {
                (REPLY_SERIAL, "u") => fields.reply_to = Some(self.word()?),
                (ERROR_NAME, "s") => fields.error = self.text()?,
                (SIGNATURE, "g") => fields.signature = self.signature()?,
                (_, "s" | "o") => drop(self.text()?),
                (_, "u") => drop(self.word()?),
                (_, "g") => drop(self.signature()?),
                // No field of the protocol has another type.
                _ => return Err(Garbled),
            }
        }
        Ok(fields)
    }

    /// The first value of a body.
    fn value(&mut self, signature: &str) -> Result<Value, Garbled> {
        match signature.as_bytes().first() {
            Some(b's' | b'o') => self.text().map(|text| Value::Text(text.to_owned())),
            Some(b'b') => self.word().map(|word| Value::Truth(word != 0)),
            _ => Ok(Value::Other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CALL: MethodCall<'_> = MethodCall {
        destination: "org.freedesktop.DBus",
        object: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus",
        method: "NameHasOwner",
        arguments: &["a.b"],
    };

    /// An answer as a bus writes it, in either order of bytes.
    fn answer(big_endian: bool, kind: u8, reply_to: u32, signature: &str, body: &[u8]) -> Vec<u8> {
        let word =
            |number: u32| if big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
        let text = |text: &[u8]| [&word(length(text))[..], text, &[0]].concat();
        let mut values =
            vec![(REPLY_SERIAL, b'u', word(reply_to).to_vec()), (7, b's', text(b":1.2"))];
        if kind == ERROR {
            values.push((ERROR_NAME, b's', text(b"a.E")));
        }
        if !signature.is_empty() {
            values.push((SIGNATURE, b'g', vec![1, signature.as_bytes()[0], 0]));
        }
        let mut fields = Vec::new();
        for (code, kind, value) in values {
            fields.resize(usize::next_multiple_of(fields.len(), 8), 0);
            fields.extend([code, 1, kind, 0]);
            fields.extend(value);
        }
        let first = if big_endian { BIG_ENDIAN } else { LITTLE_ENDIAN };
        let mut bytes = vec![first, kind, 1, PROTOCOL_VERSION];
        for number in [length(body), 99, length(&fields)] {
            bytes.extend(word(number));
        }
        bytes.extend(fields);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_call_is_as_the_specification_lays_it_out() {
        let bytes = CALL.encode(7);
        assert_eq!(bytes[..4], [b'l', 1, 0, 1]);
        assert_eq!(bytes[4..8], 8_u32.to_le_bytes(), "the body: a length, three letters, a 0");
        assert_eq!(bytes[8..12], 7_u32.to_le_bytes());
        assert_eq!(bytes.len() % 8, 0);
        assert_eq!(bytes[bytes.len() - 8..], *b"\x03\0\0\0a.b\0");
        // Nobody answers with a call.
        assert_eq!(decode(&bytes), Ok(Some((Message::Other, bytes.len()))));
    }

    #[test]
    fn answers_are_read_in_either_order_of_bytes() {
        for big_endian in [false, true] {
            let word = |n: u32| if big_endian { n.to_be_bytes() } else { n.to_le_bytes() };
            let text = [&word(2)[..], b"ok\0"].concat();
            let returned = answer(big_endian, METHOD_RETURN, 3, "s", &text);
            let expected = Message::Return(3, Value::Text("ok".into()));
            assert_eq!(decode(&returned), Ok(Some((expected, returned.len()))));
            let yes = answer(big_endian, METHOD_RETURN, 4, "b", &word(1));
            assert_eq!(decode(&yes), Ok(Some((Message::Return(4, Value::Truth(true)), yes.len()))));
            let error = answer(big_endian, ERROR, 5, "s", &text);
            let expected = Message::Error(5, "a.E".into(), "ok".into());
            assert_eq!(decode(&error), Ok(Some((expected, error.len()))));
            let bare = answer(big_endian, ERROR, 5, "", &[]);
            let expected = Message::Error(5, "a.E".into(), String::new());
            assert_eq!(decode(&bare), Ok(Some((expected, bare.len()))));
        }
    }

    #[test]
    fn half_a_message_is_waited_for() {
        let whole = answer(false, METHOD_RETURN, 3, "b", &1_u32.to_le_bytes());
        for end in 0..whole.len() {
            assert_eq!(decode(&whole[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let good = answer(false, METHOD_RETURN, 3, "b", &1_u32.to_le_bytes());
        for (at, byte) in [(0, b'x'), (3, 2), (6, 0xff), (14, 0xff), (17, 9), (18, b'q')] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(decode(&bad), Err(Garbled), "byte {at}");
        }
        let unrelated = [b'l', METHOD_RETURN, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(decode(&unrelated), Err(Garbled), "an answer to nothing");
    }

    proptest! {
        #[test]
        fn nothing_that_comes_in_is_too_odd(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            real in any::<bool>(),
        ) {
            if real && bytes.len() >= FIXED {
                bytes[..4].copy_from_slice(&[LITTLE_ENDIAN, METHOD_RETURN, 0, PROTOCOL_VERSION]);
                for at in [5, 6, 7, 13, 14, 15] {
                    bytes[at] = 0;
                }
            }
            if let Ok(Some((_, end))) = decode(&bytes) {
                prop_assert!((FIXED..=bytes.len()).contains(&end));
            }
        }
    }
}
