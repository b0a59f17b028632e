//! Port mappings as a runtime passes them.

use cni_common::cni::protocol::json::{Json, Object};
use serde_json::{Value, json};

/// One entry of `runtimeConfig.portMappings`.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The port of the host.
    pub host_port: u16,
    /// The port of the container.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// The host's address, if it is only for one.
    pub host_ip: Option<String>,
}

/// A TCP mapping.
pub fn tcp(host_port: u16, container_port: u16) -> Mapping {
    Mapping { host_port, container_port, protocol: "tcp", host_ip: None }
}

/// A UDP mapping.
pub fn udp(host_port: u16, container_port: u16) -> Mapping {
    Mapping { protocol: "udp", ..tcp(host_port, container_port) }
}

/// The same ports for TCP and UDP.
pub fn both(host_port: u16, container_port: u16) -> Vec<Mapping> {
    vec![tcp(host_port, container_port), udp(host_port, container_port)]
}

impl Mapping {
    /// An SCTP mapping.
    pub fn sctp(host_port: u16, container_port: u16) -> Self {
        Self { protocol: "sctp", ..tcp(host_port, container_port) }
    }

    /// The same mapping on one host address.
    #[must_use]
    pub fn at(self, host_ip: &str) -> Self {
        Self { host_ip: Some(host_ip.into()), ..self }
    }

    fn to_json(&self) -> Value {
        let mut value = json!({
            "hostPort": self.host_port,
            "containerPort": self.container_port,
            "protocol": self.protocol,
        });
        if let Some(host_ip) = &self.host_ip {
            value["hostIP"] = json!(host_ip);
        }
        value
    }

    /// The JSON list.
    pub fn list(mappings: &[Self]) -> Value {
        mappings.iter().map(Self::to_json).collect()
    }
}

/// The same mappings on one host address each.
pub fn at(mappings: Vec<Mapping>, host_ip: &str) -> Vec<Mapping> {
    mappings.into_iter().map(|mapping| mapping.at(host_ip)).collect()
}

/// What containerd passes to a chain of all four: a port by both transports, and limits.
pub fn capabilities(port: u16) -> Object {
    arguments(&json!({
        // As containerd spells them.
        "portMappings": [
            { "HostPort": port, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" },
            { "HostPort": port, "ContainerPort": 80, "Protocol": "udp", "HostIP": "" }],
        "bandwidth": { "IngressRate": 100_000_000, "IngressBurst": 4_294_967_295u64,
            "EgressRate": 50_000_000, "EgressBurst": 4_294_967_295u64 },
    }))
}

/// Capability arguments as the runner takes them.
pub fn arguments(json: &Value) -> Object {
    match Json::parse(json.to_string().as_bytes()) {
        Ok(Json::Object(object)) => object,
        other => panic!("{other:?}"),
    }
}
