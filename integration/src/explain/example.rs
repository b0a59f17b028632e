//! The container and the host that an explanation is for: an example made from the list, or what a
//! real prevResult says. Pure.

use std::net::IpAddr;

use cni_common::cni::Surroundings;
use cni_common::cni::protocol::json::{Json, Object};
use cni_common::cni::protocol::result::{Interface, IpConfig};
use cni_common::cni::protocol::{CniError, CniResult, CniVersion};
use ipnet::IpNet;

use crate::runner::{NetworkList, RuntimeConf};

/// What is taken for granted.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    /// The main plugin's result.
    pub(crate) result: CniResult,
    pub(crate) around: Surroundings,
    /// Whether the result is an example of ours.
    pub(crate) is_example: bool,
}

/// The example's addresses where the list has no subnet.
const SUBNET: &str = "10.88.0.0/16";
/// The bridge plugin's default.
const BRIDGE: &str = "cni0";
const HOST_END: &str = "veth0";

impl Scene {
    /// An example of what the list's main plugin would make.
    pub(crate) fn example(list: &NetworkList, conf: &RuntimeConf) -> Self {
        let host = |name: &str| Interface { name: name.to_owned(), ..Interface::default() };
        let bridge = bridge(list);
        let mut interfaces: Vec<Interface> = bridge.iter().map(|name| host(name)).collect();
        if has_veth(list) {
            interfaces.push(host(HOST_END));
        }
        let container = Some(i64::try_from(interfaces.len()).unwrap_or_default());
        interfaces.push(Interface { sandbox: Some(conf.netns.clone()), ..host(&conf.ifname) });
        let ips = networks(list).into_iter().map(|(network, gateway)| IpConfig {
            interface: container,
            address: container_address(network),
            gateway: Some(gateway.unwrap_or_else(|| nth(network, 1))),
            extra: Object::default(),
        });
        let result = CniResult { ips: ips.collect(), interfaces, ..CniResult::default() };
        Self { around: around(list, &result), result, is_example: true }
    }

    /// What a result says.
    pub(crate) fn of_result(list: &NetworkList, json: &Json) -> Result<Self, CniError> {
        let version = CniVersion::from_text(&list.cni_version).unwrap_or(CniVersion::CURRENT);
        let result = CniResult::from_json(json, version)?;
        Ok(Self { around: around(list, &result), result, is_example: false })
    }
}

/// Which of the host's interfaces is what: the bridge plugin names the bridge first, and then the
/// host's end; ptp names that alone.
fn around(list: &NetworkList, result: &CniResult) -> Surroundings {
    let is_host = |interface: &&Interface| interface.sandbox.as_deref().is_none_or(str::is_empty);
    let names: Vec<String> =
        result.interfaces.iter().filter(is_host).map(|interface| interface.name.clone()).collect();
    let configured = bridge(list);
    let bridge = configured
        .filter(|name| names.contains(name))
        .or_else(|| names.first().filter(|_| names.len() > 1).cloned());
    let host_end = names.into_iter().find(|name| Some(name) != bridge.as_ref());
    Surroundings { bridge, host_end, host_is_gateway: host_is_gateway(list) }
}

fn main_entry<'a>(list: &'a NetworkList, key: &str) -> Option<&'a Json> {
    list.plugins.first()?.object.get(key)
}

fn main_type(list: &NetworkList) -> &str {
    list.plugins.first().map_or("", |plugin| plugin.plugin_type.as_str())
}

fn bridge(list: &NetworkList) -> Option<String> {
    let named = || main_entry(list, "bridge").and_then(Json::as_str).filter(|n| !n.is_empty());
    (main_type(list) == "bridge").then(|| named().unwrap_or(BRIDGE).to_owned())
}

/// Only these have no other end on the host.
fn has_veth(list: &NetworkList) -> bool {
    !["macvlan", "ipvlan", "host-device", "dummy", "loopback", "vlan", "tap"]
        .contains(&main_type(list))
}

/// bridge has its switches for that; ptp always is.
fn host_is_gateway(list: &NetworkList) -> bool {
    let is_on = |key| main_entry(list, key) == Some(&Json::Bool(true));
    match main_type(list) {
        "bridge" => ["isGateway", "isDefaultGateway"].into_iter().any(is_on),
        kind => kind == "ptp",
    }
}

/// The networks that an address comes from, with their gateways: those of host-local, or those that
/// static lists.
fn networks(list: &NetworkList) -> Vec<(IpNet, Option<IpAddr>)> {
    let ipam = main_entry(list, "ipam").and_then(Json::as_object);
    let network = |json: &Json, key: &str| {
        let object = json.as_object()?;
        let network: IpNet = object.get(key)?.as_str()?.parse().ok()?;
        let gateway = object.get("gateway").and_then(Json::as_str).and_then(|g| g.parse().ok());
        Some((network, gateway))
    };
    let list_of = |key: &str| ipam.and_then(|ipam| ipam.get(key)?.as_array());
    let mut found = Vec::new();
    if let Some(ipam) = ipam {
        found.extend(network(&Json::Object(ipam.clone()), "subnet"));
    }
    for range in list_of("ranges").into_iter().flatten() {
        let first = range.as_array().and_then(<[Json]>::first);
        found.extend(first.and_then(|range| network(range, "subnet")));
    }
    for address in list_of("addresses").into_iter().flatten() {
        found.extend(network(address, "address"));
    }
    if found.is_empty() {
        found.extend(SUBNET.parse().ok().map(|network| (network, None)));
    }
    found
}

/// An address that static gives is the container's; a subnet's second is the first that is given.
fn container_address(network: IpNet) -> IpNet {
    if network.addr() != network.network() {
        return network;
    }
    IpNet::new(nth(network, 2), network.prefix_len()).unwrap_or(network)
}

/// The address of this number in a network.
fn nth(network: IpNet, number: u8) -> IpAddr {
    match network.network() {
        IpAddr::V4(first) => (first.to_bits().saturating_add(number.into())).to_be_bytes().into(),
        IpAddr::V6(first) => (first.to_bits().saturating_add(number.into())).to_be_bytes().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(main: &str) -> Scene {
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{main}]}}"#);
        let list = NetworkList::from_bytes(text.as_bytes()).expect("a list");
        let conf = RuntimeConf {
            ifname: "eth0".to_owned(),
            netns: "/run/netns/c".to_owned(),
            ..RuntimeConf::default()
        };
        Scene::example(&list, &conf)
    }

    fn told(main: &str) -> (Vec<String>, Vec<String>, Option<String>, Option<String>, bool) {
        let Scene { result, around, .. } = scene(main);
        (
            result.interfaces.iter().map(|interface| interface.name.clone()).collect(),
            result.ips.iter().map(|ip| ip.address.to_string()).collect(),
            around.bridge,
            around.host_end,
            around.host_is_gateway,
        )
    }

    #[test]
    fn examples_are_what_the_main_plugin_would_make() {
        let strings =
            |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            told(
                r#"{"type":"bridge","bridge":"br7","isGateway":true,"ipam":{"type":"host-local",
                "ranges":[[{"subnet":"10.7.0.0/24"}],[{"subnet":"fd07::/64"}]]}}"#
            ),
            (
                strings(&["br7", "veth0", "eth0"]),
                strings(&["10.7.0.2/24", "fd07::2/64"]),
                some("br7"),
                some("veth0"),
                true
            )
        );
        assert_eq!(
            told(
                r#"{"type":"ptp","ipam":{"type":"static","addresses":[{"address":"192.0.2.9/28"}]}}"#
            ),
            (strings(&["veth0", "eth0"]), strings(&["192.0.2.9/28"]), None, some("veth0"), true)
        );
        assert_eq!(
            told(r#"{"type":"macvlan","ipam":{"type":"dhcp"}}"#),
            (strings(&["eth0"]), strings(&["10.88.0.2/16"]), None, None, false)
        );
        assert_eq!(told(r#"{"type":"bridge"}"#).2, some("cni0"));
    }

    #[test]
    fn a_result_tells_its_bridge() {
        let list = br#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"theirs"}]}"#;
        let list = NetworkList::from_bytes(list).expect("a list");
        let of = |interfaces: &str| {
            let json = format!(r#"{{"cniVersion":"1.0.0","interfaces":[{interfaces}]}}"#);
            let json = Json::parse(json.as_bytes()).expect("JSON");
            let around = Scene::of_result(&list, &json).expect("a result").around;
            (around.bridge, around.host_end)
        };
        let container = r#"{"name":"eth0","sandbox":"/run/netns/c"}"#;
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(
            of(&format!(r#"{{"name":"b0"}},{{"name":"v0"}},{container}"#)),
            (name("b0"), name("v0"))
        );
        assert_eq!(of(&format!(r#"{{"name":"v0"}},{container}"#)), (None, name("v0")));
        assert_eq!(of(container), (None, None));
    }
}
