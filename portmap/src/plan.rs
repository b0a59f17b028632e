//! From a configuration and the container's addresses to the elements that must exist. Pure.

use std::net::{IpAddr, Ipv4Addr};

use cni_common::cni::protocol::{CniError, CniResult};
use cni_common::cni::{Attachment, OwnerTag};
use cni_common::kernel::nft::{Element, L4Protocol, Set, Value};
use ipnet::{IpNet, Ipv4Net};

use crate::conditions;
use crate::config::{Config, DEFAULT_MARK_BIT, HostAddress, PortMapping};
use crate::layout::{self, Scope};

/// The desired state of one attachment.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who owns it.
    pub tag: OwnerTag,
    /// The maps and chains that its elements live in.
    pub scope: Scope,
    /// Elements by set, without the one in `attachments`. Empty when nothing is mapped.
    pub elements: Vec<(Set, Vec<Element>)>,
    /// Families and prefix lengths of the masquerade sets in use.
    pub prefixes: Vec<(bool, u8)>,
    /// The mappings in force, by container address.
    pub active: Vec<ActiveMapping>,
}

/// A mapping as the kernel carries it out for one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveMapping {
    /// The host address it answers to; any when `None`.
    pub host_address: Option<IpAddr>,
    /// The host port.
    pub host_port: u16,
    /// The transport protocol.
    pub protocol: L4Protocol,
    /// The container's address.
    pub container: IpAddr,
    /// The container's port.
    pub container_port: u16,
}

/// The container's addresses, at most one of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4, with its prefix length.
    pub v4: Option<IpNet>,
    /// IPv6, with its prefix length.
    pub v6: Option<IpNet>,
}

impl Addresses {
    /// Picks the first address of each family that belongs to the container: one whose interface
    /// is not named, or is the attachment's interface inside a sandbox.
    #[must_use]
    pub fn select(result: &CniResult, ifname: &str) -> Self {
        let belongs = |index: Option<i64>| {
            let interface = index
                .and_then(|index| usize::try_from(index).ok())
                .and_then(|index| result.interfaces.get(index));
            interface
                .is_none_or(|interface| interface.name == ifname && interface.sandbox.is_some())
        };
        let first = |v4: bool| {
            let mut eligible =
                result.ips.iter().filter(|ip| belongs(ip.interface)).map(|ip| ip.address);
            eligible.find(|address| address.addr().is_ipv4() == v4)
        };
        Self { v4: first(true), v6: first(false) }
    }

    /// The addresses alone.
    #[must_use]
    pub fn bare(self) -> Vec<IpAddr> {
        self.each().map(|address| address.addr()).collect()
    }

    fn each(self) -> impl Iterator<Item = IpNet> {
        self.v4.into_iter().chain(self.v6)
    }
}

impl Plan {
    /// The plan for an attachment. Errors come from conditions only.
    pub fn new(
        attachment: &Attachment,
        config: &Config,
        addresses: Addresses,
    ) -> Result<Self, CniError> {
        let scope = scope(&attachment.network, config)?;
        let mut plan = Self {
            tag: attachment.tag(),
            scope,
            elements: Vec::new(),
            prefixes: Vec::new(),
            active: active_mappings(&config.mappings, addresses),
        };
        plan.map_ports();
        if config.snat {
            plan.masquerade(config.masq_all, addresses);
        }
        Ok(plan)
    }

    /// Whether nothing is to be mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// The element that says that the attachment has mappings, and how many elements in all.
    #[must_use]
    pub fn owner_element(&self) -> Element {
        let count: usize = self.elements.iter().map(|(_, elements)| elements.len()).sum();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Element::new(owner_key(&self.tag), vec![Value::Mark(count)], self.tag.as_str())
    }

    /// The plan without the port mappings at these keys, which stay with somebody else.
    #[must_use]
    pub fn without(&self, taken: &[Element]) -> Self {
        let is_taken = |element: &Element| {
            !element.data.is_empty() && taken.iter().any(|taken| taken.key == element.key)
        };
        let mut plan = self.clone();
        for (_, elements) in &mut plan.elements {
            elements.retain(|element| !is_taken(element));
        }
        let mapped: Vec<_> = plan.elements.iter().flat_map(|(_, elements)| elements).collect();
        let mapped: Vec<_> = mapped.into_iter().filter_map(ActiveMapping::from_element).collect();
        plan.active.retain(|mapping| mapped.contains(mapping));
        plan
    }

    fn map_ports(&mut self) {
        let mut groups: [(Set, Vec<Element>); 4] = [
            (self.scope.by_address(true), Vec::new()),
            (self.scope.by_port(true), Vec::new()),
            (self.scope.by_address(false), Vec::new()),
            (self.scope.by_port(false), Vec::new()),
        ];
        for mapping in &self.active {
            let index = usize::from(mapping.container.is_ipv6()) * 2
                + usize::from(mapping.host_address.is_none());
            groups[index].1.push(port_element(mapping, &self.tag));
        }
        self.elements.extend(groups.into_iter().filter(|(_, elements)| !elements.is_empty()));
    }

    fn masquerade(&mut self, all: bool, addresses: Addresses) {
        let container =
            |address: IpNet| self.active.iter().any(|mapping| mapping.container == address.addr());
        let mut sources = Vec::new();
        for address in addresses.each().filter(|address| container(*address)) {
            if all {
                let everything = if address.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" };
                sources.extend(everything.parse::<IpNet>().map(|source| (source, address.addr())));
                continue;
            }
            let own = address.trunc();
            sources.push((own, address.addr()));
            let loopback = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
            // The kernel takes an element once: a container may live on 127.0.0.0/8 itself.
            if address.addr().is_ipv4() && own != loopback {
                sources.push((loopback, address.addr()));
            }
        }
        for (source, container) in sources {
            let (v4, prefix_len) = (container.is_ipv4(), source.prefix_len());
            let key = vec![Value::Address(source.addr()), Value::Address(container)];
            let element = Element::new(key, Vec::new(), self.tag.as_str());
            if let Some(known) = self.prefixes.iter().position(|known| *known == (v4, prefix_len)) {
                // Masquerade sets follow the port maps, in the order of `prefixes`.
                let first = self.elements.len() - self.prefixes.len();
                self.elements[first + known].1.push(element);
            } else {
                self.prefixes.push((v4, prefix_len));
                self.elements.push((self.scope.masquerade(v4, prefix_len), vec![element]));
            }
        }
    }
}

/// The key of an attachment's element in `attachments`.
#[must_use]
pub fn owner_key(tag: &OwnerTag) -> Vec<Value> {
    vec![Value::Name(tag.short_name())]
}

fn scope(network: &str, config: &Config) -> Result<Scope, CniError> {
    if config.conditions_v4.is_empty()
        && config.conditions_v6.is_empty()
        && config.mark_bit == DEFAULT_MARK_BIT
    {
        return Ok(Scope::shared());
    }
    Ok(Scope::of_network(
        network,
        conditions::compile(&config.conditions_v4, true)?,
        conditions::compile(&config.conditions_v6, false)?,
        config.mark_bit,
    ))
}

/// The mappings that addresses of the container can serve.
pub(crate) fn active_mappings(
    mappings: &[PortMapping],
    addresses: Addresses,
) -> Vec<ActiveMapping> {
    let mut active = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for mapping in mappings {
        for container in addresses.each().map(|address| address.addr()) {
            if !mapping.host.serves(container.is_ipv4()) {
                continue;
            }
            let host_address = match mapping.host {
                HostAddress::One(address) => Some(address),
                _ => None,
            };
            // `hostIP` absent and `0.0.0.0` may name the same port twice.
            if seen.insert((host_address, mapping.protocol, mapping.host_port, container)) {
                active.push(ActiveMapping {
                    host_address,
                    host_port: mapping.host_port,
                    protocol: mapping.protocol,
                    container,
                    container_port: mapping.container_port,
                });
            }
        }
    }
    active
}

fn port_element(mapping: &ActiveMapping, tag: &OwnerTag) -> Element {
    let mut key: Vec<Value> = mapping.host_address.map(Value::Address).into_iter().collect();
    key.extend([Value::Protocol(mapping.protocol), Value::Port(mapping.host_port)]);
    let data = vec![Value::Address(mapping.container), Value::Port(mapping.container_port)];
    Element::new(key, data, tag.as_str())
}

impl ActiveMapping {
    /// The mapping that an element of a port map stands for.
    #[must_use]
    pub fn from_element(element: &Element) -> Option<Self> {
        let (host_address, rest) = match element.key.as_slice() {
            [Value::Address(address), rest @ ..] => (Some(*address), rest),
            rest => (None, rest),
        };
        match (rest, element.data.as_slice()) {
            (
                [Value::Protocol(protocol), Value::Port(host_port)],
                [Value::Address(container), Value::Port(container_port)],
            ) => Some(Self {
                host_address,
                host_port: *host_port,
                protocol: *protocol,
                container: *container,
                container_port: *container_port,
            }),
            _ => None,
        }
    }
}

/// As in `192.0.2.1:8080/tcp -> 10.0.0.2:80`.
impl std::fmt::Display for ActiveMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = match self.host_address {
            Some(address) => std::net::SocketAddr::new(address, self.host_port).to_string(),
            None => format!("*:{}", self.host_port),
        };
        let container = std::net::SocketAddr::new(self.container, self.container_port);
        write!(f, "{host}/{} -> {container}", self.protocol)
    }
}

/// Everything a re-made table needs for this plan.
#[must_use]
pub fn scaffold(plan: &Plan) -> cni_common::kernel::nft::Transaction {
    let mut transaction = cni_common::kernel::nft::Transaction::new();
    layout::build(&mut transaction, &plan.scope, &plan.prefixes);
    transaction
}
