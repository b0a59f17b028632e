//! What may be left of an attachment outside our own table: rules of the Go plugin (1.0 to 1.9),
//! and our own of the iptables backend, on a host that changed backends in between.
//!
//! Looking is cheap where nothing is left: iptables-nft's chains and the Go plugin's nftables
//! table are seen by netlink, and legacy iptables tells by `/proc` whether it has a nat table at
//! all. Programs run only when there is something to remove.

use std::net::IpAddr;

use cni_common::Attachment;
use cni_common::iptables::{IptablesError, Variant, legacy_table_loaded};
use cni_common::log::Log;
use cni_common::nft::{Family, Nft, NftError, Object, Table, Transaction, Verb};
use cni_common::protocol::ValidAttachment;

use crate::iptables;
use crate::iptables::rules::{Names, TABLE, TOP_CHAIN};
use crate::plan::ActiveMapping;

/// The tables of the Go plugin's nftables backend.
const GO_TABLES: [Table; 2] =
    [Table::new(Family::Ip, "cni_hostport"), Table::new(Family::Ip6, "cni_hostport")];

/// How often the Go plugin's table is read anew when the ruleset moved.
const ATTEMPTS: usize = 20;

/// Removes what is left of the attachment. Nothing here fails a command: what cannot be reached
/// is said in a warning.
pub fn remove(
    nft: Option<&mut dyn Nft>,
    attachment: &Attachment,
    addresses: &[IpAddr],
    log: &Log,
) -> Vec<ActiveMapping> {
    let names = Names::new(attachment);
    let chains: Vec<String> = names.chains().into_iter().cloned().collect();
    let mut removed = Vec::new();
    let mut nft = nft;
    if let Some(nft) = nft.as_deref_mut()
        && let Err(error) = remove_go_rules(nft, &attachment.container_id)
    {
        log.warn(format!(
            "cannot remove the Go portmap's nftables rules of {}: {error}",
            attachment.tag()
        ));
    }
    for (v4, variant) in suspects(nft, |nft, table| has_any_chain(nft, table, &chains)) {
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
    if let Some(nft) = nft.as_deref_mut()
        && let Err(error) = remove_empty_go_tables(nft)
    {
        log.warn(format!("cannot remove the Go portmap's empty nftables table: {error}"));
    }
    for (v4, variant) in
        suspects(nft, |nft, table| has_any_chain(nft, table, &[TOP_CHAIN.to_owned()]))
    {
        match iptables::collect_garbage(v4, variant, network, valid) {
            Ok(mappings) => removed.extend(mappings),
            Err(error) => warn(log, &error, v4, variant),
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
        if legacy_table_loaded(v4, TABLE) {
            found.push((v4, Variant::Legacy));
        }
    }
    found
}

fn has_any_chain(nft: &mut dyn Nft, table: &Table, chains: &[String]) -> Result<bool, NftError> {
    Ok(nft.chains_at(table, chains)?.iter().any(Option::is_some))
}

/// Rules of the Go plugin carry the container ID as their comment, and nothing else.
fn remove_go_rules(nft: &mut dyn Nft, container_id: &str) -> Result<(), NftError> {
    for _ in 0..ATTEMPTS {
        let generation = nft.generation()?;
        let mut transaction = Transaction { generation: Some(generation), ..Transaction::new() };
        for table in &GO_TABLES {
            for rule in nft.rules(table)? {
                if rule.comment.as_deref() == Some(container_id) {
                    transaction.push(
                        Verb::Delete,
                        table,
                        Object::RuleHandle(rule.chain, rule.handle),
                    );
                }
            }
        }
        if transaction.is_empty() {
            return Ok(());
        }
        match nft.commit(&transaction) {
            Err(error) if error.is_transient() => {}
            outcome => return outcome,
        }
    }
    Ok(())
}

/// The Go plugin never removes its tables, which without mappings only cost time.
fn remove_empty_go_tables(nft: &mut dyn Nft) -> Result<(), NftError> {
    const CONTENT: [&str; 3] = ["hostports", "hostip_hostports", "masquerading"];
    for table in &GO_TABLES {
        let generation = nft.generation()?;
        if nft.chains_at(table, &[CONTENT[0].to_owned()])?.iter().all(Option::is_none) {
            continue;
        }
        if nft.rules(table)?.iter().any(|rule| CONTENT.contains(&rule.chain.as_str())) {
            continue;
        }
        let mut transaction = Transaction { generation: Some(generation), ..Transaction::new() };
        transaction.push(Verb::Delete, table, Object::Table(None));
        match nft.commit(&transaction) {
            // Somebody is at work; the next GC will see.
            Err(error) if error.is_transient() => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

fn warn(log: &Log, error: &IptablesError, v4: bool, variant: Variant) {
    let family = if v4 { "IPv4" } else { "IPv6" };
    let what = if variant == Variant::Legacy { "legacy iptables" } else { "iptables-nft" };
    log.warn(format!(
        "rules of {what} ({family}) may be left: {error}; remove chains CNI-DN-* by hand if they are"
    ));
}
