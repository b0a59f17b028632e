//! What tuning sets and gives back, as the kernel shows it: a sysctl of the container's namespace
//! and the MTU of its interface.
//!
//! The interface comes and goes with the chain, so its MTU before tuning's ADD and after its DEL
//! is known from the kernel's announcements only.

use std::io;
use std::path::Path;

use cni_common::kernel::netns::Netns;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::plan::{IFNAME, SYSCTL, TUNED_MTU};
use super::screen::JudgedRow;
use super::{dump, look};

/// `RTNLGRP_LINK`: changes of links.
const LINKS: u32 = 1;

/// Watches a container from before ADD until after DEL.
#[derive(Debug)]
pub(super) struct Watch {
    announcements: Socket,
    sysctl: Vec<String>,
    mtus: Vec<u32>,
}

impl Watch {
    /// Begins, in a container that has no interface yet.
    pub(super) fn begin(container: &Netns) -> io::Result<Self> {
        let announcements = container.run(|| -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.add_membership(LINKS)?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        })??;
        let mut watch = Self { announcements, sysctl: Vec::new(), mtus: Vec::new() };
        watch.look(container)?;
        Ok(watch)
    }

    /// Takes down how things are now, and every MTU that was announced since the last look.
    pub(super) fn look(&mut self, container: &Netns) -> io::Result<()> {
        let path = Path::new("/proc/sys").join(SYSCTL.0.replace('.', "/"));
        let value = container.run(|| std::fs::read_to_string(path))??;
        self.sysctl.push(value.trim_end().to_owned());
        loop {
            match self.announcements.recv_from_full() {
                Ok((datagram, _)) => self.mtus.extend(mtu_in(&datagram)?),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.mtus.dedup();
        Ok(())
    }

    /// What was seen, and whether it is as it should be.
    pub(super) fn rows(&self) -> Vec<JudgedRow> {
        let mtus: Vec<String> = self.mtus.iter().map(ToString::to_string).collect();
        vec![
            row(SYSCTL.0, &self.sysctl, SYSCTL.1),
            row(&format!("MTU of {IFNAME}"), &mtus, &TUNED_MTU.to_string()),
        ]
    }
}

/// One value, then the wanted one, then the first again.
fn row(what: &str, seen: &[String], wanted: &str) -> JudgedRow {
    let ok = match seen {
        [before, during, after] => before == after && during == wanted && before != wanted,
        _ => false,
    };
    JudgedRow { cells: vec![what.to_owned(), seen.join(", then ")], ok }
}

/// The MTU that a datagram announces for the container's interface.
fn mtu_in(datagram: &[u8]) -> io::Result<Option<u32>> {
    let RouteNetlinkMessage::NewLink(message) = dump::decode(datagram)? else { return Ok(None) };
    let link = look::Link::from_message(&message);
    Ok((link.name == IFNAME).then_some(link.mtu))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_and_given_back() {
        let ok = |seen: &[&str]| {
            let seen: Vec<String> = seen.iter().map(|&value| value.to_owned()).collect();
            row("x", &seen, "2").ok
        };
        assert!(ok(&["1", "2", "1"]));
        for bad in [&["1", "2", "2"][..], &["1", "3", "1"], &["2", "2", "2"], &["1", "2"], &[]] {
            assert!(!ok(bad), "{bad:?}");
        }
    }
}
