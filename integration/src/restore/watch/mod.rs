//! Waiting for whatever flushes tables, to restore right after it.
//!
//! `firewall-cmd --reload` goes past systemd: firewalld tells of it by a signal on the bus, and
//! its starts and stops are changes of its name's owner. A flushed ruleset, by `nft` or by the
//! restart of a service, is a deleted table that the kernel notifies of; a flushed table or chain,
//! deleted rules; and a chain of hook forward that begins to drop is told of, too:
//! `iptables -P FORWARD DROP`, which dockerd and ufw do.

mod bus;
mod event;
mod kernel;
mod schedule;

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use bus::Bus;
use event::Event;
use kernel::Tables;
use schedule::Schedule;
pub(crate) use schedule::{Reason, Round};

/// Why a watch cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// Nothing to wait with.
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

/// Calls `restore` now and after every event, with the reason. What failed is tried again a few
/// times. Returns when a signal ends it, after the round that is under way, or when it cannot go on.
pub(crate) fn watch(mut restore: impl FnMut(&Reason) -> Round) -> Result<(), WatchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(WatchError::Runtime)?;
    runtime.block_on(async {
        let tables = Tables::open().map_err(WatchError::Kernel)?;
        let ending = Ending::begin().map_err(WatchError::Runtime)?;
        let mut sources = Sources { tables, bus: Bus::open_if_any().await?, ending };
        let text = match sources.bus {
            Some(_) => "watching firewalld and nftables".to_owned(),
            None => {
                "watching nftables; there is no system bus, so firewalld is not watched".to_owned()
            }
        };
        let mut schedule = Schedule::new(text, Instant::now());
        loop {
            let event = match sources.next(schedule.due).await? {
                Next::Heard(event) => event,
                Next::Due => {
                    let began = Instant::now();
                    let round = restore(&schedule.reason);
                    let told = sources.tables.told().map_err(WatchError::Kernel)?;
                    schedule.done(round, began.elapsed(), &told, Instant::now());
                    continue;
                }
                Next::TheEnd => return Ok(()),
            };
            if event == Event::Started
                && let Some(bus) = &sources.bus
            {
                bus.until_firewalld_answers().await;
            }
            schedule.heard(&event, Instant::now());
        }
    })
}

struct Sources {
    tables: Tables,
    bus: Option<Bus>,
    ending: Ending,
}

/// What comes first.
enum Next {
    Heard(Event),
    /// The time of the next round.
    Due,
    /// A signal.
    TheEnd,
}

impl Sources {
    /// The next thing, of which `due` is one.
    async fn next(&mut self, due: Option<Instant>) -> Result<Next, WatchError> {
        let mut clock = pin!(async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        });
        poll_fn(|context| {
            if self.ending.has_come(context) {
                return Poll::Ready(Ok(Next::TheEnd));
            }
            if let Some(bus) = &mut self.bus
                && let Poll::Ready(event) = bus.poll(context)
            {
                return Poll::Ready(event.map(Next::Heard));
            }
            if let Poll::Ready(event) = self.tables.poll(context) {
                return Poll::Ready(event.map(Next::Heard).map_err(WatchError::Kernel));
            }
            clock.as_mut().poll(context).map(|()| Ok(Next::Due))
        })
        .await
    }
}

/// SIGTERM and SIGINT. The kernel keeps from the first process of a container what it does not wait for:
/// without this a pod would end only when the kubelet kills it.
struct Ending([Signal; 2]);

impl Ending {
    fn begin() -> io::Result<Self> {
        Ok(Self([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?]))
    }

    /// Whether one came; else `context` is woken by it.
    fn has_come(&mut self, context: &mut Context<'_>) -> bool {
        self.0.iter_mut().any(|signal| signal.poll_recv(context).is_ready())
    }
}
