//! One SCTP packet. Kernels without SCTP sockets still translate the protocol, so the packet is
//! made by hand and the connection table says what became of it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use crate::Namespace;

const IPPROTO_SCTP: u8 = 132;

impl Namespace {
    /// Sends one SCTP INIT chunk over IPv4.
    pub fn send_sctp_init(&self, source: &str, source_port: u16, target: SocketAddrV4) {
        let source: Ipv4Addr = source.parse().expect("an IPv4 address");
        let mut packet = ipv4_header(source, *target.ip());
        packet.extend(init(source_port, target.port()));
        self.enter(|| {
            let flags = SockFlag::SOCK_CLOEXEC;
            let raw = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw)
                .expect("a raw socket");
            sendto(raw.as_raw_fd(), &packet, &SockaddrIn::from(target), MsgFlags::empty())
                .expect("send the packet");
        });
    }
}

/// Length, identification and checksum are the kernel's to fill in.
fn ipv4_header(source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, IPPROTO_SCTP, 0, 0];
    header.extend(source.octets());
    header.extend(target.octets());
    header
}

/// RFC 9260, 3.1 and 3.3.2.
fn init(source_port: u16, target_port: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(source_port.to_be_bytes());
    packet.extend(target_port.to_be_bytes());
    // Verification tag (0 in an INIT) and checksum.
    packet.extend([0; 8]);
    // INIT, no flags, length 20; initiate tag, window, streams out and in, initial TSN.
    packet.extend([1, 0, 0, 20]);
    packet.extend(1u32.to_be_bytes());
    packet.extend(65_536u32.to_be_bytes());
    packet.extend([0, 1, 0, 1]);
    packet.extend(1u32.to_be_bytes());
    let checksum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&checksum);
    packet
}

/// Connection tracking drops a packet whose checksum is wrong.
fn crc32c(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    });
    !crc
}

#[test]
fn checksum_of_the_standard_test_vector() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}
