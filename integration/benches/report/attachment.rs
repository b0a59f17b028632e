//! Calls for a dual-stack container's interface, the same for every implementation.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use cni_testbox::Call;
use serde_json::{Value, json};

use crate::host::Host;
use crate::subject::program_of;

const CONTAINER: &str = "bench";
/// The first container port of many.
const FIRST_PORT: usize = 20_000;

/// A container's interface: 0 is `eth0` behind the bridge, others are pairs of their own.
#[derive(Clone, Debug)]
pub(super) struct Attachment {
    netns: PathBuf,
    number: usize,
}

impl Attachment {
    pub(super) fn new(host: &Host, number: usize) -> Self {
        Self { netns: host.container_path(), number }
    }

    fn id(&self) -> String {
        format!("{CONTAINER}{}", self.number)
    }

    fn ifname(&self) -> String {
        if self.number == 0 { "eth0".into() } else { format!("e{}", self.number) }
    }

    fn addresses(&self) -> (Ipv4Addr, Ipv6Addr) {
        let number = u16::try_from(self.number + 2).expect("fewer than a /16 has");
        let [high, low] = number.to_be_bytes();
        (Ipv4Addr::new(10, 71, high, low), Ipv6Addr::new(0xfd00, 0x71, 0, 0, 0, 0, 0, number))
    }

    /// With the previous result of a `bridge`.
    pub(super) fn call(&self, plugin: &str, backend: &str) -> Call {
        let host_end = if self.number == 0 { "v0".into() } else { format!("w{}", self.number) };
        let (v4, v6) = self.addresses();
        let result = json!({ "cniVersion": "1.0.0",
            "interfaces": [{ "name": "br0" }, { "name": host_end },
                { "name": self.ifname(), "sandbox": self.netns }],
            "ips": [{ "address": format!("{v4}/16"), "interface": 2 },
                { "address": format!("{v6}/64"), "interface": 2 }] });
        let call = Call::bare(program_of(plugin))
            .env("CNI_CONTAINERID", self.id())
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", self.ifname())
            .env("CNI_PATH", "/usr/lib/cni")
            .set("cniVersion", "1.0.0")
            .set("name", "bench")
            .set("type", program_of(plugin))
            .set("prevResult", result)
            .keys(&self.keys(plugin));
        if ["nftables", "iptables"].contains(&backend) {
            call.set("backend", backend)
        } else {
            call
        }
    }

    /// The same with what its ADD returned, as CHECK, DEL and the next plugin get it.
    pub(super) fn call_after(&self, plugin: &str, backend: &str, result: &str) -> Call {
        let call = self.call(plugin, backend);
        match serde_json::from_str::<Value>(result) {
            Ok(result) if result.is_object() => call.set("prevResult", result),
            _ => call,
        }
    }

    fn keys(&self, plugin: &str) -> Value {
        let port = 8080 + self.number;
        let mapping =
            |port, protocol| json!({ "hostPort": port, "containerPort": 80, "protocol": protocol });
        let mappings =
            |mappings: &[Value]| json!({ "runtimeConfig": { "portMappings": mappings } });
        match plugin {
            "portmap" => mappings(&[mapping(port, "tcp")]),
            "portmap+tcp" => mappings(&[mapping(port, "tcp"), mapping(port + 1, "tcp")]),
            "portmap+udp" => mappings(&[mapping(port, "tcp"), mapping(port, "udp")]),
            "bandwidth" => json!({ "ingressRate": 8_000_000, "ingressBurst": 800_000,
                "egressRate": 8_000_000, "egressBurst": 800_000 }),
            "tuning" => json!({ "mac": "c2:11:22:33:44:55", "mtu": 1400, "promisc": true,
                "sysctl": { "net.core.somaxconn": "500",
                    format!("net.ipv4.conf.{}.arp_filter", self.ifname()): "1" } }),
            _ => json!({}),
        }
    }

    /// portmap's with so many mappings over TCP.
    pub(super) fn with_mappings(&self, backend: &str, count: usize) -> Call {
        let mappings: Vec<Value> = (0..count)
            .map(|index| {
                let port = FIRST_PORT + index;
                json!({ "hostPort": port, "containerPort": 80, "protocol": "tcp" })
            })
            .collect();
        self.call("portmap", backend).set("runtimeConfig", json!({ "portMappings": mappings }))
    }

    /// GC that finds nothing to remove, or STATUS: attachments up to this number are valid.
    pub(super) fn of_network(call: &Call, many: usize) -> Call {
        let valid = (0..=many).map(|number| {
            let ifname = if number == 0 { "eth0".into() } else { format!("e{number}") };
            json!({ "containerID": format!("{CONTAINER}{number}"), "ifname": ifname })
        });
        let valid: Value = valid.collect();
        call.clone()
            .unset("CNI_CONTAINERID")
            .unset("CNI_NETNS")
            .unset("CNI_IFNAME")
            .without("prevResult")
            .without("runtimeConfig")
            .set("cniVersion", "1.1.0")
            .set("cni.dev/valid-attachments", valid)
    }
}
