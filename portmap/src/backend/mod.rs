//! The places that can carry out a plan, and the choice between them.

pub(crate) mod iptables;
pub(crate) mod nftables;

use cni_common::cni::{Backend, Holder};

use crate::config::{BackendName, Config};
use crate::host::Host;
use crate::plan::Plan;
use iptables::Iptables;
use nftables::Nftables;

pub(crate) use nftables::whole_table;

/// Where ADD makes the mappings, and why there.
pub(crate) struct Choice<'a> {
    pub(crate) backend: &'a dyn Backend<Host<'a>, Plan>,
    /// Where else an earlier ADD may have made some.
    pub(crate) others: Vec<&'a dyn Holder<Host<'a>, Plan>>,
    name: BackendName,
    reason: String,
}

/// As in `backend nftables: the kernel has nf_tables`.
impl std::fmt::Display for Choice<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "backend {}: {}", self.name.as_str(), self.reason)
    }
}

/// All backends.
pub(crate) fn all<'a>() -> [&'a dyn Holder<Host<'a>, Plan>; 2] {
    [&Nftables, &Iptables::EVERYWHERE]
}

/// nftables where `nf_tables` works, iptables where it does not; what the configuration names, or
/// needs, before either.
pub(crate) fn choose<'a>(config: &Config, host: &mut Host<'a>) -> Choice<'a> {
    let (name, reason) = decide(config.backend, || host.ask_nft().map_err(|e| e.to_string()));
    let choice = match name {
        BackendName::Nftables => {
            Choice { backend: &Nftables, others: vec![&Iptables::EVERYWHERE], name, reason }
        }
        BackendName::Iptables => Choice {
            backend: &Iptables::EVERYWHERE,
            others: vec![&Nftables, &Iptables::WHERE_ADD_DOES_NOT],
            name,
            reason,
        },
    };
    host.log.debug(|| choice.to_string());
    choice
}

fn decide(
    named: Option<BackendName>,
    ask_nft: impl FnOnce() -> Result<(), String>,
) -> (BackendName, String) {
    if let Some(name) = named {
        let reason = "the configuration names it, or has options that only it can honour";
        return (name, reason.to_owned());
    }
    match ask_nft() {
        Ok(()) => (BackendName::Nftables, "the kernel has nf_tables".to_owned()),
        Err(error) => (BackendName::Iptables, format!("nf_tables does not work here: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_common::cni::protocol::NetworkConfig;

    #[test]
    fn the_configuration_first_then_the_kernel() {
        let chosen = |keys: &str, works: bool| {
            let text = format!(r#"{{"name":"n","cniVersion":"1.0.0"{keys}}}"#);
            let network = NetworkConfig::from_stdin(text.as_bytes()).expect("envelope");
            let config = Config::read(&network).expect("valid");
            decide(config.backend, || if works { Ok(()) } else { Err("none".to_owned()) }).0
        };
        assert_eq!(chosen("", true), BackendName::Nftables);
        assert_eq!(chosen("", false), BackendName::Iptables);
        assert_eq!(chosen(r#","backend":"nftables""#, false), BackendName::Nftables);
        assert_eq!(chosen(r#","externalSetMarkChain":"X""#, true), BackendName::Iptables);
    }
}
