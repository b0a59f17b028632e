//! From a configuration and the container's addresses to what must be. Pure, and in no backend's words.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use cni_common::cni::Attachment;
use cni_common::cni::attachment::network_short_name;
use cni_common::cni::protocol::CniResult;
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::L4Protocol;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::{Conditions, Config, DEFAULT_MARK_BIT, HostAddress, OnConflict, PortMapping};

/// 127.0.0.0/8: sources whose packets never leave the host by themselves.
pub(crate) const LOOPBACK: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));

/// What must be for one attachment.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) attachment: Attachment,
    pub(crate) addresses: Addresses,
    /// One for each family that can serve it.
    pub(crate) mappings: Vec<Mapping>,
    pub(crate) masquerade: Masquerade,
    /// The bit of the packet mark that says "came through a mapped port" on the way from
    /// prerouting to postrouting; 0 to 31.
    pub(crate) mark_bit: u8,
    /// Somebody else's chain that marks packets for masquerading, in place of our own.
    pub(crate) set_mark_chain: Option<String>,
    pub(crate) conditions: Conditions,
    pub(crate) on_conflict: OnConflict,
    /// Whether the host reaches the container through 127.0.0.0/8, which then has to be guarded.
    pub(crate) loopback: bool,
}

/// A host port that leads to a container's port, in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The host address it answers to; any when `None`.
    pub host_address: Option<IpAddr>,
    /// The port on the host.
    pub host_port: u16,
    /// The transport protocol, the same on both sides.
    pub protocol: L4Protocol,
    /// The container's address, whose family is the mapping's.
    pub container: IpAddr,
    /// The port in the container.
    pub container_port: u16,
}

/// A mapping with its owner's tag, or what stands for it.
pub(crate) type Held = (Mapping, String);

/// The container's addresses with their prefix lengths, at most one of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) v4: Option<IpNet>,
    pub(crate) v6: Option<IpNet>,
}

/// Whose connections through a mapping get the host's address as their source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Masquerade {
    Nobody,
    /// Those that would otherwise never find their way back: the container itself and its
    /// neighbours, and 127.0.0.0/8.
    Hairpin,
    Everybody,
}

impl Plan {
    pub(crate) fn new(attachment: &Attachment, config: &Config, addresses: Addresses) -> Self {
        let masquerade = match (config.snat, config.masq_all) {
            (false, _) => Masquerade::Nobody,
            (true, false) => Masquerade::Hairpin,
            (true, true) => Masquerade::Everybody,
        };
        let mappings = mappings(&config.mappings, addresses);
        let loopback = config.snat && Mapping::reached_by_loopback(&mappings).is_some();
        Self {
            attachment: attachment.clone(),
            addresses,
            mappings,
            masquerade,
            mark_bit: config.mark_bit,
            set_mark_chain: config.external_set_mark_chain.clone(),
            conditions: config.conditions.clone(),
            on_conflict: config.on_conflict,
            loopback,
        }
    }

    /// Which of a list's portmap entries it is of: a short name of what lets packets in to its mappings
    /// and marks them; `None` for one that leaves all of that as it is by default.
    pub(crate) fn gate(&self) -> Option<String> {
        let Self { conditions, mark_bit, set_mark_chain, .. } = self;
        if conditions.is_empty() && *mark_bit == DEFAULT_MARK_BIT && set_mark_chain.is_none() {
            return None;
        }
        let words = |words: &[String]| words.join("\0");
        let text = [
            words(&conditions.v4),
            words(&conditions.v6),
            mark_bit.to_string(),
            set_mark_chain.clone().unwrap_or_default(),
        ];
        Some(network_short_name(&text.join("\0\0")))
    }

    /// What to tell about configured mappings that will not answer.
    pub(crate) fn warnings(&self, config: &Config) -> Vec<String> {
        let mut warnings = Vec::new();
        if [14, 15].contains(&self.mark_bit) {
            warnings.push(format!(
                "markMasqBit {} is a bit that kube-proxy marks packets with (--masquerade-bit, 14 by default): choose another",
                self.mark_bit
            ));
        }
        for mapping in &config.mappings {
            let port = format!("host port {}/{}", mapping.host_port, mapping.protocol);
            if !self.mappings.iter().any(|active| mapping.host.serves(active.version())) {
                warnings.push(format!(
                    "{port} is not mapped: the container has no address of hostIP's family"
                ));
            }
            if mapping.host == HostAddress::One(Ipv6Addr::LOCALHOST.into()) {
                warnings.push(format!(
                    "{port} on ::1 will not answer: Linux does not translate packets to ::1"
                ));
            }
        }
        warnings
    }

    /// Whether nothing is to be mapped.
    pub(crate) fn is_empty(&self) -> bool {
        self.mappings.is_empty()
    }

    pub(crate) fn mappings_of(&self, version: IpVersion) -> impl Iterator<Item = &Mapping> {
        self.mappings.iter().filter(move |mapping| mapping.version() == version)
    }

    /// The container's address in one family, if anything is mapped to it.
    pub(crate) fn container(&self, version: IpVersion) -> Option<IpNet> {
        self.addresses.of(version).filter(|_| self.mappings_of(version).next().is_some())
    }

    /// The container's addresses that anything is mapped to.
    pub(crate) fn containers(&self) -> impl Iterator<Item = IpAddr> {
        let containers = IpVersion::ALL.into_iter().filter_map(|version| self.container(version));
        containers.map(|container| container.addr())
    }

    /// Each source network that is masqueraded on its way to a container address.
    pub(crate) fn masqueraded(&self) -> Vec<(IpNet, IpAddr)> {
        let containers = IpVersion::ALL.into_iter().filter_map(|version| self.container(version));
        let sources = containers.flat_map(|container| {
            let sources = self.masquerade.sources(container);
            sources.into_iter().map(move |source| (source, container.addr()))
        });
        sources.collect()
    }
}

impl Masquerade {
    /// The source networks that are masqueraded on their way to a container with this address.
    pub(crate) fn sources(self, container: IpNet) -> Vec<IpNet> {
        let own = container.trunc();
        match self {
            Self::Nobody => Vec::new(),
            Self::Everybody => vec![everything(IpVersion::of(container.addr()))],
            // A container may live on 127.0.0.0/8 itself.
            Self::Hairpin if container.addr().is_ipv4() && own != LOOPBACK => vec![own, LOOPBACK],
            Self::Hairpin => vec![own],
        }
    }
}

fn everything(version: IpVersion) -> IpNet {
    match version {
        IpVersion::V4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
        IpVersion::V6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
    }
}

impl Addresses {
    /// Picks the first address of each family that belongs to the container: one whose interface
    /// is not named, or is the attachment's interface inside a sandbox.
    pub(crate) fn select(result: &CniResult, ifname: &str) -> Self {
        let first = |version: IpVersion| {
            let mut addresses = result.ips_of_interface(ifname).map(|ip| ip.address);
            addresses.find(|address| IpVersion::of(address.addr()) == version)
        };
        Self { v4: first(IpVersion::V4), v6: first(IpVersion::V6) }
    }

    pub(crate) fn of(self, version: IpVersion) -> Option<IpNet> {
        match version {
            IpVersion::V4 => self.v4,
            IpVersion::V6 => self.v6,
        }
    }

    /// The addresses without their prefix lengths.
    pub(crate) fn bare(self) -> Vec<IpAddr> {
        self.each().map(|address| address.addr()).collect()
    }

    fn each(self) -> impl Iterator<Item = IpNet> {
        self.v4.into_iter().chain(self.v6)
    }
}

/// The mappings that addresses of the container can serve.
fn mappings(configured: &[PortMapping], addresses: Addresses) -> Vec<Mapping> {
    let mut mappings = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for port in configured {
        for container in addresses.bare() {
            if !port.host.serves(IpVersion::of(container)) {
                continue;
            }
            let host_address = match port.host {
                HostAddress::One(address) => Some(address),
                _ => None,
            };
            // `hostIP` absent and `0.0.0.0` may name the same port twice.
            if seen.insert((host_address, port.protocol, port.host_port, container)) {
                mappings.push(Mapping {
                    host_address,
                    host_port: port.host_port,
                    protocol: port.protocol,
                    container,
                    container_port: port.container_port,
                });
            }
        }
    }
    mappings
}

impl Mapping {
    /// The family it is in.
    #[must_use]
    pub fn version(&self) -> IpVersion {
        IpVersion::of(self.container)
    }

    /// The container's address, if 127.0.0.0/8 leads to it by one of these.
    pub(crate) fn reached_by_loopback(mappings: &[Self]) -> Option<IpAddr> {
        let is_reached = |mapping: &&Self| {
            mapping.container.is_ipv4()
                && mapping.host_address.is_none_or(|host| host.is_loopback())
        };
        mappings.iter().find(is_reached).map(|mapping| mapping.container)
    }
}

/// As in `192.0.2.1:8080/tcp -> 10.0.0.2:80`.
impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match self.host_address {
            Some(address) => SocketAddr::new(address, self.host_port).to_string(),
            None => format!("*:{}", self.host_port),
        };
        let container = SocketAddr::new(self.container, self.container_port);
        write!(f, "{host}/{} -> {container}", self.protocol)
    }
}
