//! What the demo builds and asks for: addresses, ports, the chain, the trips. No I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use cni_common::cni::protocol::CniVersion;
use cni_common::cni::protocol::json::{Json, Object};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::trip::{Ask, Namespace, Trip};

pub(super) const NETWORK: &str = "demo";
pub(super) const CONTAINER_ID: &str = "demo-container";
pub(super) const IFNAME: &str = "eth0";
/// The link between the host and the outside, under the same name on both ends.
pub(super) const UPLINK: &str = "ext0";
pub(super) const BRIDGE: &str = "demo0";

/// A port of the host and the container's port behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    pub(super) protocol: &'static str,
    pub(super) host: u16,
    pub(super) container: u16,
}

pub(super) const PAGE: Mapping = Mapping { protocol: "tcp", host: 8080, container: 80 };
pub(super) const ECHO: Mapping = Mapping { protocol: "udp", host: 7007, container: 7 };

/// A sysctl of the container's namespace, and what tuning sets it to.
pub(super) const SYSCTL: (&str, &str) = ("net.core.somaxconn", "512");
/// What tuning sets the interface's MTU to.
pub(super) const TUNED_MTU: u32 = 1400;
/// What may come out of the container, in bits per second.
pub(super) const LIMIT: u64 = 20_000_000;
/// What containerd sends as a burst because its users cannot choose one. A plugin that takes it at
/// its word lets 500 MB pass before it limits anything.
const BURST: u64 = 4_294_967_295;

/// One entry of the chain. To add a plugin to the demo, add a stage.
#[derive(Debug)]
pub(super) struct Stage {
    /// The plugin's `type`.
    pub(super) plugin: &'static str,
    /// Its own keys of the conflist entry.
    pub(super) config: Object,
    /// What the runtime passes for the capabilities that the entry declares.
    pub(super) capabilities: Vec<(&'static str, Json)>,
}

/// The addresses of the three places, IPv4 first.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) outside: Vec<IpNet>,
    pub(super) host: Vec<IpNet>,
    pub(super) gateway: Vec<IpNet>,
    pub(super) container: Vec<IpNet>,
}

impl Plan {
    /// Addresses set aside for documentation and for private use, so that whoever reads them
    /// knows that they lead nowhere.
    pub(super) fn new(ipv6: bool) -> Self {
        let place = |v4: [u8; 4], v6: [u16; 4], host: u8| {
            let v4 = Ipv4Net::new_assert(Ipv4Addr::from([v4[0], v4[1], v4[2], host]), 24);
            let [a, b, c, d] = v6;
            let v6 = Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, host.into()), 64);
            let mut both = vec![IpNet::V4(v4)];
            both.extend(ipv6.then_some(IpNet::V6(v6)));
            both
        };
        let (wan4, wan6) = ([192, 0, 2, 0], [0x2001, 0xdb8, 0, 0]);
        let (lan4, lan6) = ([10, 88, 0, 0], [0xfd00, 0, 0, 0]);
        Self {
            outside: place(wan4, wan6, 2),
            host: place(wan4, wan6, 1),
            gateway: place(lan4, lan6, 1),
            container: place(lan4, lan6, 2),
        }
    }

    /// The chain, in order.
    pub(super) fn stages(&self) -> Vec<Stage> {
        vec![self.bridge(), Self::portmap(), Self::firewall(), Self::bandwidth(), Self::tuning()]
    }

    fn bridge(&self) -> Stage {
        let addresses: Vec<String> = self.container.iter().map(ToString::to_string).collect();
        let mut config = Object::default();
        config.push("bridge", BRIDGE);
        config.push("addresses", addresses);
        Stage { plugin: "demo-bridge", config, capabilities: Vec::new() }
    }

    fn portmap() -> Stage {
        let mappings = [PAGE, ECHO].map(|mapping| {
            let mut entry = Object::default();
            entry.push("hostPort", u64::from(mapping.host));
            entry.push("containerPort", u64::from(mapping.container));
            entry.push("protocol", mapping.protocol);
            Json::from(entry)
        });
        Stage {
            plugin: "portmap",
            config: Object::default(),
            capabilities: vec![("portMappings", mappings.to_vec().into())],
        }
    }

    /// Lets the container's traffic through, and keeps other bridges' containers out.
    fn firewall() -> Stage {
        let mut config = Object::default();
        config.push("ingressPolicy", "same-bridge");
        Stage { plugin: "firewall", config, capabilities: Vec::new() }
    }

    fn tuning() -> Stage {
        let mut sysctl = Object::default();
        sysctl.push(SYSCTL.0, SYSCTL.1);
        let mut config = Object::default();
        config.push("sysctl", sysctl);
        config.push("mtu", u64::from(TUNED_MTU));
        Stage { plugin: "tuning", config, capabilities: Vec::new() }
    }

    fn bandwidth() -> Stage {
        let mut limits = Object::default();
        limits.push("egressRate", LIMIT);
        limits.push("egressBurst", BURST);
        Stage {
            plugin: "bandwidth",
            config: Object::default(),
            capabilities: vec![("bandwidth", limits.into())],
        }
    }

    /// Where the outside client can fetch more than the limit lets pass.
    pub(super) fn flood(&self) -> Option<SocketAddr> {
        self.host.first().map(|host| target(host.addr(), Ask::Page))
    }

    /// Every way to the container that a port mapping has to serve.
    pub(super) fn trips(&self) -> Vec<Trip> {
        let mut trips = Vec::new();
        for (from, ask) in [
            (Namespace::Outside, Ask::Page),
            (Namespace::Outside, Ask::Echo),
            (Namespace::Host, Ask::Page),
            (Namespace::Container, Ask::Page),
        ] {
            for (host, outside) in self.host.iter().zip(&self.outside) {
                trips.push(Trip {
                    from,
                    ask,
                    to: target(host.addr(), ask),
                    // A client from outside must not be hidden from the server.
                    expected_peer: (from == Namespace::Outside).then_some(outside.addr()),
                });
            }
        }
        let to = target(Ipv4Addr::LOCALHOST.into(), Ask::Page);
        trips.push(Trip { from: Namespace::Host, ask: Ask::Page, to, expected_peer: None });
        trips.sort_by_key(|trip| trip.from);
        trips
    }
}

fn target(host: IpAddr, ask: Ask) -> SocketAddr {
    let mapping = match ask {
        Ask::Page => PAGE,
        Ask::Echo => ECHO,
    };
    SocketAddr::new(host, mapping.host)
}

/// An entry of the conflist's `plugins`.
pub(super) fn entry(stage: &Stage) -> Json {
    let mut entry = Object::default();
    entry.push("type", stage.plugin);
    for (key, value) in stage.config.iter() {
        entry.push(key, value.clone());
    }
    if !stage.capabilities.is_empty() {
        let names = stage.capabilities.iter();
        let names: Object = names.map(|(name, _)| ((*name).to_owned(), true.into())).collect();
        entry.push("capabilities", names);
    }
    entry.into()
}

/// The conflist.
pub(super) fn conflist(version: CniVersion, stages: &[Stage]) -> Json {
    let mut list = Object::default();
    list.push("cniVersion", version.as_str());
    list.push("name", NETWORK);
    list.push("plugins", stages.iter().map(entry).collect::<Vec<_>>());
    list.into()
}

/// What the runtime passes to the stages that ask for it.
pub(super) fn capability_args(stages: &[Stage]) -> Object {
    let all = stages.iter().flat_map(|stage| &stage.capabilities);
    all.map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_ipv6_nothing_mentions_it() {
        let plan = Plan::new(false);
        let text = conflist(CniVersion::CURRENT, &plan.stages()).to_string();
        assert_eq!(
            text,
            r#"{"cniVersion":"1.1.0","name":"demo","plugins":[{"type":"demo-bridge","#.to_owned()
                + r#""bridge":"demo0","addresses":["10.88.0.2/24"]},"#
                + r#"{"type":"portmap","capabilities":{"portMappings":true}},"#
                + r#"{"type":"firewall","ingressPolicy":"same-bridge"},"#
                + r#"{"type":"bandwidth","capabilities":{"bandwidth":true}},"#
                + r#"{"type":"tuning","sysctl":{"net.core.somaxconn":"512"},"mtu":1400}]}"#
        );
        assert!(plan.trips().iter().all(|trip| trip.to.is_ipv4()));
    }

    #[test]
    fn each_family_is_asked_from_everywhere() {
        let trips: Vec<String> = Plan::new(true).trips().iter().map(ToString::to_string).collect();
        assert_eq!(
            trips,
            [
                "outside http://192.0.2.1:8080/",
                "outside http://[2001:db8::1]:8080/",
                "outside udp://192.0.2.1:7007",
                "outside udp://[2001:db8::1]:7007",
                "host http://192.0.2.1:8080/",
                "host http://[2001:db8::1]:8080/",
                "host http://127.0.0.1:8080/",
                "container http://192.0.2.1:8080/",
                "container http://[2001:db8::1]:8080/",
            ]
        );
    }

    #[test]
    fn capabilities_are_passed_by_name() {
        let args = capability_args(&Plan::new(true).stages());
        let mappings = args.get("portMappings").and_then(Json::as_array).expect("a list");
        assert_eq!(
            mappings[0].to_string(),
            r#"{"hostPort":8080,"containerPort":80,"protocol":"tcp"}"#
        );
    }
}
