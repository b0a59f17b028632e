//! The table `inet cni_portmap`: its sets, chains and rules. Pure.
//!
//! Maps lead from host ports to containers, so that a packet's cost and a call's cost do not
//! depend on how many there are. Networks with conditions or a mark bit of their own have maps
//! and chains of their own, because both gate every mapping that is looked up behind them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_common::kernel::nft::{
    BaseChain, Chain, ChainKind, DataType, Family, Hook, KeyPart, L4Protocol, Object, Operand,
    Priority, Rule, Selector, Set, Statement, Table, Transaction, Verb,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::DEFAULT_MARK_BIT;

/// The table. Everything portmap makes on nftables is in it.
pub const TABLE: Table = Table::new(Family::Inet, "cni_portmap");

const TABLE_COMMENT: &str = "cni-chain portmap";

/// Behind kube-proxy (`dstnat`): a Service must win over a host port (CVE-2019-9946).
const AFTER_KUBE_PROXY: Priority = Priority(Priority::DSTNAT.0 + 5);
/// A network with conditions is more specific than the rest.
const CONDITIONAL: Priority = Priority(Priority::DSTNAT.0 + 4);
/// Before any other program's source NAT, so that our mark never meets a foreign rule: Go's
/// portmap and netavark masquerade whatever carries bit 13 there.
const MASQUERADE: Priority = Priority(Priority::SRCNAT.0 - 5);
const UNMARK: Priority = Priority(Priority::SRCNAT.0 - 4);

/// The maps and chains that a mapping lives in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// What its objects' names end in: empty for the shared scope.
    suffix: String,
    network: Option<String>,
    conditions_v4: Vec<Vec<Statement>>,
    conditions_v6: Vec<Vec<Statement>>,
    mark_bit: u8,
}

impl Scope {
    /// The scope of every network without conditions and with the default mark bit.
    #[must_use]
    pub fn shared() -> Self {
        Self {
            suffix: String::new(),
            network: None,
            conditions_v4: vec![Vec::new()],
            conditions_v6: vec![Vec::new()],
            mark_bit: DEFAULT_MARK_BIT,
        }
    }

    /// A network's own scope.
    #[must_use]
    pub fn of_network(
        network: &str,
        conditions_v4: Vec<Vec<Statement>>,
        conditions_v6: Vec<Vec<Statement>>,
        mark_bit: u8,
    ) -> Self {
        Self {
            suffix: format!("_{}", cni_common::cni::attachment::network_short_name(network)),
            network: Some(network.to_owned()),
            conditions_v4,
            conditions_v6,
            mark_bit,
        }
    }

    /// Whether this is the scope that needs no chains of its own.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.suffix.is_empty()
    }

    /// `(host address, protocol, host port) -> (container address, container port)`
    #[must_use]
    pub fn by_address(&self, v4: bool) -> Set {
        let name = format!("by_address{}{}", digit(v4), self.suffix);
        map(name, v4, vec![address_type(v4), DataType::InetProto, DataType::InetService])
    }

    /// `(protocol, host port) -> (container address, container port)`
    #[must_use]
    pub fn by_port(&self, v4: bool) -> Set {
        let name = format!("by_port{}{}", digit(v4), self.suffix);
        map(name, v4, vec![DataType::InetProto, DataType::InetService])
    }

    /// `(source network, container address)`: sources of this prefix length that are masqueraded
    /// on their way to the container.
    #[must_use]
    pub fn masquerade(&self, v4: bool, prefix_len: u8) -> Set {
        let name = format!("masquerade{}_{prefix_len}{}", digit(v4), bit_suffix(self.mark_bit));
        Set { name, key: vec![address_type(v4); 2], data: vec![] }
    }

    fn mark(&self) -> u32 {
        1 << self.mark_bit
    }

    fn name(&self, stem: &str) -> String {
        format!("{stem}{}", self.suffix)
    }

    fn rule(&self, chain: &str, statements: Vec<Statement>) -> Rule {
        let comment = self.network.as_ref().map(|network| {
            let shown: String = network.chars().take(100).collect();
            format!("network {shown}")
        });
        Rule { chain: chain.to_owned(), statements, comment }
    }

    /// The lookups: an address of its own wins over any address.
    fn hostports(&self) -> (Chain, Vec<Rule>) {
        let name = self.name("hostports");
        let mut rules = vec![self.rule(&name, vec![Statement::MarkSet(self.mark())])];
        for (v4, conditions) in [(true, &self.conditions_v4), (false, &self.conditions_v6)] {
            let daddr = if v4 { Selector::Ip4Destination } else { Selector::Ip6Destination };
            let by_port = [Selector::L4Protocol, Selector::DestinationPort];
            let by_address = [daddr, Selector::L4Protocol, Selector::DestinationPort];
            for (key, map) in
                [(&by_address[..], self.by_address(v4)), (&by_port[..], self.by_port(v4))]
            {
                for condition in conditions {
                    let mut statements = condition.clone();
                    if !names_a_protocol(condition) {
                        statements.push(Statement::ProtocolIn(L4Protocol::ALL.to_vec()));
                    }
                    let key: Vec<KeyPart> = key.iter().copied().map(KeyPart::from).collect();
                    statements.push(Statement::DnatByMap {
                        version: cni_common::kernel::IpVersion::if_v4(v4),
                        key,
                        map: map.name.clone(),
                    });
                    rules.push(self.rule(&name, statements));
                }
            }
        }
        // Only packets that found no mapping get here.
        rules.push(self.rule(&name, vec![Statement::MarkClear(self.mark())]));
        (Chain { name, base: None }, rules)
    }

    fn entries(&self) -> Vec<(Chain, Vec<Rule>)> {
        let priority = if self.is_shared() { AFTER_KUBE_PROXY } else { CONDITIONAL };
        [("prerouting", Hook::Prerouting), ("output", Hook::Output)]
            .into_iter()
            .map(|(stem, hook)| {
                let name = self.name(stem);
                // Local destinations only, whatever hostIP says (CVE-2025-67499).
                let statements =
                    vec![Statement::DestinationIsLocal, Statement::Goto(self.name("hostports"))];
                let rule = self.rule(&name, statements);
                (base_chain(name, ChainKind::Nat, hook, priority), vec![rule])
            })
            .collect()
    }

    fn maps(&self) -> [Set; 4] {
        [self.by_address(true), self.by_port(true), self.by_address(false), self.by_port(false)]
    }

    /// This scope's chains with their rules, in an order that can be created.
    #[must_use]
    pub fn chains(&self) -> Vec<(Chain, Vec<Rule>)> {
        let mut chains = vec![self.hostports()];
        chains.extend(self.entries());
        chains
    }

    /// Makes this scope's maps and chains, or makes them right.
    pub fn build(&self, transaction: &mut Transaction) {
        for set in self.maps() {
            transaction.push(Verb::Add, &TABLE, Object::Set(set));
        }
        for (chain, rules) in self.chains() {
            transaction.chain_with_rules(&TABLE, chain, rules);
        }
    }

    /// The chain that masquerades what a masquerade set lists, with its set.
    fn masquerading(&self, v4: bool, prefix_len: u8) -> (Set, Chain, Vec<Rule>) {
        let set = self.masquerade(v4, prefix_len);
        let (saddr, daddr) = if v4 {
            (Selector::Ip4Source, Selector::Ip4Destination)
        } else {
            (Selector::Ip6Source, Selector::Ip6Destination)
        };
        let full = if v4 { 32 } else { 128 };
        let mask = (prefix_len < full).then(|| netmask(v4, prefix_len));
        let key = vec![KeyPart { selector: saddr, mask }, KeyPart::from(daddr)];
        let statements = vec![
            marked(self.mark()),
            Statement::ConnectionIsDnat,
            Statement::InSet { key, set: set.name.clone() },
            Statement::Masquerade,
        ];
        let chain = base_chain(set.name.clone(), ChainKind::Nat, Hook::Postrouting, MASQUERADE);
        let rule = Rule { chain: chain.name.clone(), statements, comment: None };
        (set, chain, vec![rule])
    }

    /// Takes our mark off what was not masqueraded.
    fn unmarking(&self) -> (Chain, Vec<Rule>) {
        let name = format!("unmark{}", bit_suffix(self.mark_bit));
        let statements = vec![marked(self.mark()), Statement::MarkClear(self.mark())];
        let rule = Rule { chain: name.clone(), statements, comment: None };
        (base_chain(name, ChainKind::Nat, Hook::Postrouting, UNMARK), vec![rule])
    }
}

/// Makes the table itself: what all scopes need.
fn build_table(transaction: &mut Transaction) {
    transaction.push(Verb::Add, &TABLE, Object::Table(Some(TABLE_COMMENT)));
    transaction.push(Verb::Add, &TABLE, Object::Set(attachments()));
    let (chain, rules) = guard();
    transaction.chain_with_rules(&TABLE, chain, rules);
}

/// Everything that the elements of one attachment need around them.
pub fn build(transaction: &mut Transaction, scope: &Scope, prefixes: &[(bool, u8)]) {
    build_table(transaction);
    scope.build(transaction);
    let (chain, rules) = scope.unmarking();
    transaction.chain_with_rules(&TABLE, chain, rules);
    for (v4, prefix_len) in prefixes {
        let (set, chain, rules) = scope.masquerading(*v4, *prefix_len);
        transaction.push(Verb::Add, &TABLE, Object::Set(set));
        transaction.chain_with_rules(&TABLE, chain, rules);
    }
}

/// The chains that [`build`] makes, for comparison with what is there.
#[must_use]
pub fn expected_chains(scope: &Scope, prefixes: &[(bool, u8)]) -> Vec<(Chain, Vec<Rule>)> {
    let mut chains = vec![guard()];
    chains.extend(scope.chains());
    chains.push(scope.unmarking());
    chains.extend(prefixes.iter().map(|(v4, prefix_len)| {
        let (_, chain, rules) = scope.masquerading(*v4, *prefix_len);
        (chain, rules)
    }));
    chains
}

/// Who has mappings: `short name of the owner tag -> number of elements it owns elsewhere`.
///
/// The element's existence makes a repeated ADD visible, and its count tells a DEL whether it
/// has found everything without reading the maps.
#[must_use]
pub fn attachments() -> Set {
    Set { name: "attachments".to_owned(), key: vec![DataType::IfName], data: vec![DataType::Mark] }
}

/// `route_localnet` makes 127.0.0.0/8 routable; nothing from outside may use that (CVE-2020-8558).
fn guard() -> (Chain, Vec<Rule>) {
    let name = "guard".to_owned();
    let loopback = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
    let statements = vec![
        Statement::Match {
            selector: Selector::InputInterface,
            negated: true,
            operand: Operand::Interface("lo".to_owned()),
        },
        Statement::Match {
            selector: Selector::Ip4Destination,
            negated: false,
            operand: Operand::Network(loopback),
        },
        Statement::Drop,
    ];
    let rule = Rule { chain: name.clone(), statements, comment: None };
    (base_chain(name, ChainKind::Filter, Hook::Prerouting, Priority::RAW), vec![rule])
}

/// The set that a name of ours stands for; `None` for one that an older or newer version made.
#[must_use]
pub fn set_by_name(name: &str) -> Option<Set> {
    if name == "attachments" {
        return Some(attachments());
    }
    let family = |rest: &str| match rest.as_bytes().first() {
        Some(b'4') => Some(true),
        Some(b'6') => Some(false),
        _ => None,
    };
    let named = |set: Set| Some(Set { name: name.to_owned(), ..set });
    let scope = Scope::shared();
    if let Some(rest) = name.strip_prefix("by_address") {
        return named(scope.by_address(family(rest)?));
    }
    if let Some(rest) = name.strip_prefix("by_port") {
        return named(scope.by_port(family(rest)?));
    }
    let rest = name.strip_prefix("masquerade")?;
    named(scope.masquerade(family(rest)?, 0))
}

fn base_chain(name: String, kind: ChainKind, hook: Hook, priority: Priority) -> Chain {
    Chain { name, base: Some(BaseChain { kind, hook, priority }) }
}

/// nft reads a port only behind the protocols it can belong to, and reads no rule that narrows
/// them twice.
fn names_a_protocol(condition: &[Statement]) -> bool {
    condition.iter().any(|statement| {
        matches!(statement, Statement::Match { selector: Selector::L4Protocol, negated: false, .. })
    })
}

fn marked(mark: u32) -> Statement {
    Statement::Match {
        selector: Selector::PacketMark,
        negated: false,
        operand: Operand::Mark { value: mark, mask: mark },
    }
}

fn map(name: String, v4: bool, key: Vec<DataType>) -> Set {
    Set { name, key, data: vec![address_type(v4), DataType::InetService] }
}

fn address_type(v4: bool) -> DataType {
    if v4 { DataType::Ipv4Addr } else { DataType::Ipv6Addr }
}

fn digit(v4: bool) -> char {
    if v4 { '4' } else { '6' }
}

fn bit_suffix(bit: u8) -> String {
    if bit == DEFAULT_MARK_BIT { String::new() } else { format!("_bit{bit}") }
}

fn netmask(v4: bool, prefix_len: u8) -> IpAddr {
    if v4 {
        IpAddr::V4(
            Ipv4Net::new(Ipv4Addr::UNSPECIFIED, prefix_len)
                .map_or(Ipv4Addr::BROADCAST, |n| n.netmask()),
        )
    } else {
        let all = Ipv6Addr::from(u128::MAX);
        IpAddr::V6(Ipv6Net::new(Ipv6Addr::UNSPECIFIED, prefix_len).map_or(all, |n| n.netmask()))
    }
}
