//! From a configuration, the previous result and what its bridge is to what must be. Pure.

use std::net::IpAddr;

use cni_common::cni::protocol::CniResult;
use cni_common::cni::{Attachment, OwnerTag};
use cni_common::kernel::IpVersion;

use crate::config::{Config, ForwardChain, Policy};

/// What must be for one attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Who owns it.
    pub(crate) tag: OwnerTag,
    /// The container's addresses, which are admitted, each once.
    pub(crate) addresses: Vec<IpAddr>,
    /// What keeps other containers out, unless everybody may come in.
    pub(crate) isolation: Option<Isolation>,
    /// The administrator's chain.
    pub(crate) admin_chain: String,
    /// Other people's nftables chains that its packets must get through.
    pub(crate) forward_chains: Vec<ForwardChain>,
}

/// What a bridge does to keep containers apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Isolation {
    /// The bridge's name.
    pub(crate) bridge: String,
    /// Whether containers on the bridge are kept apart as well.
    pub(crate) policy: Policy,
    /// The host's own addresses on the bridge.
    pub(crate) gateways: Vec<IpAddr>,
}

impl Plan {
    /// The plan for an attachment.
    pub(crate) fn new(
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

    /// The plan with more chains of others to get through.
    pub(crate) fn through(mut self, chains: &[ForwardChain]) -> Self {
        self.forward_chains.extend_from_slice(chains);
        self.forward_chains.sort();
        self.forward_chains.dedup();
        self
    }

    /// The plan of an earlier ADD of the attachment, by what it left; none if that is nothing.
    pub(crate) fn earlier(
        &self,
        mut addresses: Vec<IpAddr>,
        isolation: Option<Isolation>,
    ) -> Option<Self> {
        // In this plan's order, as far as they are the same.
        addresses.sort_by_key(|address| self.addresses.iter().position(|a| a == address));
        let is_any = !addresses.is_empty() || isolation.is_some();
        is_any.then(|| Self { addresses, isolation, ..self.clone() })
    }

    /// Whether nothing is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.isolation.is_none()
    }

    /// The addresses of one version.
    pub(crate) fn of_version(&self, version: IpVersion) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().copied().filter(move |address| IpVersion::of(*address) == version)
    }

    /// The versions that it has addresses of.
    pub(crate) fn versions(&self) -> impl Iterator<Item = IpVersion> + '_ {
        IpVersion::ALL.into_iter().filter(|version| self.of_version(*version).next().is_some())
    }

    /// Whether containers of the same bridge are kept out, too.
    pub(crate) fn isolates_ports(&self) -> bool {
        self.isolation.as_ref().is_some_and(|isolation| isolation.policy == Policy::Isolated)
    }
}

/// The container's addresses, each once.
fn container_addresses(result: &CniResult) -> Vec<IpAddr> {
    each_once(result.ips_of_container().map(|ip| ip.address.addr()))
}

/// The gateways that the result names, each once.
pub(crate) fn gateways(result: &CniResult) -> Vec<IpAddr> {
    each_once(result.ips.iter().filter_map(|ip| ip.gateway))
}

fn each_once(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut once = Vec::new();
    for address in addresses.map(|address| address.to_canonical()) {
        if !once.contains(&address) {
            once.push(address);
        }
    }
    once
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use cni_common::cni::protocol::json::Json;
    use cni_common::cni::protocol::version::CniVersion;

    pub(crate) fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|text| text.parse().expect("an address")).collect()
    }

    impl Plan {
        /// Of container `id`, on bridge br0 if it has a policy.
        pub(crate) fn sample(id: &str, list: &[&str], policy: Option<Policy>) -> Self {
            let attachment = Attachment {
                network: "net".into(),
                container_id: id.into(),
                ifname: "eth0".into(),
            };
            Self {
                tag: attachment.tag(),
                addresses: addresses(list),
                isolation: policy.map(|policy| Isolation {
                    bridge: "br0".to_owned(),
                    policy,
                    gateways: addresses(&["10.0.0.1"]),
                }),
                admin_chain: "CNI-ADMIN".to_owned(),
                forward_chains: Vec::new(),
            }
        }
    }

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
        assert_eq!(container_addresses(&result), addresses(&["10.0.0.2", "fd00::2"]));
        assert_eq!(gateways(&result), addresses(&["fd00::1"]));
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
