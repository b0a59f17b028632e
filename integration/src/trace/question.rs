//! Which connection is asked about. No I/O.

use std::net::IpAddr;

use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::L4Protocol;

use crate::show::{Mapped, Standing};

/// A connection to a host port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) port: u16,
    /// Any that has the port, if it is not said.
    pub(crate) protocol: Option<L4Protocol>,
    /// The host's address; one of the mapping's, if it is not said.
    pub(crate) to: Option<IpAddr>,
    /// Whoever connects; somebody outside, if it is not said.
    pub(crate) from: Option<IpAddr>,
}

impl Question {
    /// The mappings whose way is to be followed: of each protocol and family the one that the kernel
    /// follows, or should.
    pub(super) fn mappings<'a>(&self, ports: &'a [Mapped]) -> Vec<&'a Mapped> {
        let mut chosen: Vec<&Mapped> = Vec::new();
        let mut candidates: Vec<&Mapped> =
            ports.iter().filter(|mapped| self.is_about(mapped)).collect();
        candidates.sort_by_key(|mapped| rank(mapped));
        for mapped in candidates {
            let place = |mapped: &Mapped| {
                let mapping = &mapped.mapping;
                (mapping.protocol, IpVersion::of(mapping.container))
            };
            if chosen.iter().all(|other| place(other) != place(mapped)) {
                chosen.push(mapped);
            }
        }
        chosen
    }

    fn is_about(&self, mapped: &Mapped) -> bool {
        let mapping = &mapped.mapping;
        let fits = |address: IpAddr| {
            address.is_ipv4() == mapping.container.is_ipv4()
                && mapping.host_address.is_none_or(|host| host == address)
        };
        mapping.host_port == self.port
            && self.protocol.is_none_or(|protocol| protocol == mapping.protocol)
            && self.to.is_none_or(fits)
            && self.from.is_none_or(|from| from.is_ipv4() == mapping.container.is_ipv4())
    }
}

/// What is in force comes first, and with it an address of its own before any address.
fn rank(mapped: &Mapped) -> (u8, bool) {
    let standing = match mapped.standing {
        Standing::InForce(_) => 0,
        Standing::Missing => 1,
        Standing::Waiting(_) => 2,
    };
    (standing, mapped.mapping.host_address.is_none())
}
