//! What the kernel tells of its nftables.

use std::io;
use std::task::{Context, Poll, Waker};

use cni_common::kernel::attributes::Attributes;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket as _, SocketAddr, TokioSocket};

use super::event::Event;
use crate::notification::{self, Notification};

// enum nf_tables_msg_types
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELRULE: u16 = 8;

/// The kernel's notifications about tables.
pub(super) struct Tables {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// `NFNLGRP_NFTABLES`, as a bit.
const NFTABLES_GROUP: u32 = 1 << 6;

impl Tables {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, NFTABLES_GROUP))?;
        Ok(Self { socket, buffer: Vec::with_capacity(64 * 1024) })
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Event>> {
        loop {
            self.buffer.clear();
            match self.socket.poll_recv(context, &mut self.buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {
                    if let Some(event) = kernel_event(&self.buffer) {
                        return Poll::Ready(Ok(event));
                    }
                }
                Poll::Ready(Err(error)) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {
                    return Poll::Ready(Ok(Event::Overrun));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// What was told up to now, without waiting.
    pub(super) fn told(&mut self) -> io::Result<Vec<Event>> {
        let mut context = Context::from_waker(Waker::noop());
        let mut events = Vec::new();
        while let Poll::Ready(event) = self.poll(&mut context) {
            events.push(event?);
        }
        Ok(events)
    }
}

/// The weightiest thing that a notification says about what may cut containers off. firewalld's own
/// tables are none of ours, and a sign of what the bus will tell in time.
fn kernel_event(datagram: &[u8]) -> Option<Event> {
    let mut emptied = None;
    for notification in notification::read(datagram) {
        match event(&notification) {
            Some(event @ Event::Emptied(_)) => emptied = emptied.or(Some(event)),
            Some(event) => return Some(event),
            None => {}
        }
    }
    emptied
}

fn event(Notification { kind, family, attributes }: &Notification<'_>) -> Option<Event> {
    // NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and NFTA_RULE_TABLE
    const TABLE: u16 = 1;
    if ![DELTABLE, NEWCHAIN, DELRULE].contains(kind) {
        return None;
    }
    let table = attributes.text(TABLE)?;
    if table.starts_with("firewalld") {
        return None;
    }
    let place = format!("{family} {table}");
    match *kind {
        DELTABLE => Some(Event::Deleted(place)),
        NEWCHAIN => {
            let chain = dropping_forward_chain(attributes)?;
            Some(Event::Drops(format!("{place} {chain}")))
        }
        _ => is_containers_rule(&table, attributes).then_some(Event::Emptied(place)),
    }
}

/// Whether a rule served containers: it is in a table or a chain of these plugins or of the Go plugins',
/// or leads there. Which chain is whose, their names tell.
fn is_containers_rule(table: &str, rule: &Attributes<'_>) -> bool {
    // enum nft_rule_attributes
    const CHAIN: u16 = 2;
    const EXPRESSIONS: u16 = 4;
    const TABLES: [&str; 3] = ["cni_portmap", "cni_firewall", "cni_plugins_masquerade"];
    const CHAINS: [&str; 2] = ["CNI-", "cni_firewall"];
    let leads_there = |expressions: &[u8]| {
        CHAINS.iter().any(|name| expressions.windows(name.len()).any(|w| w == name.as_bytes()))
    };
    TABLES.contains(&table)
        || rule.text(CHAIN).is_some_and(|chain| CHAINS.iter().any(|name| chain.starts_with(name)))
        || rule.get(EXPRESSIONS).is_some_and(leads_there)
}

/// The name of a base chain of hook forward with policy drop.
fn dropping_forward_chain(chain: &Attributes<'_>) -> Option<String> {
    // enum nft_chain_attributes, nft_hook_attributes, nf_inet_hooks
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const HOOK_NUMBER: u16 = 1;
    const FORWARD: u32 = 2;
    const DROP: u32 = 0;
    let hook = chain.nested(HOOK)?.be32(HOOK_NUMBER)?;
    (hook == FORWARD && chain.be32(POLICY)? == DROP).then(|| chain.text(NAME)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::made::{attribute, message};

    fn notification(kind: u16, family: u8, name: &str) -> Vec<u8> {
        message(kind, family, &[attribute(1, &[name.as_bytes(), b"\0"].concat())])
    }

    #[test]
    fn deleted_tables() {
        const DELTABLE: u16 = 0x0a02;
        const NEWTABLE: u16 = 0x0a00;
        let ours = notification(DELTABLE, 1, "cni_portmap");
        let firewalld = notification(DELTABLE, 1, "firewalld");
        let made = notification(NEWTABLE, 2, "nat");
        let deleted = |table: &str| Some(Event::Deleted(table.to_owned()));
        assert_eq!(kernel_event(&ours), deleted("inet cni_portmap"));
        assert_eq!(kernel_event(&firewalld), None);
        assert_eq!(kernel_event(&made), None);
        let several = [made, firewalld, notification(DELTABLE, 10, "filter"), ours].concat();
        assert_eq!(kernel_event(&several), deleted("ip6 filter"));
        for cut in 0..several.len() {
            let _ = kernel_event(&several[..cut]);
        }
    }

    /// A chain of table `ip filter`, as the kernel tells of it.
    fn chain(hook: u32, policy: u32) -> Vec<u8> {
        const NEWCHAIN: u16 = 0x0a03;
        let hooks = attribute(1, &hook.to_be_bytes());
        let more = [
            attribute(3, b"FORWARD\0"),
            attribute(4 | 1 << 15, &hooks),
            attribute(5, &policy.to_be_bytes()),
        ]
        .concat();
        let mut message = notification(NEWCHAIN, 2, "filter");
        message.extend(more);
        let length = u32::try_from(message.len()).expect("short");
        message[..4].copy_from_slice(&length.to_ne_bytes());
        message
    }

    #[test]
    fn chains_that_begin_to_drop() {
        const FORWARD: u32 = 2;
        const INPUT: u32 = 1;
        const ACCEPT: u32 = 1;
        const DROP: u32 = 0;
        let expected = Some(Event::Drops("ip filter FORWARD".to_owned()));
        let dropping = chain(FORWARD, DROP);
        assert_eq!(kernel_event(&dropping), expected);
        for other in [chain(FORWARD, ACCEPT), chain(INPUT, DROP)] {
            assert_eq!(kernel_event(&other), None);
        }
        for cut in 0..dropping.len() {
            let _ = kernel_event(&dropping[..cut]);
        }
    }
}
