//! Netlink dumps over a plain socket, in the namespace of the calling thread.
//!
//! rtnetlink hands its answers out as streams, which would take one more crate to consume, and
//! it does not speak to `nf_tables`.

use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// Message types that every netlink protocol shares.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Sends a dump request and collects the messages of the answer, not decoded.
pub(super) fn messages<M>(protocol: isize, request: M) -> io::Result<Vec<Vec<u8>>>
where
    M: NetlinkSerializable + Into<NetlinkPayload<M>>,
    NetlinkMessage<M>: From<M>,
{
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let buffer = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            let length = usize::try_from(buffer.length()).map_err(io::Error::other)?;
            match buffer.message_type() {
                NLMSG_DONE => return Ok(answers),
                NLMSG_ERROR => return Err(errno(buffer.payload())),
                _ => answers.push(rest[..length].to_vec()),
            }
            // Messages are padded to four bytes, but for the last one.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Decodes one message.
pub(super) fn decode<M: NetlinkDeserializable>(message: &[u8]) -> io::Result<M> {
    match NetlinkMessage::deserialize(message).map_err(io::Error::other)?.payload {
        NetlinkPayload::InnerMessage(inner) => Ok(inner),
        _ => Err(io::Error::other("unexpected netlink control message")),
    }
}

/// An error message starts with the negated errno.
fn errno(payload: &[u8]) -> io::Error {
    match payload.first_chunk::<4>() {
        Some(bytes) => io::Error::from_raw_os_error(-i32::from_ne_bytes(*bytes)),
        None => io::Error::other("truncated netlink error"),
    }
}
