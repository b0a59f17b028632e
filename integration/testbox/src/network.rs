//! Networks of Debian's real `bridge` and `host-local`.

use serde_json::{Value, json};

/// The newest version that Debian's plugins speak.
pub(crate) const VERSION: &str = "1.0.0";

/// A network: one bridge with a subnet per family, and what every plugin's entry in its chain says.
#[derive(Clone, Debug)]
pub struct Network {
    /// The network's name.
    pub name: String,
    number: u8,
    families: &'static [u8],
    default_route: bool,
    single_address: bool,
    /// Keys that every plugin's entry has.
    pub(crate) keys: Value,
}

impl Network {
    /// A dual-stack network, told from others by its number.
    pub fn dual(number: u8) -> Self {
        Self {
            name: format!("net{number}"),
            number,
            families: &[4, 6],
            default_route: true,
            single_address: false,
            keys: json!({}),
        }
    }

    /// The same with IPv4 only.
    pub fn v4(number: u8) -> Self {
        Self { families: &[4], ..Self::dual(number) }
    }

    /// The same with IPv6 only.
    pub fn v6(number: u8) -> Self {
        Self { families: &[6], ..Self::dual(number) }
    }

    /// Under another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// With these keys in every plugin's entry.
    #[must_use]
    pub fn with(mut self, keys: Value) -> Self {
        self.keys = keys;
        self
    }

    /// For a container's second interface, which must not bring a second default route.
    #[must_use]
    pub fn second(mut self) -> Self {
        self.default_route = false;
        self
    }

    /// With one address to give, so that the next container gets the one just released.
    #[must_use]
    pub fn single_address(mut self) -> Self {
        self.single_address = true;
        self
    }

    /// The bridge's name.
    pub fn bridge(&self) -> String {
        format!("br{}", self.number)
    }

    /// The host's address on the bridge, IPv4.
    pub fn gateway_v4(&self) -> String {
        format!("10.88.{}.1", self.number)
    }

    /// The host's address on the bridge, IPv6.
    pub fn gateway_v6(&self) -> String {
        format!("fd88:{}::1", self.number)
    }

    pub(crate) fn bridge_config(&self) -> Value {
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
            "cniVersion": VERSION,
            "name": self.name,
            "type": "bridge",
            "bridge": self.bridge(),
            "isGateway": true,
            "hairpinMode": true,
            "ipam": { "type": "host-local", "ranges": ranges, "routes": routes },
        })
    }
}
