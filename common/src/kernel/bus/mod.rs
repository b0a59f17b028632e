//! The system bus (D-Bus), where firewalld listens. The host's rather than the kernel's.
//!
//! One synchronous socket: a call out, its answer in. Every call makes the same system calls in one
//! thread, each of them within a limit of time, and each of their errors arrives.

mod address;
mod connection;
mod message;

use std::path::Path;

pub use connection::{BusError, Connection};
pub use message::{MethodCall, Value};

/// firewalld's name on the bus.
pub const FIREWALLD: &str = "org.fedoraproject.FirewallD1";
/// The object that it answers at.
pub const FIREWALLD_OBJECT: &str = "/org/fedoraproject/FirewallD1";

const SOCKETS: [&str; 2] = ["/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket"];
/// The bus's own name, and its object.
const BUS: (&str, &str) = ("org.freedesktop.DBus", "/org/freedesktop/DBus");
/// Where the bus is instead, if this is set.
const ADDRESS: &str = "DBUS_SYSTEM_BUS_ADDRESS";

/// Whether this host has a system bus to connect to. Without one there is no firewalld, and an
/// attempt to connect would only cost time.
#[must_use]
pub fn is_there() -> bool {
    std::env::var_os(ADDRESS).is_some() || SOCKETS.iter().any(|path| Path::new(path).exists())
}
