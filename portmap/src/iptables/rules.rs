//! The iptables rules of one attachment. Pure.
//!
//! Chains, shapes and comments are those of the Go portmap, because tools read them (nerdctl
//! finds used ports in them) and because nodes are upgraded in place. Specifications are written
//! as `iptables-save` prints them.

use std::net::IpAddr;

use cni_common::cni::Attachment;
use cni_common::kernel::iptables::quote;
use cni_common::kernel::nft::L4Protocol;
use ipnet::IpNet;
use sha2::{Digest as _, Sha512};

use crate::config::{Config, DEFAULT_MARK_BIT};
use crate::plan::{ActiveMapping, Addresses, active_mappings};

/// Where all of it is.
pub const TABLE: &str = "nat";
/// Where packets from outside are kept from 127.0.0.0/8.
pub const GUARD_TABLE: &str = "raw";

/// One entry rule per container and protocol; entered from PREROUTING and OUTPUT.
pub const TOP_CHAIN: &str = "CNI-HOSTPORT-DNAT";
const SETMARK_CHAIN: &str = "CNI-HOSTPORT-SETMARK";
const MASQ_CHAIN: &str = "CNI-HOSTPORT-MASQ";
/// What the Go plugin's ancestors made and nobody makes any more.
pub const OLD_SNAT_TOP: &str = "CNI-HOSTPORT-SNAT";
/// Chains that all attachments share; names may go on with `-` and a bit.
pub const SHARED_CHAINS: [&str; 4] = [TOP_CHAIN, SETMARK_CHAIN, MASQ_CHAIN, OLD_SNAT_TOP];
/// Drops packets for 127.0.0.0/8 that do not come from the host itself.
pub const GUARD_CHAIN: &str = "CNI-HOSTPORT-GUARD";

/// multiport takes this many ports.
const PORTS_PER_ENTRY: usize = 15;
/// The length of a chain name that the Go plugins cut theirs to.
const CHAIN_LEN: usize = 28;
/// A comment has 256 bytes with its terminator; the Go plugin cuts longer ones so.
const COMMENT_LEN: usize = 255;

/// The interface that Go's chain names and comments, which know none, stand for.
pub const USUAL_IFNAME: &str = "eth0";

/// Names of an attachment's chains and the comment of its entry rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The chain with its translations: Go's, whose name knows no interface, for `eth0`.
    pub chain: String,
    /// The chain if another attachment has that one: Go's digest has no separator between
    /// network and container.
    pub alternative: String,
    /// Go's chain for this network and container.
    pub go_chain: String,
    /// The chain of the old `CNI-HOSTPORT-SNAT`.
    pub old_snat_chain: String,
    /// `dnat name: "…" id: "…"`
    pub comment: String,
    /// The same as Go writes it, which knows no interface.
    pub go_comment: String,
}

/// Whose entry rule a comment belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Network, container and interface.
    pub attachment: Attachment,
}

impl Names {
    /// The names for an attachment.
    #[must_use]
    pub fn new(attachment: &Attachment) -> Self {
        let Attachment { network, container_id, ifname } = attachment;
        let go_chain = hashed("CNI-DN-", &format!("{network}{container_id}"));
        let alternative = hashed("CNI-DN-", &format!("{network}/{container_id}/{ifname}"));
        let plain = format!("dnat name: \"{network}\" id: \"{container_id}\"");
        let usual = ifname == USUAL_IFNAME;
        Self {
            chain: if usual { go_chain.clone() } else { alternative.clone() },
            alternative,
            go_chain,
            old_snat_chain: hashed("CNI-SN-", &format!("{network}{container_id}")),
            comment: fit(if usual { plain.clone() } else { format!("{plain} if: \"{ifname}\"") }),
            go_comment: fit(plain),
        }
    }

    /// Every chain that may be the attachment's.
    #[must_use]
    pub fn chains(&self) -> [&String; 4] {
        [&self.chain, &self.alternative, &self.go_chain, &self.old_snat_chain]
    }

    /// Whether an entry rule with this comment and target is the attachment's. `leads_to_us` says
    /// whether the target translates to the container's addresses only: Go's comments do not tell
    /// a container's interfaces apart.
    #[must_use]
    pub fn owns(&self, comment: &str, target: &str, leads_to_us: impl FnOnce() -> bool) -> bool {
        if comment == self.comment {
            // One that is cut off names the network at best.
            return comment.len() < COMMENT_LEN
                || self.chains().iter().any(|chain| *chain == target);
        }
        comment == self.go_comment && target == self.go_chain && leads_to_us()
    }
}

const CUT: &str = "...";

fn fit(comment: String) -> String {
    if comment.len() <= COMMENT_LEN {
        return comment;
    }
    // Names are ASCII; the Go plugin cuts at the same place.
    format!("{}{CUT}", &comment[..COMMENT_LEN - 2]).chars().take(COMMENT_LEN).collect()
}

impl Owner {
    /// Reads an entry rule's comment; `None` for one that is cut off or somebody else's.
    #[must_use]
    pub fn from_comment(comment: &str) -> Option<Self> {
        let rest = comment.strip_prefix("dnat name: \"")?;
        let (network, rest) = rest.split_once("\" id: \"")?;
        let (container_id, rest) = rest.split_once('"')?;
        let ifname = match rest {
            "" => USUAL_IFNAME,
            _ => rest.strip_prefix(" if: \"")?.strip_suffix('"')?,
        };
        Some(Self {
            attachment: Attachment {
                network: network.to_owned(),
                container_id: container_id.to_owned(),
                ifname: ifname.to_owned(),
            },
        })
    }
}

fn hashed(prefix: &str, text: &str) -> String {
    let digits = cni_common::cni::attachment::hex(&Sha512::digest(text.as_bytes()));
    format!("{prefix}{}", &digits[..CHAIN_LEN - prefix.len()])
}

/// A rule and the chain it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainRule {
    /// The chain.
    pub chain: String,
    /// The specification.
    pub spec: String,
    /// Whether it goes to the chain's beginning if it is missing.
    pub first: bool,
}

/// A rule of `CNI-HOSTPORT-DNAT` that leads to an attachment's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The specification, but for the chain that it leads to.
    spec: String,
    /// Whether it is for one host address; those stand before the ones for any.
    pub specific: bool,
}

/// Whose way of writing rules. They differ in little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Loopback is 127.0.0.0/8; a mark bit of its own has a chain of its own.
    Ours,
    /// Loopback is 127.0.0.1; one chain for all mark bits.
    Go,
}

impl Dialect {
    fn loopback(self) -> &'static str {
        match self {
            Self::Ours => "127.0.0.0/8",
            Self::Go => "127.0.0.1/32",
        }
    }

    /// In a shared chain, every network would get every bit.
    fn setmark_chain(self, config: &Config) -> String {
        match &config.external_set_mark_chain {
            Some(chain) => chain.clone(),
            None if self == Self::Go || config.mark_bit == DEFAULT_MARK_BIT => {
                SETMARK_CHAIN.to_owned()
            }
            None => format!("{SETMARK_CHAIN}-{}", config.mark_bit),
        }
    }
}

/// Everything of one attachment in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The attachment's names.
    pub names: Names,
    /// Shared chains with their rules, and the jumps to them.
    pub shared: Vec<ChainRule>,
    /// The attachment's own chain, in order.
    pub own: Vec<String>,
    /// Its entry rules.
    pub entries: Vec<Entry>,
    /// The mappings that it carries out.
    pub active: Vec<ActiveMapping>,
}

impl Entry {
    /// The rule that leads to this chain.
    #[must_use]
    pub fn to(&self, chain: &str) -> String {
        format!("{} -j {chain}", self.spec)
    }
}

impl Rules {
    /// The rules for one family; `None` if nothing is mapped in it.
    #[must_use]
    pub fn new(
        attachment: &Attachment,
        config: &Config,
        addresses: Addresses,
        v4: bool,
    ) -> Option<Self> {
        let (container, active) = mapped(config, addresses, v4)?;
        let names = Names::new(attachment);
        let conditions = if v4 { &config.conditions_v4 } else { &config.conditions_v6 };
        let dialect = Dialect::Ours;
        Some(Self {
            shared: shared(config, dialect),
            own: chain_rules(&active, container, config, dialect),
            entries: entries(&names, &active, conditions),
            names,
            active,
        })
    }
}

/// The container's address in one family, and what is mapped to it.
fn mapped(config: &Config, addresses: Addresses, v4: bool) -> Option<(IpNet, Vec<ActiveMapping>)> {
    let container = if v4 { addresses.v4 } else { addresses.v6 }?;
    let mut active = active_mappings(&config.mappings, addresses);
    active.retain(|mapping| mapping.container == container.addr());
    (!active.is_empty()).then_some((container, active))
}

/// What the Go plugin makes of the same attachment in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoRules {
    /// The attachment's names.
    pub names: Names,
    /// Shared chains with their rules, and the jumps to them.
    pub shared: Vec<ChainRule>,
    /// The attachment's own chain, in order.
    pub own: Vec<String>,
    /// Protocols and ports that entry rules must cover.
    pub ports: Vec<(L4Protocol, u16)>,
    /// What the entry rules must match besides, as they are written.
    pub conditions: String,
}

impl GoRules {
    /// The rules for one family; `None` if nothing is mapped in it.
    #[must_use]
    pub fn new(
        attachment: &Attachment,
        config: &Config,
        addresses: Addresses,
        v4: bool,
    ) -> Option<Self> {
        let (container, active) = mapped(config, addresses, v4)?;
        let conditions = if v4 { &config.conditions_v4 } else { &config.conditions_v6 };
        let dialect = Dialect::Go;
        Some(Self {
            names: Names::new(attachment),
            shared: shared(config, dialect),
            own: chain_rules(&active, container, config, dialect),
            ports: active.iter().map(|mapping| (mapping.protocol, mapping.host_port)).collect(),
            conditions: words_of(conditions),
        })
    }

    /// The entry rule for these ports, in the words of `iptables-save`.
    #[must_use]
    pub fn entry(&self, protocol: L4Protocol, ports: &str) -> String {
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

fn shared(config: &Config, dialect: Dialect) -> Vec<ChainRule> {
    let rule =
        |chain: &str, spec: String, first| ChainRule { chain: chain.to_owned(), spec, first };
    let local = format!("-m addrtype --dst-type LOCAL -j {TOP_CHAIN}");
    let mut rules = vec![rule("PREROUTING", local.clone(), false), rule("OUTPUT", local, false)];
    if config.snat && config.external_set_mark_chain.is_none() {
        let mark = mark(config.mark_bit);
        rules.push(rule(
            &dialect.setmark_chain(config),
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

/// Drops what `route_localnet` would let in (CVE-2020-8558); the Go plugin has nothing like it.
#[must_use]
pub fn guard() -> [ChainRule; 2] {
    let rule = |chain: &str, spec: String| ChainRule { chain: chain.to_owned(), spec, first: true };
    [
        rule(GUARD_CHAIN, "-d 127.0.0.0/8 ! -i lo -j DROP".to_owned()),
        rule("PREROUTING", format!("-j {GUARD_CHAIN}")),
    ]
}

fn chain_rules(
    active: &[ActiveMapping],
    container: IpNet,
    config: &Config,
    dialect: Dialect,
) -> Vec<String> {
    active.iter().flat_map(|mapping| own(mapping, container, config, dialect)).collect()
}

/// Mark what must be masqueraded, then translate.
fn own(
    mapping: &ActiveMapping,
    container: IpNet,
    config: &Config,
    dialect: Dialect,
) -> Vec<String> {
    let protocol = mapping.protocol;
    let to = mapping
        .host_address
        .map(|address| format!("-d {} ", IpNet::from(address)))
        .unwrap_or_default();
    let matching = format!("{to}-p {protocol} -m {protocol} --dport {}", mapping.host_port);
    let mut rules = Vec::new();
    if config.snat {
        let mut sources = Vec::new();
        if config.masq_all {
            sources.push(String::new());
        } else {
            sources.push(format!("-s {} ", container.trunc()));
            if container.addr().is_ipv4() {
                sources.push(format!("-s {} ", dialect.loopback()));
            }
        }
        let setmark = dialect.setmark_chain(config);
        rules.extend(sources.into_iter().map(|source| format!("{source}{matching} -j {setmark}")));
    }
    let target = std::net::SocketAddr::new(mapping.container, mapping.container_port);
    rules.push(format!("{matching} -j DNAT --to-destination {target}"));
    rules
}

/// What one entry rule can match.
type Group = (Option<IpAddr>, L4Protocol);

/// One rule per host address and protocol, for up to fifteen ports.
fn entries(names: &Names, active: &[ActiveMapping], conditions: &[String]) -> Vec<Entry> {
    let mut groups: Vec<(Group, Vec<u16>)> = Vec::new();
    for mapping in active {
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
            let to =
                address.map(|address| format!("-d {} ", IpNet::from(address))).unwrap_or_default();
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
    use cni_common::cni::protocol::NetworkConfig;

    fn attachment(network: &str, container_id: &str, ifname: &str) -> Attachment {
        Attachment {
            network: network.into(),
            container_id: container_id.into(),
            ifname: ifname.into(),
        }
    }

    #[test]
    fn chain_names_of_the_go_plugin() {
        let chain = |network: &str, id: &str| Names::new(&attachment(network, id, "eth0")).chain;
        assert_eq!(chain("h1net", "cid-one"), "CNI-DN-ede3ff773324b439b90d0");
        assert_eq!(hashed("CNI-", "test1234"), "CNI-2bbe0c48b91a7d1b8a6753a8");
        let other = Names::new(&attachment("h1net", "cid-one", "net1"));
        assert_ne!(other.chain, chain("h1net", "cid-one"));
        assert_eq!(other.go_chain, chain("h1net", "cid-one"));
    }

    #[test]
    fn comments_name_the_owner() {
        for ifname in ["eth0", "net1"] {
            let attachment = attachment("h1net", "cid-one", ifname);
            let comment = Names::new(&attachment).comment;
            assert_eq!(Owner::from_comment(&comment), Some(Owner { attachment }));
        }
        for foreign in ["", "something", "dnat name: \"x", "dnat name: \"x\" id: \"y..."] {
            assert_eq!(Owner::from_comment(foreign), None, "{foreign}");
        }
        let long = Names::new(&attachment(&"n".repeat(300), "c", "eth0")).comment;
        assert_eq!(long.len(), COMMENT_LEN);
        let names = Names::new(&attachment(&"n".repeat(300), "c", "eth0"));
        assert!(names.owns(&long, &names.chain, || false));
        assert!(!names.owns(&long, "CNI-DN-another", || true));
    }

    /// reference/portmap.md §5.4, but for `-s 127.0.0.0/8` and entries of their own for `hostIP`.
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
        let attachment = attachment("h1net", "cid-one", "eth0");
        let rules = Rules::new(&attachment, &config, addresses, true).expect("v4");
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
        -d 192.0.2.1/32 -p udp -m comment --comment "dnat name: \"h1net\" id: \"cid-one\"" -m multiport --dports 5353 -j CNI-DN-ede3ff773324b439b90d0
        -p sctp -m comment --comment "dnat name: \"h1net\" id: \"cid-one\"" -m multiport --dports 9000 -j CNI-DN-ede3ff773324b439b90d0
        -p tcp -m comment --comment "dnat name: \"h1net\" id: \"cid-one\"" -m multiport --dports 8080 -j CNI-DN-ede3ff773324b439b90d0
        "#);
        let rules = Rules::new(&attachment, &config, addresses, false).expect("v6");
        insta::assert_snapshot!(text(&rules), @r#"
        -s fd71::/64 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
        -p tcp -m tcp --dport 8080 -j DNAT --to-destination [fd71::2]:80
        -s fd71::/64 -p tcp -m tcp --dport 8443 -j CNI-HOSTPORT-SETMARK
        -p tcp -m tcp --dport 8443 -j DNAT --to-destination [fd71::2]:443
        -p tcp -m comment --comment "dnat name: \"h1net\" id: \"cid-one\"" -m multiport --dports 8080,8443 -j CNI-DN-ede3ff773324b439b90d0
        "#);
    }
}
