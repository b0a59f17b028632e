//! Masquerade rules in the Go plugins' nftables table (since 1.6): a rule for each address.

use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::compare::{chain_mismatches, is_rule};
use cni_common::kernel::nft::{
    BaseChain, Chain, ChainKind, Family, Hook, InstalledRule, Nft, NftError, Object, Operand,
    Priority, Rule, Selector, Statement, Table, Transaction, Verb,
};
use cni_common::kernel::retry::retry;
use ipnet::IpNet;

use super::sources::Sources;

const TABLE: Table = Table::new(Family::Inet, "cni_plugins_masquerade");
const TABLE_COMMENT: &str = "Masquerading for plugins from github.com/containernetworking/plugins";
const CHECKS: &str = "masq_checks";

fn checks() -> Chain {
    Chain { name: CHECKS.to_owned(), base: None }
}

fn postrouting() -> (Chain, Vec<Rule>) {
    let base =
        BaseChain { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: Priority::SRCNAT };
    let chain = Chain { name: "postrouting".to_owned(), base: Some(base) };
    let multicast =
        [(Selector::Ip4Destination, "224.0.0.0/4"), (Selector::Ip6Destination, "ff00::/8")];
    let mut rules: Vec<Rule> = multicast
        .into_iter()
        .filter_map(|(selector, network)| {
            let network = network.parse().ok()?;
            Some(vec![matching(selector, false, network), Statement::Return])
        })
        .map(|statements| Rule { chain: chain.name.clone(), statements, comment: None })
        .collect();
    let statements = vec![Statement::Goto(CHECKS.to_owned())];
    rules.push(Rule { chain: chain.name.clone(), statements, comment: None });
    (chain, rules)
}

fn matching(selector: Selector, negated: bool, network: IpNet) -> Statement {
    Statement::Match { selector, negated, operand: Operand::Network(network) }
}

fn rule(sources: &Sources, address: IpNet) -> Rule {
    let (source, destination) = match IpVersion::of(address.addr()) {
        IpVersion::V4 => (Selector::Ip4Source, Selector::Ip4Destination),
        IpVersion::V6 => (Selector::Ip6Source, Selector::Ip6Destination),
    };
    let statements = vec![
        matching(source, false, address.addr().into()),
        matching(destination, true, address.trunc()),
        Statement::Masquerade,
    ];
    Rule { chain: CHECKS.to_owned(), statements, comment: Some(sources.nft_comment()) }
}

fn is_of(sources: &Sources, rule: &InstalledRule) -> bool {
    rule.comment.as_deref().is_some_and(|comment| comment.starts_with(&sources.nft_prefix()))
}

/// The addresses whose rules are there and reached.
pub(super) fn there(nft: &mut dyn Nft, sources: &Sources) -> Result<Vec<IpNet>, NftError> {
    let own = own_rules(nft, sources)?;
    if own.is_empty() || !chain_mismatches(nft, &TABLE, &[postrouting()])?.is_empty() {
        return Ok(Vec::new());
    }
    let has = |address: &&IpNet| {
        let wanted = rule(sources, **address);
        own.iter().any(|installed| is_rule(&TABLE, &wanted, installed))
    };
    Ok(sources.addresses.iter().filter(has).copied().collect())
}

fn own_rules(nft: &mut dyn Nft, sources: &Sources) -> Result<Vec<InstalledRule>, NftError> {
    let mut rules = nft.rules_of(&TABLE, CHECKS)?;
    rules.retain(|rule| is_of(sources, rule));
    Ok(rules)
}

/// Makes an attachment's rules, and the way to them, in place of whatever it has.
pub(super) fn make(nft: &mut dyn Nft, sources: &Sources) -> Result<(), NftError> {
    retry(|| {
        let mut transaction = bound(nft)?;
        let stale = own_rules(nft, sources)?;
        transaction.push(Verb::Add, &TABLE, Object::Table(Some(TABLE_COMMENT)));
        transaction.push(Verb::Add, &TABLE, Object::Chain(checks()));
        let (chain, rules) = postrouting();
        if !chain_mismatches(nft, &TABLE, &[(chain.clone(), rules.clone())])?.is_empty() {
            transaction.chain_with_rules(&TABLE, chain, rules);
        }
        delete(&mut transaction, stale);
        for address in &sources.addresses {
            transaction.push(Verb::Add, &TABLE, Object::Rule(rule(sources, *address)));
        }
        nft.commit(&transaction)
    })
}

/// Removes an attachment's rules.
pub(super) fn remove(nft: &mut dyn Nft, sources: &Sources) -> Result<(), NftError> {
    retry(|| {
        let mut transaction = bound(nft)?;
        delete(&mut transaction, own_rules(nft, sources)?);
        if transaction.is_empty() { Ok(()) } else { nft.commit(&transaction) }
    })
}

fn bound(nft: &mut dyn Nft) -> Result<Transaction, NftError> {
    Ok(Transaction { generation: Some(nft.generation()?), ..Transaction::new() })
}

fn delete(transaction: &mut Transaction, rules: Vec<InstalledRule>) {
    for rule in rules {
        transaction.push(Verb::Delete, &TABLE, Object::RuleHandle(rule.chain, rule.handle));
    }
}

#[cfg(test)]
mod tests {
    use super::super::sources::tests::sources;
    use super::*;
    use cni_common::kernel::nft::text::render_rule;

    #[test]
    fn rules_in_nfts_words() {
        let two = sources(("unit-test", "eth0", "two"), &["192.168.1.2/24", "2001:db8::2/64"]);
        let texts: Vec<String> =
            two.addresses.iter().map(|address| render_rule(&rule(&two, *address))).collect();
        // From the Go plugins' own tests, where nft's "==" is spelt out.
        assert_eq!(
            texts,
            [
                "ip saddr 192.168.1.2 ip daddr != 192.168.1.0/24 masquerade comment \
                 \"6fd94d501e58f0aa-d750b2c8f0f25d5f, net: unit-test, if: eth0, id: two\"",
                "ip6 saddr 2001:db8::2 ip6 daddr != 2001:db8::/64 masquerade comment \
                 \"6fd94d501e58f0aa-d750b2c8f0f25d5f, net: unit-test, if: eth0, id: two\"",
            ]
        );
        let (_, rules) = postrouting();
        let texts: Vec<String> = rules.iter().map(render_rule).collect();
        assert_eq!(
            texts,
            ["ip daddr 224.0.0.0/4 return", "ip6 daddr ff00::/8 return", "goto masq_checks"]
        );
    }
}
