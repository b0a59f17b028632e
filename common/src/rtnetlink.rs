//! One rtnetlink request and its answers, without the crate's enum of all route messages: that
//! would link the encoders and parsers of every message type into each plugin, a megabyte that
//! has to be mapped at each start.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use netlink_packet_core::{
    Emitable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netlink::{Connection, Dump, append};
use crate::nft::encode::attributes;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_ECHO: u16 = 0x8;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;

/// How often a dump is read again when what it shows changed under it.
const DUMP_ATTEMPTS: usize = 10;

/// rtnetlink in the network namespace of the thread that opened it. A clone uses the same socket.
#[derive(Clone, Debug)]
pub(crate) struct Rtnetlink {
    connection: Rc<RefCell<Connection>>,
}

/// A refused request: errno and, if the kernel had any, its own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", io::Error::from_raw_os_error(*.errno), .message.as_ref().map(|m| format!(" ({m})")).unwrap_or_default())]
pub struct RtnetlinkError {
    /// Positive errno.
    pub errno: i32,
    /// The extended ack's text.
    pub message: Option<String>,
}

impl From<io::Error> for RtnetlinkError {
    fn from(error: io::Error) -> Self {
        const EIO: i32 = 5;
        match error.raw_os_error() {
            Some(errno) => Self { errno, message: None },
            None => Self { errno: EIO, message: Some(error.to_string()) },
        }
    }
}

impl RtnetlinkError {
    /// The object is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        const ENOENT: i32 = 2;
        const ENODEV: i32 = 19;
        matches!(self.errno, ENOENT | ENODEV)
    }

    /// The object is there already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        const EEXIST: i32 = 17;
        self.errno == EEXIST
    }
}

impl Rtnetlink {
    pub(crate) fn open() -> io::Result<Self> {
        let connection = Connection::open(NETLINK_ROUTE)?;
        Ok(Self { connection: Rc::new(RefCell::new(connection)) })
    }

    /// Sends a request and hands every answer's payload to `each`. With `NLM_F_ACK` in `flags`,
    /// success means that the kernel said so.
    pub(crate) fn request<T: Emitable>(
        &mut self,
        kind: u16,
        flags: u16,
        body: T,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), RtnetlinkError> {
        let mut connection = self.connection.borrow_mut();
        let sequence = send(&mut connection, kind, flags | NLM_F_REQUEST, body)?;
        let acknowledged = flags & NLM_F_ACK != 0;
        let status =
            connection.receive_answers(sequence, acknowledged, |answer| each(answer.payload))?;
        match status.filter(|status| status.errno != 0) {
            None => Ok(()),
            Some(status) => Err(RtnetlinkError { errno: status.errno, message: status.message }),
        }
    }

    /// Runs a dump until it shows one state.
    pub(crate) fn dump<T: Emitable + Clone, R>(
        &mut self,
        kind: u16,
        body: &T,
        parse: impl Fn(&[u8]) -> Option<R>,
    ) -> Result<Vec<R>, RtnetlinkError> {
        let mut connection = self.connection.borrow_mut();
        for _ in 0..DUMP_ATTEMPTS {
            send(&mut connection, kind, NLM_F_REQUEST | NLM_F_DUMP, body.clone())?;
            let mut found = Vec::new();
            let outcome = connection.receive_dump(|answer| found.extend(parse(answer.payload)))?;
            if outcome == Dump::Consistent {
                return Ok(found);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the links changed during each of many dumps",
        )
        .into())
    }
}

/// Sends a request and returns its sequence number.
fn send<T: Emitable>(
    connection: &mut Connection,
    kind: u16,
    flags: u16,
    body: T,
) -> io::Result<u32> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = connection.next_sequence();
    let payload = NetlinkPayload::InnerMessage(Body { kind, body });
    let mut request = Vec::with_capacity(256);
    append(&mut request, NetlinkMessage::new(header, payload));
    connection.send(&request)?;
    Ok(header.sequence_number)
}

/// A message's attributes by number.
#[derive(Debug, Default)]
pub(crate) struct Attributes<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Attributes<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        attributes(bytes).map(Self)
    }

    pub(crate) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        /// The highest bits say that an attribute is nested or in network byte order.
        const TYPE_MASK: u16 = 0x3fff;
        self.0.iter().find(|(found, _)| found & TYPE_MASK == kind).map(|(_, value)| *value)
    }

    pub(crate) fn first(&self) -> Option<&'a [u8]> {
        self.0.first().map(|(_, value)| *value)
    }

    pub(crate) fn nested(&self, kind: u16) -> Option<Self> {
        Self::parse(self.get(kind)?)
    }

    pub(crate) fn text(&self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        Some(String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned())
    }

    pub(crate) fn word(&self, kind: u16) -> Option<u32> {
        word(self.get(kind)?, 0)
    }
}

/// The 32-bit word in the machine's byte order at an offset in bytes.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[derive(Debug)]
struct Body<T> {
    kind: u16,
    body: T,
}

impl<T: Emitable> NetlinkSerializable for Body<T> {
    fn message_type(&self) -> u16 {
        self.kind
    }
    fn buffer_len(&self) -> usize {
        self.body.buffer_len()
    }
    fn serialize(&self, buffer: &mut [u8]) {
        self.body.emit(buffer);
    }
}
