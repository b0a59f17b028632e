//! Ethernet frames as no socket of the kernel's would send them: with tags.

use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use cni_testbox::{Attachment, link};

/// `EtherType` of a tag.
pub(crate) const TAG_8021Q: u16 = 0x8100;
pub(crate) const TAG_8021AD: u16 = 0x88a8;

/// An echo request between a container and a remote address, with priority tags (VLAN ID 0).
pub(crate) struct Frame<'a> {
    container: IpAddr,
    remote: IpAddr,
    tags: &'a [u16],
}

impl<'a> Frame<'a> {
    pub(crate) fn new(container: &Attachment, remote: &str, tags: &'a [u16]) -> Self {
        let remote: IpAddr = remote.parse().expect("an address");
        let own = if remote.is_ipv4() { container.v4() } else { container.v6() };
        Self { container: own.parse().expect("an address"), remote, tags }
    }

    /// From the remote address, by the host's end.
    pub(crate) fn send_into(&self, container: &Attachment, times: usize) {
        let frame = self.bytes(&mac("", &container.host_end()), &inner_mac(container), false);
        send(Command::new("socat"), &container.host_end(), &frame, times);
    }

    /// To the remote address, by the container's end.
    pub(crate) fn send_out_of(&self, container: &Attachment, times: usize) {
        let frame = self.bytes(&inner_mac(container), &mac("", &container.host_end()), true);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &container.container.id, "socat"]);
        send(command, &container.ifname, &frame, times);
    }

    fn bytes(&self, from: &[u8], to: &[u8], outwards: bool) -> Vec<u8> {
        let mut frame = [to, from].concat();
        for tag in self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 0]);
        }
        let (source, destination) =
            if outwards { (self.container, self.remote) } else { (self.remote, self.container) };
        frame.extend(packet(source, destination));
        frame
    }
}

/// The `EtherType` and the packet.
fn packet(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    const LENGTH: u8 = 8;
    let mut echo = vec![8, 0, 0, 0, 0, 1, 0, 1];
    let sum = checksum(&echo);
    echo[2..4].copy_from_slice(&sum);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0, 0, 20 + LENGTH, 0, 1, 0, 0, 64, 1, 0, 0];
            header.extend([source.octets(), destination.octets()].concat());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum);
            [vec![0x08, 0x00], header, echo].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            // No next header (59): what follows is not looked at.
            let header = vec![0x60, 0, 0, 0, 0, LENGTH, 59, 64];
            let addresses = [source.octets(), destination.octets()].concat();
            [vec![0x86, 0xdd], header, addresses, echo].concat()
        }
        _ => panic!("addresses of two families"),
    }
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!u16::try_from(folded).expect("few words")).to_be_bytes()
}

fn inner_mac(attachment: &Attachment) -> Vec<u8> {
    mac(&attachment.container.id, &attachment.ifname)
}

fn mac(namespace: &str, interface: &str) -> Vec<u8> {
    let link = link(namespace, interface).expect("an interface");
    let text = link["address"].as_str().expect("an address");
    text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hex digits")).collect()
}

/// socat makes a frame of each block that it reads.
fn send(mut command: Command, interface: &str, frame: &[u8], times: usize) {
    let mut socat = command
        .args(["-u", "-b", &frame.len().to_string(), "STDIN", &format!("INTERFACE:{interface}")])
        .stdin(Stdio::piped())
        .spawn()
        .expect("socat: apt-get install socat");
    socat.stdin.take().expect("piped").write_all(&frame.repeat(times)).expect("socat reads");
    assert!(socat.wait().expect("socat ends").success());
}
