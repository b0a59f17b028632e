//! The configuration of a `firewall` entry, typed and validated. No I/O.

use cni_common::cni::protocol::{CniError, ErrorCode, Field, NetworkConfig};
use cni_common::kernel::nft::{Family, Table};

use crate::forward_chains::ForwardChain;
use crate::layout::TABLE;

/// What the configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the rules live; `None` leaves the choice to what the host uses.
    pub backend: Option<BackendName>,
    /// The administrator's chain, whose rules come first.
    pub admin_chain: String,
    /// The zone that containers' addresses are put into (firewalld).
    pub zone: String,
    /// Who may reach the network's containers.
    pub ingress: IngressPolicy,
    /// Other people's nftables chains that containers' packets must get through, each once.
    pub forward_chains: Vec<ForwardChain>,
}

/// Go's default for `iptablesAdminChainName`.
pub const DEFAULT_ADMIN_CHAIN: &str = "CNI-ADMIN";
/// Go's default for `firewalldZone`.
pub const DEFAULT_ZONE: &str = "trusted";
/// The kernel's limit for a chain's name in iptables.
const CHAIN_NAME_LEN: usize = 28;
/// Names that already mean something to one of the backends.
const RESERVED_CHAINS: [&str; 14] = [
    "CNI-FORWARD",
    "CNI-ISOLATION-STAGE-1",
    "CNI-ISOLATION-STAGE-2",
    "CNI-ISOLATION-MEMBERS",
    "CNI-ISOLATION-INPUT",
    "INPUT",
    "FORWARD",
    "OUTPUT",
    "admin",
    "forward",
    "input",
    "isolation",
    "accept",
    "drop",
];

/// A place that rules can live in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendName {
    /// A table of our own.
    Nftables,
    /// Chains in the `filter` table.
    Iptables,
    /// A zone of the firewall daemon.
    Firewalld,
}

impl BackendName {
    /// As in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Firewalld => "firewalld",
        }
    }
}

/// Who may reach a network's containers from other networks' containers, and each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngressPolicy {
    /// Everybody.
    Open,
    /// Containers on the same bridge.
    SameBridge,
    /// No container.
    Isolated,
}

impl IngressPolicy {
    /// As in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::SameBridge => "same-bridge",
            Self::Isolated => "isolated",
        }
    }
}

impl Config {
    /// Reads the whole configuration for ADD, CHECK and STATUS.
    pub fn read(network: &NetworkConfig) -> Result<Self, CniError> {
        network.with_fields(|top| {
            Ok(Self {
                backend: backend(&top.field("backend"))?,
                admin_chain: admin_chain(&top.field("iptablesAdminChainName"))?,
                zone: zone(&top.field("firewalldZone"))?,
                ingress: ingress(&top.field("ingressPolicy"))?,
                forward_chains: forward_chains(&top.field("nftablesForwardChains"))?,
            })
        })
    }

    /// What DEL goes by where the configuration is not valid any more.
    #[must_use]
    pub fn read_or_default(network: &NetworkConfig) -> Self {
        Self::read(network).unwrap_or_else(|_| Self {
            backend: None,
            admin_chain: DEFAULT_ADMIN_CHAIN.to_owned(),
            zone: network
                .with_fields(|top| zone(&top.field("firewalldZone")))
                .unwrap_or_else(|_| DEFAULT_ZONE.to_owned()),
            ingress: IngressPolicy::Open,
            forward_chains: Vec::new(),
        })
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

fn ingress(field: &Field<'_>) -> Result<IngressPolicy, CniError> {
    match field.string()? {
        None | Some("" | "open") => Ok(IngressPolicy::Open),
        Some("same-bridge") => Ok(IngressPolicy::SameBridge),
        Some("isolated") => Ok(IngressPolicy::Isolated),
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
    if RESERVED_CHAINS.contains(&name) {
        return Err(field.expected("a name that no chain of the firewall plugin has"));
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
    let word = family.string()?;
    let known = [Family::Inet, Family::Ip, Family::Ip6];
    let known = known.into_iter().find(|known| word == Some(known.as_str()));
    let known = known.ok_or_else(|| family.expected("\"inet\", \"ip\" or \"ip6\""))?;
    let found = ForwardChain {
        table: Table { family: known, name: nft_name(&table)?.into() },
        chain: nft_name(&chain)?,
    };
    if found.table == TABLE {
        return Err(table.expected("a table other than the plugin's own"));
    }
    if known != Family::Inet && found.table.name == "filter" && found.chain == "FORWARD" {
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
        assert_eq!(config.ingress, IngressPolicy::Open);
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
        assert_eq!(config.ingress, IngressPolicy::SameBridge);
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
        let expected = Table::new(Family::Inet, "filter");
        let chain = ForwardChain { table: expected, chain: "forward".to_owned() };
        assert_eq!(config.forward_chains, [chain], "each once");
        for (entry, words) in [
            ("{}".to_owned(), "[0].family must be"),
            (entry("arp", "filter", "forward"), "[0].family must be"),
            (entry("inet", "", "forward"), "[0].table must be a name"),
            (entry("inet", "filter", "a b"), "[0].chain must be a name"),
            (entry("inet", "cni_firewall", "forward"), "[0].table must be a table other"),
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
        for name in ["a b", "-A", "x\\ny", "1st", "x;", "ä", "CNI-FORWARD", "FORWARD", &long] {
            let keys = format!(r#","iptablesAdminChainName":"{name}""#);
            let error = read(&keys).expect_err(name);
            assert!(error.msg.contains("iptablesAdminChainName"), "{}", error.msg);
        }
    }

    #[test]
    fn del_reads_what_it_can() {
        let text = br#"{"name":"n","backend":"bogus","firewalldZone":"internal"}"#;
        let network = NetworkConfig::from_stdin(text).expect("envelope");
        assert_eq!(Config::read_or_default(&network).zone, "internal");
    }
}
