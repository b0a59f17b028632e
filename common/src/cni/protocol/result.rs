//! The ADD result and its conversion between protocol versions.
//!
//! A result is decoded by its own version (or by its shape), held in the newest form, and
//! printed in the version the configuration asks for. Keys nobody knows pass through untouched.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::error::CniError;
use super::fields::{Field, Fields};
use super::json::{Json, Object, pretty, pretty_unless_long};
use super::version::CniVersion;

/// An ADD result in the form of the newest version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CniResult {
    /// The interfaces that the chain made so far.
    pub interfaces: Vec<Interface>,
    /// The container's addresses.
    pub ips: Vec<IpConfig>,
    /// The container's routes.
    pub routes: Vec<Route>,
    /// Resolver settings.
    pub dns: Dns,
    /// Top-level keys that no version defines.
    pub extra: Object,
}

/// An interface of the result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address, if known.
    pub mac: Option<String>,
    /// Its MTU in bytes, if known.
    pub mtu: Option<u64>,
    /// The namespace path of an interface inside the container; none for one of the host.
    pub sandbox: Option<String>,
    /// A vhost-user socket.
    pub socket_path: Option<String>,
    /// A PCI function.
    pub pci_id: Option<String>,
    /// Keys that no version defines.
    pub extra: Object,
}

/// An address of the result.
#[derive(Clone, Debug, PartialEq)]
pub struct IpConfig {
    /// Index into the interfaces; may be absent, negative or out of range.
    pub interface: Option<i64>,
    /// The address with its prefix length; host bits are kept.
    pub address: IpNet,
    /// The gateway, if any.
    pub gateway: Option<IpAddr>,
    /// Keys that no version defines.
    pub extra: Object,
}

/// A route of the result.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Destination network.
    pub dst: IpNet,
    /// Next hop, if any.
    pub gw: Option<IpAddr>,
    /// `mtu`, `advmss`, `priority`, `table` and `scope`, as far as given.
    pub attributes: [Option<i64>; 5],
    /// Keys that no version defines.
    pub extra: Object,
}

const ROUTE_ATTRIBUTES: [&str; 5] = ["mtu", "advmss", "priority", "table", "scope"];

/// The keys of an address in all versions. One that belongs to another version than the result's
/// is not passed on as unknown: after a conversion it would stand beside the real one.
const ADDRESS_KEYS: [&str; 6] = ["version", "interface", "address", "gateway", "ip", "routes"];

/// Resolver settings of the result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dns {
    /// Name servers.
    pub nameservers: Vec<String>,
    /// The local domain.
    pub domain: Option<String>,
    /// Search list.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
    /// Keys that no version defines.
    pub extra: Object,
}

impl CniResult {
    /// Decodes a result. One without a `cniVersion` has `fallback`'s; one that carries the
    /// `ip4`/`ip6` keys of 0.1.0 and 0.2.0 is read in that form whatever it calls itself.
    pub fn from_json(json: &Json, fallback: CniVersion) -> Result<Self, CniError> {
        let root = Field::root(json);
        let Some(top) = root.object()? else { return Ok(Self::default()) };
        let version_field = top.field("cniVersion");
        let version = match version_field.string()? {
            None | Some("") => fallback,
            Some(text) => CniVersion::from_text(text).ok_or_else(|| {
                CniError::config(format!("unsupported CNI result version {text:?}"))
            })?,
        };
        let mut result = Self {
            dns: Dns::from_field(&top.field("dns"))?,
            extra: unknown(
                &top,
                &["cniVersion", "interfaces", "ips", "routes", "dns", "ip4", "ip6"],
            ),
            ..Self::default()
        };
        let legacy_keys = ["ip4", "ip6"].iter().any(|key| top.field(key).value().is_some());
        if version <= CniVersion::V0_2_0 || legacy_keys {
            for key in ["ip4", "ip6"] {
                result.add_legacy(&top.field(key))?;
            }
        }
        for item in top.field("interfaces").list()?.into_iter().flatten() {
            result.interfaces.push(Interface::from_field(&item)?);
        }
        for item in top.field("ips").list()?.into_iter().flatten() {
            result.ips.push(IpConfig::from_field(&item)?);
        }
        for item in top.field("routes").list()?.into_iter().flatten() {
            result.routes.push(Route::from_field(&item)?);
        }
        Ok(result)
    }

    fn add_legacy(&mut self, field: &Field<'_>) -> Result<(), CniError> {
        let Some(fields) = field.object()? else { return Ok(()) };
        self.ips.push(IpConfig {
            interface: None,
            address: network(&fields.field("ip"))?,
            gateway: address(&fields.field("gateway"))?,
            extra: unknown(&fields, &ADDRESS_KEYS),
        });
        for item in fields.field("routes").list()?.into_iter().flatten() {
            self.routes.push(Route::from_field(&item)?);
        }
        Ok(())
    }

    /// The result in the form of `version`.
    pub fn to_json(&self, version: CniVersion) -> Result<Json, CniError> {
        let mut object = Object::default();
        object.push("cniVersion", version.as_str());
        if version <= CniVersion::V0_2_0 {
            self.push_legacy(&mut object)?;
        } else {
            self.push_lists(version, &mut object);
        }
        let dns = self.dns.to_json();
        if version <= CniVersion::V0_4_0 || dns.as_object().is_some_and(|dns| !dns.is_empty()) {
            object.push("dns", dns);
        }
        append(&mut object, &self.extra);
        Ok(object.into())
    }

    /// The text of the result in the form of `version`, as [`Json::to_pretty`] prints it, without a
    /// tree of all of it in memory.
    pub fn to_pretty(&self, version: CniVersion) -> Result<String, CniError> {
        if version <= CniVersion::V0_2_0 {
            return self.to_json(version).map(|json| pretty_unless_long(&json));
        }
        // Everything but what may be long.
        let rest = Self { dns: self.dns.clone(), ..Self::default() };
        let printed = Printed { result: self, version, rest: rest.to_json(version)? };
        Ok(if self.has_unknown_keys() { pretty_unless_long(&printed) } else { pretty(&printed) })
    }

    /// Whether it may have a depth of which an indentation makes much.
    fn has_unknown_keys(&self) -> bool {
        !self.extra.is_empty()
            || !self.dns.extra.is_empty()
            || self.interfaces.iter().any(|item| !item.extra.is_empty())
            || self.ips.iter().any(|item| !item.extra.is_empty())
            || self.routes.iter().any(|item| !item.extra.is_empty())
    }

    fn push_lists(&self, version: CniVersion, object: &mut Object) {
        let mut push = |key: &str, items: Vec<Json>| {
            if !items.is_empty() {
                object.push(key, Json::Array(items));
            }
        };
        push("interfaces", self.interfaces.iter().map(|item| item.to_json(version)).collect());
        push("ips", self.ips.iter().map(|item| item.to_json(version)).collect());
        push("routes", self.routes.iter().map(Route::to_json).collect());
    }

    /// 0.1.0 and 0.2.0 hold one address of each family; the rest cannot be expressed.
    fn push_legacy(&self, object: &mut Object) -> Result<(), CniError> {
        let mut any = false;
        for (key, is_v4) in [("ip4", true), ("ip6", false)] {
            let Some(ip) = self.ips.iter().find(|ip| ip.address.addr().is_ipv4() == is_v4) else {
                continue;
            };
            any = true;
            let mut entry = Object::default();
            entry.push("ip", ip.address.to_string());
            push_display(&mut entry, "gateway", ip.gateway.as_ref());
            let routes: Vec<Json> = self
                .routes
                .iter()
                .filter(|route| route.dst.addr().is_ipv4() == is_v4)
                .map(|route| Route { attributes: [None; 5], ..route.clone() }.to_json())
                .collect();
            if !routes.is_empty() {
                entry.push("routes", Json::Array(routes));
            }
            append(&mut entry, &ip.extra);
            object.push(key, entry);
        }
        // Nothing known at all is the empty result, which every version can hold.
        if any || (self.interfaces.is_empty() && self.routes.is_empty()) {
            return Ok(());
        }
        Err(CniError::config("cannot convert: no valid IP addresses")
            .with_details("results of CNI 0.1.0 and 0.2.0 must hold an address"))
    }
}

/// Which of the addresses are the container's. A result lists those of the whole chain, and its
/// indices may lead nowhere; an address whose index does so counts as the container's.
impl CniResult {
    /// All but those of the host's interfaces, which are the ones without a sandbox. A result in
    /// which no interface has a sandbox does not say which those are.
    pub fn ips_of_container(&self) -> impl Iterator<Item = &IpConfig> {
        let knows_sandboxes = self.interfaces.iter().any(|interface| interface.sandbox.is_some());
        self.ips.iter().filter(move |ip| {
            let interface = self.interface_of(ip);
            !knows_sandboxes || interface.is_none_or(|interface| interface.sandbox.is_some())
        })
    }

    /// Those of the interface `ifname` inside a sandbox, and those that name no interface.
    pub fn ips_of_interface(&self, ifname: &str) -> impl Iterator<Item = &IpConfig> {
        self.ips.iter().filter(move |ip| {
            let interface = self.interface_of(ip);
            interface
                .is_none_or(|interface| interface.name == ifname && interface.sandbox.is_some())
        })
    }

    /// The interface that an address names, if there is one.
    #[must_use]
    pub fn interface_of(&self, ip: &IpConfig) -> Option<&Interface> {
        self.interfaces.get(usize::try_from(ip.interface?).ok()?)
    }
}

struct Printed<'a> {
    result: &'a CniResult,
    version: CniVersion,
    /// The members around the lists: the version in front of them, `dns` behind, if at all.
    rest: Json,
}

impl Serialize for Printed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { result, version, rest } = self;
        let mut map = serializer.serialize_map(None)?;
        let mut members = rest.as_object().into_iter().flat_map(Object::iter);
        if let Some((key, value)) = members.next() {
            map.serialize_entry(key, value)?;
        }
        entry(&mut map, "interfaces", &result.interfaces, |item| item.to_json(*version))?;
        entry(&mut map, "ips", &result.ips, |item| item.to_json(*version))?;
        entry(&mut map, "routes", &result.routes, Route::to_json)?;
        for (key, value) in members.chain(result.extra.iter()) {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

fn entry<M: SerializeMap, T>(
    map: &mut M,
    key: &str,
    items: &[T],
    to_json: impl Fn(&T) -> Json,
) -> Result<(), M::Error> {
    if items.is_empty() { Ok(()) } else { map.serialize_entry(key, &List { items, to_json }) }
}

struct List<'a, T, F> {
    items: &'a [T],
    to_json: F,
}

impl<T, F: Fn(&T) -> Json> Serialize for List<'_, T, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.items.iter().map(&self.to_json))
    }
}

impl Interface {
    fn from_field(field: &Field<'_>) -> Result<Self, CniError> {
        let fields = field.object()?.ok_or_else(|| field.expected("an object"))?;
        let text = |key| fields.field(key).string().map(owned);
        Ok(Self {
            name: text("name")?.unwrap_or_default(),
            mac: text("mac")?,
            mtu: fields.field("mtu").integer(0..=u64::from(u32::MAX))?.filter(|mtu| *mtu != 0),
            sandbox: text("sandbox")?,
            socket_path: text("socketPath")?,
            pci_id: text("pciID")?,
            extra: unknown(&fields, &["name", "mac", "mtu", "sandbox", "socketPath", "pciID"]),
        })
    }

    fn to_json(&self, version: CniVersion) -> Json {
        let mut object = Object::default();
        object.push("name", self.name.as_str());
        push_text(&mut object, "mac", self.mac.as_ref());
        if version >= CniVersion::V1_0_0
            && let Some(mtu) = self.mtu
        {
            object.push("mtu", mtu);
        }
        push_text(&mut object, "sandbox", self.sandbox.as_ref());
        if version >= CniVersion::V1_0_0 {
            push_text(&mut object, "socketPath", self.socket_path.as_ref());
            push_text(&mut object, "pciID", self.pci_id.as_ref());
        }
        append(&mut object, &self.extra);
        object.into()
    }
}

impl IpConfig {
    fn from_field(field: &Field<'_>) -> Result<Self, CniError> {
        let fields = field.object()?.ok_or_else(|| field.expected("an object"))?;
        Ok(Self {
            interface: signed(&fields.field("interface"))?,
            address: network(&fields.field("address"))?,
            gateway: address(&fields.field("gateway"))?,
            extra: unknown(&fields, &ADDRESS_KEYS),
        })
    }

    fn to_json(&self, version: CniVersion) -> Json {
        let mut object = Object::default();
        if version <= CniVersion::V0_4_0 {
            object.push("version", if self.address.addr().is_ipv4() { "4" } else { "6" });
        }
        if let Some(interface) = self.interface {
            object.push("interface", interface);
        }
        object.push("address", self.address.to_string());
        push_display(&mut object, "gateway", self.gateway.as_ref());
        append(&mut object, &self.extra);
        object.into()
    }
}

impl Route {
    fn from_field(field: &Field<'_>) -> Result<Self, CniError> {
        let fields = field.object()?.ok_or_else(|| field.expected("an object"))?;
        let mut attributes = [None; 5];
        for (slot, key) in attributes.iter_mut().zip(ROUTE_ATTRIBUTES) {
            *slot = signed(&fields.field(key))?;
            // 0 means "not given" for the first three; for table and scope it is a value.
            if matches!(key, "mtu" | "advmss" | "priority") {
                *slot = slot.filter(|value| *value != 0);
            }
        }
        let mut known = vec!["dst", "gw"];
        known.extend(ROUTE_ATTRIBUTES);
        Ok(Self {
            dst: network(&fields.field("dst"))?,
            gw: address(&fields.field("gw"))?,
            attributes,
            extra: unknown(&fields, &known),
        })
    }

    fn to_json(&self) -> Json {
        let mut object = Object::default();
        object.push("dst", self.dst.to_string());
        push_display(&mut object, "gw", self.gw.as_ref());
        for (key, value) in ROUTE_ATTRIBUTES.into_iter().zip(self.attributes) {
            if let Some(value) = value {
                object.push(key, value);
            }
        }
        append(&mut object, &self.extra);
        object.into()
    }
}

impl Dns {
    fn from_field(field: &Field<'_>) -> Result<Self, CniError> {
        let Some(fields) = field.object()? else { return Ok(Self::default()) };
        let strings = |key| -> Result<Vec<String>, CniError> {
            let list = fields.field(key);
            let mut strings = Vec::new();
            for item in list.list()?.into_iter().flatten() {
                strings.push(item.string()?.unwrap_or_default().to_owned());
            }
            Ok(strings)
        };
        Ok(Self {
            nameservers: strings("nameservers")?,
            domain: owned(fields.field("domain").string()?),
            search: strings("search")?,
            options: strings("options")?,
            extra: unknown(&fields, &["nameservers", "domain", "search", "options"]),
        })
    }

    fn to_json(&self) -> Json {
        let mut object = Object::default();
        let list = |object: &mut Object, key: &str, items: &Vec<String>| {
            if !items.is_empty() {
                object.push(key, items.clone());
            }
        };
        list(&mut object, "nameservers", &self.nameservers);
        push_text(&mut object, "domain", self.domain.as_ref());
        list(&mut object, "search", &self.search);
        list(&mut object, "options", &self.options);
        append(&mut object, &self.extra);
        object.into()
    }
}

/// The IPv4 address that an IPv4-mapped IPv6 address stands for, else the address itself.
#[must_use]
pub fn unmapped(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn unmapped_network(network: IpNet) -> IpNet {
    if let IpNet::V6(v6) = network
        && let (Some(v4), Some(prefix)) =
            (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96))
        && let Ok(v4) = Ipv4Net::new(v4, prefix)
    {
        return IpNet::V4(v4);
    }
    network
}

fn network(field: &Field<'_>) -> Result<IpNet, CniError> {
    let expected = || field.expected("an address with a prefix length, as in 10.0.0.2/24");
    let text = field.string()?.ok_or_else(expected)?;
    text.parse().map(unmapped_network).map_err(|_| expected())
}

fn address(field: &Field<'_>) -> Result<Option<IpAddr>, CniError> {
    match field.string()? {
        None | Some("") => Ok(None),
        Some(text) => match text.parse() {
            Ok(address) => Ok(Some(unmapped(address))),
            Err(_) => Err(field.expected("an IP address")),
        },
    }
}

fn signed(field: &Field<'_>) -> Result<Option<i64>, CniError> {
    match field.value() {
        None => Ok(None),
        Some(Json::Number(number)) if number.as_i64().is_some() => Ok(number.as_i64()),
        Some(_) => Ok(field.integer(0..=i64::MAX.unsigned_abs())?.map(u64::cast_signed)),
    }
}

fn owned(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

fn unknown(fields: &Fields<'_>, known: &[&str]) -> Object {
    fields
        .members()
        .iter()
        .filter(|(key, _)| !known.iter().any(|known| known.eq_ignore_ascii_case(key)))
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect()
}

fn append(object: &mut Object, extra: &Object) {
    for (key, value) in extra.iter() {
        object.push(key, value.clone());
    }
}

fn push_text(object: &mut Object, key: &str, value: Option<&String>) {
    if let Some(value) = value {
        object.push(key, value.as_str());
    }
}

fn push_display(object: &mut Object, key: &str, value: Option<&IpAddr>) {
    if let Some(value) = value {
        object.push(key, value.to_string());
    }
}

/// The address as a network of its own: `/32` or `/128`.
#[must_use]
pub fn host_network(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(v4) => IpNet::V4(Ipv4Net::from(v4)),
        IpAddr::V6(v6) => IpNet::V6(Ipv6Net::from(v6)),
    }
}

/// The unspecified address of either family.
#[must_use]
pub fn is_unspecified(address: IpAddr) -> bool {
    match unmapped(address) {
        IpAddr::V4(v4) => v4 == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(v6) => v6 == Ipv6Addr::UNSPECIFIED,
    }
}

#[cfg(test)]
mod tests;
