//! `trace --live`: what the kernel does to real packets of a port.
//!
//! A rule of our own, in a table that goes with our socket, sets `nftrace` on packets to the port;
//! the kernel then tells of each rule that they pass. `event` reads what it tells, `packet` gathers
//! it.

mod event;
mod packet;

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cni_common::kernel::nft::{
    BaseChain, Chain, ChainKind, Family, Hook, L4Protocol, NetlinkNft, Nft as _, Object, Operand,
    Priority, Rule, Selector, Statement, Table, Transaction, Verb,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use event::Event;
use packet::Packets;

pub(crate) use packet::Packet;

/// The table with our rule. Its owner is our socket: the kernel removes it however we end.
const TABLE: Table = Table::new(Family::Inet, "cni_chain_trace");
/// Before everything else that looks at packets: `raw` is at -300.
const FIRST: Priority = Priority(-450);
/// `NFNLGRP_NFTRACE`, as a bit.
const TRACE_GROUP: u32 = 1 << 8;
/// A busy port is not followed for ever.
const MOST_PACKETS: usize = 20;
/// A packet of which nothing is heard for so long has gone its way.
const QUIET: Duration = Duration::from_millis(200);

/// Follows packets to a port for some time, and hands each on when it is through.
pub(crate) fn watch(
    port: u16,
    protocol: Option<L4Protocol>,
    span: Duration,
    mut through: impl FnMut(&Packet) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // It has to listen before the rule is there.
    let events = listen().context("cannot listen to nf_tables' traces")?;
    let mut nft = NetlinkNft::open()?;
    nft.commit(&tracing(port, protocol)).context(
        "cannot have packets traced: that takes Linux 5.12 with nf_tables, and nobody else at it",
    )?;
    let end = Instant::now() + span;
    let mut packets = Packets::default();
    while packets.seen() <= MOST_PACKETS {
        let wait = end.saturating_duration_since(Instant::now()).min(QUIET);
        match events.recv_timeout(wait) {
            Ok(event) => packets.add(event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let quiet = if wait.is_zero() { Duration::ZERO } else { QUIET };
        for packet in packets.through(quiet) {
            through(&packet)?;
        }
        if wait.is_zero() {
            break;
        }
    }
    Ok(())
}

/// Our rule, where packets come in and where the host's own begin.
fn tracing(port: u16, protocol: Option<L4Protocol>) -> Transaction {
    let mut transaction = Transaction::new();
    transaction.push(Verb::Create, &TABLE, Object::OwnedTable);
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        let base = BaseChain { kind: ChainKind::Filter, hook, priority: FIRST };
        let chain = Chain { name: name.to_owned(), base: Some(base) };
        transaction.push(Verb::Add, &TABLE, Object::Chain(chain));
        let matching = |selector, operand| Statement::Match { selector, negated: false, operand };
        let statements = vec![
            match protocol {
                Some(one) => matching(Selector::L4Protocol, Operand::Protocol(one)),
                None => Statement::ProtocolIn(L4Protocol::ALL.to_vec()),
            },
            matching(Selector::DestinationPort, Operand::Port(port)),
            Statement::Trace,
        ];
        let rule = Rule { chain: name.to_owned(), statements, comment: None };
        transaction.push(Verb::Add, &TABLE, Object::Rule(rule));
    }
    transaction
}

/// The kernel's traces, read by a thread that lives as long as this process.
fn listen() -> std::io::Result<Receiver<Event>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind(&SocketAddr::new(0, TRACE_GROUP))?;
    let (sender, events) = channel();
    std::thread::Builder::new().spawn(move || forward(&socket, &sender))?;
    Ok(events)
}

fn forward(socket: &Socket, sender: &Sender<Event>) {
    let mut buffer = Vec::with_capacity(64 * 1024);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, 0) {
            Ok(_) => {}
            // More came than fits: what is lost is lost.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => continue,
            Err(_) => return,
        }
        for event in event::read(&buffer) {
            if sender.send(event).is_err() {
                return;
            }
        }
    }
}
