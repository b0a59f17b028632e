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

use cni_common::kernel::attributes::Attributes;
use cni_common::kernel::bus::{self, FIREWALLD, FIREWALLD_OBJECT};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket as _, SocketAddr, TokioSocket};
use tokio::time::{Instant, sleep_until, timeout};
use zbus::export::futures_core::Stream as _;
use zbus::{Connection, MessageStream};

use crate::notification::{self, Notification};

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
    const NFT_MSG_DELTABLE: u16 = 2;
    const NFT_MSG_NEWCHAIN: u16 = 3;
    // NFTA_TABLE_NAME and NFTA_CHAIN_TABLE
    const TABLE: u16 = 1;
    for Notification { kind, family, attributes } in notification::read(datagram) {
        if ![NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN].contains(&kind) {
            continue;
        }
        let table = attributes.text(TABLE)?;
        if table.starts_with("firewalld") {
            continue;
        }
        let table = format!("{family} {table}");
        if kind == NFT_MSG_DELTABLE {
            return Some(Event::Deleted(table));
        }
        if let Some(chain) = dropping_forward_chain(&attributes) {
            return Some(Event::Drops(format!("{table} {chain}")));
        }
    }
    None
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
