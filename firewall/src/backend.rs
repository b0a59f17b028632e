//! Which backend a host uses, found by looking at it.

use cni_common::kernel::iptables::{Iptables, Variant, legacy_table_loaded};
use cni_common::kernel::nft::{Family, Nft, NftError, Table};

use crate::config::{BackendName, Config};
use crate::firewalld;

/// A backend and why it was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The backend.
    pub name: BackendName,
    /// Why, for people.
    pub reason: String,
}

/// The configured backend, or the one whose rules decide on this host: firewalld where it runs,
/// else iptables where the FORWARD chain lives there, else nftables.
pub fn choose(config: &Config, nft: &mut dyn Nft) -> Result<Choice, NftError> {
    if let Some(name) = config.backend {
        return Ok(Choice { name, reason: "the configuration says so".to_owned() });
    }
    if firewalld::is_running() {
        let reason = "firewalld runs on this host".to_owned();
        return Ok(Choice { name: BackendName::Firewalld, reason });
    }
    if let Some(reason) = iptables_in_use(nft)? {
        return Ok(
            if Iptables::find(cni_common::kernel::IpVersion::if_v4(true), Variant::Default).is_ok()
            {
                Choice { name: BackendName::Iptables, reason }
            } else {
                let reason = format!("{reason}, but iptables is not installed");
                Choice { name: BackendName::Nftables, reason }
            },
        );
    }
    let reason = "neither firewalld nor iptables decides about forwarded packets here".to_owned();
    Ok(Choice { name: BackendName::Nftables, reason })
}

/// Why iptables counts as in use: a FORWARD chain that drops, or that has rules.
fn iptables_in_use(nft: &mut dyn Nft) -> Result<Option<String>, NftError> {
    for (v4, family) in [(true, Family::Ip), (false, Family::Ip6)] {
        let table = Table::new(family, "filter");
        let chain = nft.chains_at(&table, &["FORWARD".to_owned()])?.into_iter().flatten().next();
        if let Some(chain) = chain {
            if chain.drops {
                return Ok(Some(format!("iptables' chain {table} FORWARD has policy drop")));
            }
            if chain.uses > 0 {
                return Ok(Some(format!("iptables' chain {table} FORWARD has rules")));
            }
        }
        if legacy_table_loaded(cni_common::kernel::IpVersion::if_v4(v4), "filter")
            && legacy_forward_decides(v4)
        {
            return Ok(Some("the legacy iptables FORWARD chain drops or has rules".to_owned()));
        }
    }
    Ok(None)
}

fn legacy_forward_decides(v4: bool) -> bool {
    let tools = [Variant::Legacy, Variant::Default];
    let iptables = tools
        .into_iter()
        .find_map(|variant| Iptables::find(cni_common::kernel::IpVersion::if_v4(v4), variant).ok());
    let dump = iptables.and_then(|iptables| iptables.save("filter").ok());
    dump.is_some_and(|dump| {
        dump.chains.iter().any(|(name, policy)| name == "FORWARD" && policy == "DROP")
            || dump.rules_of("FORWARD").next().is_some()
    })
}
