//! The chains and rules of the table `inet cni_portmap`. Pure.
//!
//! Maps lead from host ports to containers, so that a packet's cost and a call's cost do not
//! depend on how many there are. What is none of our mappings passes through unchanged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::{
    BaseChain, Chain, ChainKind, Hook, KeyPart, L4Protocol, Object, Operand, Priority, Rule,
    Selector, Set, Statement, Transaction, Verb, layout_comment,
};
use ipnet::{Ipv4Net, Ipv6Net};

use super::elements::Content;
use super::known::Known;
use super::number::{GUARD, LAYOUT};
use super::sets::{self, Scope, TABLE};
use crate::plan::LOOPBACK;

const TABLE_COMMENT: &str = "cni-chain portmap";

/// Behind kube-proxy (`dstnat`): a Service must win over a host port (CVE-2019-9946).
const AFTER_KUBE_PROXY: Priority = Priority(Priority::DSTNAT.0 + 5);
/// A mapping with conditions is more specific than the rest.
const CONDITIONAL: Priority = Priority(Priority::DSTNAT.0 + 4);
/// Before any other program's source NAT, so that our mark never meets a foreign rule: Go's
/// portmap and netavark masquerade whatever carries bit 13 there.
const MASQUERADE: Priority = Priority(Priority::SRCNAT.0 - 5);

const GUARD_INPUT: &str = "guard_input";
/// Behind connection tracking (-200), where NAT begins.
const BEFORE_ANY_NAT: Priority = Priority(-199);

/// Alternatives, of which a packet must match every statement of one.
pub(super) type Alternatives = Vec<Vec<Statement>>;

/// Everything that the elements of one attachment need around them.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    scope: Scope,
    conditions: [(IpVersion, Alternatives); 2],
    /// What the chains must have rules for beside that.
    known: Known,
}

impl Layout {
    pub(super) fn new(content: &Content, conditions: [(IpVersion, Alternatives); 2]) -> Self {
        Self { scope: content.scope.clone(), conditions, known: Known::of(content) }
    }

    /// What every table has that holds anything without conditions.
    pub(super) fn shared() -> Self {
        let conditions = IpVersion::ALL.map(|version| (version, vec![Vec::new()]));
        Self { scope: Scope::shared(), conditions, known: Known::default() }
    }

    /// The same in a table that has all that others need.
    pub(super) fn beside(&self, known: Known) -> Self {
        Self { known: self.known.clone().and(known), ..self.clone() }
    }

    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Makes the table, or makes it right.
    pub(super) fn build(&self, transaction: &mut Transaction) {
        let Known { masqueraded, sources, .. } = &self.known;
        build_guarded(transaction);
        let masqueraded = masqueraded.iter().map(|(v, n)| self.scope.masquerade(*v, *n));
        let sources = sources.iter().map(|(v, n)| self.scope.sources(*v, *n));
        let targets = IpVersion::ALL.map(|version| self.scope.targets(version));
        for set in masqueraded.chain(sources).chain(targets) {
            transaction.push(Verb::Add, &TABLE, Object::Set(set));
        }
        let (chain, rules) = self.marking();
        transaction.chain_with_rules(&TABLE, chain, rules);
        self.build_scope(transaction);
        for (chain, rules) in self.masquerading() {
            transaction.chain_with_rules(&TABLE, chain, rules);
        }
    }

    /// Makes the maps and chains that only mappings with these conditions have.
    pub(super) fn build_own_scope(&self, transaction: &mut Transaction) {
        if !self.scope.is_shared() {
            self.build_scope(transaction);
        }
    }

    fn build_scope(&self, transaction: &mut Transaction) {
        for set in IpVersion::ALL.into_iter().flat_map(|version| self.maps(version)) {
            transaction.push(Verb::Add, &TABLE, Object::Set(set));
        }
        for (chain, rules) in self.scope_chains() {
            transaction.chain_with_rules(&TABLE, chain, rules);
        }
    }

    /// The chains that [`Layout::build`] makes, for comparison with what is there.
    pub(super) fn chains(&self) -> Vec<(Chain, Vec<Rule>)> {
        let mut chains = guard();
        chains.push(self.marking());
        chains.extend(self.scope_chains());
        chains.extend(self.masquerading());
        chains
    }

    /// In an order that can be created.
    fn scope_chains(&self) -> Vec<(Chain, Vec<Rule>)> {
        let mut chains = vec![self.lookups(), self.hostports()];
        chains.extend(self.entries());
        chains
    }

    /// The mark has to be set before a lookup that finds something, and must not stay where none
    /// does. On a packet that came with it, it is somebody else's, and stays.
    fn hostports(&self) -> (Chain, Vec<Rule>) {
        let name = self.scope.name("hostports");
        let (mark, lookups) = (self.scope.mark(), self.scope.name("lookups"));
        let rules = [
            vec![marked(mark), Statement::Goto(lookups.clone())],
            vec![Statement::Jump(self.scope.sources_chain())],
            vec![Statement::Jump(lookups)],
            vec![Statement::MarkClear(mark)],
        ];
        let rules = rules.map(|statements| rule(&name, statements)).into();
        (Chain { name, base: None }, rules)
    }

    /// Marks what comes from where it may have to be masqueraded: the host's own 127.0.0.0/8, and the
    /// networks of the masquerade sets. All else is spared the lookups in postrouting.
    fn marking(&self) -> (Chain, Vec<Rule>) {
        let name = self.scope.sources_chain();
        let mark = Statement::MarkSet(self.scope.mark());
        let loopback = Statement::Match {
            selector: Selector::Ip4Source,
            negated: false,
            operand: Operand::Network(LOOPBACK),
        };
        let mut rules = vec![rule(&name, vec![loopback, mark.clone()])];
        for (version, prefix_len) in &self.known.sources {
            let set = self.scope.sources(*version, *prefix_len).name;
            let key = vec![source_network(*version, *prefix_len)];
            rules.push(rule(&name, vec![Statement::InSet { key, set }, mark.clone()]));
        }
        (Chain { name, base: None }, rules)
    }

    /// The maps of a family's mappings, in the order in which they are looked up: an address of its own
    /// wins over any address. Few hosts have mappings of one address, and the others do not pay for it.
    /// What has conditions is built by each of its ADDs, which do not know of others.
    fn maps(&self, version: IpVersion) -> Vec<Set> {
        let by_address = !self.scope.is_shared() || self.known.by_address.contains(&version);
        let by_address = by_address.then(|| self.scope.by_address(version));
        by_address.into_iter().chain([self.scope.by_port(version)]).collect()
    }

    pub(super) fn lookups(&self) -> (Chain, Vec<Rule>) {
        let name = self.scope.name("lookups");
        let mut rules = Vec::new();
        for (version, conditions) in &self.conditions {
            let (_, daddr) = address_selectors(*version);
            for map in self.maps(*version) {
                let own = (map == self.scope.by_address(*version)).then_some(daddr);
                let key = [Selector::L4Protocol, Selector::DestinationPort];
                let key: Vec<Selector> = own.into_iter().chain(key).collect();
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
                    rules.push(rule(&name, statements));
                }
            }
        }
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
                let rule = rule(&name, statements);
                (base_chain(name, ChainKind::Nat, hook, priority), vec![rule])
            })
            .collect()
    }

    /// Masquerades what the masquerade sets list. What is left loses our mark: what goes to where our
    /// mappings lead, and nothing else, for the bit may be another program's as well.
    fn masquerading(&self) -> [(Chain, Vec<Rule>); 2] {
        let (mark, bit) = (self.scope.mark(), self.scope.bit_suffix());
        let (base, name) = (format!("postrouting{bit}"), format!("translated{bit}"));
        let gate = vec![marked(mark), Statement::ConnectionIsDnat, Statement::Goto(name.clone())];
        let masquerade = |(version, prefix_len): &(IpVersion, u8)| {
            let (_, daddr) = address_selectors(*version);
            let key = vec![source_network(*version, *prefix_len), KeyPart::from(daddr)];
            let set = self.scope.masquerade(*version, *prefix_len).name;
            rule(&name, vec![Statement::InSet { key, set }, Statement::Masquerade])
        };
        let unmark = |version| {
            let (_, daddr) = address_selectors(version);
            let key = [daddr, Selector::L4Protocol, Selector::DestinationPort];
            let key = key.map(KeyPart::from).to_vec();
            let statements = vec![
                Statement::ProtocolIn(L4Protocol::ALL.to_vec()),
                Statement::InSet { key, set: self.scope.targets(version).name },
                Statement::MarkClear(mark),
            ];
            rule(&name, statements)
        };
        let mut rules: Vec<Rule> = self.known.masqueraded.iter().map(masquerade).collect();
        rules.extend(IpVersion::ALL.map(unmark));
        let gate = vec![rule(&base, gate)];
        [
            (Chain { name: name.clone(), base: None }, rules),
            (base_chain(base, ChainKind::Nat, Hook::Postrouting, MASQUERADE), gate),
        ]
    }
}

/// Makes the table with its guard and the sets that GC knows it by, or makes them right.
pub(super) fn build_guarded(transaction: &mut Transaction) {
    transaction.push(Verb::Add, &TABLE, Object::Table(Some(TABLE_COMMENT)));
    for set in sets::shared() {
        transaction.push(Verb::Add, &TABLE, Object::Set(set));
    }
    for (chain, rules) in guard() {
        transaction.chain_with_rules(&TABLE, chain, rules);
    }
}

/// Removes a scope's chains, so that nothing leads to one that goes.
pub(super) fn remove_scope(transaction: &mut Transaction, scope: &Scope) {
    let chains = || {
        let stems = ["prerouting", "output", "hostports", "lookups"].into_iter();
        stems.map(|stem| Object::Chain(Chain { name: scope.name(stem), base: None }))
    };
    chains().for_each(|chain| transaction.push(Verb::Flush, &TABLE, chain));
    chains().for_each(|chain| transaction.push(Verb::Delete, &TABLE, chain));
}

/// `route_localnet` makes 127.0.0.0/8 routable; nothing from outside may use that, neither as
/// destination (CVE-2020-8558) nor as source.
///
/// A chain in `prerouting` that sees every packet costs every packet of the host. So a NAT chain drops
/// what opens a connection, before anybody translates it, and `input` drops the rest of what would be
/// delivered: packets of connections older than the guard, of none, and untracked ones.
pub(super) fn guard() -> Vec<(Chain, Vec<Rule>)> {
    let drop = |chain: &str, selector| {
        rule(chain, [from_outside(selector), vec![Statement::Drop]].concat())
    };
    let [destination, source] = [Selector::Ip4Destination, Selector::Ip4Source];
    let translated =
        [from_outside(destination), vec![Statement::ConnectionIsTranslated, Statement::Accept]];
    vec![
        (
            base_chain(GUARD.to_owned(), ChainKind::Nat, Hook::Prerouting, BEFORE_ANY_NAT),
            vec![numbered(drop(GUARD, destination)), drop(GUARD, source)],
        ),
        (
            base_chain(GUARD_INPUT.to_owned(), ChainKind::Filter, Hook::Input, Priority::RAW),
            vec![
                drop(GUARD_INPUT, source),
                // What was for another address before it was translated, as every answer to 127.0.0.1 is.
                rule(GUARD_INPUT, translated.concat()),
                drop(GUARD_INPUT, destination),
            ],
        ),
    ]
}

fn numbered(rule: Rule) -> Rule {
    Rule { comment: Some(layout_comment(LAYOUT)), ..rule }
}

/// Has an address of 127.0.0.0/8 that did not come by `lo`.
fn from_outside(selector: Selector) -> Vec<Statement> {
    vec![
        // First, because every packet comes by, and nearly none goes further.
        Statement::Match { selector, negated: false, operand: Operand::Network(LOOPBACK) },
        Statement::Match {
            selector: Selector::InputInterface,
            negated: true,
            operand: Operand::Interface("lo".to_owned()),
        },
    ]
}

fn rule(chain: &str, statements: Vec<Statement>) -> Rule {
    Rule { chain: chain.to_owned(), statements, comment: None }
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

/// Source and destination.
fn address_selectors(version: IpVersion) -> (Selector, Selector) {
    match version {
        IpVersion::V4 => (Selector::Ip4Source, Selector::Ip4Destination),
        IpVersion::V6 => (Selector::Ip6Source, Selector::Ip6Destination),
    }
}

/// The network that a packet comes from.
fn source_network(version: IpVersion, prefix_len: u8) -> KeyPart {
    let (selector, _) = address_selectors(version);
    let mask = (prefix_len < version.host_prefix()).then(|| netmask(version, prefix_len));
    KeyPart { selector, mask }
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
