//! Synchronous netlink: one socket, requests out, answers in.
//!
//! The kernel handles a request within `send`, so answers wait in the socket when it returns;
//! only dumps are produced while they are read. No runtime, no thread, no timer is needed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP_INTR, NetlinkBuffer, NetlinkMessage,
    NetlinkSerializable, NlasIterator,
};
use netlink_sys::Socket;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

const ENOENT: i32 = Errno::ENOENT as i32;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const MSG_DONTWAIT: i32 = 0x40;
const HEADER_LEN: usize = 16;

/// The kernel makes a dump's datagrams no larger (`netlink_dump` in `net/netlink/af_netlink.c`).
const LARGEST_DATAGRAM: usize = 32 * 1024;
/// Requests up to this size fit a socket's default send buffer.
const SMALL_REQUEST: usize = 64 * 1024;

/// A netlink socket of the calling thread's network namespace.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    sequence: u32,
    /// Of the latest request's first message. What answers an earlier one was not read in its time.
    first: u32,
    buffer: Vec<u8>,
}

/// An answer that is not an error.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The request's sequence number.
    pub sequence: u32,
    /// Netlink message type.
    pub kind: u16,
    /// What follows the netlink header.
    pub payload: &'a [u8],
}

/// An error or acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The request's sequence number.
    pub sequence: u32,
    /// Positive errno; 0 acknowledges.
    pub errno: i32,
    /// The extended ack's text.
    pub message: Option<String>,
    /// The extended ack's offset of the offending attribute, from the request's first byte.
    pub offset: Option<usize>,
}

/// How a dump ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dump {
    /// It shows one state.
    Consistent,
    /// What it shows changed while it was read.
    Interrupted,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    /// Opens a socket for a protocol such as `netlink_sys::protocols::NETLINK_NETFILTER`.
    pub fn open(protocol: isize) -> io::Result<Self> {
        Self::for_datagrams(protocol, LARGEST_DATAGRAM)
    }

    /// The same where no dump is asked for, and every answer is of at most so many bytes.
    pub fn for_datagrams(protocol: isize, largest: usize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        socket.set_ext_ack(true)?;
        // Errors need not repeat the request.
        socket.set_cap_ack(true)?;
        Ok(Self { socket, sequence: 0, first: 0, buffer: Vec::with_capacity(largest) })
    }

    /// The next sequence number.
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    /// Sends messages that were put together with [`append`].
    pub fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.first = messages(request).next().map_or(0, |message| message.sequence_number());
        if request.len() > SMALL_REQUEST {
            // A batch must be one datagram. FORCE passes rmem_max/wmem_max; it needs the same
            // privilege as the batch itself.
            setsockopt(&self.socket, sockopt::SndBufForce, &(request.len() * 2))?;
            setsockopt(&self.socket, sockopt::RcvBufForce, &(1 << 20))?;
        }
        let sent = self.socket.send(request, 0)?;
        if sent == request.len() { Ok(()) } else { Err(io::Error::other("short netlink send")) }
    }

    /// Reads what is waiting, up to the status of one request. The kernel goes no further in a batch
    /// than to what it refuses, and then there is none.
    pub fn receive_status(&mut self, sequence: u32) -> io::Result<Vec<Status>> {
        let mut statuses = Vec::new();
        let is_last = |found, is_status| is_status && found == sequence;
        match self.receive_until(is_last, |_| {}, &mut statuses) {
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock
                    && statuses.iter().any(|status| status.errno != 0) =>
            {
                Ok(statuses)
            }
            outcome => outcome.map(|()| statuses),
        }
    }

    /// Reads so many answers and statuses.
    pub fn receive_count(
        &mut self,
        mut count: usize,
        each: impl FnMut(Answer<'_>),
    ) -> io::Result<Vec<Status>> {
        let is_last = |_, _| {
            count = count.saturating_sub(1);
            count == 0
        };
        let mut statuses = Vec::new();
        match self.receive_until(is_last, each, &mut statuses) {
            // A datagram may be refused as a whole, for lack of privilege for one.
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock
                    && statuses.iter().any(|status| !matches!(status.errno, 0 | ENOENT)) =>
            {
                Ok(statuses)
            }
            outcome => outcome.map(|()| statuses),
        }
    }

    /// Reads the answers to one request that is no dump. With an acknowledgement asked for, that is
    /// the last of them; without, there is one answer or one error. Nothing is read after it,
    /// which would be a call to hear that nothing is there.
    pub fn receive_answers(
        &mut self,
        sequence: u32,
        acknowledged: bool,
        mut each: impl FnMut(Answer<'_>),
    ) -> io::Result<Option<Status>> {
        let is_last =
            |found: u32, is_status: bool| found == sequence && (is_status || !acknowledged);
        let each = |answer: Answer<'_>| {
            if answer.sequence == sequence {
                each(answer);
            }
        };
        let mut statuses = Vec::new();
        self.receive_until(is_last, each, &mut statuses)?;
        Ok(statuses.into_iter().find(|status| status.sequence == sequence))
    }

    /// Reads what is waiting, up to the first message for whose sequence number and being a status
    /// `is_last` says so. If that is not there, the error is `WouldBlock`: an answer was lost, and is
    /// not taken for "nothing is there".
    fn receive_until(
        &mut self,
        mut is_last: impl FnMut(u32, bool) -> bool,
        mut each: impl FnMut(Answer<'_>),
        statuses: &mut Vec<Status>,
    ) -> io::Result<()> {
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, MSG_DONTWAIT)?;
            let mut complete = false;
            for message in messages(&self.buffer) {
                let sequence = message.sequence_number();
                if sequence < self.first {
                    continue;
                }
                let status = status(&message);
                complete |= is_last(sequence, status.is_some());
                match status {
                    Some(status) => statuses.push(status),
                    None => each(Answer {
                        sequence,
                        kind: message.message_type(),
                        payload: message.payload(),
                    }),
                }
            }
            if complete {
                return Ok(());
            }
        }
    }

    /// Reads a dump to its end.
    pub fn receive_dump(&mut self, mut each: impl FnMut(Answer<'_>)) -> io::Result<Dump> {
        let mut dump = Dump::Consistent;
        loop {
            self.buffer.clear();
            if let Err(error) = self.socket.recv(&mut self.buffer, 0) {
                self.drain();
                return Err(error);
            }
            for message in messages(&self.buffer) {
                if message.sequence_number() < self.first {
                    continue;
                }
                if message.flags() & NLM_F_DUMP_INTR != 0 {
                    dump = Dump::Interrupted;
                }
                match message.message_type() {
                    NLMSG_DONE => {
                        return match errno_at_start(message.payload()) {
                            0 => Ok(dump),
                            errno => Err(io::Error::from_raw_os_error(errno)),
                        };
                    }
                    NLMSG_ERROR => {
                        return Err(io::Error::from_raw_os_error(errno_at_start(
                            message.payload(),
                        )));
                    }
                    kind => each(Answer {
                        sequence: message.sequence_number(),
                        kind,
                        payload: message.payload(),
                    }),
                }
            }
        }
    }
}

impl Connection {
    /// Takes the rest of a dump away that cannot be read. The kernel refuses another one meanwhile.
    fn drain(&mut self) {
        loop {
            self.buffer.clear();
            if self.socket.recv(&mut self.buffer, MSG_DONTWAIT).is_err() {
                return;
            }
        }
    }
}

/// Appends a message to a request.
pub fn append<T: NetlinkSerializable>(request: &mut Vec<u8>, mut message: NetlinkMessage<T>) {
    message.finalize();
    let start = request.len();
    request.resize(start + message.buffer_len(), 0);
    message.serialize(&mut request[start..]);
}

/// The messages of one datagram; stops at the first that is cut off.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        // Not the crate's check, which puts an error into words at the end of every datagram.
        let length = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize)?;
        let (message, tail) = rest.split_at_checked(length)?;
        if length < HEADER_LEN {
            return None;
        }
        rest = tail.get(length.next_multiple_of(4) - length..).unwrap_or_default();
        Some(NetlinkBuffer::new(message))
    })
}

pub(crate) fn status(message: &NetlinkBuffer<&[u8]>) -> Option<Status> {
    const MESSAGE: u16 = 1;
    const OFFSET: u16 = 2;
    if message.message_type() != NLMSG_ERROR {
        return None;
    }
    let payload = message.payload();
    let mut status = Status {
        sequence: message.sequence_number(),
        errno: errno_at_start(payload),
        message: None,
        offset: None,
    };
    let flags = message.flags();
    if flags & NLM_F_ACK_TLVS != 0 {
        let request =
            payload.get(4..8).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
        let skipped = if flags & NLM_F_CAPPED != 0 { HEADER_LEN } else { request as usize };
        for attribute in NlasIterator::new(payload.get(4 + skipped..).unwrap_or_default()).flatten()
        {
            let value = attribute.value();
            match attribute.kind() {
                MESSAGE => {
                    let text = value.strip_suffix(&[0]).unwrap_or(value);
                    status.message = Some(String::from_utf8_lossy(text).into_owned());
                }
                OFFSET => {
                    status.offset =
                        value.try_into().ok().map(|bytes| u32::from_ne_bytes(bytes) as usize);
                }
                _ => {}
            }
        }
    }
    Some(status)
}

fn errno_at_start(payload: &[u8]) -> i32 {
    payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes)).saturating_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capped_error_with_an_extended_ack() {
        let mut datagram = Vec::new();
        let text = b"Chain is busy\0\0\0";
        datagram.extend(u32::to_ne_bytes(16 + 4 + 16 + 4 + 16));
        datagram.extend(u16::to_ne_bytes(NLMSG_ERROR));
        datagram.extend(u16::to_ne_bytes(NLM_F_CAPPED | NLM_F_ACK_TLVS));
        datagram.extend(u32::to_ne_bytes(7));
        datagram.extend([0; 4]);
        datagram.extend((-16i32).to_ne_bytes());
        datagram.extend([9; 16]);
        datagram.extend(u16::to_ne_bytes(4 + 14));
        datagram.extend(u16::to_ne_bytes(1));
        datagram.extend(text);
        let list: Vec<_> = messages(&datagram).filter_map(|message| status(&message)).collect();
        let expected =
            Status { sequence: 7, errno: 16, message: Some("Chain is busy".into()), offset: None };
        assert_eq!(list, [expected]);
    }

    #[test]
    fn garbage_ends_the_walk() {
        assert_eq!(messages(&[1, 2, 3]).count(), 0);
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(messages(&[255; 64]).count(), 0);
    }
}
