//! Whether a program of the host has a port (`NETLINK_SOCK_DIAG`), asked for one by one: the kernel looks
//! such a socket up as it does for a packet, whatever number of them there is.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::NLM_F_REQUEST;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::netlink::Connection;
use super::nft::L4Protocol;
use super::request::Request;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// From `include/net/tcp_states.h`.
const TCP_LISTEN: u8 = 10;
/// Answers of this many questions fit a socket's default receive buffer.
const QUESTIONS_PER_REQUEST: usize = 64;
/// In bytes; an answer is about one socket.
const LARGEST_ANSWER: usize = 4096;

/// Of each place, whether a TCP socket listens, or a UDP socket is bound, where a packet to that address
/// would come. Nothing is known of other protocols. Needs no privilege.
pub fn listening(places: &[(L4Protocol, SocketAddr)]) -> io::Result<Vec<bool>> {
    let mut connection = Connection::for_datagrams(NETLINK_SOCK_DIAG, LARGEST_ANSWER)?;
    let mut found = vec![false; places.len()];
    let known: Vec<usize> =
        (0..places.len()).filter(|index| places[*index].0 != L4Protocol::Sctp).collect();
    for indexes in known.chunks(QUESTIONS_PER_REQUEST) {
        let mut request = Request::with_capacity(indexes.len() * 72);
        let first = connection.next_sequence();
        for (count, index) in indexes.iter().enumerate() {
            let sequence = if count == 0 { first } else { connection.next_sequence() };
            let (protocol, place) = places[*index];
            request.message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, sequence, |message| {
                message.header(&question(protocol, place));
            });
        }
        connection.send(request.as_slice())?;
        // That none is there is an error of its own, and no answer.
        connection.receive_count(indexes.len(), |answer| {
            let at = answer.sequence.wrapping_sub(first) as usize;
            let state = answer.payload.get(1);
            if let Some(index) = indexes.get(at) {
                let (protocol, _) = places[*index];
                found[*index] = protocol == L4Protocol::Udp || state == Some(&TCP_LISTEN);
            }
        })?;
    }
    Ok(found)
}

/// `struct inet_diag_req_v2`: from anybody to this place.
fn question(protocol: L4Protocol, place: SocketAddr) -> [u8; 56] {
    let mut bytes = [0; 56];
    bytes[0] = if place.is_ipv4() { AF_INET } else { AF_INET6 };
    bytes[1] = protocol.number();
    // Any state.
    bytes[4..8].fill(0xff);
    // The kernel looks for UDP sockets from the other side.
    let (port_at, address_at) = if protocol == L4Protocol::Udp { (10, 28) } else { (8, 12) };
    bytes[port_at..port_at + 2].copy_from_slice(&place.port().to_be_bytes());
    match place.ip() {
        IpAddr::V4(v4) => bytes[address_at..address_at + 4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes[address_at..address_at + 16].copy_from_slice(&v6.octets()),
    }
    // INET_DIAG_NOCOOKIE: whichever socket it is.
    bytes[48..56].fill(0xff);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn sockets_of_this_process_are_found() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let udp = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        let (tcp_port, udp_port) = (
            tcp.local_addr().expect("an address").port(),
            udp.local_addr().expect("an address").port(),
        );
        let at = |address: &str, port| SocketAddr::new(address.parse().expect("an address"), port);
        let places = [
            (L4Protocol::Tcp, at("127.0.0.1", tcp_port)),
            (L4Protocol::Udp, at("127.0.0.1", udp_port)),
            (L4Protocol::Udp, at("192.0.2.1", udp_port)),
            (L4Protocol::Tcp, at("192.0.2.1", tcp_port)),
            (L4Protocol::Sctp, at("127.0.0.1", tcp_port)),
        ];
        let found = listening(&places).expect("an answer");
        assert_eq!(found, [true, true, true, false, false]);
        drop((tcp, udp));
        assert_eq!(listening(&places).expect("an answer"), [false; 5]);
    }

    #[test]
    fn more_than_one_request_holds() {
        let tcp = TcpListener::bind("[::]:0");
        // Without IPv6 there is nothing to ask.
        let Ok(tcp) = tcp else { return };
        let port = tcp.local_addr().expect("an address").port();
        let place = |number: u16| {
            let address = if number.is_multiple_of(2) { "::1" } else { "127.0.0.1" };
            let port = if number < 150 { port } else { 0 };
            (L4Protocol::Tcp, SocketAddr::new(address.parse().expect("an address"), port))
        };
        let places: Vec<_> = (0..200).map(place).collect();
        let found = listening(&places).expect("an answer");
        assert_eq!(found.iter().filter(|found| **found).count(), 150);
    }
}
