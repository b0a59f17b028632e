//! Whose a host port is, where more than one attachment was given it.
//!
//! The newest owner has it, and newest means: whose ADD ended last, which is when the cache file
//! was written. The kernel cannot tell any more after a flush. So an older attachment is restored
//! without the ports that a newer one has, instead of taking them away for a moment.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use cni_common::cni::Attachment;
use cni_common::cni::protocol::json::{Json, Object};
use cni_common::cni::protocol::{CniResult, NetworkConfig};
use cni_common::kernel::nft::L4Protocol;
use cni_portmap::Mapping;

use crate::runner::plugins::MetaPlugin;
use crate::runner::{NetworkList, RuntimeConf, request};

/// What portmap asks the kernel for; two mappings with the same cannot both be.
type Key = (bool, Option<IpAddr>, L4Protocol, u16);

/// Which attachments want which host ports.
#[derive(Debug, Default)]
pub(super) struct Claims {
    by_attachment: HashMap<String, Claim>,
    /// In the order of age.
    by_key: HashMap<Key, Vec<Claimant>>,
}

#[derive(Debug)]
struct Claim {
    container_id: String,
    wanted: Vec<Mapping>,
}

#[derive(Clone, Debug)]
struct Claimant {
    name: String,
    container_id: String,
}

/// An attachment's part of the host ports that it wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Allotment {
    /// What newer attachments left; `None` if that is all of it.
    left: Option<Vec<Mapping>>,
    /// Whether an older attachment wants some of it as well, and may have it in the kernel.
    contested: bool,
}

impl Claims {
    /// The claims of attachments: the oldest first, each with its name.
    pub(super) fn new<'a>(
        attachments: impl Iterator<Item = (&'a str, &'a NetworkList, &'a RuntimeConf, &'a CniResult)>,
    ) -> Self {
        let mut claims = Self::default();
        for (name, list, conf, result) in attachments {
            let wanted = wanted(list, conf, result);
            let claimant =
                || Claimant { name: name.to_owned(), container_id: conf.container_id.clone() };
            for mapping in &wanted {
                claims.by_key.entry(key(mapping)).or_default().push(claimant());
            }
            let claim = Claim { container_id: conf.container_id.clone(), wanted };
            claims.by_attachment.insert(name.to_owned(), claim);
        }
        claims
    }

    /// What an attachment may have.
    pub(super) fn allotment(&self, name: &str) -> Allotment {
        let Some(claim) = self.by_attachment.get(name) else { return Allotment::default() };
        let mut left = claim.wanted.clone();
        left.retain(|mapping| self.newer_owner(name, claim, mapping).is_none());
        let contested = left.iter().any(|mapping| self.is_contested(claim, mapping));
        let is_all = left.len() == claim.wanted.len();
        Allotment { left: (!is_all).then_some(left), contested }
    }

    /// What to tell about ports that newer attachments have: a note for each owner and protocol.
    pub(super) fn notes(&self, name: &str) -> Vec<String> {
        let Some(claim) = self.by_attachment.get(name) else { return Vec::new() };
        let mut lost: Vec<(&str, L4Protocol, BTreeSet<u16>)> = Vec::new();
        for mapping in &claim.wanted {
            let Some(owner) = self.newer_owner(name, claim, mapping) else { continue };
            let known = lost
                .iter_mut()
                .find(|(other, protocol, _)| (*other, *protocol) == (owner, mapping.protocol));
            match known {
                Some((_, _, ports)) => _ = ports.insert(mapping.host_port),
                None => lost.push((owner, mapping.protocol, [mapping.host_port].into())),
            }
        }
        let note = |(owner, protocol, ports): &(&str, L4Protocol, BTreeSet<u16>)| {
            let (noun, verb) = if ports.len() == 1 { ("port", "is") } else { ("ports", "are") };
            format!("host {noun} {}/{protocol} {verb} {owner}'s, which is newer", ranges(ports))
        };
        lost.iter().map(note).collect()
    }

    /// A newer attachment of another container. Within one container the first keeps the port,
    /// which portmap itself sees to.
    fn newer_owner(&self, name: &str, claim: &Claim, mapping: &Mapping) -> Option<&str> {
        let claimants = self.by_key.get(&key(mapping))?;
        let newer = claimants.iter().rev().take_while(|claimant| claimant.name != name);
        let mut others = newer.filter(|claimant| claimant.container_id != claim.container_id);
        others.next().map(|claimant| claimant.name.as_str())
    }

    fn is_contested(&self, claim: &Claim, mapping: &Mapping) -> bool {
        self.by_key.get(&key(mapping)).is_some_and(|claimants| {
            claimants.iter().any(|claimant| claimant.container_id != claim.container_id)
        })
    }
}

impl Allotment {
    /// Whether newer attachments have some of it.
    pub(super) fn is_partial(&self) -> bool {
        self.left.is_some()
    }

    /// Whether newer attachments have all of it.
    pub(super) fn is_nothing(&self) -> bool {
        self.left.as_ref().is_some_and(Vec::is_empty)
    }

    /// portmap's request, asking for no more than is allotted.
    ///
    /// Where nobody in the cache contests a port, somebody who has it all the same is unknown to
    /// the cache, or was added this moment: ADD must not take it from them.
    pub(super) fn apply(&self, mut request: Object) -> Object {
        if let Some(left) = &self.left {
            set_mappings(&mut request, left);
        }
        if !self.contested {
            request.set("onConflict", "fail");
        }
        request
    }
}

/// As in `80, 8000-8009`.
fn ranges(ports: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for &port in ports {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == port => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    let text = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn set_mappings(request: &mut Object, mappings: &[Mapping]) {
    let mut runtime = match request.get("runtimeConfig") {
        Some(Json::Object(runtime)) => runtime.clone(),
        _ => Object::default(),
    };
    runtime.set("portMappings", mappings.iter().map(mapping_entry).collect::<Vec<Json>>());
    request.set("runtimeConfig", runtime);
}

/// The entry that stands for a mapping in its own family only.
fn mapping_entry(mapping: &Mapping) -> Json {
    let any = if mapping.container.is_ipv4() { "0.0.0.0" } else { "::" };
    let mut entry = Object::default();
    entry.push("hostPort", u64::from(mapping.host_port));
    entry.push("containerPort", u64::from(mapping.container_port));
    entry.push("protocol", mapping.protocol.to_string());
    entry.push("hostIP", mapping.host_address.map_or(any.to_owned(), |a| a.to_string()));
    entry.into()
}

fn key(mapping: &Mapping) -> Key {
    (mapping.container.is_ipv4(), mapping.host_address, mapping.protocol, mapping.host_port)
}

/// What the chain's portmap is asked for, in its own reading. A configuration that it would
/// refuse claims nothing.
pub(crate) fn wanted(list: &NetworkList, conf: &RuntimeConf, result: &CniResult) -> Vec<Mapping> {
    let is_portmap =
        |plugin_type: &str| MetaPlugin::by_type(plugin_type) == Some(MetaPlugin::Portmap);
    let portmaps = list.plugins.iter().filter(|plugin| is_portmap(&plugin.plugin_type));
    let attachment = Attachment {
        network: list.name.clone(),
        container_id: conf.container_id.clone(),
        ifname: conf.ifname.clone(),
    };
    let claims = portmaps.filter_map(|plugin| {
        let request = request::for_attachment(list, plugin, None, conf).to_string();
        let config = NetworkConfig::from_stdin(request.as_bytes()).ok()?;
        cni_portmap::claims(&config, &attachment, result).ok()
    });
    claims.flatten().collect()
}

#[cfg(test)]
mod tests {
    use cni_common::cni::protocol::CniVersion;

    use super::*;

    fn list() -> NetworkList {
        NetworkList::from_bytes(
            br#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"},
                {"type":"portmap","capabilities":{"portMappings":true}}]}"#,
        )
        .expect("a list")
    }

    fn conf(id: &str, mappings: &str) -> RuntimeConf {
        let capability_args = Json::parse(format!(r#"{{"portMappings":{mappings}}}"#).as_bytes());
        RuntimeConf {
            container_id: id.to_owned(),
            ifname: "eth0".to_owned(),
            capability_args: capability_args.expect("JSON").as_object().expect("an object").clone(),
            ..RuntimeConf::default()
        }
    }

    fn result(addresses: &[&str]) -> CniResult {
        let ips: Vec<String> =
            addresses.iter().map(|address| format!(r#"{{"address":"{address}"}}"#)).collect();
        let text = format!(r#"{{"cniVersion":"1.0.0","ips":[{}]}}"#, ips.join(","));
        let json = Json::parse(text.as_bytes()).expect("JSON");
        CniResult::from_json(&json, CniVersion::V1_0_0).expect("a result")
    }

    const DUAL: [&str; 2] = ["10.0.0.2/24", "fd00::2/64"];

    /// Claims of attachments in the order of age: name, container, mappings, addresses.
    fn claims(attachments: &[(&str, &str, &str, &[&str])]) -> Claims {
        let list = list();
        let all: Vec<_> = attachments
            .iter()
            .map(|(name, id, mappings, addresses)| (*name, conf(id, mappings), result(addresses)))
            .collect();
        Claims::new(all.iter().map(|(name, conf, result)| (*name, &list, conf, result)))
    }

    fn asks_for(claims: &Claims, name: &str) -> String {
        let request = claims.allotment(name).apply(Object::default());
        Json::from(request).to_string()
    }

    const P80: &str = r#"[{"hostPort":80,"containerPort":1,"protocol":"tcp"}]"#;
    const P80_AND_81: &str = r#"[{"HostPort":80,"ContainerPort":1,"Protocol":"tcp"},
        {"HostPort":81,"ContainerPort":2,"Protocol":"tcp"}]"#;

    #[test]
    fn an_uncontested_port_is_asked_for_as_it_was_and_never_taken() {
        let claims = claims(&[("a", "a", P80, &DUAL), ("b", "b", "[]", &DUAL)]);
        for name in ["a", "b", "unknown"] {
            assert_eq!(asks_for(&claims, name), r#"{"onConflict":"fail"}"#, "{name}");
            assert!(claims.notes(name).is_empty());
        }
    }

    #[test]
    fn the_newest_has_a_port_and_the_older_the_rest() {
        let claims = claims(&[("a", "a", P80_AND_81, &DUAL[..1]), ("b", "b", P80, &DUAL)]);
        assert_eq!(
            asks_for(&claims, "a"),
            r#"{"runtimeConfig":{"portMappings":[{"hostPort":81,"containerPort":2,"protocol":"tcp","hostIP":"0.0.0.0"}]},"onConflict":"fail"}"#
        );
        assert_eq!(claims.notes("a"), ["host port 80/tcp is b's, which is newer"]);
        // It may have to take the port from the older.
        assert_eq!(asks_for(&claims, "b"), "{}");
    }

    #[test]
    fn a_port_of_the_other_family_address_or_protocol_is_another() {
        let other = r#"[{"hostPort":80,"containerPort":1,"protocol":"udp"},
            {"hostPort":80,"containerPort":1,"protocol":"tcp","hostIP":"192.0.2.1"}]"#;
        let claims = claims(&[
            ("a", "a", P80, &DUAL[..1]),
            ("b", "b", P80, &DUAL[1..]),
            ("c", "c", other, &DUAL),
        ]);
        for name in ["a", "b", "c"] {
            assert!(!claims.allotment(name).is_partial(), "{name}");
        }
    }

    #[test]
    fn one_family_of_a_mapping_can_be_lost() {
        let claims = claims(&[("a", "a", P80, &DUAL), ("b", "b", P80, &DUAL[..1])]);
        assert!(asks_for(&claims, "a").contains(r#""hostIP":"::""#));
        assert!(!asks_for(&claims, "a").contains(r#""hostIP":"0.0.0.0""#));
        assert!(!claims.allotment("a").is_nothing());
    }

    #[test]
    fn many_ports_of_one_owner_are_one_note() {
        let mapping = |port: u16, protocol: &str| {
            format!(r#"{{"hostPort":{port},"containerPort":1,"protocol":"{protocol}"}}"#)
        };
        let mut all: Vec<String> = (8000..8004).map(|port| mapping(port, "tcp")).collect();
        all.extend([mapping(53, "udp"), mapping(80, "tcp")]);
        let all = format!("[{}]", all.join(","));
        let claims = claims(&[("a", "a", &all, &DUAL), ("b", "b", &all, &DUAL)]);
        assert_eq!(
            claims.notes("a"),
            [
                "host ports 80, 8000-8003/tcp are b's, which is newer",
                "host port 53/udp is b's, which is newer",
            ]
        );
    }

    #[test]
    fn attachments_of_one_container_do_not_contest() {
        let claims = claims(&[("a", "web", P80, &DUAL), ("b", "web", P80, &DUAL)]);
        for name in ["a", "b"] {
            assert_eq!(claims.allotment(name), Allotment::default());
        }
    }

    #[test]
    fn of_three_the_last_has_it() {
        let all = [("a", "a", P80, &DUAL[..]), ("b", "b", P80, &DUAL), ("c", "c", P80, &DUAL)];
        let claims = claims(&all);
        assert!(claims.allotment("a").is_nothing() && claims.allotment("b").is_nothing());
        assert_eq!(claims.allotment("c"), Allotment { left: None, contested: true });
    }

    #[test]
    fn what_portmap_would_refuse_claims_nothing() {
        let bad = r#"[{"hostPort":0,"containerPort":1,"protocol":"tcp"}]"#;
        let claims = claims(&[("a", "a", P80, &DUAL), ("b", "b", bad, &DUAL)]);
        assert_eq!(claims.allotment("a"), Allotment::default());
    }
}
