//! Masquerade rules in iptables: a chain of the container's own, and a jump for each address.

use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{
    Iptables, IptablesError, Lock, SavedRule, TableDump, Variant, quote,
};
use cni_common::kernel::retry::retry;
use ipnet::IpNet;

use super::sources::Sources;
use crate::places;

const TABLE: &str = "nat";
const POSTROUTING: &str = "POSTROUTING";

/// The rules for one address.
struct Rules {
    /// The way to its own network is left alone.
    accept: String,
    masquerade: String,
    jump: String,
}

impl Rules {
    fn of(sources: &Sources, address: IpNet) -> Self {
        let (version, addr) = (IpVersion::of(address.addr()), address.addr());
        let chain = sources.chain();
        let comment = format!("-m comment --comment {}", quote(&sources.comment()));
        let multicast = if version.is_v4() { "224.0.0.0/4" } else { "ff00::/8" };
        Self {
            accept: format!("-d {} {comment} -j ACCEPT", address.trunc()),
            masquerade: format!("! -d {multicast} {comment} -j MASQUERADE"),
            jump: format!("-s {addr}/{} {comment} -j {chain}", version.host_prefix()),
        }
    }

    fn are_in(&self, table: &TableDump, chain: &str) -> bool {
        has(table, chain, &self.accept)
            && has(table, chain, &self.masquerade)
            && has(table, POSTROUTING, &self.jump)
    }
}

fn has(table: &TableDump, chain: &str, spec: &str) -> bool {
    table.rules_of(chain).any(|rule| rule.is(spec))
}

fn of_version(addresses: &[IpNet], version: IpVersion) -> impl Iterator<Item = IpNet> {
    addresses.iter().copied().filter(move |address| IpVersion::of(address.addr()) == version)
}

/// The tables nat of both kinds of iptables and both families.
#[derive(Debug)]
pub(super) struct Tables(Vec<(IpVersion, TableDump)>);

impl Tables {
    pub(super) fn read() -> Result<Self, IptablesError> {
        let read =
            |(version, variant)| Ok((version, Iptables::seeing(version, variant)?.save(TABLE)?));
        places::with_table(TABLE, &[POSTROUTING])
            .into_iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether the rules of an address are complete in one of them.
    pub(super) fn have(&self, sources: &Sources, address: IpNet) -> bool {
        let (rules, chain) = (Rules::of(sources, address), sources.chain());
        let tables = self.0.iter().filter(|(version, _)| *version == IpVersion::of(address.addr()));
        tables.into_iter().any(|(_, table)| rules.are_in(table, &chain))
    }
}

/// Makes what is missing of the rules for these addresses.
pub(super) fn make(
    version: IpVersion,
    sources: &Sources,
    addresses: &[IpNet],
) -> Result<(), IptablesError> {
    let addresses: Vec<IpNet> = of_version(addresses, version).collect();
    if addresses.is_empty() {
        return Ok(());
    }
    change(version, |table| additions(table, sources, &addresses))
}

/// Removes the rules of an attachment.
pub(super) fn remove(version: IpVersion, sources: &Sources) -> Result<(), IptablesError> {
    let addresses: Vec<IpNet> = of_version(&sources.addresses, version).collect();
    if addresses.is_empty() {
        return Ok(());
    }
    change(version, |table| removals(table, sources, &addresses))
}

fn change(
    version: IpVersion,
    decide: impl Fn(&TableDump) -> Vec<String>,
) -> Result<(), IptablesError> {
    let iptables = Iptables::find(version, Variant::Default)?;
    let _lock = Lock::acquire()?;
    retry(|| iptables.restore(&[(TABLE, decide(&iptables.save(TABLE)?))]))
}

fn additions(table: &TableDump, sources: &Sources, addresses: &[IpNet]) -> Vec<String> {
    let chain = sources.chain();
    let mut lines = Vec::new();
    // Declaring one that is there would empty it, and another interface of the container on this network
    // may have its rules in it.
    if !table.has_chain(&chain) {
        lines.push(format!(":{chain} - [0:0]"));
    }
    for address in addresses {
        let Rules { accept, masquerade, jump } = Rules::of(sources, *address);
        // In front, as a rule that masquerades may be there already.
        if !has(table, &chain, &accept) {
            lines.push(format!("-I {chain} {accept}"));
        }
        let masquerade_line = format!("-A {chain} {masquerade}");
        if !has(table, &chain, &masquerade) && !lines.contains(&masquerade_line) {
            lines.push(masquerade_line);
        }
        if !has(table, POSTROUTING, &jump) {
            lines.push(format!("-A {POSTROUTING} {jump}"));
        }
    }
    lines
}

fn removals(table: &TableDump, sources: &Sources, addresses: &[IpNet]) -> Vec<String> {
    let chain = sources.chain();
    let jumps: Vec<String> =
        addresses.iter().map(|address| Rules::of(sources, *address).jump).collect();
    let leads = |rule: &&SavedRule| rule.option("-j").as_deref() == Some(chain.as_str());
    let (own, others): (Vec<_>, Vec<_>) = table
        .rules_of(POSTROUTING)
        .filter(leads)
        .partition(|rule| jumps.iter().any(|jump| rule.is(jump)));
    let mut lines: Vec<String> =
        own.iter().map(|rule| format!("-D {POSTROUTING} {}", rule.spec)).collect();
    if others.is_empty() && table.has_chain(&chain) {
        lines.extend([format!("-F {chain}"), format!("-X {chain}")]);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::sources::tests::sources;
    use super::*;

    /// What the Go bridge 1.1.1 made, as iptables-save prints it.
    const SAVED: &str = r#"
POSTROUTING -s 10.88.1.2/32 -m comment --comment "name: \"podnet\" id: \"abc123\"" -j CNI-ebfe65ed52cb6bccee1e7fcd
CNI-ebfe65ed52cb6bccee1e7fcd -d 10.88.1.0/24 -m comment --comment "name: \"podnet\" id: \"abc123\"" -j ACCEPT
CNI-ebfe65ed52cb6bccee1e7fcd ! -d 224.0.0.0/4 -m comment --comment "name: \"podnet\" id: \"abc123\"" -j MASQUERADE"#;

    fn table(lines: &[&str]) -> TableDump {
        let mut table = TableDump::default();
        for line in lines {
            let (chain, spec) = line.split_once(' ').expect("a chain and a rule");
            if !table.has_chain(chain) {
                table.chains.push((chain.to_owned(), "-".to_owned()));
            }
            table.rules.push(SavedRule { chain: chain.to_owned(), spec: spec.to_owned() });
        }
        table
    }

    #[test]
    fn complete_or_missing_any_one_rule() {
        let web = sources(("podnet", "eth0", "abc123"), &["10.88.1.2/24"]);
        let lines: Vec<&str> = SAVED.trim().lines().collect();
        assert!(additions(&table(&lines), &web, &web.addresses).is_empty());
        let have = |table| Tables(vec![(IpVersion::V4, table)]).have(&web, web.addresses[0]);
        assert!(have(table(&lines)));
        for absent in 0..lines.len() {
            let mut rest = lines.clone();
            let gone = rest.remove(absent);
            assert!(!have(table(&rest)), "{gone}");
            let added = additions(&table(&rest), &web, &web.addresses);
            assert_eq!(added.len(), 1, "{added:?}");
            assert_eq!(added[0].split_once(' ').map(|(_, rule)| rule), Some(gone));
        }
        assert_eq!(additions(&TableDump::default(), &web, &web.addresses).len(), 4);
    }

    #[test]
    fn a_chain_that_another_interface_shares_stays() {
        let web = sources(("podnet", "eth0", "abc123"), &["10.88.1.2/24"]);
        let other = sources(("podnet", "net1", "abc123"), &["10.88.1.3/24"]);
        let mut lines: Vec<String> =
            SAVED.trim().lines().map(|line| format!("-A {line}")).collect();
        let of = |lines: &[String]| {
            let bare: Vec<&str> = lines.iter().filter_map(|line| line.get(3..)).collect();
            table(&bare)
        };
        let added = additions(&of(&lines), &other, &other.addresses);
        assert_eq!(added.len(), 1, "the chain has the other rules: {added:?}");
        lines.extend(added);
        let removed = removals(&of(&lines), &web, &web.addresses);
        assert!(matches!(removed.as_slice(), [only] if only.contains("10.88.1.2")), "{removed:?}");
        lines.remove(0);
        let removed = removals(&of(&lines), &other, &other.addresses);
        assert_eq!(removed.len(), 3, "{removed:?}");
    }
}
