//! What firewalld tells on the system bus.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use cni_common::kernel::bus::{self, FIREWALLD, FIREWALLD_OBJECT};
use tokio::time::timeout;
use zbus::export::futures_core::Stream as _;
use zbus::{Connection, MessageStream};

use super::WatchError;
use super::event::Event;

const BUS: &str = "org.freedesktop.DBus";
/// How long the bus may take to let us in.
const BUS_PATIENCE: Duration = Duration::from_secs(15);
/// How long firewalld may take from owning its name to having its rules in place.
const START_PATIENCE: Duration = Duration::from_secs(90);

/// The system bus, with what firewalld says there.
pub(super) struct Bus {
    connection: Connection,
    messages: MessageStream,
}

impl Bus {
    /// A host without a bus has no firewalld; one whose bus does not answer may have.
    pub(super) async fn open_if_any() -> Result<Option<Self>, WatchError> {
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

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Event, WatchError>> {
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
    pub(super) async fn until_firewalld_answers(&self) {
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
