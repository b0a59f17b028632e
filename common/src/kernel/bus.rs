//! The system bus (D-Bus), where firewalld listens. The host's rather than the kernel's.

use std::path::Path;

/// firewalld's name on the bus.
pub const FIREWALLD: &str = "org.fedoraproject.FirewallD1";
/// The object that it answers at.
pub const FIREWALLD_OBJECT: &str = "/org/fedoraproject/FirewallD1";

const SOCKETS: [&str; 2] = ["/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket"];

/// Whether this host has a system bus to connect to. Without one there is no firewalld, and an
/// attempt to connect would only cost time.
#[must_use]
pub fn is_there() -> bool {
    std::env::var_os("DBUS_SYSTEM_BUS_ADDRESS").is_some()
        || SOCKETS.iter().any(|path| Path::new(path).exists())
}
