//! The tables `ip cni_hostport` and `ip6 cni_hostport` of the Go plugin's nftables backend (1.6 to
//! HEAD): what is missing in them, and removal.
//!
//! Its rules carry the container's ID as their comment, and nothing else.

use std::net::IpAddr;

use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::{
    Family, InstalledRule, L4Protocol, Nft, NftError, Object, Reading, Table, Transaction, Verb,
};
use cni_common::kernel::retry::retry;

use crate::plan::Mapping;

const TABLES: [Table; 2] =
    [Table::new(Family::Ip, "cni_hostport"), Table::new(Family::Ip6, "cni_hostport")];

/// Where mappings are; before 1.9, those of one host address were in the second.
const MAPPING_CHAINS: [&str; 2] = ["hostports", "hostip_hostports"];
const MASQUERADING: &str = "masquerading";
const BASE_CHAINS: [&str; 2] = ["prerouting", "output"];

/// What is missing of a container's rules in one family; `None` if it has none there.
/// `masquerade` are sources and destinations.
pub(super) fn mismatches(
    nft: &mut dyn Nft,
    version: IpVersion,
    container_id: &str,
    mappings: &[Mapping],
    masquerade: &[(IpAddr, IpAddr)],
) -> Result<Option<Vec<String>>, NftError> {
    let table = &TABLES[usize::from(version == IpVersion::V6)];
    let rules = nft.rules(table)?;
    let own: Vec<(&str, Reading)> = rules
        .iter()
        .filter(|rule| rule.comment.as_deref() == Some(container_id))
        .filter_map(|rule| Some((rule.chain.as_str(), rule.reading()?)))
        .collect();
    if own.is_empty() {
        return Ok(None);
    }
    let mut mismatches = Vec::new();
    for mapping in mappings {
        let there = own.iter().find(|(chain, reading)| {
            MAPPING_CHAINS.contains(chain) && translates(reading, mapping)
        });
        match there {
            None => {
                mismatches.push(format!("the rule for {mapping} is missing from table {table}"));
            }
            Some((chain, _)) => mismatches.extend(unreached(table, chain, &rules)),
        }
    }
    for (source, destination) in masquerade {
        let there = own.iter().any(|(chain, reading)| {
            let between = [octets(*source), octets(*destination)].concat();
            // "From anywhere" need not be a comparison.
            let to = source.is_unspecified() && reading.compared == octets(*destination);
            *chain == MASQUERADING
                && reading.outcome == "masq"
                && (to || reading.compared == between)
        });
        if !there {
            mismatches.push(format!(
                "the rule that masquerades {source} to {destination} is missing from chain {table} {MASQUERADING}"
            ));
        }
    }
    mismatches.dedup();
    Ok(Some(mismatches))
}

fn translates(reading: &Reading, mapping: &Mapping) -> bool {
    let mut compared: Vec<u8> = mapping.host_address.map(octets).unwrap_or_default();
    compared.push(mapping.protocol.number());
    compared.extend(mapping.host_port.to_be_bytes());
    let to = [octets(mapping.container), mapping.container_port.to_be_bytes().to_vec()];
    // A port fills a register, or what it needs of one.
    let loaded: Vec<&[u8]> = reading
        .loaded
        .iter()
        .zip(&to)
        .map(|(all, wanted)| &all[..wanted.len().min(all.len())])
        .collect();
    reading.outcome == "nat" && reading.compared == compared && loaded == to
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The hooks from which no jump leads to a chain, over however many others.
fn unreached(table: &Table, chain: &str, rules: &[InstalledRule]) -> Vec<String> {
    // Conditions of the network stand before the jumps.
    let jumps: Vec<(&str, Vec<String>)> =
        rules.iter().map(|rule| (rule.chain.as_str(), rule.targets())).collect();
    let leads = |start: &&&str| {
        let mut reached: Vec<&str> = vec![start];
        let mut next = 0;
        while let Some(here) = reached.get(next).copied() {
            let targets = jumps.iter().filter(|(from, _)| *from == here);
            for target in targets.flat_map(|(_, targets)| targets) {
                if !reached.contains(&target.as_str()) {
                    reached.push(target);
                }
            }
            next += 1;
        }
        !reached.contains(&chain)
    };
    let hooks = BASE_CHAINS.iter().filter(leads);
    hooks.map(|hook| format!("chain {table} {hook} does not lead to {chain}")).collect()
}

/// Every mapping in both tables, with its container's ID.
pub(super) fn mappings(nft: &mut dyn Nft) -> Result<Vec<(Mapping, String)>, NftError> {
    let mut mappings = Vec::new();
    for (table, version) in TABLES.iter().zip(IpVersion::ALL) {
        for rule in nft.rules(table)? {
            if MAPPING_CHAINS.contains(&rule.chain.as_str())
                && let Some(mapping) = rule.reading().and_then(|reading| mapping(&reading, version))
                && let Some(container_id) = rule.comment
            {
                mappings.push((mapping, container_id));
            }
        }
    }
    Ok(mappings)
}

/// The mapping that a rule stands for, if it is one.
fn mapping(reading: &Reading, version: IpVersion) -> Option<Mapping> {
    let (rest, port) = reading.compared.split_last_chunk()?;
    let (protocol, host) = rest.split_last()?;
    let [container, container_port, ..] = reading.loaded.as_slice() else { return None };
    let mapping = Mapping {
        host_address: if host.is_empty() { None } else { Some(address(host, version)?) },
        host_port: u16::from_be_bytes(*port),
        protocol: L4Protocol::ALL.into_iter().find(|known| known.number() == *protocol)?,
        container: address(container, version)?,
        container_port: u16::from_be_bytes(*container_port.first_chunk()?),
    };
    translates(reading, &mapping).then_some(mapping)
}

fn address(octets: &[u8], version: IpVersion) -> Option<IpAddr> {
    match version {
        IpVersion::V4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        IpVersion::V6 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
    }
}

/// Removes a container's rules: those that lead to these addresses, or all if none is known. The
/// container may be on another network that only the Go plugin's rules serve so far.
pub(super) fn remove(
    nft: &mut dyn Nft,
    container_id: &str,
    addresses: &[IpAddr],
) -> Result<(), NftError> {
    if !nft.tables(&TABLES)?.contains(&true) {
        return Ok(());
    }
    retry(|| {
        let generation = nft.generation()?;
        let mut transaction = Transaction { generation: Some(generation), ..Transaction::new() };
        for table in &TABLES {
            let own = |rule: &InstalledRule| {
                rule.comment.as_deref() == Some(container_id)
                    && (addresses.is_empty() || leads_to(rule, addresses))
            };
            for rule in nft.rules(table)?.into_iter().filter(own) {
                transaction.push(Verb::Delete, table, Object::RuleHandle(rule.chain, rule.handle));
            }
        }
        if transaction.is_empty() { Ok(()) } else { nft.commit(&transaction) }
    })
}

/// Whether a rule translates to, or masquerades on the way to, one of these addresses. One that
/// cannot be read is taken for one that does: its comment speaks for it.
fn leads_to(rule: &InstalledRule, addresses: &[IpAddr]) -> bool {
    let Some(reading) = rule.reading() else { return true };
    addresses.iter().any(|address| {
        let wanted = octets(*address);
        reading.loaded.first() == Some(&wanted) || reading.compared.ends_with(&wanted)
    })
}

/// Removes the tables once nothing is mapped in them: the Go plugin never does.
pub(super) fn remove_if_empty(nft: &mut dyn Nft) -> Result<(), NftError> {
    let content = |rule: &InstalledRule| {
        MAPPING_CHAINS.contains(&rule.chain.as_str()) || rule.chain == MASQUERADING
    };
    for table in &TABLES {
        let generation = nft.generation()?;
        let hostports = [MAPPING_CHAINS[0].to_owned()];
        if nft.chains_at(table, &hostports)?.iter().all(Option::is_none)
            || nft.rules(table)?.iter().any(content)
        {
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
