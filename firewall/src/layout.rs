//! The table `inet cni_firewall`: its sets, chains and rules. Pure.
//!
//! Packets are judged by sets of addresses and interfaces, so that a packet's cost and a call's
//! cost do not depend on how many containers there are. Three maps say who put what there:
//! `attachments` and `members` by owner, `bridges` by bridge.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_common::cni::OwnerTag;
use cni_common::kernel::nft::{
    BaseChain, Chain, ChainKind, DataType, Element, Family, Hook, KeyPart, Object, Priority, Rule,
    Selector, Set, Statement, Table, Transaction, Value, Verb,
};

use crate::plan::Policy;

/// The table. Everything the plugin makes on nftables is in it.
pub const TABLE: Table = Table::new(Family::Inet, "cni_firewall");

const TABLE_COMMENT: &str = "cni-chain firewall";
/// The chain that leads to the administrators' chains.
pub const ADMIN: &str = "admin";
const FORWARD: &str = "forward";
const INPUT: &str = "input";
const ISOLATION: &str = "isolation";

/// The containers' addresses; an element's comment is its owner's tag.
#[must_use]
pub fn containers(v4: bool) -> Set {
    set(format!("containers{}", digit(v4)), vec![address_type(v4)])
}

/// The host's addresses on isolating bridges; an element's comment is the bridge's name.
#[must_use]
pub fn gateways(v4: bool) -> Set {
    set(format!("gateways{}", digit(v4)), vec![address_type(v4)])
}

/// The bridges whose containers those of other networks do not reach.
#[must_use]
pub fn participating() -> Set {
    set("participating".to_owned(), vec![DataType::IfName])
}

/// Each participating bridge, twice: the way in and the way out of what stays on it.
#[must_use]
pub fn inside() -> Set {
    set("inside".to_owned(), vec![DataType::IfName; 2])
}

/// The same for bridges whose containers do not reach each other either.
#[must_use]
pub fn isolated() -> Set {
    set("isolated".to_owned(), vec![DataType::IfName; 2])
}

/// Who has addresses: `short name of the owner tag -> how many, the first of each family`.
///
/// The element's existence makes a repeated ADD visible. Its data lets a DEL that was told
/// nothing but the owner find everything without reading the sets.
#[must_use]
pub fn attachments() -> Set {
    map("attachments", vec![DataType::Mark, DataType::Ipv4Addr, DataType::Ipv6Addr])
}

/// Who isolates what: `short name of the owner tag -> bridge, policy`.
#[must_use]
pub fn members() -> Set {
    map("members", vec![DataType::IfName, DataType::Mark])
}

/// `bridge -> attachments that ask for same-bridge, attachments that ask for isolated`
#[must_use]
pub fn bridges() -> Set {
    map("bridges", vec![DataType::Mark, DataType::Mark])
}

/// All sets and maps.
#[must_use]
pub fn sets() -> Vec<Set> {
    vec![
        attachments(),
        members(),
        bridges(),
        containers(true),
        containers(false),
        gateways(true),
        gateways(false),
        participating(),
        inside(),
        isolated(),
    ]
}

/// The chains whose rules are exactly ours, with their rules.
#[must_use]
pub fn chains() -> Vec<(Chain, Vec<Rule>)> {
    vec![isolation(), forward(), input()]
}

/// The chain for the administrators' chains. Each network adds the jump to its own.
#[must_use]
pub fn admin() -> Chain {
    Chain { name: ADMIN.to_owned(), base: None }
}

/// The jump to an administrator's chain.
#[must_use]
pub fn admin_jump(name: &str) -> Rule {
    rule(ADMIN, vec![Statement::Jump(name.to_owned())])
}

/// Makes the table, its sets and its chains, or makes them right. The administrators' chains
/// are none of this.
pub fn build(transaction: &mut Transaction) {
    transaction.push(Verb::Add, &TABLE, Object::Table(Some(TABLE_COMMENT)));
    for set in sets() {
        transaction.push(Verb::Add, &TABLE, Object::Set(set));
    }
    transaction.push(Verb::Add, &TABLE, Object::Chain(admin()));
    for (chain, rules) in chains() {
        transaction.chain_with_rules(&TABLE, chain, rules);
    }
}

/// The administrator's word, then what must not pass, then what may.
fn forward() -> (Chain, Vec<Rule>) {
    let mut rules = vec![
        rule(FORWARD, vec![Statement::Jump(ADMIN.to_owned())]),
        rule(FORWARD, vec![Statement::Jump(ISOLATION.to_owned())]),
    ];
    for v4 in [true, false] {
        let accepting = accepting(v4, &containers(v4));
        rules.extend(accepting.into_iter().map(|statements| rule(FORWARD, statements)));
    }
    (base_chain(FORWARD, Hook::Forward), rules)
}

/// What may pass: replies and mapped ports to these containers, and all that comes from them.
#[must_use]
pub fn accepting(v4: bool, containers: &Set) -> [Vec<Statement>; 3] {
    let to = in_set(&[destination(v4)], containers);
    let from = in_set(&[source(v4)], containers);
    [
        vec![Statement::ConnectionIsEstablished, to.clone()],
        vec![Statement::ConnectionIsDnat, to],
        vec![from],
    ]
    .map(|conditions| and(conditions, Statement::Accept))
}

/// Replies and mapped ports pass; then each bridge for itself.
fn isolation() -> (Chain, Vec<Rule>) {
    let pair = [Selector::InputInterface, Selector::OutputInterface];
    let into = || in_set(&[Selector::OutputInterface], &participating());
    let mut decisions = vec![
        (vec![Statement::ConnectionIsEstablished], Statement::Return),
        (vec![Statement::ConnectionIsDnat], Statement::Return),
        (vec![in_set(&pair, &isolated())], Statement::Drop),
        (vec![in_set(&pair, &inside())], Statement::Return),
        (vec![in_set(&[Selector::InputInterface], &participating()), into()], Statement::Drop),
    ];
    for v4 in [true, false] {
        // Containers of networks that let everybody in are still other networks' containers.
        let from = in_set(&[source(v4)], &containers(v4));
        decisions.push((vec![into(), from], Statement::Drop));
    }
    let rules = decisions
        .into_iter()
        .map(|(conditions, verdict)| rule(ISOLATION, and(conditions, verdict)))
        .collect();
    (Chain { name: ISOLATION.to_owned(), base: None }, rules)
}

/// An isolating bridge's own address answers its own containers, not those of other bridges.
fn input() -> (Chain, Vec<Rule>) {
    let mut rules = vec![rule(INPUT, vec![Statement::ConnectionIsEstablished, Statement::Accept])];
    for v4 in [true, false] {
        let to_gateway = in_set(&[destination(v4)], &gateways(v4));
        for from in [
            in_set(&[Selector::InputInterface], &participating()),
            in_set(&[source(v4)], &containers(v4)),
        ] {
            let conditions =
                vec![to_gateway.clone(), from, Statement::DestinationIsNotOfInputInterface];
            rules.push(rule(INPUT, and(conditions, Statement::Drop)));
        }
    }
    (base_chain(INPUT, Hook::Input), rules)
}

fn and(mut conditions: Vec<Statement>, verdict: Statement) -> Vec<Statement> {
    conditions.push(verdict);
    conditions
}

fn rule(chain: &str, statements: Vec<Statement>) -> Rule {
    Rule { chain: chain.to_owned(), statements, comment: None }
}

fn base_chain(name: &str, hook: Hook) -> Chain {
    let base = BaseChain { kind: ChainKind::Filter, hook, priority: Priority::FILTER };
    Chain { name: name.to_owned(), base: Some(base) }
}

fn in_set(key: &[Selector], set: &Set) -> Statement {
    let key = key.iter().copied().map(KeyPart::from).collect();
    Statement::InSet { key, set: set.name.clone() }
}

fn source(v4: bool) -> Selector {
    if v4 { Selector::Ip4Source } else { Selector::Ip6Source }
}

fn destination(v4: bool) -> Selector {
    if v4 { Selector::Ip4Destination } else { Selector::Ip6Destination }
}

fn set(name: String, key: Vec<DataType>) -> Set {
    Set { name, key, data: Vec::new() }
}

fn map(name: &str, data: Vec<DataType>) -> Set {
    Set { name: name.to_owned(), key: vec![DataType::IfName], data }
}

fn address_type(v4: bool) -> DataType {
    if v4 { DataType::Ipv4Addr } else { DataType::Ipv6Addr }
}

fn digit(v4: bool) -> char {
    if v4 { '4' } else { '6' }
}

/// The key of an attachment's elements in `attachments` and `members`.
#[must_use]
pub fn owner_key(tag: &OwnerTag) -> Vec<Value> {
    vec![Value::Name(tag.short_name())]
}

/// The element that says which addresses an attachment has.
#[must_use]
pub fn attachment_element(tag: &OwnerTag, addresses: &[IpAddr]) -> Element {
    let first = |v4: bool, none: IpAddr| {
        Value::Address(addresses.iter().copied().find(|a| a.is_ipv4() == v4).unwrap_or(none))
    };
    let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    let data = vec![
        Value::Mark(count),
        first(true, Ipv4Addr::UNSPECIFIED.into()),
        first(false, Ipv6Addr::UNSPECIFIED.into()),
    ];
    Element::new(owner_key(tag), data, tag.as_str())
}

/// The addresses that an element of `attachments` names, and how many there are in all.
#[must_use]
pub fn attachment_addresses(element: &Element) -> Option<(usize, Vec<IpAddr>)> {
    let [Value::Mark(count), Value::Address(v4), Value::Address(v6)] = element.data.as_slice()
    else {
        return None;
    };
    let named = [*v4, *v6].into_iter().filter(|address| !address.is_unspecified()).collect();
    Some((usize::try_from(*count).ok()?, named))
}

/// The element of an address in `containers`.
#[must_use]
pub fn container_element(address: IpAddr, tag: &OwnerTag) -> Element {
    Element::new(vec![Value::Address(address)], Vec::new(), tag.as_str())
}

/// The element that says which bridge an attachment isolates, and how.
#[must_use]
pub fn member_element(tag: &OwnerTag, bridge: &str, policy: Policy) -> Element {
    let data = vec![Value::Name(bridge.to_owned()), Value::Mark(policy_number(policy))];
    Element::new(owner_key(tag), data, tag.as_str())
}

/// The bridge and the policy that an element of `members` names.
#[must_use]
pub fn membership(element: &Element) -> Option<(String, Policy)> {
    match element.data.as_slice() {
        [Value::Name(bridge), Value::Mark(number)] => {
            let policies = [Policy::SameBridge, Policy::Isolated];
            let policy = policies.into_iter().find(|policy| policy_number(*policy) == *number)?;
            Some((bridge.clone(), policy))
        }
        _ => None,
    }
}

fn policy_number(policy: Policy) -> u32 {
    match policy {
        Policy::SameBridge => 1,
        Policy::Isolated => 2,
    }
}

/// How many attachments ask a bridge for each policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Those that ask for same-bridge.
    pub same_bridge: u32,
    /// Those that ask for isolated.
    pub isolated: u32,
}

impl Share {
    /// With one attachment more.
    #[must_use]
    pub fn plus(self, policy: Policy) -> Self {
        self.changed(policy, |count| count.saturating_add(1))
    }

    /// With one attachment less.
    #[must_use]
    pub fn minus(self, policy: Policy) -> Self {
        self.changed(policy, |count| count.saturating_sub(1))
    }

    fn changed(mut self, policy: Policy, change: impl Fn(u32) -> u32) -> Self {
        let count = match policy {
            Policy::SameBridge => &mut self.same_bridge,
            Policy::Isolated => &mut self.isolated,
        };
        *count = change(*count);
        self
    }

    /// How many ask for this policy.
    #[must_use]
    pub fn count(self, policy: Policy) -> u32 {
        match policy {
            Policy::SameBridge => self.same_bridge,
            Policy::Isolated => self.isolated,
        }
    }

    /// Whether nobody asks for anything.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// The share that an element of `bridges` stands for.
    #[must_use]
    pub fn from_element(element: &Element) -> Option<Self> {
        match element.data.as_slice() {
            [Value::Mark(same_bridge), Value::Mark(isolated)] => {
                Some(Self { same_bridge: *same_bridge, isolated: *isolated })
            }
            _ => None,
        }
    }

    /// The element of `bridges`.
    #[must_use]
    pub fn element(self, bridge: &str) -> Element {
        let data = vec![Value::Mark(self.same_bridge), Value::Mark(self.isolated)];
        Element { key: bridge_key(bridge), data, comment: None }
    }

    /// What the packet path must hold for the bridge: set by set, the key and whether it is in.
    #[must_use]
    pub fn lookups(self, bridge: &str) -> [(Set, Vec<Value>, bool); 3] {
        let pair = vec![Value::Name(bridge.to_owned()); 2];
        [
            (participating(), bridge_key(bridge), !self.is_none()),
            (inside(), pair.clone(), !self.is_none()),
            (isolated(), pair, self.isolated > 0),
        ]
    }
}

/// The key of a bridge.
#[must_use]
pub fn bridge_key(bridge: &str) -> Vec<Value> {
    vec![Value::Name(bridge.to_owned())]
}

/// The element of a gateway's address.
#[must_use]
pub fn gateway_element(address: IpAddr, bridge: &str) -> Element {
    Element::new(vec![Value::Address(address)], Vec::new(), bridge)
}
