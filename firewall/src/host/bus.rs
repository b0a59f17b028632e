//! firewalld over D-Bus.
//!
//! Every call is bounded in time: a bus that accepts a connection and then says nothing must not
//! hold a container up. That there is no firewalld is believed of a host without a bus and of a bus
//! where nobody owns its name; every other error is one.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use cni_common::cni::failure::code_of;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::IpVersion;
use cni_common::kernel::bus::{
    BusError, Connection, FIREWALLD, FIREWALLD_OBJECT, MethodCall, Value,
};

const ZONES: &str = "org.fedoraproject.FirewallD1.zone";
/// How long one answer may take. Adding a source to a large configuration takes firewalld a
/// second or two.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long it may take to find out whether firewalld runs.
const BRIEF_PATIENCE: Duration = Duration::from_secs(3);
/// What firewalld says where a source is not in the zone that it is to leave, or the zone is not there.
const NOT_THERE: [&str; 4] = ["UNKNOWN_SOURCE", "NOT_ENABLED", "INVALID_ZONE", "ZONE_CONFLICT"];
/// What the bus says of a name that nobody owns.
const NO_OWNER: [&str; 2] =
    ["org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner"];

/// What is left of a source that was to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Nothing.
    Nothing,
    /// firewalld could not take its rules out of the kernel, and still has it on its list: its words.
    Listed(String),
}

/// The system bus, connected to when it is first needed, and then for the rest of the call.
#[derive(Debug, Default)]
pub(crate) struct Bus {
    connection: Option<Connection>,
    firewalld_runs: Option<bool>,
}

impl Bus {
    /// Whether firewalld owns its name on the system bus.
    pub(crate) fn has_firewalld(&mut self) -> Result<bool, CniError> {
        if let Some(known) = self.firewalld_runs {
            return Ok(known);
        }
        let runs = match self.with(BRIEF_PATIENCE, |bus| bus.has_owner(FIREWALLD)) {
            Err(BusError::NoBus(_)) => false,
            outcome => outcome.map_err(|error| unreachable(code(&error), &error))?,
        };
        self.firewalld_runs = Some(runs);
        Ok(runs)
    }

    /// ADD cannot do without firewalld.
    pub(crate) fn require_firewalld(&mut self) -> Result<(), CniError> {
        if self.has_firewalld()? {
            return Ok(());
        }
        let text = format!("nobody owns the name {FIREWALLD} on a system bus");
        Err(unreachable(ErrorCode::TryAgainLater, &text))
    }

    /// Puts an address into a zone; it may be there already.
    pub(crate) fn add_source(&mut self, zone: &str, address: IpAddr) -> Result<(), CniError> {
        let source = source(address);
        let refused = |error: &BusError| {
            refused(&format!("failed to add the address {source} to {zone} zone"), zone, error)
        };
        let holder = self.ask("getZoneOfSource", &[&source]).map_err(|error| refused(&error))?;
        match holder {
            Value::Text(holder) if holder == zone => return Ok(()),
            Value::Text(holder) if !holder.is_empty() => {
                return Err(conflict(zone, &source, &holder));
            }
            _ => {}
        }
        match self.ask("addSource", &[zone, &source]) {
            Err(BusError::Answer { words, .. }) if words.contains("ZONE_ALREADY_SET") => Ok(()),
            outcome => outcome.map(drop).map_err(|error| refused(&error)),
        }
    }

    /// Takes an address out of a zone; it may be gone already, the zone and firewalld too.
    pub(crate) fn remove_source(&mut self, zone: &str, address: IpAddr) -> Result<Left, CniError> {
        let source = source(address);
        let is_among = |list: &[&str], text: &str| list.iter().any(|word| text.contains(word));
        match self.ask("removeSource", &[zone, &source]) {
            Ok(_) | Err(BusError::NoBus(_)) => Ok(Left::Nothing),
            Err(BusError::Answer { name, words })
                if is_among(&NOT_THERE, &words) || is_among(&NO_OWNER, &name) =>
            {
                Ok(Left::Nothing)
            }
            Err(BusError::Answer { words, .. }) if words.contains("COMMAND_FAILED") => {
                Ok(Left::Listed(words))
            }
            Err(error) => Err(not_taken_out(code(&error), &source, zone, &error)),
        }
    }

    /// What the zone lacks of an address, in words.
    pub(crate) fn mismatch(
        &mut self,
        zone: &str,
        address: IpAddr,
    ) -> Result<Option<String>, CniError> {
        let source = source(address);
        let there = self.ask("querySource", &[zone, &source]).map_err(|error| {
            refused(&format!("cannot ask for the address {source} in {zone} zone"), zone, &error)
        })?;
        let missing = || format!("source {source} is missing from firewalld's zone {zone}");
        Ok((there != Value::Truth(true)).then(missing))
    }

    fn ask(&mut self, method: &str, arguments: &[&str]) -> Result<Value, BusError> {
        let call = MethodCall {
            destination: FIREWALLD,
            object: FIREWALLD_OBJECT,
            interface: ZONES,
            method,
            arguments,
        };
        self.with(PATIENCE, |bus| bus.call(&call))
    }

    /// One exchange. After an error on the way, the next one is over a connection of its own.
    fn with<T>(
        &mut self,
        patience: Duration,
        exchange: impl FnOnce(&mut Connection) -> Result<T, BusError>,
    ) -> Result<T, BusError> {
        let mut connection = match self.connection.take() {
            Some(connected) => connected,
            None => Connection::system(BRIEF_PATIENCE)?,
        };
        connection.be_patient(patience)?;
        let outcome = exchange(&mut connection);
        if matches!(outcome, Ok(_) | Err(BusError::Answer { .. })) {
            self.connection = Some(connection);
        }
        outcome
    }
}

/// As the Go plugin writes a source.
pub(crate) fn source(address: IpAddr) -> String {
    format!("{address}/{}", IpVersion::of(address).host_prefix())
}

/// Code 11 where another try may help.
fn code(error: &BusError) -> ErrorCode {
    match error {
        BusError::Io(error) => code_of(error, ErrorCode::Kernel),
        BusError::NoAddress(_) => ErrorCode::InvalidEnvironment,
        BusError::Refused(_) | BusError::Garbled => ErrorCode::Kernel,
        BusError::NoBus(_) | BusError::Answer { .. } => ErrorCode::TryAgainLater,
    }
}

fn unreachable(code: ErrorCode, why: &dyn fmt::Display) -> CniError {
    CniError::new(
        code,
        "cannot reach firewalld over D-Bus: start firewalld, or set another \"backend\"",
    )
    .with_details(why.to_string())
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

/// An address that stays in its zone.
pub(crate) fn not_taken_out(
    code: ErrorCode,
    source: &dyn fmt::Display,
    zone: &str,
    why: &dyn fmt::Display,
) -> CniError {
    let text =
        format!("failed to take the address {source} out of {zone} zone: firewalld does not do it");
    CniError::new(code, text).with_details(why.to_string())
}

fn refused(doing: &str, zone: &str, error: &BusError) -> CniError {
    let details = error.to_string();
    if details.contains("INVALID_ZONE") {
        return CniError::config(format!(
            "firewalld has no zone {zone:?}: make it with `firewall-cmd --permanent --new-zone={zone}` and \
             `firewall-cmd --reload`, or set \"firewalldZone\" to one that `firewall-cmd --get-zones` lists"
        ))
        .with_details(details);
    }
    CniError::new(code(error), format!("{doing}: firewalld does not do it; is it running?"))
        .with_details(details)
}
