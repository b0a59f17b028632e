//! Containers and their attachments.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::network::VERSION;
use crate::tool::batch;
use crate::{Namespace, Network};

/// A container: an ID and a namespace of that name.
#[derive(Clone, Debug)]
pub struct Container {
    /// The container ID.
    pub id: String,
    /// Its network namespace.
    pub netns: Arc<Namespace>,
}

impl Container {
    pub(crate) fn create(id: &str) -> Self {
        Self { id: id.into(), netns: Namespace::create(id).into() }
    }

    /// Makes one end of a new pair of veths the container's interface, as `ptp` does but without
    /// routes. The number tells pairs apart: the host's end is `veth<number>`, with 10.9.number.1
    /// and `fd00:9:number::1`; the container has the addresses that end in 2.
    pub fn pair(&self, number: u8, ifname: &str) -> Attachment {
        let (host_end, id) = (format!("veth{number}"), &self.id);
        let (v4, v6) = (format!("10.9.{number}"), format!("fd00:9:{number}:"));
        batch(&[
            &format!("link add {host_end} type veth peer name {ifname} netns {id}"),
            &format!("addr add {v4}.1/24 dev {host_end}"),
            &format!("addr add {v6}:1/64 dev {host_end} nodad"),
            &format!("link set {host_end} up"),
        ]);
        self.netns.batch(&[
            &format!("addr add {v4}.2/24 dev {ifname}"),
            &format!("addr add {v6}:2/64 dev {ifname} nodad"),
            &format!("link set {ifname} up"),
        ]);
        let result = json!({ "cniVersion": VERSION,
            "interfaces": [
                { "name": host_end },
                { "name": ifname, "sandbox": self.netns.path() }],
            "ips": [
                { "address": format!("{v4}.2/24"), "interface": 1 },
                { "address": format!("{v6}:2/64"), "interface": 1 }],
        });
        let network = Network::dual(number).named("net");
        Attachment { container: self.clone(), ifname: ifname.into(), network, result }
    }
}

/// A container on a network.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// The container.
    pub container: Container,
    /// The interface inside it.
    pub ifname: String,
    /// The network.
    pub network: Network,
    /// What `bridge` returned: the next plugin's prevResult.
    pub result: Value,
}

impl Attachment {
    /// The interface at the host's end of the container's veth.
    pub fn host_end(&self) -> String {
        let interfaces = self.result["interfaces"].as_array().into_iter().flatten();
        let mut on_host =
            interfaces.filter(|one| one["sandbox"].as_str().unwrap_or_default() == "");
        // `bridge` names the bridge first.
        let name = on_host.next_back().and_then(|one| one["name"].as_str());
        name.unwrap_or_else(|| panic!("{} has no veth", self.container.id)).to_owned()
    }

    /// The container's IPv4 address.
    pub fn v4(&self) -> String {
        self.address(IpAddr::is_ipv4)
    }

    /// The container's IPv6 address.
    pub fn v6(&self) -> String {
        self.address(IpAddr::is_ipv6)
    }

    /// All of the container's addresses here.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let addresses = self.result["ips"].as_array().into_iter().flatten();
        let bare = addresses.filter_map(|ip| ip["address"].as_str()?.split('/').next());
        bare.filter_map(|text| text.parse().ok()).collect()
    }

    fn address(&self, family: fn(&IpAddr) -> bool) -> String {
        let found = self.addresses().into_iter().find(family);
        found.unwrap_or_else(|| panic!("{} has no such address", self.container.id)).to_string()
    }
}
