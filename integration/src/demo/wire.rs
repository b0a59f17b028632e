//! Changes to links, addresses and routes, in the namespace of the calling thread.

use std::io;
use std::net::IpAddr;

use cni_common::cni::protocol::{CniError, ErrorCode};
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::runtime::{Builder, Runtime};

/// A netlink socket that belongs to the namespace in which it was opened.
pub(super) struct Wire {
    runtime: Runtime,
    handle: Handle,
}

impl Wire {
    /// Opens a socket in the namespace of the calling thread.
    pub(super) fn open() -> Result<Self, CniError> {
        let failed = |error| refused("open a netlink socket", &error);
        let runtime = Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let (connection, handle) = {
            // The socket registers itself with the runtime it is made in.
            let _inside = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
            (connection, handle)
        };
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    /// Creates a link; `what` completes "cannot …" in the error, as in every method here.
    pub(super) fn create(&self, what: &str, link: LinkMessage) -> Result<(), CniError> {
        let module = module_of(&link);
        self.runtime.block_on(self.handle.link().add(link).execute()).map_err(cause).map_err(
            |error| match module.filter(|_| error.raw_os_error() == Some(nix::libc::EOPNOTSUPP)) {
                None => refused(what, &error),
                Some(module) => refused(
                    &format!("{what}: load the module {module} (modprobe {module})"),
                    &error,
                ),
            },
        )
    }

    /// Changes a link, including its settings as a bridge port.
    pub(super) fn change(&self, what: &str, link: LinkMessage) -> Result<(), CniError> {
        self.wait(what, self.handle.link().set_port(link).execute())
    }

    /// Switches a link on.
    pub(super) fn up(&self, what: &str, index: u32) -> Result<(), CniError> {
        let link = LinkUnspec::new_with_index(index).up().build();
        self.wait(what, self.handle.link().set(link).execute())
    }

    /// Deletes a link; one that is gone already is what was wanted.
    pub(super) fn delete(&self, what: &str, index: u32) -> Result<(), CniError> {
        match self.runtime.block_on(self.handle.link().del(index).execute()).map_err(cause) {
            Err(error) if error.raw_os_error() != Some(nix::libc::ENODEV) => {
                Err(refused(what, &error))
            }
            _ => Ok(()),
        }
    }

    /// Gives a link an address that can be used at once.
    pub(super) fn add_address(&self, index: u32, address: IpNet) -> Result<(), CniError> {
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len());
        if address.addr().is_ipv6() {
            // Duplicate address detection would hold the address back for a second or more.
            let nodad = AddressAttribute::Flags(AddressFlags::Nodad);
            request.message_mut().attributes.push(nodad);
        }
        self.wait(&format!("add address {address}"), request.replace().execute())
    }

    /// Adds the default route of the gateway's family.
    pub(super) fn add_default_route(&self, gateway: IpAddr) -> Result<(), CniError> {
        let what = format!("add a default route by {gateway}");
        let builder = RouteMessageBuilder::<IpAddr>::new();
        let route = match gateway {
            IpAddr::V4(_) => builder.destination_prefix(std::net::Ipv4Addr::UNSPECIFIED.into(), 0),
            IpAddr::V6(_) => builder.destination_prefix(std::net::Ipv6Addr::UNSPECIFIED.into(), 0),
        }
        .and_then(|route| route.gateway(gateway))
        .map_err(|error| refused(&what, &io::Error::other(error)))?
        .build();
        self.wait(&what, self.handle.route().add(route).execute())
    }

    fn wait(
        &self,
        what: &str,
        request: impl Future<Output = Result<(), rtnetlink::Error>>,
    ) -> Result<(), CniError> {
        self.runtime.block_on(request).map_err(|error| refused(what, &cause(error)))
    }
}

/// The kernel's module for a kind of link. Of one that it lacks, it says that it does not support that.
fn module_of(link: &LinkMessage) -> Option<&'static str> {
    let kind = |info: &LinkInfo| match info {
        LinkInfo::Kind(InfoKind::Veth) => Some("veth"),
        LinkInfo::Kind(InfoKind::Bridge) => Some("bridge"),
        _ => None,
    };
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(kind),
        _ => None,
    })
}

/// The errno, where the kernel gave one.
fn cause(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

/// What could not be done, and the kernel's reason.
pub(super) fn refused(what: &str, reason: &io::Error) -> CniError {
    CniError::new(ErrorCode::Kernel, format!("cannot {what}")).with_details(reason.to_string())
}
