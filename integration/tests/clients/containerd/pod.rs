//! A pod: what it asks for, and what there is of it when it runs.

use std::fmt::Write as _;

use cni_testbox::{Mapping, Namespace, listed};

/// A running pod sandbox.
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) netns: Namespace,
}

/// What a pod asks for.
#[derive(Clone, Default)]
pub(crate) struct Wish {
    pub(super) mappings: Vec<Mapping>,
    /// Ingress and egress in Kubernetes' words, as `16M`.
    pub(super) bandwidth: Option<(&'static str, &'static str)>,
}

impl Wish {
    pub(crate) fn ports(mappings: &[Mapping]) -> Self {
        Self { mappings: mappings.to_vec(), bandwidth: None }
    }

    /// The same with limits that are in nobody's way.
    pub(crate) fn limited(mappings: &[Mapping]) -> Self {
        Self { bandwidth: Some(("100M", "50M")), ..Self::ports(mappings) }
    }

    /// In protobuf's text format.
    pub(super) fn request(&self, name: &str) -> String {
        let mut text = format!(
            "config {{ metadata {{ name: {name:?} uid: {name:?} namespace: \"default\" }} \
             hostname: {name:?} log_directory: \"/run\" linux {{ }} "
        );
        for Mapping { host_port, container_port, protocol, host_ip } in &self.mappings {
            let host_ip = host_ip.as_deref().unwrap_or_default();
            let protocol = protocol.to_uppercase();
            let _ = write!(
                text,
                "port_mappings {{ protocol: {protocol} container_port: {container_port} \
                 host_port: {host_port} host_ip: {host_ip:?} }} "
            );
        }
        if let Some((ingress, egress)) = self.bandwidth {
            for (direction, rate) in [("ingress", ingress), ("egress", egress)] {
                let key = format!("kubernetes.io/{direction}-bandwidth");
                let _ = write!(text, "annotations {{ key: {key:?} value: {rate:?} }} ");
            }
        }
        text + "}"
    }
}

impl Pod {
    /// The pod's IPv4 address.
    pub(crate) fn address_v4(&self) -> String {
        let links = listed(&format!("ip -n {} -j -4 addr show dev eth0", self.netns.name));
        let address = links[0]["addr_info"][0]["local"].as_str();
        address.expect("a pod has an address").to_owned()
    }
}
