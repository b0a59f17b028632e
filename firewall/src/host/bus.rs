//! firewalld over D-Bus.
//!
//! Every call is bounded in time: a bus that accepts a connection and then says nothing must not
//! hold a container up.

use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::{IpVersion, bus};
use tokio::runtime::Runtime;
use zbus::Connection;

const ZONES: &str = "org.fedoraproject.FirewallD1.zone";
/// How long one answer may take. Adding a source to a large configuration takes firewalld a
/// second or two.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long it may take to find out whether firewalld runs.
const BRIEF_PATIENCE: Duration = Duration::from_secs(3);

/// The system bus, connected to when it is first needed, and then for the rest of the call.
#[derive(Debug, Default)]
pub(crate) struct Bus {
    firewalld: Option<Firewalld>,
    firewalld_runs: Option<bool>,
}

/// A connection to firewalld.
#[derive(Debug)]
pub(crate) struct Firewalld {
    runtime: Runtime,
    connection: Connection,
}

impl Bus {
    /// Whether firewalld owns its name on the system bus. A bus that does not answer counts as no.
    pub(crate) fn has_firewalld(&mut self) -> bool {
        if let Some(known) = self.firewalld_runs {
            return known;
        }
        let runs = bus::is_there() && self.firewalld().is_ok_and(Firewalld::owns_its_name);
        self.firewalld_runs = Some(runs);
        runs
    }

    /// A connection to firewalld, wherever it can be made.
    pub(crate) fn firewalld(&mut self) -> Result<&Firewalld, BusError> {
        let firewalld = match self.firewalld.take() {
            Some(connected) => connected,
            None => Firewalld::open()?,
        };
        Ok(self.firewalld.insert(firewalld))
    }

    /// The connection without which ADD or CHECK cannot go on.
    pub(crate) fn required_firewalld(&mut self) -> Result<&Firewalld, CniError> {
        self.firewalld().map_err(|error| unreachable(&error))
    }
}

/// What went wrong, in the bus's or firewalld's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BusError(String);

impl std::fmt::Display for BusError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<zbus::Error> for BusError {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(_, Some(words), _) => Self(words),
            other => Self(other.to_string()),
        }
    }
}

impl Firewalld {
    /// Connects to the system bus (`DBUS_SYSTEM_BUS_ADDRESS` if that is set).
    fn open() -> Result<Self, BusError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| BusError(error.to_string()))?;
        let connection = bounded(&runtime, BRIEF_PATIENCE, async {
            Connection::system().await.map_err(BusError::from)
        })?;
        Ok(Self { runtime, connection })
    }

    fn owns_its_name(&self) -> bool {
        let answer = bounded(&self.runtime, BRIEF_PATIENCE, async {
            let reply = self
                .connection
                .call_method(
                    Some("org.freedesktop.DBus"),
                    "/org/freedesktop/DBus",
                    Some("org.freedesktop.DBus"),
                    "NameHasOwner",
                    &bus::FIREWALLD,
                )
                .await?;
            Ok(reply.body().deserialize::<bool>()?)
        });
        answer.unwrap_or(false)
    }

    /// Puts an address into a zone; it may be there already.
    pub(crate) fn add(&self, zone: &str, address: IpAddr) -> Result<(), CniError> {
        let source = source(address);
        let holder = self.zone_of(&source).map_err(|error| refused(zone, &source, &error))?;
        if holder == zone {
            return Ok(());
        }
        if !holder.is_empty() {
            return Err(conflict(zone, &source, &holder));
        }
        match self.call::<String>("addSource", &(zone, source.as_str())) {
            Ok(_) => Ok(()),
            Err(error) if error.0.contains("ZONE_ALREADY_SET") => Ok(()),
            Err(error) => Err(refused(zone, &source, &error)),
        }
    }

    /// Takes an address out of a zone; it may be gone already, and the zone too.
    pub(crate) fn remove(&self, zone: &str, address: IpAddr) -> Result<(), BusError> {
        match self.call::<String>("removeSource", &(zone, source(address).as_str())) {
            Err(error)
                if !["UNKNOWN_SOURCE", "NOT_ENABLED", "INVALID_ZONE"]
                    .iter()
                    .any(|word| error.0.contains(word)) =>
            {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// What the zone lacks of an address, in words.
    pub(crate) fn mismatch(&self, zone: &str, address: IpAddr) -> Result<Option<String>, CniError> {
        let source = source(address);
        let there = self
            .call::<bool>("querySource", &(zone, source.as_str()))
            .map_err(|error| refused(zone, &source, &error))?;
        Ok((!there).then(|| format!("source {source} is missing from firewalld's zone {zone}")))
    }

    fn zone_of(&self, source: &str) -> Result<String, BusError> {
        self.call("getZoneOfSource", &(source))
    }

    fn call<T>(
        &self,
        method: &str,
        arguments: &(impl serde::Serialize + zbus::zvariant::DynamicType),
    ) -> Result<T, BusError>
    where
        T: for<'d> zbus::zvariant::DynamicDeserialize<'d>,
    {
        bounded(&self.runtime, PATIENCE, async {
            let reply = self
                .connection
                .call_method(
                    Some(bus::FIREWALLD),
                    bus::FIREWALLD_OBJECT,
                    Some(ZONES),
                    method,
                    arguments,
                )
                .await?;
            Ok(reply.body().deserialize::<T>()?)
        })
    }
}

fn bounded<T>(
    runtime: &Runtime,
    patience: Duration,
    work: impl Future<Output = Result<T, BusError>>,
) -> Result<T, BusError> {
    runtime.block_on(async {
        match tokio::time::timeout(patience, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(BusError(format!("no answer within {} seconds", patience.as_secs()))),
        }
    })
}

/// As the Go plugin writes a source.
fn source(address: IpAddr) -> String {
    format!("{address}/{}", IpVersion::of(address).host_prefix())
}

fn unreachable(error: &BusError) -> CniError {
    CniError::new(
        ErrorCode::TryAgainLater,
        "cannot reach firewalld over D-Bus: start firewalld, or set another \"backend\"",
    )
    .with_details(error.to_string())
}

fn conflict(zone: &str, source: &str, holder: &str) -> CniError {
    CniError::new(
        ErrorCode::Kernel,
        format!(
            "failed to add the address {source} to {zone} zone: it is bound to zone {holder} already; run \
             `firewall-cmd --zone={holder} --remove-source={source}`, or set \"firewalldZone\" to {holder:?}"
        ),
    )
}

fn refused(zone: &str, source: &str, error: &BusError) -> CniError {
    if error.0.contains("INVALID_ZONE") {
        return CniError::config(format!(
            "firewalld has no zone {zone:?}: make it with `firewall-cmd --permanent --new-zone={zone}` and \
             `firewall-cmd --reload`, or set \"firewalldZone\" to one that `firewall-cmd --get-zones` lists"
        ))
        .with_details(error.to_string());
    }
    CniError::new(
        ErrorCode::TryAgainLater,
        format!("failed to add the address {source} to {zone} zone: firewalld does not do it; is it running?"),
    )
    .with_details(error.to_string())
}
