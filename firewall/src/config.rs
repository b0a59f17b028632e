//! The configuration of a `firewall` entry, typed and validated. No I/O.

use cni_common::cni::protocol::{CniError, ErrorCode, Field, Fields, NetworkConfig};
use cni_common::kernel::IpVersion;

use crate::reserved::is_reserved;

/// What the configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Where the rules live; `None` leaves the choice to what the host uses.
    pub(crate) backend: Option<BackendName>,
    /// The administrator's chain, whose rules come first.
    pub(crate) admin_chain: String,
    /// The zone that containers' addresses are put into (firewalld).
    pub(crate) zone: String,
    /// Who is kept out of the network's containers; `None` lets everybody in.
    pub(crate) policy: Option<Policy>,
    /// Other people's nftables chains that containers' packets must get through, each once.
    pub(crate) forward_chains: Vec<ForwardChain>,
}

/// The name of everything that is ours in nftables: our table, and our chain in other tables.
pub(crate) const OWN_NAME: &str = "cni_firewall";
/// Go's default for `iptablesAdminChainName`.
pub(crate) const DEFAULT_ADMIN_CHAIN: &str = "CNI-ADMIN";
/// Go's default for `firewalldZone`.
pub(crate) const DEFAULT_ZONE: &str = "trusted";
/// The kernel's limit for a chain's name in iptables.
const CHAIN_NAME_LEN: usize = 28;
/// A firewall that can admit containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendName {
    /// A table of our own.
    Nftables,
    /// Chains in the `filter` table.
    Iptables,
    /// A zone of the firewall daemon.
    Firewalld,
}

impl BackendName {
    /// As in the configuration.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Firewalld => "firewalld",
        }
    }
}

/// An ingress policy that keeps containers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Policy {
    /// Containers on the bridge reach each other, those on other bridges do not reach them.
    SameBridge,
    /// Nor do they reach each other.
    Isolated,
}

impl Policy {
    /// As in the configuration.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::SameBridge => "same-bridge",
            Self::Isolated => "isolated",
        }
    }
}

/// A base chain of somebody else's, of hook forward, in native nftables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ForwardChain {
    /// The packets that its table sees; both versions' if `None` (family `inet`).
    pub(crate) version: Option<IpVersion>,
    /// Its table's name.
    pub(crate) table: String,
    /// Its own name.
    pub(crate) chain: String,
}

impl Config {
    /// Reads the whole configuration for ADD, CHECK and STATUS.
    pub(crate) fn read(network: &NetworkConfig) -> Result<Self, CniError> {
        network.with_fields(|top| {
            Ok(Self {
                backend: backend(&top.field("backend"))?,
                admin_chain: admin_chain(&top.field("iptablesAdminChainName"))?,
                zone: zone(&top.field("firewalldZone"))?,
                policy: policy(&top.field("ingressPolicy"))?,
                forward_chains: forward_chains(&top.field("nftablesForwardChains"))?,
            })
        })
    }

    /// What DEL and GC go by, which no configuration may stop: a key that is not valid has its
    /// default.
    pub(crate) fn read_leniently(network: &NetworkConfig) -> Self {
        let read = |top: Fields<'_>| {
            Ok(Self {
                backend: backend(&top.field("backend")).unwrap_or_default(),
                admin_chain: admin_chain(&top.field("iptablesAdminChainName"))
                    .unwrap_or_else(|_| DEFAULT_ADMIN_CHAIN.to_owned()),
                zone: zone(&top.field("firewalldZone")).unwrap_or_else(|_| DEFAULT_ZONE.to_owned()),
                policy: policy(&top.field("ingressPolicy")).unwrap_or_default(),
                forward_chains: forward_chains(&top.field("nftablesForwardChains"))
                    .unwrap_or_default(),
            })
        };
        network.with_fields(read).unwrap_or_default()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backend: None,
            admin_chain: DEFAULT_ADMIN_CHAIN.to_owned(),
            zone: DEFAULT_ZONE.to_owned(),
            policy: None,
            forward_chains: Vec::new(),
        }
    }
}

fn unsupported(msg: String) -> CniError {
    CniError::new(ErrorCode::UnsupportedField, msg)
}

fn backend(field: &Field<'_>) -> Result<Option<BackendName>, CniError> {
    let all = [BackendName::Nftables, BackendName::Iptables, BackendName::Firewalld];
    match field.string()? {
        None | Some("") => Ok(None),
        Some(text) => match all.into_iter().find(|name| name.as_str() == text) {
            Some(name) => Ok(Some(name)),
            None => Err(unsupported(format!(
                "unrecognized backend {text:?}: use \"nftables\", \"iptables\" or \"firewalld\", or \
                 remove the key"
            ))),
        },
    }
}

fn policy(field: &Field<'_>) -> Result<Option<Policy>, CniError> {
    match field.string()? {
        None | Some("" | "open") => Ok(None),
        Some("same-bridge") => Ok(Some(Policy::SameBridge)),
        Some("isolated") => Ok(Some(Policy::Isolated)),
        Some(other) => Err(unsupported(format!(
            "unknown ingress policy: {other:?}: use \"open\", \"same-bridge\" or \"isolated\""
        ))),
    }
}

/// A name that both iptables and nft can read, and that is nobody else's.
fn admin_chain(field: &Field<'_>) -> Result<String, CniError> {
    let name = match field.string()? {
        None | Some("") => return Ok(DEFAULT_ADMIN_CHAIN.to_owned()),
        Some(name) => name,
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.starts_with(|c: char| c.is_ascii_alphabetic())
        || !name.chars().all(allowed)
        || name.len() > CHAIN_NAME_LEN
    {
        return Err(field.expected(
            "a chain name: a letter, then letters, digits, '-', '_' or '.', at most 28 in all",
        ));
    }
    if is_reserved(name) {
        return Err(field.expected(
            "a name that means nothing else: no chain of the firewall plugin, no target of iptables and no \
             word of nft is called so",
        ));
    }
    Ok(name.to_owned())
}

fn forward_chains(field: &Field<'_>) -> Result<Vec<ForwardChain>, CniError> {
    let mut chains = Vec::new();
    for item in field.list()?.into_iter().flatten() {
        chains.push(forward_chain(&item)?);
    }
    chains.sort();
    chains.dedup();
    Ok(chains)
}

fn forward_chain(item: &Field<'_>) -> Result<ForwardChain, CniError> {
    let entry = item.object()?.ok_or_else(|| item.expected("an object"))?;
    let (family, table, chain) =
        (entry.field("family"), entry.field("table"), entry.field("chain"));
    let version = match family.string()? {
        Some("inet") => None,
        Some("ip") => Some(IpVersion::V4),
        Some("ip6") => Some(IpVersion::V6),
        _ => return Err(family.expected("\"inet\", \"ip\" or \"ip6\"")),
    };
    let found = ForwardChain { version, table: nft_name(&table)?, chain: nft_name(&chain)? };
    if version.is_none() && found.table == OWN_NAME {
        return Err(table.expected("a table other than the plugin's own"));
    }
    if found.chain == OWN_NAME {
        return Err(chain.expected("a chain other than the plugin's own"));
    }
    if version.is_some() && found.table == "filter" && found.chain == "FORWARD" {
        return Err(chain.expected(
            "a native nftables chain (this one is iptables', which could not read its table any more: \
             use \"backend\":\"iptables\")",
        ));
    }
    Ok(found)
}

/// A name that fits an error message and a comment.
fn nft_name(field: &Field<'_>) -> Result<String, CniError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    match field.string()? {
        Some(name) if (1..=64).contains(&name.len()) && name.chars().all(allowed) => {
            Ok(name.to_owned())
        }
        _ => Err(field.expected("a name of up to 64 letters, digits, '-', '_', '.' or '/'")),
    }
}

fn zone(field: &Field<'_>) -> Result<String, CniError> {
    match field.string()? {
        None | Some("") => Ok(DEFAULT_ZONE.to_owned()),
        Some(name) if name.chars().any(char::is_control) => {
            Err(field.expected("the name of a zone"))
        }
        Some(name) => Ok(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(keys: &str) -> Result<Config, CniError> {
        let text = format!(r#"{{"name":"n","cniVersion":"1.0.0"{keys}}}"#);
        Config::read(&NetworkConfig::from_stdin(text.as_bytes()).expect("envelope"))
    }

    #[test]
    fn defaults_are_those_of_the_go_plugin() {
        let config = read("").expect("valid");
        assert_eq!(config.backend, None);
        assert_eq!(config.admin_chain, "CNI-ADMIN");
        assert_eq!(config.zone, "trusted");
        assert_eq!(config.policy, None);
        assert_eq!(read(r#","backend":"","ingressPolicy":"","firewalldZone":null"#), Ok(config));
    }

    #[test]
    fn every_value_is_read() {
        let config = read(
            r#","BACKEND":"iptables","iptablesAdminChainName":"CNI-foo.bar_1","firewalldZone":"internal",
               "ingressPolicy":"same-bridge""#,
        )
        .expect("valid");
        assert_eq!(config.backend, Some(BackendName::Iptables));
        assert_eq!(config.admin_chain, "CNI-foo.bar_1");
        assert_eq!(config.zone, "internal");
        assert_eq!(config.policy, Some(Policy::SameBridge));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for (keys, words) in [
            (r#","backend":"bogus""#, "unrecognized backend \"bogus\""),
            (r#","ingressPolicy":"closed""#, "unknown ingress policy: \"closed\""),
        ] {
            let error = read(keys).expect_err(keys);
            assert_eq!(error.code, ErrorCode::UnsupportedField, "{keys}");
            assert!(error.msg.contains(words), "{}", error.msg);
        }
    }

    #[test]
    fn forward_chains_are_native_and_of_others() {
        let entry = |family: &str, table: &str, chain: &str| {
            format!(r#"{{"family":"{family}","table":"{table}","chain":"{chain}"}}"#)
        };
        let read = |entry: &str| read(&format!(r#","nftablesForwardChains":[{entry},{entry}]"#));
        let config = read(&entry("inet", "filter", "forward")).expect("valid");
        let (table, chain) = ("filter".to_owned(), "forward".to_owned());
        let chain = ForwardChain { version: None, table, chain };
        assert_eq!(config.forward_chains, [chain], "each once");
        for (entry, words) in [
            ("{}".to_owned(), "[0].family must be"),
            (entry("arp", "filter", "forward"), "[0].family must be"),
            (entry("inet", "", "forward"), "[0].table must be a name"),
            (entry("inet", "filter", "a b"), "[0].chain must be a name"),
            (entry("inet", "cni_firewall", "forward"), "[0].table must be a table other"),
            (entry("inet", "filter", "cni_firewall"), "[0].chain must be a chain other"),
            (entry("ip", "filter", "FORWARD"), "iptables"),
            ("7".to_owned(), "[0] must be an object"),
        ] {
            let error = read(&entry).expect_err(&entry);
            assert_eq!(error.code, ErrorCode::InvalidNetworkConfig, "{entry}");
            assert!(error.msg.contains(words), "{}", error.msg);
        }
    }

    #[test]
    fn an_admin_chain_cannot_smuggle_words() {
        let long = "A".repeat(29);
        for name in [
            "a b",
            "-A",
            "x\\ny",
            "1st",
            "x;",
            "ä",
            "CNI-FORWARD",
            "FORWARD",
            "REJECT",
            "ip",
            &long,
        ] {
            let keys = format!(r#","iptablesAdminChainName":"{name}""#);
            let error = read(&keys).expect_err(name);
            assert!(error.msg.contains("iptablesAdminChainName"), "{}", error.msg);
        }
    }

    #[test]
    fn del_reads_what_it_can() {
        let text = br#"{"name":"n","backend":"bogus","firewalldZone":"internal"}"#;
        let network = NetworkConfig::from_stdin(text).expect("envelope");
        let expected = Config { zone: "internal".to_owned(), ..Config::default() };
        assert_eq!(Config::read_leniently(&network), expected);
    }
}
