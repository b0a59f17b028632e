//! The configuration of a `portmap` entry, typed and validated. No I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_common::cni::protocol::result::unmapped;
use cni_common::cni::protocol::{CniError, ErrorCode, Field, Fields, NetworkConfig};
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::L4Protocol;

/// What the configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The backend it names, or that its options need; `None` leaves the choice to us.
    pub(crate) backend: Option<BackendName>,
    /// iptables: somebody else's chain that marks packets for masquerading.
    pub(crate) external_set_mark_chain: Option<String>,
    /// Masquerade what would otherwise never find its way back: hairpin and loopback sources.
    pub(crate) snat: bool,
    /// Masquerade every source; external clients' addresses are lost.
    pub(crate) masq_all: bool,
    /// 0 to 31
    pub(crate) mark_bit: u8,
    pub(crate) conditions: Conditions,
    pub(crate) on_conflict: OnConflict,
    /// Whether a runtime may hand it mappings, or did: another entry of the list may be the one.
    pub(crate) takes_mappings: bool,
    /// Exact repetitions are still among them.
    pub(crate) mappings: Vec<PortMapping>,
}

/// What packets to a network's mappings must match as well, in the words of its backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    pub(crate) v4: Vec<String>,
    pub(crate) v6: Vec<String>,
}

impl Conditions {
    pub(crate) fn of(&self, version: IpVersion) -> &[String] {
        match version {
            IpVersion::V4 => &self.v4,
            IpVersion::V6 => &self.v6,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// What carries out the mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendName {
    Nftables,
    Iptables,
}

impl BackendName {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// The default of `markMasqBit`: Go portmap's.
pub(crate) const DEFAULT_MARK_BIT: u8 = 13;

/// What ADD does about a host port that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnConflict {
    /// The newest attachment gets it; a stale entry must not black-hole a new container.
    Replace,
    /// ADD fails and names the owner.
    Fail,
    /// The new attachment waits behind everyone who has the port or waits for it already.
    Wait,
}

/// One host port that leads to one container port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortMapping {
    pub(crate) host_port: u16,
    pub(crate) container_port: u16,
    pub(crate) protocol: L4Protocol,
    pub(crate) host: HostAddress,
}

/// Which of the host's addresses a mapping answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostAddress {
    /// Any, in both families.
    Any,
    /// Any IPv4 address (`0.0.0.0`).
    AnyV4,
    /// Any IPv6 address (`::`).
    AnyV6,
    /// This one.
    One(IpAddr),
}

impl HostAddress {
    /// Whether a container address of this family can be behind it.
    pub(crate) fn serves(self, version: IpVersion) -> bool {
        match self {
            Self::Any => true,
            Self::AnyV4 => version == IpVersion::V4,
            Self::AnyV6 => version == IpVersion::V6,
            Self::One(address) => IpVersion::of(address) == version,
        }
    }
}

/// What a configuration without any of the keys asks for.
impl Default for Config {
    fn default() -> Self {
        Self {
            backend: None,
            external_set_mark_chain: None,
            snat: true,
            masq_all: false,
            mark_bit: DEFAULT_MARK_BIT,
            conditions: Conditions::default(),
            on_conflict: OnConflict::Replace,
            takes_mappings: true,
            mappings: Vec::new(),
        }
    }
}

impl Config {
    /// Reads the whole configuration for ADD, CHECK and STATUS.
    pub(crate) fn read(network: &NetworkConfig) -> Result<Self, CniError> {
        network.with_fields(|top| {
            let mark_bit_field = top.field("markMasqBit");
            let mark_bit = mark_bit_field.integer(0..=31)?;
            let chain_field = top.field("externalSetMarkChain");
            let external_chain = chain_field.string()?;
            if external_chain.is_some() && mark_bit.is_some() {
                return Err(CniError::config(
                    "Cannot specify externalSetMarkChain and markMasqBit: remove one of them",
                ));
            }
            let mappings = mappings(top)?;
            let mut config = Self {
                backend: None,
                external_set_mark_chain: external_chain.map(str::to_owned),
                snat: top.field("snat").boolean()?.unwrap_or(true),
                masq_all: top.field("masqAll").boolean()?.unwrap_or(false),
                mark_bit: mark_bit.and_then(|bit| bit.try_into().ok()).unwrap_or(DEFAULT_MARK_BIT),
                conditions: Conditions {
                    v4: words(&top.field("conditionsV4"))?,
                    v6: words(&top.field("conditionsV6"))?,
                },
                on_conflict: on_conflict(&top.field("onConflict"))?,
                takes_mappings: mappings.is_some() || is_capable(top)?,
                mappings: mappings.unwrap_or_default(),
            };
            config.backend = backend(&top.field("backend"), &config)?;
            if let Some(chain) = &config.external_set_mark_chain {
                validate_chain_name(chain, &chain_field)?;
            }
            Ok(config)
        })
    }

    /// Reads what DEL can use, which must clean up whatever the configuration says today: if any of
    /// it is invalid, the mappings alone, and if those are, nothing.
    pub(crate) fn read_leniently(network: &NetworkConfig) -> Self {
        Self::read(network).unwrap_or_else(|_| Self {
            mappings: network.with_fields(mappings).ok().flatten().unwrap_or_default(),
            ..Self::default()
        })
    }
}

/// The backend that is named, or that options need which only one of them has.
fn backend(field: &Field<'_>, config: &Config) -> Result<Option<BackendName>, CniError> {
    let unsupported = |msg: String| Err(CniError::new(ErrorCode::UnsupportedField, msg));
    let named = match field.string()? {
        None => None,
        Some("nftables") => Some(BackendName::Nftables),
        Some("iptables") => Some(BackendName::Iptables),
        Some(other) => {
            return unsupported(format!(
                "unrecognized backend {other:?}: use \"nftables\" or \"iptables\", or remove the key"
            ));
        }
    };
    let iptables = options_of(BackendName::Iptables, config);
    let nftables = options_of(BackendName::Nftables, config);
    let refuse = |chosen: BackendName, other: BackendName, options: &[&str]| {
        unsupported(format!(
            "{} backend was requested but configuration contains {}-specific options [{}]: \
             remove them, or write conditions in the words of {}",
            chosen.as_str(),
            other.as_str(),
            options.join(" "),
            chosen.as_str()
        ))
    };
    match named {
        Some(BackendName::Nftables) if !iptables.is_empty() => {
            refuse(BackendName::Nftables, BackendName::Iptables, &iptables)
        }
        Some(BackendName::Iptables) if !nftables.is_empty() => {
            refuse(BackendName::Iptables, BackendName::Nftables, &nftables)
        }
        Some(named) => Ok(Some(named)),
        None if iptables.is_empty() && nftables.is_empty() => Ok(None),
        None if iptables.is_empty() => Ok(Some(BackendName::Nftables)),
        None if nftables.is_empty() => Ok(Some(BackendName::Iptables)),
        None => refuse(BackendName::Iptables, BackendName::Nftables, &nftables),
    }
}

/// Options that only this backend can honour. The first character of conditions tells whose
/// words they are.
fn options_of(backend: BackendName, config: &Config) -> Vec<&'static str> {
    let mut options = Vec::new();
    if backend == BackendName::Iptables && config.external_set_mark_chain.is_some() {
        options.push("externalSetMarkChain");
    }
    for (name, words) in
        [("conditionsV4", &config.conditions.v4), ("conditionsV6", &config.conditions.v6)]
    {
        let of_iptables = words.first().map(|word| word.starts_with(['-', '!']));
        if of_iptables == Some(backend == BackendName::Iptables) {
            options.push(name);
        }
    }
    options
}

/// A chain name as iptables takes it: 28 bytes, no blanks, not an option.
fn validate_chain_name(name: &str, field: &Field<'_>) -> Result<(), CniError> {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\' | '!');
    if (1..=28).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('-') {
        return Ok(());
    }
    Err(field.expected("the name of an iptables chain, at most 28 characters"))
}

/// An entry is one argument, blanks and all, as with the Go plugin; an empty one means nothing. One that
/// is an option and its value in one (`-s 192.0.2.1`), which iptables would not take, is both.
fn words(field: &Field<'_>) -> Result<Vec<String>, CniError> {
    let mut words = Vec::new();
    for item in field.list()?.into_iter().flatten() {
        let word = item.string()?.ok_or_else(|| item.expected("a string"))?;
        if word.starts_with(['-', '!']) {
            words.extend(word.split_whitespace().map(str::to_owned));
        } else if !word.trim().is_empty() {
            words.push(word.to_owned());
        }
    }
    Ok(words)
}

fn on_conflict(field: &Field<'_>) -> Result<OnConflict, CniError> {
    match field.string()? {
        None | Some("" | "replace") => Ok(OnConflict::Replace),
        Some("fail") => Ok(OnConflict::Fail),
        Some("wait") => Ok(OnConflict::Wait),
        Some(_) => Err(field.expected("\"replace\", \"wait\" or \"fail\"")),
    }
}

/// Whether a runtime hands it the mappings, if there are any.
fn is_capable(top: Fields<'_>) -> Result<bool, CniError> {
    let capabilities = top.field("capabilities");
    let Some(capabilities) = capabilities.object()? else { return Ok(false) };
    Ok(capabilities.field("portMappings").boolean()?.unwrap_or(false))
}

/// The mappings, which may be none; `None` if the list itself is not there.
fn mappings(top: Fields<'_>) -> Result<Option<Vec<PortMapping>>, CniError> {
    let runtime = top.field("runtimeConfig");
    let Some(runtime) = runtime.object()? else { return Ok(None) };
    let list = runtime.field("portMappings");
    let Some(entries) = list.list()? else { return Ok(None) };
    let mut mappings = Vec::new();
    for entry in entries {
        mappings.push(mapping(&entry)?);
    }
    reject_contradictions(&mappings)?;
    Ok(Some(mappings))
}

fn mapping(entry: &Field<'_>) -> Result<PortMapping, CniError> {
    let fields = entry.object()?.ok_or_else(|| entry.expected("an object"))?;
    let port = |key| {
        let field = fields.field(key);
        let port = field.integer(1..=u64::from(u16::MAX))?;
        port.and_then(|port| u16::try_from(port).ok())
            .ok_or_else(|| field.expected("an integer from 1 to 65535"))
    };
    let container_port = port("containerPort")?;
    let host_port = port("hostPort")?;
    let protocol = fields.field("protocol");
    Ok(PortMapping {
        host_port,
        container_port,
        protocol: protocol
            .string()?
            .and_then(L4Protocol::from_text)
            .ok_or_else(|| protocol.expected("tcp, udp or sctp"))?,
        host: host_address(&fields.field("hostIP"))?,
    })
}

fn host_address(field: &Field<'_>) -> Result<HostAddress, CniError> {
    let Some(text) = field.string()?.filter(|text| !text.is_empty()) else {
        return Ok(HostAddress::Any);
    };
    let address: IpAddr = text.parse().map_err(|_| {
        field.expected("an IPv4 or IPv6 address of the host, without prefix length or zone")
    })?;
    Ok(match unmapped(address) {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => HostAddress::AnyV4,
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => HostAddress::AnyV6,
        address => HostAddress::One(address),
    })
}

/// Refuses one host port that leads to two container ports; drops exact repetitions later.
fn reject_contradictions(mappings: &[PortMapping]) -> Result<(), CniError> {
    let mut seen = std::collections::HashMap::new();
    for (index, mapping) in mappings.iter().enumerate() {
        for version in IpVersion::ALL.into_iter().filter(|version| mapping.host.serves(*version)) {
            let address = match mapping.host {
                HostAddress::One(address) => Some(address),
                _ => None,
            };
            let key = (version, address, mapping.protocol, mapping.host_port);
            let (first, port) = *seen.entry(key).or_insert((index, mapping.container_port));
            if port != mapping.container_port {
                return Err(CniError::config(format!(
                    "runtimeConfig.portMappings[{index}] maps host port {}/{} to container port {}, \
                     but portMappings[{first}] maps it to {port}: keep one of them",
                    mapping.host_port, mapping.protocol, mapping.container_port
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, (u32, String)> {
        let text = format!(r#"{{"name":"n","cniVersion":"1.0.0",{text}}}"#);
        let network = NetworkConfig::from_stdin(text.as_bytes()).expect("envelope");
        Config::read(&network).map_err(|error| (error.code.number(), error.msg))
    }

    fn with_mapping(mapping: &str) -> Result<Config, (u32, String)> {
        read(&format!(r#""runtimeConfig":{{"portMappings":[{mapping}]}}"#))
    }

    #[test]
    fn defaults() {
        let config = read(r#""snat":null,"runtimeConfig":null"#).expect("valid");
        assert!(config.snat && !config.masq_all && config.mappings.is_empty());
        assert_eq!((config.mark_bit, config.on_conflict), (13, OnConflict::Replace));
    }

    #[test]
    fn go_spelling_of_keys() {
        let config =
            with_mapping(r#"{"HostPort":8080,"ContainerPort":80,"Protocol":"TCP","HostIP":""}"#);
        assert_eq!(
            config.expect("valid").mappings,
            [PortMapping {
                host_port: 8080,
                container_port: 80,
                protocol: L4Protocol::Tcp,
                host: HostAddress::Any
            }]
        );
    }

    #[test]
    fn host_addresses() {
        let host = |text: &str| {
            with_mapping(&format!(
                r#"{{"hostPort":1,"containerPort":1,"protocol":"udp","hostIP":"{text}"}}"#
            ))
            .map(|config| config.mappings[0].host)
        };
        assert_eq!(host("0.0.0.0"), Ok(HostAddress::AnyV4));
        assert_eq!(host("::ffff:0.0.0.0"), Ok(HostAddress::AnyV4));
        assert_eq!(host("::"), Ok(HostAddress::AnyV6));
        assert_eq!(host("::ffff:192.0.2.1"), Ok(HostAddress::One([192, 0, 2, 1].into())));
        for bad in ["abc", "1.2.3", "192.0.2.0/24", "fe80::1%eth0", "localhost", "1.2.3.4; drop"] {
            let (code, msg) = host(bad).expect_err(bad);
            assert!(code == 7 && msg.contains("portMappings[0].hostIP"), "{msg}");
        }
    }

    #[test]
    fn bad_ports_and_protocols_name_the_field() {
        for (entry, field) in [
            (r#"{"hostPort":0,"containerPort":80,"protocol":"tcp"}"#, "hostPort"),
            (r#"{"hostPort":65536,"containerPort":80,"protocol":"tcp"}"#, "hostPort"),
            (r#"{"hostPort":80,"containerPort":70000,"protocol":"tcp"}"#, "containerPort"),
            (r#"{"hostPort":-1,"containerPort":80,"protocol":"tcp"}"#, "hostPort"),
            (r#"{"hostPort":"80","containerPort":80,"protocol":"tcp"}"#, "hostPort"),
            (r#"{"containerPort":80,"protocol":"tcp"}"#, "hostPort"),
            (r#"{"hostPort":80,"containerPort":80,"protocol":"tcp; drop"}"#, "protocol"),
            (r#"{"hostPort":80,"containerPort":80}"#, "protocol"),
            (r#"{"hostPort":80,"containerPort":80,"protocol":"icmp"}"#, "protocol"),
        ] {
            let (code, msg) = with_mapping(entry).expect_err(entry);
            assert!(code == 7 && msg.contains(&format!("portMappings[0].{field}")), "{msg}");
        }
    }

    #[test]
    fn repetitions_and_contradictions() {
        let twice = r#"{"hostPort":80,"containerPort":8080,"protocol":"tcp"},{"hostPort":80,"containerPort":8080,"protocol":"tcp"}"#;
        assert!(with_mapping(twice).is_ok());
        let other = r#"{"hostPort":80,"containerPort":1,"protocol":"tcp"},{"hostPort":80,"containerPort":2,"protocol":"tcp"}"#;
        assert!(with_mapping(other).expect_err("contradiction").1.contains("80/tcp"));
        let families = r#"{"hostPort":80,"containerPort":1,"protocol":"tcp","hostIP":"0.0.0.0"},{"hostPort":80,"containerPort":2,"protocol":"tcp","hostIP":"::"}"#;
        assert!(with_mapping(families).is_ok());
    }

    #[test]
    fn backends_and_their_options() {
        let chosen = |text: &str| read(text).map(|config| config.backend);
        assert_eq!(chosen(r#""backend":"nftables""#), Ok(Some(BackendName::Nftables)));
        assert_eq!(chosen(r#""backend":"iptables""#), Ok(Some(BackendName::Iptables)));
        assert_eq!(chosen(r#""backend":null"#), Ok(None));
        assert_eq!(
            chosen(r#""conditionsV4":["ip","saddr","1.2.3.4"]"#),
            Ok(Some(BackendName::Nftables))
        );
        assert_eq!(chosen(r#""conditionsV6":["!","-d","::1"]"#), Ok(Some(BackendName::Iptables)));
        assert_eq!(
            chosen(r#""externalSetMarkChain":"KUBE-MARK-MASQ""#),
            Ok(Some(BackendName::Iptables))
        );
        for bad in ["foo", "", "IPTABLES"] {
            let (code, msg) = chosen(&format!(r#""backend":"{bad}""#)).expect_err(bad);
            assert!(code == 2 && msg.contains(&format!("{bad:?}")), "{msg}");
        }
        let iptables = r#""externalSetMarkChain":"X","conditionsV4":["-d","1.2.3.4"],"conditionsV6":["!","-d","::1"]"#;
        let (code, msg) =
            chosen(&format!(r#""backend":"nftables",{iptables}"#)).expect_err("mixed");
        let options = "[externalSetMarkChain conditionsV4 conditionsV6]";
        assert!(code == 2 && msg.contains(options), "{msg}");
        let mixed = r#""conditionsV4":["-d","1.2.3.4"],"conditionsV6":["ip6","saddr","::1"]"#;
        assert_eq!(chosen(mixed).expect_err("mixed").0, 2);
        assert_eq!(chosen(r#""externalSetMarkChain":"X","markMasqBit":5"#).expect_err("both").0, 7);
        assert_eq!(chosen(r#""markMasqBit":32"#).expect_err("range").0, 7);
        for bad in ["", "-j", "a b", "with\"quote", "12345678901234567890123456789"] {
            let text = format!(
                r#""externalSetMarkChain":{}"#,
                cni_common::cni::protocol::json::Json::from(bad)
            );
            assert_eq!(chosen(&text).expect_err(bad).0, 7, "{bad}");
        }
    }
}
