//! Waiting for whatever flushes tables, to restore right after it.
//!
//! `firewall-cmd --reload` goes past systemd: firewalld tells of it by a signal on the bus, and
//! its starts and stops are changes of its name's owner. A flushed ruleset, by `nft` or by the
//! restart of a service, is a deleted table that the kernel notifies of, and so is a chain of hook
//! forward that begins to drop: `iptables -P FORWARD DROP`, which dockerd and ufw do.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use cni_common::kernel::bus::{self, FIREWALLD, FIREWALLD_OBJECT};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket as _, SocketAddr, TokioSocket};
use tokio::time::{Instant, sleep_until, timeout};
use zbus::export::futures_core::Stream as _;
use zbus::{Connection, MessageStream};

const BUS: &str = "org.freedesktop.DBus";

/// How long the bus may take to let us in.
const BUS_PATIENCE: Duration = Duration::from_secs(15);
/// How long firewalld may take from owning its name to having its rules in place.
const START_PATIENCE: Duration = Duration::from_secs(90);
/// A stop is often the first half of a restart.
const AFTER_STOP: Duration = Duration::from_secs(3);
/// Tables are deleted in numbers, and often to be loaded anew at once.
const AFTER_DELETION: Duration = Duration::from_millis(300);
/// When what failed is tried again, and how often.
const AGAIN: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 3;

/// Why a watch cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// No runtime to wait with.
    #[error("cannot wait for events: {0}")]
    Runtime(io::Error),
    /// The kernel's notifications.
    #[error("cannot hear of deleted tables: {0}; run it as root")]
    Kernel(io::Error),
    /// The bus does not let us in.
    #[error("cannot listen on the system bus: {0}; is dbus running?")]
    Bus(zbus::Error),
    /// The bus accepts a connection and says nothing.
    #[error("the system bus does not answer; is dbus running?")]
    SilentBus,
    /// The bus closed the connection.
    #[error("the system bus went away; start the watch again when it is back")]
    BusLost,
}

/// Something that may have taken rules away.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Reloaded,
    Started,
    Stopped,
    Deleted(String),
    Drops(String),
    Overrun,
}

impl Event {
    /// When to restore after it, where something else may have asked for that already.
    fn due(&self, already: Option<Instant>) -> Instant {
        let now = Instant::now();
        match self {
            Self::Reloaded | Self::Started => now,
            Self::Stopped => now + AFTER_STOP,
            // Never later than planned: somebody may delete tables all the time.
            Self::Deleted(_) | Self::Drops(_) | Self::Overrun => {
                let due = now + AFTER_DELETION;
                already.map_or(due, |already| already.min(due))
            }
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Reloaded => "firewalld was reloaded".to_owned(),
            Self::Started => "firewalld was started".to_owned(),
            Self::Stopped => "firewalld was stopped".to_owned(),
            Self::Deleted(table) => format!("nftables table {table} was deleted"),
            Self::Drops(chain) => format!("chain {chain} has policy drop"),
            Self::Overrun => "notifications of the kernel were lost".to_owned(),
        }
    }
}

/// Calls `restore` now and after every event, with the reason; it says whether all went well.
/// What did not is tried again a few times. Returns only when it cannot go on.
pub(crate) fn watch(mut restore: impl FnMut(&str) -> bool) -> Result<(), WatchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(WatchError::Runtime)?;
    runtime.block_on(async {
        let tables = Tables::open().map_err(WatchError::Kernel)?;
        let mut sources = Sources { tables, bus: Bus::open_if_any().await? };
        let mut reason = match sources.bus {
            Some(_) => "watching firewalld and nftables".to_owned(),
            None => {
                "watching nftables; there is no system bus, so firewalld is not watched".to_owned()
            }
        };
        let (mut due, mut failures) = (Some(Instant::now()), 0);
        loop {
            let Some(event) = sources.next(due).await? else {
                let well = restore(&reason);
                failures = if well { 0 } else { failures + 1 };
                due = (!well && failures < ATTEMPTS).then(|| Instant::now() + AGAIN);
                "trying again what failed".clone_into(&mut reason);
                continue;
            };
            if event == Event::Started
                && let Some(bus) = &sources.bus
            {
                bus.until_firewalld_answers().await;
            }
            due = Some(event.due(due));
            reason = event.describe();
            failures = 0;
        }
    })
}

struct Sources {
    tables: Tables,
    bus: Option<Bus>,
}

impl Sources {
    /// The next event; `None` when `due` comes first.
    async fn next(&mut self, due: Option<Instant>) -> Result<Option<Event>, WatchError> {
        let mut clock = pin!(async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        });
        poll_fn(|context| {
            if let Some(bus) = &mut self.bus
                && let Poll::Ready(event) = bus.poll(context)
            {
                return Poll::Ready(event.map(Some));
            }
            if let Poll::Ready(event) = self.tables.poll(context) {
                return Poll::Ready(event.map(Some).map_err(WatchError::Kernel));
            }
            clock.as_mut().poll(context).map(|()| Ok(None))
        })
        .await
    }
}

/// The system bus, with what firewalld says there.
struct Bus {
    connection: Connection,
    messages: MessageStream,
}

impl Bus {
    /// A host without a bus has no firewalld; one whose bus does not answer may have.
    async fn open_if_any() -> Result<Option<Self>, WatchError> {
        if !bus::is_there() {
            return Ok(None);
        }
        match timeout(BUS_PATIENCE, Self::open()).await {
            Ok(bus) => bus.map(Some).map_err(WatchError::Bus),
            Err(_) => Err(WatchError::SilentBus),
        }
    }

    async fn open() -> zbus::Result<Self> {
        let connection = Connection::system().await?;
        // Before asking for signals, so that none is missed.
        let messages = MessageStream::from(&connection);
        for rule in [
            format!("type='signal',sender='{FIREWALLD}',interface='{FIREWALLD}',member='Reloaded'"),
            format!("type='signal',sender='{BUS}',member='NameOwnerChanged',arg0='{FIREWALLD}'"),
        ] {
            let object = "/org/freedesktop/DBus";
            connection.call_method(Some(BUS), object, Some(BUS), "AddMatch", &rule).await?;
        }
        Ok(Self { connection, messages })
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Event, WatchError>> {
        loop {
            match Pin::new(&mut self.messages).poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(message))) => {
                    if let Some(event) = bus_event(&message) {
                        return Poll::Ready(Ok(event));
                    }
                }
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(WatchError::BusLost)),
            }
        }
    }

    /// firewalld takes its name first and loads its rules then; it answers after both. One that
    /// does not answer is restored to all the same.
    async fn until_firewalld_answers(&self) {
        let properties = Some("org.freedesktop.DBus.Properties");
        let question = (FIREWALLD, "state");
        let answer = self.connection.call_method(
            Some(FIREWALLD),
            FIREWALLD_OBJECT,
            properties,
            "Get",
            &question,
        );
        let _ = timeout(START_PATIENCE, answer).await;
    }
}

fn bus_event(message: &zbus::Message) -> Option<Event> {
    if message.message_type() != zbus::message::Type::Signal {
        return None;
    }
    match message.header().member()?.as_str() {
        "Reloaded" => Some(Event::Reloaded),
        "NameOwnerChanged" => {
            let (name, _, owner): (String, String, String) = message.body().deserialize().ok()?;
            let event = if owner.is_empty() { Event::Stopped } else { Event::Started };
            (name == FIREWALLD).then_some(event)
        }
        _ => None,
    }
}

/// The kernel's notifications about tables.
struct Tables {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// `NFNLGRP_NFTABLES`, as a bit.
const NFTABLES_GROUP: u32 = 1 << 6;

impl Tables {
    fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, NFTABLES_GROUP))?;
        Ok(Self { socket, buffer: Vec::with_capacity(64 * 1024) })
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Event>> {
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
}

/// The first thing that a notification says about what may cut containers off. firewalld's own tables
/// are none of ours, and a sign of what the bus will tell in time.
fn kernel_event(datagram: &[u8]) -> Option<Event> {
    /// `NFNL_SUBSYS_NFTABLES`, with `NFT_MSG_DELTABLE` and `NFT_MSG_NEWCHAIN`.
    const DELETED_TABLE: u16 = 10 << 8 | 2;
    const NEW_CHAIN: u16 = 10 << 8 | 3;
    const NETLINK_HEADER: usize = 16;
    const FAMILY_HEADER: usize = 4;
    let mut rest = datagram;
    while let Some(header) = rest.get(..NETLINK_HEADER) {
        let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(header[4..6].try_into().ok()?);
        let message = rest.get(NETLINK_HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        if ![DELETED_TABLE, NEW_CHAIN].contains(&kind) {
            continue;
        }
        let attributes = Attributes::of(message.get(FAMILY_HEADER..)?);
        let table = attributes.text(1)?;
        if table.starts_with("firewalld") {
            continue;
        }
        let table = format!("{} {table}", family(message[0]));
        if kind == DELETED_TABLE {
            return Some(Event::Deleted(table));
        }
        if let Some(chain) = attributes.dropping_forward_chain() {
            return Some(Event::Drops(format!("{table} {chain}")));
        }
    }
    None
}

/// Attributes of a notification, by their kinds.
struct Attributes<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Attributes<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        const NESTED: u16 = 1 << 15;
        let mut list = Vec::new();
        let mut rest = bytes;
        while let Some(header) = rest.get(..4) {
            let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
            let kind = u16::from_ne_bytes([header[2], header[3]]) & !NESTED;
            let Some(value) = rest.get(4..length) else { break };
            list.push((kind, value));
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Self(list)
    }

    fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.0.iter().find(|(known, _)| *known == kind).map(|(_, value)| *value)
    }

    fn text(&self, kind: u16) -> Option<String> {
        let text = String::from_utf8_lossy(self.get(kind)?);
        Some(text.trim_end_matches('\0').to_owned())
    }

    fn number(&self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// The name of a base chain of hook forward with policy drop.
    fn dropping_forward_chain(&self) -> Option<String> {
        // enum nft_chain_attributes, nft_hook_attributes, nf_inet_hooks
        const NAME: u16 = 3;
        const HOOK: u16 = 4;
        const POLICY: u16 = 5;
        const HOOK_NUMBER: u16 = 1;
        const FORWARD: u32 = 2;
        const DROP: u32 = 0;
        let hook = Attributes::of(self.get(HOOK)?).number(HOOK_NUMBER)?;
        (hook == FORWARD && self.number(POLICY)? == DROP).then(|| self.text(NAME)).flatten()
    }
}

fn family(number: u8) -> &'static str {
    match number {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notification(kind: u16, family: u8, name: &str) -> Vec<u8> {
        let mut attribute = name.as_bytes().to_vec();
        attribute.push(0);
        let attribute_length = u16::try_from(attribute.len() + 4).expect("short");
        attribute.resize(attribute.len().next_multiple_of(4), 0);
        let length = u32::try_from(16 + 4 + 4 + attribute.len()).expect("short");
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend([family, 0, 0, 0]);
        message.extend(attribute_length.to_ne_bytes());
        message.extend(1u16.to_ne_bytes());
        message.extend(attribute);
        message
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

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).expect("short");
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
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
