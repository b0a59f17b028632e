//! One rtnetlink request and its answers, without the crate's enum of all route messages: that
//! would link the encoders and parsers of every message type into each plugin, a megabyte that
//! has to be mapped at each start.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use super::retry::{Again, Retry, retry};
use crate::kernel::netlink::{Connection, Dump, Status, append};
use crate::kernel::nstype;

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
    /// The module that the kernel lacks for it, if that is why.
    pub module: Option<&'static str>,
}

impl RtnetlinkError {
    pub(crate) fn new(errno: i32, message: Option<String>) -> Self {
        Self { errno, message, module: None }
    }

    /// Says that the kernel lacks this module if this is how it tells of one.
    pub(crate) fn without(self, module: &'static str, told_by: Errno) -> Self {
        if Errno::from_raw(self.errno) == told_by {
            Self { module: Some(module), ..self }
        } else {
            self
        }
    }
}

impl From<io::Error> for RtnetlinkError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::new(errno, None),
            None => Self::new(Errno::EIO as i32, Some(error.to_string())),
        }
    }
}

impl Retry for RtnetlinkError {
    fn again(&self) -> Again {
        if Errno::from_raw(self.errno) == Errno::EINTR { Again::Surely } else { Again::Never }
    }
}

impl RtnetlinkError {
    /// What a dump showed changed while it was read (`NLM_F_DUMP_INTR`).
    fn interrupted() -> Self {
        let message = Some("the links changed during each of many dumps".to_owned());
        Self::new(Errno::EINTR as i32, message)
    }

    /// The object is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(Errno::from_raw(self.errno), Errno::ENOENT | Errno::ENODEV)
    }

    /// The object is there already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        Errno::from_raw(self.errno) == Errno::EEXIST
    }
}

/// Requests that go to the kernel in one datagram. It handles all of them within one system call, so
/// who is killed has made all of them or none; one that is refused does not keep it from the next.
#[derive(Debug, Default)]
pub(crate) struct Bundle {
    requests: Vec<(u16, u16, Raw)>,
}

impl Bundle {
    pub(crate) fn add<T: Emitable>(&mut self, kind: u16, flags: u16, body: &T) {
        let mut bytes = vec![0; body.buffer_len()];
        body.emit(&mut bytes);
        self.requests.push((kind, flags | NLM_F_REQUEST | NLM_F_ACK, Raw(bytes)));
    }
}

impl Rtnetlink {
    pub(crate) fn open() -> io::Result<Self> {
        let connection = Connection::open(NETLINK_ROUTE)?;
        Ok(Self { connection: Rc::new(RefCell::new(connection)) })
    }

    /// The cookie of its network namespace; `None` before Linux 5.14.
    pub(crate) fn netns_cookie(&self) -> io::Result<Option<u64>> {
        nstype::cookie_of_socket(&*self.connection.borrow())
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
            Some(status) => Err(RtnetlinkError::new(status.errno, status.message)),
        }
    }

    /// Sends all of a bundle. What became of each is returned in its order.
    pub(crate) fn request_all(
        &mut self,
        bundle: Bundle,
    ) -> Result<Vec<Result<(), RtnetlinkError>>, RtnetlinkError> {
        let mut connection = self.connection.borrow_mut();
        let (mut datagram, count) = (Vec::with_capacity(1024), bundle.requests.len());
        for (kind, flags, body) in bundle.requests {
            append_request(&mut datagram, connection.next_sequence(), kind, flags, body);
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        connection.send(&datagram)?;
        let statuses = connection.receive_count(count, |_| {})?;
        let outcome = |status: Status| match status.errno {
            0 => Ok(()),
            errno => Err(RtnetlinkError::new(errno, status.message)),
        };
        Ok(statuses.into_iter().map(outcome).collect())
    }

    /// Runs a dump until it shows one state.
    pub(crate) fn dump<T: Emitable + Clone, R>(
        &mut self,
        kind: u16,
        body: &T,
        parse: impl Fn(&[u8]) -> Option<R>,
    ) -> Result<Vec<R>, RtnetlinkError> {
        let mut connection = self.connection.borrow_mut();
        retry(|| {
            send(&mut connection, kind, NLM_F_REQUEST | NLM_F_DUMP, body.clone())?;
            let mut found = Vec::new();
            match connection.receive_dump(|answer| found.extend(parse(answer.payload)))? {
                Dump::Consistent => Ok(found),
                Dump::Interrupted => Err(RtnetlinkError::interrupted()),
            }
        })
    }
}

/// Sends a request and returns its sequence number.
fn send<T: Emitable>(
    connection: &mut Connection,
    kind: u16,
    flags: u16,
    body: T,
) -> io::Result<u32> {
    let sequence = connection.next_sequence();
    let mut request = Vec::with_capacity(256);
    append_request(&mut request, sequence, kind, flags, body);
    connection.send(&request)?;
    Ok(sequence)
}

fn append_request<T: Emitable>(
    datagram: &mut Vec<u8>,
    sequence: u32,
    kind: u16,
    flags: u16,
    body: T,
) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let payload = NetlinkPayload::InnerMessage(Body { kind, body });
    append(datagram, NetlinkMessage::new(header, payload));
}

/// A body that was put into bytes.
#[derive(Debug)]
struct Raw(Vec<u8>);

impl Emitable for Raw {
    fn buffer_len(&self) -> usize {
        self.0.len()
    }
    fn emit(&self, buffer: &mut [u8]) {
        buffer[..self.0.len()].copy_from_slice(&self.0);
    }
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
