//! Whose a host port is, where more than one attachment was given it.
//!
//! The newest owner has it, and newest means: whose ADD ended last, which is when the cache file
//! was written, unless that ADD was to wait. The kernel cannot tell any more after a flush. So who has
//! all of its ports comes first, and an older attachment claims what a newer one has without taking it
//! away for a moment: the newest first, each behind all that wait already.

use std::collections::{BTreeSet, HashMap};

use cni_common::cni::Attachment;
use cni_common::cni::protocol::{CniResult, NetworkConfig};
use cni_common::kernel::nft::L4Protocol;
use cni_portmap::Mapping;

use super::allotment::{Allotment, Key, key};
use crate::runner::plugins::MetaPlugin;
use crate::runner::{NetworkList, RuntimeConf, request};

/// Which attachments want which host ports.
#[derive(Debug, Default)]
pub(super) struct Claims {
    by_attachment: HashMap<String, Claim>,
    /// The last goes before the others, in all of its ports.
    order: Vec<Claimant>,
    /// In the same order.
    by_key: HashMap<Key, Vec<Claimant>>,
}

#[derive(Debug)]
struct Claim {
    container_id: String,
    wanted: Vec<Mapping>,
    is_asked_for: bool,
}

/// What there is to know of an attachment that may want host ports.
pub(super) struct Applicant<'a> {
    pub(super) name: &'a str,
    pub(super) list: &'a NetworkList,
    pub(super) conf: &'a RuntimeConf,
    pub(super) result: &'a CniResult,
    /// Whether it is to be restored.
    pub(super) is_asked_for: bool,
}

#[derive(Clone, Debug)]
struct Claimant {
    name: String,
    container_id: String,
    /// What the kernel knows it by.
    tag: String,
}

impl Claims {
    /// The claims of attachments, the oldest first.
    pub(super) fn new<'a>(attachments: impl Iterator<Item = Applicant<'a>>) -> Self {
        let mut claims = Self::default();
        for Applicant { name, list, conf, result, is_asked_for } in attachments {
            let container_id = conf.container_id.clone();
            let claimant = Claimant {
                name: name.to_owned(),
                container_id: container_id.clone(),
                tag: attachment(list, conf).tag().to_string(),
            };
            if yields(list, conf) {
                claims.order.insert(0, claimant);
            } else {
                claims.order.push(claimant);
            }
            let wanted = wanted(list, conf, result);
            let claim = Claim { container_id, wanted, is_asked_for };
            claims.by_attachment.insert(name.to_owned(), claim);
        }
        for claimant in &claims.order {
            for mapping in &claims.by_attachment[&claimant.name].wanted {
                claims.by_key.entry(key(mapping)).or_default().push(claimant.clone());
            }
        }
        claims
    }

    /// The attachments that have to wait, in the order in which they have to be restored: the newest
    /// first, but of one container's the first before the next.
    pub(super) fn losers(&self) -> Vec<&str> {
        let is_loser = |claimant: &&Claimant| self.allotment(&claimant.name).is_partial();
        let losers: Vec<&Claimant> = self.order.iter().filter(is_loser).collect();
        let runs = losers.chunk_by(|one, other| one.container_id == other.container_id);
        runs.rev().flatten().map(|claimant| claimant.name.as_str()).collect()
    }

    /// What an attachment may have.
    pub(super) fn allotment(&self, name: &str) -> Allotment {
        let Some(claim) = self.by_attachment.get(name) else { return Allotment::default() };
        let (mut left, mut owners) = (claim.wanted.clone(), Vec::new());
        let mut lost = Vec::new();
        left.retain(|mapping| match self.newer_owner(name, claim, mapping) {
            None => true,
            Some(owner) => {
                owners.push(owner);
                lost.push(key(mapping));
                false
            }
        });
        let rivals = left.iter().flat_map(|mapping| self.rivals(claim, mapping));
        let rivals = rivals.map(|rival| rival.tag.clone()).collect();
        let is_all = left.len() == claim.wanted.len();
        let may_wait = owners.iter().all(|owner| self.by_attachment[*owner].is_asked_for);
        Allotment { left: (!is_all).then_some(left), lost, may_wait, rivals }
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

    /// Attachments of other containers that want it as well.
    fn rivals(&self, claim: &Claim, mapping: &Mapping) -> impl Iterator<Item = &Claimant> {
        let claimants = self.by_key.get(&key(mapping)).into_iter().flatten();
        claimants.filter(|claimant| claimant.container_id != claim.container_id)
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

/// What the chain's portmap is asked for, in its own reading. A configuration that it would
/// refuse claims nothing.
pub(crate) fn wanted(list: &NetworkList, conf: &RuntimeConf, result: &CniResult) -> Vec<Mapping> {
    let attachment = attachment(list, conf);
    let claims = portmaps(list, conf)
        .filter_map(|config| cni_portmap::claims(&config, &attachment, result).ok());
    claims.flatten().collect()
}

fn attachment(list: &NetworkList, conf: &RuntimeConf) -> Attachment {
    Attachment {
        network: list.name.clone(),
        container_id: conf.container_id.clone(),
        ifname: conf.ifname.clone(),
    }
}

/// Whether the attachment was to come behind all others, by its configuration.
fn yields(list: &NetworkList, conf: &RuntimeConf) -> bool {
    portmaps(list, conf).any(|config| cni_portmap::yields(&config))
}

fn portmaps(list: &NetworkList, conf: &RuntimeConf) -> impl Iterator<Item = NetworkConfig> {
    let is_portmap =
        |plugin_type: &str| MetaPlugin::by_type(plugin_type) == Some(MetaPlugin::Portmap);
    let portmaps = list.plugins.iter().filter(move |plugin| is_portmap(&plugin.plugin_type));
    portmaps.filter_map(|plugin| {
        let request = request::for_attachment(list, plugin, None, conf).to_string();
        NetworkConfig::from_stdin(request.as_bytes()).ok()
    })
}

#[cfg(test)]
mod tests {
    use cni_common::cni::protocol::json::{Json, Object};
    use cni_common::cni::protocol::{CniError, CniVersion, ErrorCode};

    use super::super::allotment::Moved;
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
        Claims::new(all.iter().map(|(name, conf, result)| Applicant {
            name,
            list: &list,
            conf,
            result,
            is_asked_for: true,
        }))
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
        assert_eq!(asks_for(&claims, "b"), r#"{"onConflict":"fail"}"#);
        // It may have to take the port from the older, and from no other.
        for (owner, is_taken) in [("net/a/eth0", true), ("net/x/eth0", false)] {
            let msg = format!(
                "host port mapping m belongs to attachment {owner}: delete that attachment"
            );
            let refusal = CniError::new(ErrorCode::PortConflict, msg);
            let request = claims.allotment("b").apply_rightfully(Object::default(), &refusal);
            let expected = is_taken.then(|| r#"{"onConflict":"replace"}"#.to_owned());
            assert_eq!(request.map(|request| Json::from(request).to_string()), expected);
        }
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
            assert!(
                !claims.allotment(name).is_partial() && claims.allotment(name).rivals.is_empty()
            );
        }
    }

    #[test]
    fn of_three_the_last_has_it() {
        let all = [("a", "a", P80, &DUAL[..]), ("b", "b", P80, &DUAL), ("c", "c", P80, &DUAL)];
        let claims = claims(&all);
        assert!(claims.allotment("a").is_nothing() && claims.allotment("b").is_nothing());
        let rivals = ["net/a/eth0", "net/b/eth0"].map(str::to_owned);
        let mut all = Allotment { may_wait: true, ..Allotment::default() };
        // In either family.
        all.rivals = [rivals.clone(), rivals].concat();
        assert_eq!(claims.allotment("c"), all);
    }

    /// The queue is made anew from its head; a container's own first network goes before its second.
    #[test]
    fn who_waits_gets_its_turn_the_newest_first() {
        let claims = claims(&[
            ("a", "a", P80, &DUAL),
            ("b1", "b", P80, &DUAL),
            ("b2", "b", P80, &DUAL),
            ("other", "other", "[]", &DUAL),
            ("c", "c", P80_AND_81, &DUAL),
            ("d", "d", P80, &DUAL),
        ]);
        assert_eq!(claims.losers(), ["c", "b1", "b2", "a"]);
        let mut moved = Moved::default();
        assert!(!moved.concerns(&claims.allotment("a")));
        moved.add(&claims.allotment("c"));
        assert!(moved.concerns(&claims.allotment("a")) && !moved.concerns(&claims.allotment("d")));
    }

    #[test]
    fn what_portmap_would_refuse_claims_nothing() {
        let bad = r#"[{"hostPort":0,"containerPort":1,"protocol":"tcp"}]"#;
        let claims = claims(&[("a", "a", P80, &DUAL), ("b", "b", bad, &DUAL)]);
        assert!(!claims.allotment("a").is_partial() && claims.allotment("a").rivals.is_empty());
    }
}
