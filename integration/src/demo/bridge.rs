//! `demo-bridge`: the main plugin of the demo's chain, so that the demo needs no other package.
//!
//! A real CNI plugin, kept small: one bridge that is the gateway, one veth pair, addresses from
//! the configuration. `cni-chain` runs it when it is started under this name.
//!
//! ```json
//! { "type": "demo-bridge", "bridge": "demo0", "addresses": ["10.88.0.2/24", "fd00:88::2/64"] }
//! ```

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;

use cni_common::cni::attachment::{Attachment, OwnerTag};
use cni_common::cni::protocol::json::Object;
use cni_common::cni::protocol::result::{Interface, IpConfig, Route};
use cni_common::cni::protocol::{CniError, CniResult, ErrorCode, NetworkConfig, environment};
use cni_common::cni::{AttachmentRequest, GcRequest, Plugin, StatusRequest};
use cni_common::kernel::netns::Netns;
use ipnet::IpNet;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::look::{self, Link};
use super::sysctl;
use super::wire::{Wire, refused};

/// The plugin.
#[derive(Debug)]
pub(crate) struct DemoBridge;

/// Marks the bridges that this plugin made and may remove.
const BRIDGE_ALIAS: &str = "made by demo-bridge";

impl Plugin for DemoBridge {
    const NAME: &'static str = "demo-bridge";
    const ABOUT: &'static str = "Makes the interface of the demo's containers";
    const KEYS: &'static [&'static str] = &["bridge", "addresses"];

    fn validate(config: &NetworkConfig) -> Result<(), CniError> {
        Settings::read(config).map(drop)
    }

    fn add(&self, request: &AttachmentRequest) -> Result<CniResult, CniError> {
        let settings = Settings::read(&request.config)?;
        let wire = Wire::open()?;
        // What an earlier ADD of this attachment left is replaced.
        remove_host_end(&wire, &request.attachment)?;
        let made = attach(&wire, &settings, request);
        if made.is_err() {
            let _ = release(&wire, &settings.bridge, &request.attachment);
        }
        made
    }

    fn del(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let settings = Settings::read(&request.config)?;
        release(&Wire::open()?, &settings.bridge, &request.attachment)
    }

    fn check(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let settings = Settings::read(&request.config)?;
        check_host(&settings, &request.attachment)?;
        let ifname = request.attachment.ifname.as_str();
        inside(&request.netns, || check_container(&settings, ifname))
    }

    fn gc(&self, request: &GcRequest) -> Result<(), CniError> {
        let settings = Settings::read(&request.config)?;
        let keep: Vec<OwnerTag> =
            request.valid_attachments().map(|attachment| attachment.tag()).collect();
        let wire = Wire::open()?;
        for link in links()? {
            if OwnerTag::belongs_to(&link.alias, &request.config.name)
                && !keep.iter().any(|tag| tag.as_str() == link.alias)
            {
                wire.delete(&format!("delete {}", link.name), link.index)?;
            }
        }
        remove_unused_bridge(&wire, &settings.bridge)
    }

    fn status(&self, request: &StatusRequest) -> Result<(), CniError> {
        Settings::read(&request.config).map(|_| ())
    }
}

/// The configuration.
struct Settings {
    bridge: String,
    addresses: Vec<IpNet>,
}

impl Settings {
    fn read(config: &NetworkConfig) -> Result<Self, CniError> {
        config.with_fields(|top| {
            let bridge = top.field("bridge");
            let name = bridge.string()?.unwrap_or("demo0");
            environment::validate_ifname(name)
                .map_err(|error| CniError::config(format!("bridge: {}", error.msg)))?;
            let list = top.field("addresses");
            let mut addresses = Vec::new();
            for item in list.list()?.into_iter().flatten() {
                let address = item.string()?.and_then(|text| text.parse().ok());
                addresses.push(address.ok_or_else(|| {
                    item.expected("an address with a prefix length, as in 10.88.0.2/24")
                })?);
            }
            if addresses.is_empty() {
                return Err(list.expected("a list of at least one address"));
            }
            Ok(Self { bridge: name.to_owned(), addresses })
        })
    }

    fn gateways(&self) -> impl Iterator<Item = IpNet> {
        self.addresses.iter().map(|address| gateway(*address))
    }
}

/// The first address of the container's subnet, with the subnet's length.
fn gateway(address: IpNet) -> IpNet {
    let first = match address.network() {
        IpAddr::V4(ip) => IpAddr::from(Ipv4Addr::from_bits(ip.to_bits() | 1)),
        IpAddr::V6(ip) => IpAddr::from(Ipv6Addr::from_bits(ip.to_bits() | 1)),
    };
    // The length is that of a valid network of the same family.
    IpNet::new(first, address.prefix_len()).unwrap_or(address)
}

/// The host's end of the pair, named after its owner so that DEL finds it without a result.
fn host_end(attachment: &Attachment) -> String {
    // The kernel's limit is 15 bytes.
    format!("demo{}", &attachment.tag().short_name()[..11])
}

fn attach(
    wire: &Wire,
    settings: &Settings,
    request: &AttachmentRequest,
) -> Result<CniResult, CniError> {
    let bridge = ensure_bridge(wire, settings)?;
    let host = make_pair(wire, &bridge, request)?;
    let ifname = request.attachment.ifname.as_str();
    let container = inside(&request.netns, || furnish(settings, ifname))?;
    Ok(result(settings, [bridge, host, container], &request.netns))
}

/// The bridge, made if missing, with the gateway addresses and forwarding on.
fn ensure_bridge(wire: &Wire, settings: &Settings) -> Result<Link, CniError> {
    let name = settings.bridge.as_str();
    match find(name)? {
        Some(link) if !link.bridge => {
            return Err(CniError::config(format!(
                "{name} exists and is not a bridge: set another \"bridge\""
            )));
        }
        Some(_) => {}
        None => {
            wire.create(&format!("create bridge {name}"), LinkBridge::new(name).build())?;
            let link = require(name)?;
            let alias = LinkUnspec::new_with_index(link.index).alias(BRIDGE_ALIAS).build();
            wire.change(&format!("mark bridge {name}"), alias)?;
        }
    }
    let bridge = require(name)?;
    for address in settings.gateways() {
        wire.add_address(bridge.index, address)?;
        sysctl::forward(address.addr()).map_err(|error| refused("switch forwarding on", &error))?;
    }
    wire.up(&format!("switch {name} on"), bridge.index)?;
    Ok(bridge)
}

/// The veth pair: one end a port of the bridge, the other born inside the container.
fn make_pair(wire: &Wire, bridge: &Link, request: &AttachmentRequest) -> Result<Link, CniError> {
    let attachment = &request.attachment;
    let (host, ifname) = (host_end(attachment), attachment.ifname.as_str());
    let netns = File::open(&request.netns)
        .map_err(|error| refused(&format!("open CNI_NETNS {}", request.netns), &error))?;
    let inner = LinkUnspec::new_with_name(ifname).setns_by_fd(netns.as_raw_fd()).build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(host.as_str())
        .controller(bridge.index)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(inner)))
        .build();
    wire.create(&format!("create {ifname} in {}, the peer of {host}", request.netns), pair)?;
    let link = require(&host)?;
    let port = LinkBridgePort::new(link.index)
        // A container reaches its own host port only if its packets may leave where they came in.
        .hairpin(true)
        .alias(attachment.tag().as_str())
        .up()
        .build();
    wire.change(&format!("switch {host} on"), port)?;
    Ok(link)
}

/// The container's side: link up, addresses, default routes.
fn furnish(settings: &Settings, ifname: &str) -> Result<Link, CniError> {
    let wire = Wire::open()?;
    let link = require(ifname)?;
    wire.up(&format!("switch {ifname} on"), link.index)?;
    for address in &settings.addresses {
        wire.add_address(link.index, *address)?;
        wire.add_default_route(gateway(*address).addr())?;
    }
    Ok(link)
}

fn result(settings: &Settings, links: [Link; 3], netns: &str) -> CniResult {
    let ips = settings.addresses.iter().map(|address| IpConfig {
        interface: Some(2),
        address: *address,
        gateway: Some(gateway(*address).addr()),
        extra: Object::default(),
    });
    let routes = settings.addresses.iter().map(|address| Route {
        dst: anywhere(address.addr()),
        gw: Some(gateway(*address).addr()),
        attributes: [None; 5],
        extra: Object::default(),
    });
    let [bridge, host, container] = links.map(|link| Interface {
        name: link.name,
        mac: Some(link.mac),
        mtu: Some(u64::from(link.mtu)),
        ..Interface::default()
    });
    let container = Interface { sandbox: Some(netns.to_owned()), ..container };
    CniResult {
        interfaces: vec![bridge, host, container],
        ips: ips.collect(),
        routes: routes.collect(),
        ..CniResult::default()
    }
}

/// The default route's destination in the address's family.
fn anywhere(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

fn release(wire: &Wire, bridge: &str, attachment: &Attachment) -> Result<(), CniError> {
    remove_host_end(wire, attachment)?;
    remove_unused_bridge(wire, bridge)
}

/// The container's end dies with the host's.
fn remove_host_end(wire: &Wire, attachment: &Attachment) -> Result<(), CniError> {
    let name = host_end(attachment);
    if let Some(link) = find(&name)? {
        wire.delete(&format!("delete {name}"), link.index)?;
    }
    Ok(())
}

/// Removes the bridge with its last port, if this plugin made it.
fn remove_unused_bridge(wire: &Wire, name: &str) -> Result<(), CniError> {
    let links = links()?;
    let Some(bridge) = links.iter().find(|link| link.name == name) else { return Ok(()) };
    let used = links.iter().any(|link| link.controller == Some(bridge.index));
    if bridge.alias == BRIDGE_ALIAS && !used {
        wire.delete(&format!("delete bridge {name}"), bridge.index)?;
    }
    Ok(())
}

fn check_host(settings: &Settings, attachment: &Attachment) -> Result<(), CniError> {
    let name = settings.bridge.as_str();
    let bridge = find(name)?.ok_or_else(|| differs(format!("bridge {name} is gone")))?;
    check_link(&bridge, settings.gateways())?;
    let end = host_end(attachment);
    let host = find(&end)?.ok_or_else(|| differs(format!("{end} is gone")))?;
    check_link(&host, std::iter::empty())?;
    if host.controller != Some(bridge.index) {
        return Err(differs(format!("{end} is no port of {name}")));
    }
    if !host.hairpin {
        return Err(differs(format!("{end} is not in hairpin mode")));
    }
    Ok(())
}

fn check_container(settings: &Settings, ifname: &str) -> Result<(), CniError> {
    let link = find(ifname)?.ok_or_else(|| differs(format!("{ifname} is gone")))?;
    check_link(&link, settings.addresses.iter().copied())?;
    let present = look::default_gateways().map_err(|error| refused("list the routes", &error))?;
    match settings.gateways().find(|gateway| !present.contains(&gateway.addr())) {
        None => Ok(()),
        Some(gateway) => Err(differs(format!("no default route by {}", gateway.addr()))),
    }
}

fn check_link(link: &Link, wanted: impl Iterator<Item = IpNet>) -> Result<(), CniError> {
    if !link.up {
        return Err(differs(format!("{} is down", link.name)));
    }
    let present =
        look::addresses(link.index).map_err(|error| refused("list the addresses", &error))?;
    for address in wanted {
        if !present.contains(&address) {
            return Err(differs(format!("{} has lost {address}", link.name)));
        }
    }
    Ok(())
}

/// Runs `work` in the container.
fn inside<T: Send>(
    netns: &str,
    work: impl FnOnce() -> Result<T, CniError> + Send,
) -> Result<T, CniError> {
    Netns::open(Path::new(netns))
        .and_then(|netns| netns.run(work))
        .map_err(|error| refused(&format!("enter CNI_NETNS {netns}"), &error))?
}

fn links() -> Result<Vec<Link>, CniError> {
    look::links().map_err(|error| refused("list the links", &error))
}

fn find(name: &str) -> Result<Option<Link>, CniError> {
    look::link(name).map_err(|error| refused("list the links", &error))
}

/// A link that was made a moment ago.
fn require(name: &str) -> Result<Link, CniError> {
    find(name)?.ok_or_else(|| {
        CniError::new(ErrorCode::Kernel, format!("{name} is gone: does another program remove it?"))
    })
}

fn differs(msg: String) -> CniError {
    CniError::new(ErrorCode::CheckFailed, msg).with_details("remove the container and add it again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        let text = format!(r#"{{"name":"n","cniVersion":"1.1.0",{text}}}"#);
        let config = NetworkConfig::from_stdin(text.as_bytes()).expect("JSON");
        Settings::read(&config).map_err(|error| error.msg)
    }

    #[test]
    fn the_gateway_is_the_first_address_of_the_subnet() {
        let settings = read(r#""addresses":["10.88.0.2/24","fd00:88::2/64"]"#).expect("valid");
        let gateways: Vec<String> = settings.gateways().map(|net| net.to_string()).collect();
        assert_eq!(settings.bridge, "demo0");
        assert_eq!(gateways, ["10.88.0.1/24", "fd00:88::1/64"]);
    }

    #[test]
    fn wrong_settings_are_named() {
        for (text, expected) in [
            (r#""addresses":[]"#, "addresses must be a list of at least one address"),
            (r#""addresses":["10.88.0.2"]"#, "addresses[0] must be an address with a prefix"),
            (r#""addresses":["10.0.0.2/8"],"bridge":"a/b""#, "bridge: interface name contains"),
        ] {
            let error = read(text).err().expect(text);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn host_ends_fit_and_differ() {
        let attachment = |id: &str| Attachment {
            network: "demo".into(),
            container_id: id.into(),
            ifname: "eth0".into(),
        };
        assert_eq!(host_end(&attachment("a")).len(), 15);
        assert_ne!(host_end(&attachment("a")), host_end(&attachment("b")));
    }
}
