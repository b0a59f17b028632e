//! Which programs of the host listen on a port, by `/proc`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use cni_common::kernel::nft::L4Protocol;

/// A socket that waits for connections or datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) protocol: L4Protocol,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// The program and its process ID, if it may be looked at.
    pub(crate) program: Option<(String, u32)>,
}

impl Listener {
    /// The program, for people.
    pub(crate) fn name(&self) -> String {
        match &self.program {
            Some((name, pid)) => format!("{name} ({pid})"),
            None => "a program".to_owned(),
        }
    }
}

/// The listeners on a port in the namespace of the calling thread.
pub(crate) fn on(port: u16, protocol: Option<L4Protocol>) -> Vec<Listener> {
    let mut found = Vec::new();
    for (file, of, state) in [
        ("tcp", L4Protocol::Tcp, TCP_LISTEN),
        ("tcp6", L4Protocol::Tcp, TCP_LISTEN),
        ("udp", L4Protocol::Udp, UDP_UNCONNECTED),
        ("udp6", L4Protocol::Udp, UDP_UNCONNECTED),
    ] {
        if protocol.is_some_and(|protocol| protocol != of) {
            continue;
        }
        let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        let sockets = text.lines().skip(1).filter_map(|line| socket(line, state));
        found.extend(sockets.filter(|socket| socket.port == port).map(|socket| (of, socket)));
    }
    if found.is_empty() {
        return Vec::new();
    }
    let programs = programs(&found.iter().map(|(_, socket)| socket.inode).collect::<Vec<_>>());
    let listener = |(protocol, socket): (L4Protocol, Socket)| Listener {
        protocol,
        address: socket.address,
        port: socket.port,
        program: programs
            .iter()
            .find(|(inode, ..)| *inode == socket.inode)
            .map(|(_, name, pid)| (name.clone(), *pid)),
    };
    found.into_iter().map(listener).collect()
}

/// States of `/proc/net`, from `include/net/tcp_states.h`.
const TCP_LISTEN: &str = "0A";
const UDP_UNCONNECTED: &str = "07";

struct Socket {
    address: IpAddr,
    port: u16,
    inode: u64,
}

/// A line of `/proc/net/tcp` and its like, if the socket is in this state.
fn socket(line: &str, state: &str) -> Option<Socket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (local, inode) = (words.get(1)?, words.get(9)?);
    if words.get(3) != Some(&state) {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    Some(Socket {
        address: address_of(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        inode: inode.parse().ok()?,
    })
}

/// The kernel prints each 32-bit word of an address as it is in memory.
fn address_of(hex: &str) -> Option<IpAddr> {
    let word = |from: usize| {
        let digits = hex.get(from..from + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).into())
        }
        _ => None,
    }
}

/// The processes that have these sockets open: inode, name, process ID.
fn programs(inodes: &[u64]) -> Vec<(u64, String, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        for file in fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten() {
            let target = fs::read_link(file.path()).unwrap_or_default();
            let inode = target.to_str().and_then(socket_inode);
            if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                found.push((inode, name_of(&entry.path()), pid));
            }
        }
    }
    found
}

fn socket_inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn name_of(process: &Path) -> String {
    fs::read_to_string(process.join("comm")).unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_as_the_kernel_prints_them() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0";
        let found = socket(line, TCP_LISTEN).expect("a socket");
        assert_eq!((found.port, found.inode), (8080, 4711));
        if cfg!(target_endian = "little") {
            assert_eq!(found.address, IpAddr::from(Ipv4Addr::LOCALHOST));
            let v6 = address_of("B80D0120000000000000000001000000");
            assert_eq!(v6, "2001:db8::1".parse().ok());
        }
        assert!(socket(line, UDP_UNCONNECTED).is_none());
        assert!(socket("  sl  local_address", TCP_LISTEN).is_none());
    }

    #[test]
    fn a_listener_of_this_process_is_found_by_name() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
        let port = socket.local_addr().expect("an address").port();
        let found = on(port, Some(L4Protocol::Tcp));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].address, IpAddr::from(Ipv4Addr::LOCALHOST));
        assert_eq!(found[0].program.as_ref().map(|(_, pid)| *pid), Some(std::process::id()));
        assert!(on(port, Some(L4Protocol::Udp)).is_empty());
    }
}
