//! Who else translates a host port in tables of nftables' own, as far as reading its rules tells.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_common::kernel::nft::{BaseChain, ChainKind, Family, Hook, L4Protocol, NftError, Table};

use super::translations::Translation;
use crate::rules::{Decision, Fate, Packet, Rules, Words, owner};

/// portmap's own table, and the Go plugin's.
const PORTMAPS: [&str; 2] = ["cni_portmap", "cni_hostport"];

/// For each base chain the first rule that gives a connection to the port another destination, or may do
/// so: to which address and by which interface it is made is open.
pub(super) fn of(port: u16, protocol: Option<L4Protocol>) -> Result<Vec<Translation>, NftError> {
    let mut rules = Rules::read()?;
    let mut words = Words::default();
    let (mut seen, mut found) = (Vec::new(), Vec::new());
    let protocols = L4Protocol::ALL.into_iter().filter(|of| protocol.is_none_or(|p| p == *of));
    for packet in protocols.flat_map(|protocol| packets(port, protocol)) {
        for hook in [Hook::Prerouting, Hook::Output] {
            for decision in rules.at(hook, &packet, &is_asked)? {
                let Some((chain, handle)) = translating(&decision) else { continue };
                let table = &decision.table;
                if is_of_iptables(&decision) || seen.contains(&(table.clone(), handle)) {
                    continue;
                }
                seen.push((table.clone(), handle));
                let rule = words.rule(table.family.as_str(), &table.name, handle);
                found.push(Translation {
                    program: owner(&table.name, chain),
                    place: format!("table {table}"),
                    rule: format!("{chain} {rule}"),
                });
            }
        }
    }
    Ok(found)
}

/// From anybody, to any address of this host.
fn packets(port: u16, protocol: L4Protocol) -> [Packet; 2] {
    let to = |destination: IpAddr| Packet {
        source: None,
        destination,
        is_any_destination: true,
        protocol,
        destination_port: port,
        input: None,
        output: None,
        is_dnat: false,
        is_local: true,
    };
    [to(Ipv4Addr::UNSPECIFIED.into()), to(Ipv6Addr::UNSPECIFIED.into())]
}

fn is_asked(table: &Table, base: BaseChain) -> bool {
    base.kind == ChainKind::Nat && !PORTMAPS.contains(&table.name.as_ref())
}

/// The rule of a decision to translate, certain or possible, by chain and handle.
fn translating(decision: &Decision) -> Option<(&str, u64)> {
    let certain = decision.rule.as_ref().filter(|_| decision.fate == Fate::Translated);
    if let Some((chain, handle)) = certain {
        return Some((chain, *handle));
    }
    match &decision.possibly {
        Some((Fate::Translated, chain, handle)) => Some((chain, *handle)),
        _ => None,
    }
}

/// Whether iptables has made the base chain: its own words say more.
fn is_of_iptables(decision: &Decision) -> bool {
    let Table { family, name } = &decision.table;
    [Family::Ip, Family::Ip6].contains(family)
        && name == "nat"
        && ["PREROUTING", "OUTPUT"].contains(&decision.chain.as_str())
}
