//! The table `inet cni_portmap`: its sets, chains and rules. Pure.
//!
//! Maps lead from host ports to containers, so that a packet's cost and a call's cost do not
//! depend on how many there are. Networks with conditions or a mark bit of their own have maps
//! and chains of their own, because both gate every mapping that is looked up behind them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_common::cni::attachment::network_short_name;
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::{
    BaseChain, Chain, ChainKind, DataType, Family, Hook, KeyPart, L4Protocol, Object, Operand,
    Priority, Rule, Selector, Set, Statement, Table, Transaction, Verb,
};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::config::DEFAULT_MARK_BIT;
use crate::plan::{LOOPBACK, Plan};

/// The table. Everything portmap makes on nftables is in it.
pub(super) const TABLE: Table = Table::new(Family::Inet, "cni_portmap");

pub(super) const TABLE_COMMENT: &str = "cni-chain portmap";

/// Behind kube-proxy (`dstnat`): a Service must win over a host port (CVE-2019-9946).
const AFTER_KUBE_PROXY: Priority = Priority(Priority::DSTNAT.0 + 5);
/// A network with conditions is more specific than the rest.
const CONDITIONAL: Priority = Priority(Priority::DSTNAT.0 + 4);
/// Before any other program's source NAT, so that our mark never meets a foreign rule: Go's
/// portmap and netavark masquerade whatever carries bit 13 there.
const MASQUERADE: Priority = Priority(Priority::SRCNAT.0 - 5);
const UNMARK: Priority = Priority(Priority::SRCNAT.0 - 4);

/// The maps and chains that a mapping lives in, by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    /// What its objects' names end in: empty for the shared scope.
    suffix: String,
    network: Option<String>,
    mark_bit: u8,
}

impl Scope {
    /// The scope of every network without conditions and with the default mark bit.
    pub(super) fn shared() -> Self {
        Self { suffix: String::new(), network: None, mark_bit: DEFAULT_MARK_BIT }
    }

    pub(super) fn of(plan: &Plan) -> Self {
        if plan.conditions.is_empty() && plan.mark_bit == DEFAULT_MARK_BIT {
            return Self::shared();
        }
        let network = &plan.attachment.network;
        Self {
            suffix: format!("_{}", network_short_name(network)),
            network: Some(network.clone()),
            mark_bit: plan.mark_bit,
        }
    }

    /// Whether this is the scope that needs no chains of its own.
    pub(super) fn is_shared(&self) -> bool {
        self.suffix.is_empty()
    }

    /// `(host address, protocol, host port) -> (container address, container port)`
    pub(super) fn by_address(&self, version: IpVersion) -> Set {
        let name = format!("by_address{}{}", version.digit(), self.suffix);
        let key = vec![address_type(version), DataType::InetProto, DataType::InetService];
        map(name, version, key)
    }

    /// `(protocol, host port) -> (container address, container port)`
    pub(super) fn by_port(&self, version: IpVersion) -> Set {
        let name = format!("by_port{}{}", version.digit(), self.suffix);
        map(name, version, vec![DataType::InetProto, DataType::InetService])
    }

    /// `(source network, container address)`: sources of this prefix length that are masqueraded
    /// on their way to the container.
    pub(super) fn masquerade(&self, version: IpVersion, prefix_len: u8) -> Set {
        let bit = bit_suffix(self.mark_bit);
        let name = format!("masquerade{}_{prefix_len}{bit}", version.digit());
        Set { name, key: vec![address_type(version); 2], data: vec![] }
    }

    fn maps(&self) -> [Set; 4] {
        let [v4, v6] = IpVersion::ALL;
        [self.by_address(v4), self.by_port(v4), self.by_address(v6), self.by_port(v6)]
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
}

/// Alternatives, of which a packet must match every statement of one.
pub(super) type Alternatives = Vec<Vec<Statement>>;

/// Everything that the elements of one attachment need around them.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    scope: Scope,
    conditions: [(IpVersion, Alternatives); 2],
    /// Families and prefix lengths of the masquerade sets in use.
    prefixes: Vec<(IpVersion, u8)>,
}

impl Layout {
    pub(super) fn new(
        scope: Scope,
        conditions: [(IpVersion, Alternatives); 2],
        prefixes: Vec<(IpVersion, u8)>,
    ) -> Self {
        Self { scope, conditions, prefixes }
    }

    /// What every table has that holds anything without conditions.
    pub(super) fn shared() -> Self {
        let unconditional = IpVersion::ALL.map(|version| (version, vec![Vec::new()]));
        Self::new(Scope::shared(), unconditional, Vec::new())
    }

    /// Makes the table, or makes it right.
    pub(super) fn build(&self, transaction: &mut Transaction) {
        transaction.push(Verb::Add, &TABLE, Object::Table(Some(TABLE_COMMENT)));
        transaction.push(Verb::Add, &TABLE, Object::Set(attachments()));
        let (chain, rules) = guard();
        transaction.chain_with_rules(&TABLE, chain, rules);
        self.build_scope(transaction);
        let (chain, rules) = self.unmarking();
        transaction.chain_with_rules(&TABLE, chain, rules);
        for (version, prefix_len) in &self.prefixes {
            let (set, chain, rules) = self.masquerading(*version, *prefix_len);
            transaction.push(Verb::Add, &TABLE, Object::Set(set));
            transaction.chain_with_rules(&TABLE, chain, rules);
        }
    }

    /// Makes a network's own maps and chains: its conditions may have changed since they were made.
    pub(super) fn build_own_scope(&self, transaction: &mut Transaction) {
        if !self.scope.is_shared() {
            self.build_scope(transaction);
        }
    }

    fn build_scope(&self, transaction: &mut Transaction) {
        for set in self.scope.maps() {
            transaction.push(Verb::Add, &TABLE, Object::Set(set));
        }
        for (chain, rules) in self.scope_chains() {
            transaction.chain_with_rules(&TABLE, chain, rules);
        }
    }

    /// The chains that [`Layout::build`] makes, for comparison with what is there.
    pub(super) fn chains(&self) -> Vec<(Chain, Vec<Rule>)> {
        let mut chains = vec![guard()];
        chains.extend(self.scope_chains());
        chains.push(self.unmarking());
        chains.extend(self.prefixes.iter().map(|(version, prefix_len)| {
            let (_, chain, rules) = self.masquerading(*version, *prefix_len);
            (chain, rules)
        }));
        chains
    }

    /// In an order that can be created.
    fn scope_chains(&self) -> Vec<(Chain, Vec<Rule>)> {
        let mut chains = vec![self.hostports()];
        chains.extend(self.entries());
        chains
    }

    /// The lookups: an address of its own wins over any address.
    fn hostports(&self) -> (Chain, Vec<Rule>) {
        let scope = &self.scope;
        let name = scope.name("hostports");
        let mut rules = vec![scope.rule(&name, vec![Statement::MarkSet(scope.mark())])];
        for (version, conditions) in &self.conditions {
            let (_, daddr) = address_selectors(*version);
            let by_port = [Selector::L4Protocol, Selector::DestinationPort];
            let by_address = [daddr, Selector::L4Protocol, Selector::DestinationPort];
            for (key, map) in [
                (&by_address[..], scope.by_address(*version)),
                (&by_port[..], scope.by_port(*version)),
            ] {
                for condition in conditions {
                    let mut statements = condition.clone();
                    if !names_a_protocol(condition) {
                        statements.push(Statement::ProtocolIn(L4Protocol::ALL.to_vec()));
                    }
                    let key: Vec<KeyPart> = key.iter().copied().map(KeyPart::from).collect();
                    statements.push(Statement::DnatByMap {
                        version: *version,
                        key,
                        map: map.name.clone(),
                    });
                    rules.push(scope.rule(&name, statements));
                }
            }
        }
        // Only packets that found no mapping get here.
        rules.push(scope.rule(&name, vec![Statement::MarkClear(scope.mark())]));
        (Chain { name, base: None }, rules)
    }

    fn entries(&self) -> Vec<(Chain, Vec<Rule>)> {
        let scope = &self.scope;
        let priority = if scope.is_shared() { AFTER_KUBE_PROXY } else { CONDITIONAL };
        [("prerouting", Hook::Prerouting), ("output", Hook::Output)]
            .into_iter()
            .map(|(stem, hook)| {
                let name = scope.name(stem);
                // Local destinations only, whatever hostIP says (CVE-2025-67499).
                let statements =
                    vec![Statement::DestinationIsLocal, Statement::Goto(scope.name("hostports"))];
                let rule = scope.rule(&name, statements);
                (base_chain(name, ChainKind::Nat, hook, priority), vec![rule])
            })
            .collect()
    }

    /// The chain that masquerades what a masquerade set lists, with its set.
    fn masquerading(&self, version: IpVersion, prefix_len: u8) -> (Set, Chain, Vec<Rule>) {
        let set = self.scope.masquerade(version, prefix_len);
        let (saddr, daddr) = address_selectors(version);
        let mask = (prefix_len < version.host_prefix()).then(|| netmask(version, prefix_len));
        let key = vec![KeyPart { selector: saddr, mask }, KeyPart::from(daddr)];
        let statements = vec![
            marked(self.scope.mark()),
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
        let mark = self.scope.mark();
        let name = format!("unmark{}", bit_suffix(self.scope.mark_bit));
        let statements = vec![marked(mark), Statement::MarkClear(mark)];
        let rule = Rule { chain: name.clone(), statements, comment: None };
        (base_chain(name, ChainKind::Nat, Hook::Postrouting, UNMARK), vec![rule])
    }
}

/// Who has mappings: `short name of the owner tag -> number of elements it owns elsewhere`.
///
/// The element's existence makes a repeated ADD visible, and its count tells a DEL whether it
/// has found everything without reading the maps.
pub(super) fn attachments() -> Set {
    Set { name: "attachments".to_owned(), key: vec![DataType::IfName], data: vec![DataType::Mark] }
}

/// `route_localnet` makes 127.0.0.0/8 routable; nothing from outside may use that, neither as
/// destination (CVE-2020-8558) nor as source.
pub(super) fn guard() -> (Chain, Vec<Rule>) {
    let name = "guard".to_owned();
    let drop = |selector| Rule {
        chain: name.clone(),
        statements: vec![
            Statement::Match {
                selector: Selector::InputInterface,
                negated: true,
                operand: Operand::Interface("lo".to_owned()),
            },
            Statement::Match { selector, negated: false, operand: Operand::Network(LOOPBACK) },
            Statement::Drop,
        ],
        comment: None,
    };
    let rules = [Selector::Ip4Destination, Selector::Ip4Source].map(drop).to_vec();
    (base_chain(name, ChainKind::Filter, Hook::Prerouting, Priority::RAW), rules)
}

/// The set that a name of ours stands for; `None` for one that an older or newer version made.
pub(super) fn set_by_name(name: &str) -> Option<Set> {
    if name == "attachments" {
        return Some(attachments());
    }
    let family = |rest: &str| match rest.as_bytes().first() {
        Some(b'4') => Some(IpVersion::V4),
        Some(b'6') => Some(IpVersion::V6),
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

fn map(name: String, version: IpVersion, key: Vec<DataType>) -> Set {
    Set { name, key, data: vec![address_type(version), DataType::InetService] }
}

fn address_type(version: IpVersion) -> DataType {
    match version {
        IpVersion::V4 => DataType::Ipv4Addr,
        IpVersion::V6 => DataType::Ipv6Addr,
    }
}

/// Source and destination.
fn address_selectors(version: IpVersion) -> (Selector, Selector) {
    match version {
        IpVersion::V4 => (Selector::Ip4Source, Selector::Ip4Destination),
        IpVersion::V6 => (Selector::Ip6Source, Selector::Ip6Destination),
    }
}

fn bit_suffix(bit: u8) -> String {
    if bit == DEFAULT_MARK_BIT { String::new() } else { format!("_bit{bit}") }
}

fn netmask(version: IpVersion, prefix_len: u8) -> IpAddr {
    match version {
        IpVersion::V4 => IpAddr::V4(
            Ipv4Net::new(Ipv4Addr::UNSPECIFIED, prefix_len)
                .map_or(Ipv4Addr::BROADCAST, |network| network.netmask()),
        ),
        IpVersion::V6 => IpAddr::V6(
            Ipv6Net::new(Ipv6Addr::UNSPECIFIED, prefix_len)
                .map_or(Ipv6Addr::from(u128::MAX), |network| network.netmask()),
        ),
    }
}
