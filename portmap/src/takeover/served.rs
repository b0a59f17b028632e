//! CHECK of an attachment that ours knows nothing of: right after the binaries were swapped, the
//! Go plugin's rules serve it, and that is no fault.

use std::net::IpAddr;

use cni_common::cni::Attachment;
use cni_common::cni::log::Log;
use cni_common::kernel::iptables::{Iptables, IptablesError, Variant, legacy_table_loaded};
use cni_common::kernel::nft::{Family, Nft, NftError, Table};

use super::go_table;
use crate::config::Config;
use crate::iptables::rules::{GoRules, TABLE};
use crate::iptables::served;
use crate::plan::{ActiveMapping, Addresses, active_mappings};

/// What the Go plugin has of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// Nothing.
    NotAtAll,
    /// Everything that its configuration asks for.
    Fully,
    /// Something; this is missing.
    Partly(Vec<String>),
}

/// The attachment, as CHECK is told of it.
struct Wanted<'a> {
    attachment: &'a Attachment,
    config: &'a Config,
    addresses: Addresses,
}

/// Looks for the attachment's mappings in whatever the Go plugin may have put them. Each family
/// counts for itself: a host may have one kind of iptables for IPv4 and the other for IPv6.
#[must_use]
pub fn look(
    mut nft: Option<&mut dyn Nft>,
    attachment: &Attachment,
    config: &Config,
    addresses: Addresses,
    log: &Log,
) -> Served {
    let wanted = Wanted { attachment, config, addresses };
    let mut found = false;
    let mut faults = Vec::new();
    for v4 in [true, false] {
        let active = wanted.active(v4);
        if active.is_empty() {
            continue;
        }
        // Rules left behind in one place do no harm to complete ones in another.
        let places =
            wanted.places(nft.as_mut().map(|nft| &mut **nft as &mut dyn Nft), v4, &active, log);
        found |= !places.is_empty();
        let fewest = places.into_iter().min_by_key(Vec::len);
        faults.extend(fewest.unwrap_or_else(|| {
            let family = if v4 { "IPv4" } else { "IPv6" };
            vec![format!("the Go plugin has no {family} rules of {}", attachment.tag())]
        }));
    }
    match (found, faults.is_empty()) {
        (false, _) => Served::NotAtAll,
        (true, true) => Served::Fully,
        (true, false) => Served::Partly(faults),
    }
}

impl Wanted<'_> {
    fn active(&self, v4: bool) -> Vec<ActiveMapping> {
        let mut active = active_mappings(&self.config.mappings, self.addresses);
        active.retain(|mapping| mapping.container.is_ipv4() == v4);
        active
    }

    /// What is missing in each place that holds anything of the attachment.
    fn places(
        &self,
        nft: Option<&mut dyn Nft>,
        v4: bool,
        active: &[ActiveMapping],
        log: &Log,
    ) -> Vec<Vec<String>> {
        let Some(rules) = GoRules::new(self.attachment, self.config, self.addresses, v4) else {
            return Vec::new();
        };
        let mut places = Vec::new();
        if let Some(nft) = nft {
            let table = self.in_go_table(nft, v4, active).unwrap_or_else(|error| {
                log.warn(format!("cannot read the Go portmap's nftables rules: {error}"));
                None
            });
            places.push(table);
            let chain = std::slice::from_ref(&rules.names.go_chain);
            let family = if v4 { Family::Ip } else { Family::Ip6 };
            let seen = nft.chains_at(&Table::new(family, TABLE), chain);
            if seen.is_ok_and(|chains| chains.iter().any(Option::is_some)) {
                places.push(in_iptables(v4, Variant::Nft, &rules).unwrap_or_else(|error| {
                    let chain = &rules.names.go_chain;
                    Some(vec![format!("chain {chain} of iptables-nft cannot be read: {error}")])
                }));
            }
        }
        if legacy_table_loaded(cni_common::kernel::IpVersion::if_v4(v4), TABLE) {
            places.push(in_iptables(v4, Variant::Legacy, &rules).unwrap_or_else(|error| {
                log.warn(format!("cannot look for rules in legacy iptables: {error}"));
                None
            }));
        }
        places.into_iter().flatten().collect()
    }

    fn in_go_table(
        &self,
        nft: &mut dyn Nft,
        v4: bool,
        active: &[ActiveMapping],
    ) -> Result<Option<Vec<String>>, NftError> {
        let container = if v4 { self.addresses.v4 } else { self.addresses.v6 };
        let Some(container) = container.map(|network| network.addr()) else { return Ok(None) };
        let masquerade = masquerade_sources(container, self.config);
        go_table::faults(nft, v4, &self.attachment.container_id, active, &masquerade)
    }
}

fn in_iptables(
    v4: bool,
    variant: Variant,
    rules: &GoRules,
) -> Result<Option<Vec<String>>, IptablesError> {
    Ok(served::faults(
        &Iptables::seeing(cni_common::kernel::IpVersion::if_v4(v4), variant)?.save(TABLE)?,
        rules,
    ))
}

/// The sources whose connections the Go plugin's nftables backend masquerades on their way to the
/// container.
fn masquerade_sources(container: IpAddr, config: &Config) -> Vec<(IpAddr, IpAddr)> {
    let sources: Vec<IpAddr> = match (config.snat, config.masq_all, container) {
        (false, _, _) => Vec::new(),
        (true, true, IpAddr::V4(_)) => vec![std::net::Ipv4Addr::UNSPECIFIED.into()],
        (true, true, IpAddr::V6(_)) => vec![std::net::Ipv6Addr::UNSPECIFIED.into()],
        (true, false, IpAddr::V4(_)) => vec![container, std::net::Ipv4Addr::LOCALHOST.into()],
        (true, false, IpAddr::V6(_)) => vec![container],
    };
    sources.into_iter().map(|source| (source, container)).collect()
}
