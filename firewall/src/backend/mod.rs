//! Which backend a host uses, found by looking at it.

pub(crate) mod counts;
pub(crate) mod firewalld;
pub(crate) mod iptables;
pub(crate) mod nftables;

use std::fmt;

use cni_common::cni::Failure as _;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{Iptables, Variant, legacy_table_loaded};
use cni_common::kernel::nft::{Family, NftError, Table};

use crate::config::{BackendName, Config};
use crate::filter::TABLE;
use crate::host::Host;

/// A backend and why it was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The backend.
    pub(crate) name: BackendName,
    /// Why, for people.
    pub(crate) reason: String,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backend {}: {}", self.name.as_str(), self.reason)
    }
}

/// The configured backend, or the one whose rules decide on this host: firewalld where it runs,
/// else iptables where the FORWARD chain lives there, else nftables.
pub(crate) fn choose(config: &Config, host: &mut Host<'_>) -> Result<Choice, CniError> {
    let choice = |name, reason: &str| Ok(Choice { name, reason: reason.to_owned() });
    if let Some(name) = config.backend {
        return choice(name, "the configuration says so");
    }
    if host.bus.has_firewalld() {
        return choice(BackendName::Firewalld, "firewalld runs on this host");
    }
    let in_use = iptables_in_use(host)
        .map_err(|error| error.into_cni("cannot look which firewall this host uses"))?;
    match in_use {
        Some(reason) if Iptables::find(IpVersion::V4, Variant::Default).is_ok() => {
            Ok(Choice { name: BackendName::Iptables, reason })
        }
        Some(reason) => {
            choice(BackendName::Nftables, &format!("{reason}, but iptables is not installed"))
        }
        None => choice(
            BackendName::Nftables,
            "neither firewalld nor iptables decides about forwarded packets here",
        ),
    }
}

/// Why iptables counts as in use: a FORWARD chain that drops, or that has rules.
fn iptables_in_use(host: &mut Host<'_>) -> Result<Option<String>, NftError> {
    for version in IpVersion::ALL {
        let table = Table::new(Family::of(version), TABLE);
        let chains = match host.nft_if_any() {
            Some(nft) => nft.chains_at(&table, &["FORWARD".to_owned()])?,
            None => Vec::new(),
        };
        if let Some(chain) = chains.into_iter().flatten().next() {
            if chain.drops {
                return Ok(Some(format!("iptables' chain {table} FORWARD has policy drop")));
            }
            if chain.uses > 0 {
                return Ok(Some(format!("iptables' chain {table} FORWARD has rules")));
            }
        }
        if legacy_table_loaded(version, TABLE) && legacy_forward_decides(host, version) {
            return Ok(Some("the legacy iptables FORWARD chain drops or has rules".to_owned()));
        }
    }
    Ok(None)
}

fn legacy_forward_decides(host: &mut Host<'_>, version: IpVersion) -> bool {
    host.filter.read(version, Variant::Legacy).is_ok_and(|dump| {
        dump.chains.iter().any(|(name, policy)| name == "FORWARD" && policy == "DROP")
            || dump.rules_of("FORWARD").next().is_some()
    })
}
