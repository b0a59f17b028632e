//! What may be left of an attachment outside our own table: rules of the Go plugin (1.0 to 1.9),
//! and our own of the iptables backend, on a host that changed backends in between.
//!
//! Looking is cheap where nothing is left: iptables-nft's chains and the Go plugin's nftables
//! table are seen by netlink, and legacy iptables tells by `/proc` whether it has a nat table at
//! all. Programs run only when there is something to remove.

mod go_table;
pub mod served;

use std::net::IpAddr;

use cni_common::cni::Attachment;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::ValidAttachment;
use cni_common::kernel::iptables::{Iptables, IptablesError, Variant, legacy_table_loaded};
use cni_common::kernel::nft::{Family, Nft, NftError, Table};

use crate::iptables;
use crate::iptables::rules::{GUARD_CHAIN, GUARD_TABLE, Names, SHARED_CHAINS, TABLE};
use crate::plan::ActiveMapping;

/// Removes what is left of the attachment. Nothing here fails a command: what cannot be reached
/// is said in a warning.
pub fn remove(
    nft: Option<&mut dyn Nft>,
    attachment: &Attachment,
    addresses: &[IpAddr],
    log: &Log,
) -> Vec<ActiveMapping> {
    remove_in(nft, attachment, addresses, log, |_, _, _| true)
}

/// The same, but for what the iptables backend's ADD has just made: these mappings.
pub fn remove_elsewhere(
    nft: Option<&mut dyn Nft>,
    attachment: &Attachment,
    addresses: &[IpAddr],
    made: &[ActiveMapping],
    log: &Log,
) -> Vec<ActiveMapping> {
    let is_made_in = |v4: bool, variant: Variant, places: usize| {
        let is_mapped = made.iter().any(|mapping| mapping.container.is_ipv4() == v4);
        // Only where there are two places it is worth a program to find out which one it is.
        let is_it = || -> Result<bool, IptablesError> {
            Ok(Iptables::find(cni_common::kernel::IpVersion::if_v4(v4), Variant::Default)?
                .variant()?
                == variant)
        };
        is_mapped && (places == 1 || is_it().unwrap_or(true))
    };
    let elsewhere = |v4, variant, places| !is_made_in(v4, variant, places);
    remove_in(nft, attachment, addresses, log, elsewhere)
}

fn remove_in(
    nft: Option<&mut dyn Nft>,
    attachment: &Attachment,
    addresses: &[IpAddr],
    log: &Log,
    wanted: impl Fn(bool, Variant, usize) -> bool,
) -> Vec<ActiveMapping> {
    let names = Names::new(attachment);
    let chains: Vec<String> = names.chains().into_iter().cloned().collect();
    let mut removed = Vec::new();
    let mut nft = nft;
    if let Some(nft) = nft.as_deref_mut()
        && let Err(error) = go_table::remove(nft, &attachment.container_id, addresses)
    {
        log.warn(format!(
            "cannot remove the Go portmap's nftables rules of {}: {error}",
            attachment.tag()
        ));
    }
    let suspects = suspects(nft, |nft, table| has_any_chain(nft, table, &chains));
    for (v4, variant) in &suspects {
        let (v4, variant) = (*v4, *variant);
        let places = suspects.iter().filter(|(family, _)| *family == v4).count();
        if !wanted(v4, variant, places) {
            continue;
        }
        match iptables::remove(v4, variant, attachment, addresses) {
            Ok(mappings) => removed.extend(mappings),
            Err(error) => warn(log, &error, v4, variant),
        }
    }
    removed
}

/// GC: removes what is left of attachments to the network that are not valid.
pub fn collect_garbage(
    nft: Option<&mut dyn Nft>,
    network: &str,
    valid: &[ValidAttachment],
    log: &Log,
) -> Vec<ActiveMapping> {
    let mut removed = Vec::new();
    let mut nft = nft;
    let mut guards = Vec::new();
    if let Some(nft) = nft.as_deref_mut() {
        if let Err(error) = go_table::remove_if_empty(nft) {
            log.warn(format!("cannot remove the Go portmap's empty nftables table: {error}"));
        }
        let raw = Table::new(Family::Ip, GUARD_TABLE);
        if has_any_chain(nft, &raw, &[GUARD_CHAIN.to_owned()]).unwrap_or(true) {
            guards.push(Variant::Nft);
        }
    }
    if legacy_table_loaded(cni_common::kernel::IpVersion::if_v4(true), GUARD_TABLE) {
        guards.push(Variant::Legacy);
    }
    let shared = SHARED_CHAINS.map(str::to_owned);
    for (v4, variant) in suspects(nft, |nft, table| has_any_chain(nft, table, &shared)) {
        match iptables::collect_garbage(v4, variant, network, valid) {
            Ok(mappings) => removed.extend(mappings),
            Err(error) => warn(log, &error, v4, variant),
        }
    }
    for variant in guards {
        if let Err(error) = iptables::guard::remove_if_useless(variant) {
            log.warn(format!("{variant} keeps chain {GUARD_CHAIN} until the next GC: {error}"));
        }
    }
    removed
}

/// Families and variants of iptables that may hold something of interest.
fn suspects(
    nft: Option<&mut dyn Nft>,
    mut interesting: impl FnMut(&mut dyn Nft, &Table) -> Result<bool, NftError>,
) -> Vec<(bool, Variant)> {
    let mut found = Vec::new();
    let mut nft = nft;
    for (v4, family) in [(true, Family::Ip), (false, Family::Ip6)] {
        if let Some(nft) = nft.as_deref_mut() {
            // If it cannot be told, look.
            if interesting(nft, &Table::new(family, TABLE)).unwrap_or(true) {
                found.push((v4, Variant::Nft));
            }
        }
        if legacy_table_loaded(cni_common::kernel::IpVersion::if_v4(v4), TABLE) {
            found.push((v4, Variant::Legacy));
        }
    }
    found
}

fn has_any_chain(nft: &mut dyn Nft, table: &Table, chains: &[String]) -> Result<bool, NftError> {
    Ok(nft.chains_at(table, chains)?.iter().any(Option::is_some))
}

fn warn(log: &Log, error: &IptablesError, v4: bool, variant: Variant) {
    let family = if v4 { "IPv4" } else { "IPv6" };
    log.warn(format!(
        "rules of {variant} ({family}) may be left: {error}; remove chains CNI-DN-* by hand if they are"
    ));
}
