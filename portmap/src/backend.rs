//! Which backend carries out the mappings, and why.

use cni_common::kernel::nft::{Nft, NftError};

use crate::config::{Backend, Config};

/// A backend and the reason for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The backend.
    pub backend: Backend,
    /// Why, for the log and STATUS.
    pub reason: String,
}

/// As in `backend nftables: the kernel has nf_tables`.
impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "backend {}: {}", self.backend.as_str(), self.reason)
    }
}

/// nftables where `nf_tables` works, iptables where it does not; what the configuration names, or
/// needs, before either.
#[must_use]
pub fn choose(config: &Config, nf_tables: Result<&mut dyn Nft, &NftError>) -> Choice {
    if let Some(backend) = config.backend {
        let reason =
            "the configuration names it, or has options that only it can honour".to_owned();
        return Choice { backend, reason };
    }
    let works = match nf_tables {
        Ok(nft) => nft.generation().map(|_| ()).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match works {
        Ok(()) => {
            Choice { backend: Backend::Nftables, reason: "the kernel has nf_tables".to_owned() }
        }
        Err(error) => Choice {
            backend: Backend::Iptables,
            reason: format!("nf_tables does not work here: {error}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_common::cni::protocol::NetworkConfig;
    use cni_common::kernel::nft::fake::FakeNft;

    #[test]
    fn the_configuration_first_then_the_kernel() {
        let config = |keys: &str| {
            let text = format!(r#"{{"name":"n","cniVersion":"1.0.0"{keys}}}"#);
            Config::read(&NetworkConfig::from_stdin(text.as_bytes()).expect("envelope"))
                .expect("valid")
        };
        let broken = NftError::Socket(std::io::Error::from_raw_os_error(93));
        let mut nft = FakeNft::new();
        let mut chosen = |keys: &str, works: bool| {
            let nf_tables: Result<&mut dyn Nft, &NftError> =
                if works { Ok(&mut nft) } else { Err(&broken) };
            choose(&config(keys), nf_tables).backend
        };
        assert_eq!(chosen("", true), Backend::Nftables);
        assert_eq!(chosen("", false), Backend::Iptables);
        assert_eq!(chosen(r#","backend":"nftables""#, false), Backend::Nftables);
        assert_eq!(chosen(r#","externalSetMarkChain":"X""#, true), Backend::Iptables);
    }
}
