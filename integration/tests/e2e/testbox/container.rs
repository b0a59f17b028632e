//! Containers and networks: Debian's real `bridge` and `host-local` make every attachment.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::Namespace;
use super::plugin::{Call, PORTMAP_VERSION};
use crate::implementation::{GO_PLUGINS, Implementation};

/// A network: one bridge with a subnet per family, and what its portmap entry says.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// The network's name.
    pub(crate) name: String,
    number: u8,
    families: &'static [u8],
    default_route: bool,
    single_address: bool,
    /// Extra keys of the portmap entry.
    pub(super) portmap: Value,
}

impl Network {
    /// A dual-stack network, told from others by its number.
    pub(crate) fn dual(number: u8) -> Self {
        Self {
            name: format!("net{number}"),
            number,
            families: &[4, 6],
            default_route: true,
            single_address: false,
            portmap: json!({}),
        }
    }

    /// The same with IPv4 only.
    pub(crate) fn v4(number: u8) -> Self {
        Self { families: &[4], ..Self::dual(number) }
    }

    /// The same with IPv6 only.
    pub(crate) fn v6(number: u8) -> Self {
        Self { families: &[6], ..Self::dual(number) }
    }

    /// Under another name.
    pub(crate) fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// With these keys in the portmap entry.
    pub(crate) fn with(mut self, keys: Value) -> Self {
        self.portmap = keys;
        self
    }

    /// For a container's second interface, which must not bring a second default route.
    pub(crate) fn second(mut self) -> Self {
        self.default_route = false;
        self
    }

    /// With one address to give, so that the next container gets the one just released.
    pub(crate) fn single_address(mut self) -> Self {
        self.single_address = true;
        self
    }

    /// The bridge's name.
    pub(crate) fn bridge(&self) -> String {
        format!("br{}", self.number)
    }

    /// The host's address on the bridge, IPv4.
    pub(crate) fn gateway_v4(&self) -> String {
        format!("10.88.{}.1", self.number)
    }

    /// The host's address on the bridge, IPv6.
    pub(crate) fn gateway_v6(&self) -> String {
        format!("fd88:{}::1", self.number)
    }

    fn bridge_config(&self) -> Value {
        let n = self.number;
        let mut ranges = Vec::new();
        let mut routes = Vec::new();
        for family in self.families {
            let (subnet, only, everything) = if *family == 4 {
                (format!("10.88.{n}.0/24"), format!("10.88.{n}.10"), "0.0.0.0/0")
            } else {
                (format!("fd88:{n}::/64"), format!("fd88:{n}::10"), "::/0")
            };
            let mut range = json!({ "subnet": subnet });
            if self.single_address {
                range["rangeStart"] = json!(only);
                range["rangeEnd"] = json!(only);
            }
            ranges.push(json!([range]));
            if self.default_route {
                routes.push(json!({ "dst": everything }));
            }
        }
        json!({
            "cniVersion": PORTMAP_VERSION,
            "name": self.name,
            "type": "bridge",
            "bridge": self.bridge(),
            "isGateway": true,
            "hairpinMode": true,
            "ipam": { "type": "host-local", "ranges": ranges, "routes": routes },
        })
    }
}

/// A container: an ID and a namespace of that name.
#[derive(Clone)]
pub(crate) struct Container {
    /// The container ID.
    pub(crate) id: String,
    /// Its network namespace.
    pub(crate) netns: std::sync::Arc<Namespace>,
}

impl Container {
    pub(super) fn create(id: &str) -> Self {
        Self { id: id.into(), netns: Namespace::create(id).into() }
    }

    /// Runs `bridge` ADD.
    pub(crate) fn join(&self, network: &Network, ifname: &str) -> Attachment {
        let mut attachment = Attachment {
            container: self.clone(),
            ifname: ifname.into(),
            network: network.clone(),
            result: Value::Null,
        };
        attachment.result = attachment.bridge("ADD").expect_result();
        attachment
    }
}

/// A container on a network.
#[derive(Clone)]
pub(crate) struct Attachment {
    /// The container.
    pub(crate) container: Container,
    /// The interface inside it.
    pub(crate) ifname: String,
    /// The network.
    pub(crate) network: Network,
    /// What `bridge` returned: portmap's prevResult.
    pub(crate) result: Value,
}

impl Attachment {
    fn bridge(&self, command: &str) -> super::Outcome {
        Call::new(command, self)
            .replace_config(self.network.bridge_config())
            .run(&Implementation::Go.plugin("bridge"), GO_PLUGINS)
    }

    /// Runs `bridge` DEL: the interface goes and its addresses are free again.
    pub(crate) fn leave(&self) {
        self.bridge("DEL").expect_silence();
    }

    /// The container's IPv4 address.
    pub(crate) fn v4(&self) -> String {
        self.address(IpAddr::is_ipv4)
    }

    /// The container's IPv6 address.
    pub(crate) fn v6(&self) -> String {
        self.address(IpAddr::is_ipv6)
    }

    fn address(&self, family: fn(&IpAddr) -> bool) -> String {
        let addresses = self.result["ips"].as_array().into_iter().flatten();
        let mut bare = addresses.filter_map(|ip| ip["address"].as_str()?.split('/').next());
        bare.find(|text| text.parse().is_ok_and(|ip| family(&ip)))
            .unwrap_or_else(|| panic!("{} has no such address", self.container.id))
            .to_owned()
    }
}
