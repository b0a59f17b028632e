//! The few kernel settings of the demo, in the namespace of the calling thread.

use std::io;
use std::net::IpAddr;
use std::path::Path;

/// Whether the kernel has IPv6 at all (`ipv6.disable=1` takes it away).
pub(super) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// Switches forwarding on in the family of `address`.
pub(super) fn forward(address: IpAddr) -> io::Result<()> {
    match address {
        IpAddr::V4(_) => write("net/ipv4/ip_forward", "1"),
        IpAddr::V6(_) => write("net/ipv6/conf/all/forwarding", "1"),
    }
}

/// Makes a fresh namespace independent of what the machine set for all of its namespaces.
pub(super) fn settle(ipv6: bool) -> io::Result<()> {
    // Replies to a mapped port may take another way back than the strict mode expects.
    for conf in ["all", "default"] {
        write(&format!("net/ipv4/conf/{conf}/rp_filter"), "0")?;
        if ipv6 {
            write(&format!("net/ipv6/conf/{conf}/disable_ipv6"), "0")?;
            // Link-local addresses must work at once, too.
            write(&format!("net/ipv6/conf/{conf}/accept_dad"), "0")?;
        }
    }
    Ok(())
}

fn write(key: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/{key}");
    std::fs::write(&path, value).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot write {value} to {path}: {error}"))
    })
}
