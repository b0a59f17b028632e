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
use std::task::Poll;

use tokio::time::{Instant, sleep_until};

use bus::Bus;
use event::Event;
use kernel::Tables;
use schedule::Schedule;
pub(crate) use schedule::{Reason, Round};

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

/// Calls `restore` now and after every event, with the reason. What failed is tried again a few
/// times. Returns only when it cannot go on.
pub(crate) fn watch(mut restore: impl FnMut(&Reason) -> Round) -> Result<(), WatchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(WatchError::Runtime)?;
    runtime.block_on(async {
        let tables = Tables::open().map_err(WatchError::Kernel)?;
        let mut sources = Sources { tables, bus: Bus::open_if_any().await? };
        let text = match sources.bus {
            Some(_) => "watching firewalld and nftables".to_owned(),
            None => {
                "watching nftables; there is no system bus, so firewalld is not watched".to_owned()
            }
        };
        let mut schedule = Schedule::new(text, Instant::now());
        loop {
            let Some(event) = sources.next(schedule.due).await? else {
                let began = Instant::now();
                let round = restore(&schedule.reason);
                let told = sources.tables.told().map_err(WatchError::Kernel)?;
                schedule.done(round, began.elapsed(), &told, Instant::now());
                continue;
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
