//! From a configuration, the previous result and what its bridge is to the desired state. Pure.

use std::net::IpAddr;

use cni_common::cni::protocol::CniResult;
use cni_common::cni::{Attachment, OwnerTag};

use crate::config::{Config, IngressPolicy};
use crate::forward_chains::ForwardChain;

/// The desired state of one attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Who owns it.
    pub tag: OwnerTag,
    /// The container's addresses, each once.
    pub addresses: Vec<IpAddr>,
    /// What keeps other containers out, unless everybody may come in.
    pub isolation: Option<Isolation>,
    /// The administrator's chain.
    pub admin_chain: String,
    /// Other people's nftables chains that its packets must get through.
    pub forward_chains: Vec<ForwardChain>,
}

/// A bridge's share in keeping containers apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Isolation {
    /// The bridge's name.
    pub bridge: String,
    /// Whether containers on the bridge are kept apart as well.
    pub policy: Policy,
    /// The host's own addresses on the bridge.
    pub gateways: Vec<IpAddr>,
}

/// A policy that isolates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Containers on the bridge reach each other, those on other bridges do not reach them.
    SameBridge,
    /// Nor do they reach each other.
    Isolated,
}

impl Policy {
    /// The policy behind a configuration's word; none for the one that lets everybody in.
    #[must_use]
    pub fn from_ingress(ingress: IngressPolicy) -> Option<Self> {
        match ingress {
            IngressPolicy::Open => None,
            IngressPolicy::SameBridge => Some(Self::SameBridge),
            IngressPolicy::Isolated => Some(Self::Isolated),
        }
    }

    /// As in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SameBridge => "same-bridge",
            Self::Isolated => "isolated",
        }
    }
}

impl Plan {
    /// The plan for an attachment.
    #[must_use]
    pub fn new(
        attachment: &Attachment,
        config: &Config,
        result: &CniResult,
        isolation: Option<Isolation>,
    ) -> Self {
        Self {
            tag: attachment.tag(),
            addresses: container_addresses(result),
            isolation,
            admin_chain: config.admin_chain.clone(),
            forward_chains: config.forward_chains.clone(),
        }
    }

    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.isolation.is_none()
    }

    /// The addresses of one family.
    pub fn of_family(&self, v4: bool) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().copied().filter(move |address| address.is_ipv4() == v4)
    }
}

/// The container's addresses: all but those of the host's interfaces. A result that names no
/// sandbox does not say which those are.
#[must_use]
pub fn container_addresses(result: &CniResult) -> Vec<IpAddr> {
    let knows_sandboxes = result.interfaces.iter().any(|interface| interface.sandbox.is_some());
    let of_host = |index: Option<i64>| {
        let interface = index
            .and_then(|index| usize::try_from(index).ok())
            .and_then(|index| result.interfaces.get(index));
        knows_sandboxes && interface.is_some_and(|interface| interface.sandbox.is_none())
    };
    let mut addresses = Vec::new();
    for ip in result.ips.iter().filter(|ip| !of_host(ip.interface)) {
        let address = ip.address.addr().to_canonical();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// The gateways that the result names, each once.
#[must_use]
pub fn gateways(result: &CniResult) -> Vec<IpAddr> {
    let mut gateways = Vec::new();
    for gateway in result.ips.iter().filter_map(|ip| ip.gateway) {
        let gateway = gateway.to_canonical();
        if !gateways.contains(&gateway) {
            gateways.push(gateway);
        }
    }
    gateways
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_common::cni::protocol::json::Json;
    use cni_common::cni::protocol::version::CniVersion;

    fn result(text: &str) -> CniResult {
        let json = Json::parse(text.as_bytes()).expect("JSON");
        CniResult::from_json(&json, CniVersion::V1_0_0).expect("a result")
    }

    #[test]
    fn addresses_of_the_hosts_interfaces_are_left_out() {
        let result = result(
            r#"{"cniVersion":"1.0.0","interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/n"}],
                "ips":[{"address":"10.0.0.1/24","interface":0},{"address":"10.0.0.2/24","interface":1},
                       {"address":"10.0.0.2/24"},{"address":"fd00::2/64","gateway":"fd00::1"}]}"#,
        );
        let expected: Vec<IpAddr> =
            ["10.0.0.2", "fd00::2"].map(|text| text.parse().expect("address")).to_vec();
        assert_eq!(container_addresses(&result), expected);
        assert_eq!(gateways(&result), ["fd00::1".parse::<IpAddr>().expect("address")]);
    }

    #[test]
    fn without_sandboxes_every_address_counts() {
        let result = result(
            r#"{"cniVersion":"1.0.0","interfaces":[{"name":"dummy0"}],
                "ips":[{"address":"10.0.0.2/24","interface":0}]}"#,
        );
        assert_eq!(container_addresses(&result).len(), 1);
    }
}
