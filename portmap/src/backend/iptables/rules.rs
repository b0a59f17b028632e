//! The iptables rules of one attachment. Pure.
//!
//! Chains and shapes are those of the Go portmap, as the names are. Specifications are written as
//! `iptables-save` prints them.

use std::net::{IpAddr, SocketAddr};

use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::quote;
use cni_common::kernel::nft::L4Protocol;
use ipnet::IpNet;

use super::names::Names;
use crate::config::{DEFAULT_MARK_BIT, OnConflict};
use crate::plan::{LOOPBACK, Mapping, Masquerade, Plan};

/// Where all of it is.
pub(crate) const TABLE: &str = "nat";
/// Where packets from outside are kept from 127.0.0.0/8.
pub(crate) const GUARD_TABLE: &str = "raw";

/// One entry rule per container and protocol; entered from PREROUTING and OUTPUT.
pub(crate) const TOP_CHAIN: &str = "CNI-HOSTPORT-DNAT";
const SETMARK_CHAIN: &str = "CNI-HOSTPORT-SETMARK";
const MASQ_CHAIN: &str = "CNI-HOSTPORT-MASQ";
/// What the Go plugin's ancestors made and nobody makes any more.
pub(crate) const OLD_SNAT_TOP: &str = "CNI-HOSTPORT-SNAT";
/// Chains that all attachments share; names may go on with `-` and a bit.
pub(crate) const SHARED_CHAINS: [&str; 4] = [TOP_CHAIN, SETMARK_CHAIN, MASQ_CHAIN, OLD_SNAT_TOP];
/// Drops packets for 127.0.0.0/8 that do not come from the host itself.
pub(crate) const GUARD_CHAIN: &str = "CNI-HOSTPORT-GUARD";

/// multiport takes this many ports.
const PORTS_PER_ENTRY: usize = 15;
/// A rule and the chain it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChainRule {
    pub(crate) chain: String,
    pub(crate) spec: String,
    /// Whether it goes to the chain's beginning if it is missing.
    pub(crate) first: bool,
}

/// A rule of `CNI-HOSTPORT-DNAT` that leads to an attachment's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The specification, but for the chain that it leads to.
    spec: String,
    /// Whether it is for one host address; those stand before the ones for any.
    pub(crate) specific: bool,
}

/// Whose way of writing rules. They differ in little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Loopback is 127.0.0.0/8; a mark bit of its own has a chain of its own.
    Ours,
    /// Loopback is 127.0.0.1; one chain for all mark bits.
    Go,
}

impl Dialect {
    /// As `iptables-save` prints the source.
    fn source(self, source: IpNet) -> String {
        match (self, source.prefix_len()) {
            (_, 0) => String::new(),
            (Self::Go, _) if source == LOOPBACK => "-s 127.0.0.1/32 ".to_owned(),
            _ => format!("-s {source} "),
        }
    }

    /// In a shared chain, every network would get every bit.
    fn setmark_chain(self, plan: &Plan) -> String {
        match &plan.set_mark_chain {
            Some(chain) => chain.clone(),
            None if self == Self::Go || plan.mark_bit == DEFAULT_MARK_BIT => {
                SETMARK_CHAIN.to_owned()
            }
            None => format!("{SETMARK_CHAIN}-{}", plan.mark_bit),
        }
    }
}

/// Everything of one attachment in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) names: Names,
    /// Shared chains with their rules, and the jumps to them.
    pub(crate) shared: Vec<ChainRule>,
    /// The attachment's own chain, in order.
    pub(crate) own: Vec<String>,
    /// Its entry rules.
    pub(crate) entries: Vec<Entry>,
    /// The mappings that it carries out.
    pub(crate) mappings: Vec<Mapping>,
    /// Whether they come behind those of others.
    pub(crate) yields: bool,
}

impl Entry {
    /// The rule that leads to this chain.
    pub(crate) fn to(&self, chain: &str) -> String {
        format!("{} -j {chain}", self.spec)
    }
}

impl Rules {
    /// The rules for one family; `None` if nothing is mapped in it.
    pub(super) fn new(plan: &Plan, version: IpVersion) -> Option<Self> {
        let container = plan.container(version)?;
        let names = Names::of_entry(&plan.attachment, plan.gate());
        let mappings: Vec<Mapping> = plan.mappings_of(version).copied().collect();
        Some(Self {
            shared: shared(plan, Dialect::Ours),
            own: chain_rules(&mappings, container, plan, Dialect::Ours),
            entries: entries(&names, &mappings, plan.conditions.of(version)),
            names,
            mappings,
            yields: plan.on_conflict == OnConflict::Wait,
        })
    }
}

/// What the Go plugin makes of the same attachment in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GoRules {
    pub(crate) names: Names,
    /// Shared chains with their rules, and the jumps to them.
    pub(crate) shared: Vec<ChainRule>,
    /// The attachment's own chain, in order.
    pub(crate) own: Vec<String>,
    /// Protocols and ports that entry rules must cover.
    pub(crate) ports: Vec<(L4Protocol, u16)>,
    /// What the entry rules must match besides, as they are written.
    pub(crate) conditions: String,
}

impl GoRules {
    /// The rules for one family; `None` if nothing is mapped in it.
    pub(crate) fn new(plan: &Plan, version: IpVersion) -> Option<Self> {
        let container = plan.container(version)?;
        let mappings: Vec<Mapping> = plan.mappings_of(version).copied().collect();
        Some(Self {
            names: Names::new(&plan.attachment),
            shared: shared(plan, Dialect::Go),
            own: chain_rules(&mappings, container, plan, Dialect::Go),
            ports: mappings.iter().map(|mapping| (mapping.protocol, mapping.host_port)).collect(),
            conditions: words_of(plan.conditions.of(version)),
        })
    }

    /// The entry rule for these ports, in the words of `iptables-save`.
    pub(crate) fn entry(&self, protocol: L4Protocol, ports: &str) -> String {
        let comment = quote(&self.names.go_comment);
        let Self { conditions, names, .. } = self;
        format!(
            "-p {protocol} -m comment --comment {comment} -m multiport --dports {ports}{conditions} -j {}",
            names.go_chain
        )
    }
}

fn mark(bit: u8) -> String {
    format!("0x{:x}/0x{:x}", 1u32 << bit, 1u32 << bit)
}

fn shared(plan: &Plan, dialect: Dialect) -> Vec<ChainRule> {
    let rule =
        |chain: &str, spec: String, first| ChainRule { chain: chain.to_owned(), spec, first };
    let local = format!("-m addrtype --dst-type LOCAL -j {TOP_CHAIN}");
    let mut rules = vec![rule("PREROUTING", local.clone(), false), rule("OUTPUT", local, false)];
    if plan.masquerade != Masquerade::Nobody && plan.set_mark_chain.is_none() {
        let mark = mark(plan.mark_bit);
        rules.push(rule(
            &dialect.setmark_chain(plan),
            format!(
                "-m comment --comment \"CNI portfwd masquerade mark\" -j MARK --set-xmark {mark}"
            ),
            false,
        ));
        rules.push(rule(MASQ_CHAIN, format!("-m mark --mark {mark} -j MASQUERADE"), false));
        rules.push(rule(
            "POSTROUTING",
            format!("-m comment --comment \"CNI portfwd requiring masquerade\" -j {MASQ_CHAIN}"),
            true,
        ));
    }
    rules
}

/// Drops what `route_localnet` would let in, to 127.0.0.0/8 (CVE-2020-8558) and from it; the Go plugin
/// has nothing like it.
pub(crate) fn guard() -> [ChainRule; 3] {
    let rule = |chain: &str, spec: String| ChainRule { chain: chain.to_owned(), spec, first: true };
    [
        rule(GUARD_CHAIN, "-d 127.0.0.0/8 ! -i lo -j DROP".to_owned()),
        rule(GUARD_CHAIN, "-s 127.0.0.0/8 ! -i lo -j DROP".to_owned()),
        rule("PREROUTING", format!("-j {GUARD_CHAIN}")),
    ]
}

fn chain_rules(
    mappings: &[Mapping],
    container: IpNet,
    plan: &Plan,
    dialect: Dialect,
) -> Vec<String> {
    let setmark = dialect.setmark_chain(plan);
    let sources: Vec<String> = plan
        .masquerade
        .sources(container)
        .into_iter()
        .map(|source| dialect.source(source))
        .collect();
    mappings.iter().flat_map(|mapping| own(mapping, &sources, &setmark)).collect()
}

/// Mark what must be masqueraded, then translate.
fn own(mapping: &Mapping, sources: &[String], setmark: &str) -> Vec<String> {
    let protocol = mapping.protocol;
    let to = mapping
        .host_address
        .map(|address| format!("-d {} ", IpNet::from(address)))
        .unwrap_or_default();
    let matching = format!("{to}-p {protocol} -m {protocol} --dport {}", mapping.host_port);
    let mut rules: Vec<String> =
        sources.iter().map(|source| format!("{source}{matching} -j {setmark}")).collect();
    let target = SocketAddr::new(mapping.container, mapping.container_port);
    rules.push(format!("{matching} -j DNAT --to-destination {target}"));
    rules
}

/// What one entry rule can match.
type Group = (Option<IpAddr>, L4Protocol);

/// One rule per host address and protocol, for up to fifteen ports.
fn entries(names: &Names, mappings: &[Mapping], conditions: &[String]) -> Vec<Entry> {
    let mut groups: Vec<(Group, Vec<u16>)> = Vec::new();
    for mapping in mappings {
        let key = (mapping.host_address, mapping.protocol);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, ports)) => ports.push(mapping.host_port),
            None => groups.push((key, vec![mapping.host_port])),
        }
    }
    // As in Go: protocols in alphabetical order, ports as configured.
    groups.sort_by_key(|((address, protocol), _)| (address.is_none(), *address, protocol.as_str()));
    let mut entries = Vec::new();
    for ((address, protocol), ports) in groups {
        for ports in ports.chunks(PORTS_PER_ENTRY) {
            // iptables takes one destination in a rule. The chain behind it asks for the host address, too.
            let to = address
                .filter(|_| !names_a_destination(conditions))
                .map(|address| format!("-d {} ", IpNet::from(address)))
                .unwrap_or_default();
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            let comment = quote(&names.comment);
            let words = words_of(conditions);
            entries.push(Entry {
                spec: format!(
                    "{to}-p {protocol} -m comment --comment {comment} -m multiport --dports {}{words}",
                    ports.join(",")
                ),
                specific: address.is_some(),
            });
        }
    }
    entries
}

fn names_a_destination(conditions: &[String]) -> bool {
    conditions.iter().any(|word| {
        let option = word.split('=').next().unwrap_or(word);
        ["--dst", "--destination"].contains(&option)
            || (word.starts_with("-d") && !word.starts_with("--"))
    })
}

fn words_of(conditions: &[String]) -> String {
    conditions.iter().flat_map(|word| [" ".to_owned(), condition(word)]).collect()
}

/// A condition's word: as it is if it can only be one, in quotes otherwise.
fn condition(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/,!+".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { quote(word) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::plan::Addresses;
    use cni_common::cni::Attachment;
    use cni_common::cni::protocol::NetworkConfig;

    /// The Go plugin's rules, but for `-s 127.0.0.0/8`, the interface in comments and entries of their own
    /// for `hostIP`.
    #[test]
    fn the_rules_of_the_go_plugin() {
        let text = r#"{"name":"h1net","cniVersion":"1.0.0","backend":"iptables","runtimeConfig":{"portMappings":[
            {"hostPort":8080,"containerPort":80,"protocol":"tcp"},
            {"hostPort":5353,"containerPort":53,"protocol":"udp","hostIP":"192.0.2.1"},
            {"hostPort":8443,"containerPort":443,"protocol":"tcp","hostIP":"::"},
            {"hostPort":9000,"containerPort":9000,"protocol":"sctp","hostIP":"0.0.0.0"}]}}"#;
        let network = NetworkConfig::from_stdin(text.as_bytes()).expect("envelope");
        let config = Config::read(&network).expect("valid");
        let addresses = Addresses {
            v4: Some("10.71.0.2/24".parse().expect("address")),
            v6: Some("fd71::2/64".parse().expect("address")),
        };
        let attachment = Attachment {
            network: "h1net".into(),
            container_id: "cid-one".into(),
            ifname: "eth0".into(),
        };
        let plan = Plan::new(&attachment, &config, addresses);
        let rules = Rules::new(&plan, IpVersion::V4).expect("v4");
        let text = |rules: &Rules| {
            let entries = rules.entries.iter().map(|entry| entry.to(&rules.names.chain));
            rules.own.iter().cloned().chain(entries).collect::<Vec<_>>().join("\n")
        };
        insta::assert_snapshot!(text(&rules), @r#"
        -s 10.71.0.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
        -s 127.0.0.0/8 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
        -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.71.0.2:80
        -s 10.71.0.0/24 -d 192.0.2.1/32 -p udp -m udp --dport 5353 -j CNI-HOSTPORT-SETMARK
        -s 127.0.0.0/8 -d 192.0.2.1/32 -p udp -m udp --dport 5353 -j CNI-HOSTPORT-SETMARK
        -d 192.0.2.1/32 -p udp -m udp --dport 5353 -j DNAT --to-destination 10.71.0.2:53
        -s 10.71.0.0/24 -p sctp -m sctp --dport 9000 -j CNI-HOSTPORT-SETMARK
        -s 127.0.0.0/8 -p sctp -m sctp --dport 9000 -j CNI-HOSTPORT-SETMARK
        -p sctp -m sctp --dport 9000 -j DNAT --to-destination 10.71.0.2:9000
        -d 192.0.2.1/32 -p udp -m comment --comment "dnat name: \"h1net\" id: \"cid-one\" if: \"eth0\"" -m multiport --dports 5353 -j CNI-DN-ede3ff773324b439b90d0
        -p sctp -m comment --comment "dnat name: \"h1net\" id: \"cid-one\" if: \"eth0\"" -m multiport --dports 9000 -j CNI-DN-ede3ff773324b439b90d0
        -p tcp -m comment --comment "dnat name: \"h1net\" id: \"cid-one\" if: \"eth0\"" -m multiport --dports 8080 -j CNI-DN-ede3ff773324b439b90d0
        "#);
        let rules = Rules::new(&plan, IpVersion::V6).expect("v6");
        insta::assert_snapshot!(text(&rules), @r#"
        -s fd71::/64 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
        -p tcp -m tcp --dport 8080 -j DNAT --to-destination [fd71::2]:80
        -s fd71::/64 -p tcp -m tcp --dport 8443 -j CNI-HOSTPORT-SETMARK
        -p tcp -m tcp --dport 8443 -j DNAT --to-destination [fd71::2]:443
        -p tcp -m comment --comment "dnat name: \"h1net\" id: \"cid-one\" if: \"eth0\"" -m multiport --dports 8080,8443 -j CNI-DN-ede3ff773324b439b90d0
        "#);
    }
}
