//! Whether ADD could be served, as far as no backend has to tell.

use cni_common::cni::Attachment;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::nft::L4Protocol;
use cni_common::kernel::sysctl::Sysctl;

use crate::config::{Config, HostAddress, PortMapping};
use crate::plan::{Addresses, Plan};

/// A mapping of each kind, from the documentation's address ranges, for the kernel to try.
pub(crate) fn sample(config: &Config) -> Plan {
    let mapping =
        |host| PortMapping { host_port: 1, container_port: 1, protocol: L4Protocol::Tcp, host };
    let addresses =
        Addresses { v4: "192.0.2.2/24".parse().ok(), v6: "2001:db8::2/64".parse().ok() };
    let hosts =
        [HostAddress::Any].into_iter().chain(addresses.bare().into_iter().map(HostAddress::One));
    let config = Config { mappings: hosts.map(mapping).collect(), ..config.clone() };
    let attachment = Attachment {
        network: "status".to_owned(),
        container_id: "probe".to_owned(),
        ifname: "eth0".to_owned(),
    };
    Plan::new(&attachment, &config, addresses)
}

/// ADD sets `route_localnet`, unless nothing is masqueraded.
pub(crate) fn require_writable_sysctls() -> Result<(), CniError> {
    let sysctl = Sysctl::ipv4_conf("lo", "route_localnet");
    if sysctl.read().is_err() {
        // A host without IPv4 needs none of this.
        return Ok(());
    }
    sysctl.open().map(|_| ()).map_err(|error| {
        CniError::new(
            ErrorCode::NotAvailable,
            "portmap cannot write /proc/sys: run it where /proc/sys is writable, or set \"snat\": false \
             and do without 127.0.0.1 and hairpin connections",
        )
        .with_details(error.to_string())
    })
}
