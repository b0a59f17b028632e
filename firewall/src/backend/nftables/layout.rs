//! The table `inet cni_firewall`: its sets, chains and rules. Pure.
//!
//! Packets are judged by sets of addresses and interfaces, so that a packet's cost and a call's
//! cost do not depend on how many containers there are. Three maps say who put what there:
//! `attachments` and `members` by owner, `bridges` by bridge.

use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::{
    BaseChain, Chain, ChainKind, DataType, Family, Hook, KeyPart, Object, Priority, Rule, Selector,
    Set, Statement, Table, Transaction, Verb, layout_comment,
};

use crate::config::OWN_NAME;

/// The table. Everything the plugin makes on nftables is in it.
pub(crate) const TABLE: Table = Table::new(Family::Inet, OWN_NAME);

/// The number of this layout. It rises whenever an older version would do harm to what this one makes;
/// that one refuses the table then. What differed in layout 1 is in `older`.
pub(crate) const LAYOUT: u32 = 2;
/// The chain whose first rule tells the number; a short one, which DEL reads.
pub(crate) const NUMBERED: &str = INPUT;

const TABLE_COMMENT: &str = "cni-chain firewall";
/// The chain that leads to the administrators' chains.
pub(crate) const ADMIN: &str = "admin";
const FORWARD: &str = "forward";
const INPUT: &str = "input";
const ISOLATION: &str = "isolation";
const PARTICIPATING: &str = "participating";
const INSIDE: &str = "inside";
const ISOLATED: &str = "isolated";

/// The containers' addresses; an element's comment is its owner's tag.
pub(crate) fn containers(version: IpVersion) -> Set {
    set(containers_name(version), vec![address_type(version)])
}

/// The host's addresses on isolating bridges; an element's comment is the bridge's name.
pub(crate) fn gateways(version: IpVersion) -> Set {
    set(gateways_name(version), vec![address_type(version)])
}

/// The bridges whose containers those of other networks do not reach.
pub(crate) fn participating() -> Set {
    set(PARTICIPATING, vec![DataType::IfName])
}

/// Each participating bridge, twice: the way in and the way out of what stays on it.
pub(crate) fn inside() -> Set {
    set(INSIDE, vec![DataType::IfName; 2])
}

/// The same for bridges whose containers do not reach each other either.
pub(crate) fn isolated() -> Set {
    set(ISOLATED, vec![DataType::IfName; 2])
}

/// Who has addresses: `short name of the owner -> how many, the first of each family`.
///
/// The element's existence makes a repeated ADD visible. Its data lets a DEL that was told
/// nothing but the owner find everything without reading the sets.
pub(crate) fn attachments() -> Set {
    map("attachments", vec![DataType::Mark, DataType::Ipv4Addr, DataType::Ipv6Addr])
}

/// Who isolates what: `short name of the owner -> bridge, policy`.
pub(crate) fn members() -> Set {
    map("members", vec![DataType::IfName, DataType::Mark])
}

/// `bridge -> attachments that ask for same-bridge, attachments that ask for isolated`
pub(crate) fn bridges() -> Set {
    map("bridges", vec![DataType::Mark, DataType::Mark])
}

/// All sets and maps.
pub(crate) fn sets() -> Vec<Set> {
    vec![
        attachments(),
        members(),
        bridges(),
        containers(IpVersion::V4),
        containers(IpVersion::V6),
        gateways(IpVersion::V4),
        gateways(IpVersion::V6),
        participating(),
        inside(),
        isolated(),
    ]
}

/// The chains whose rules are exactly ours, with their rules.
pub(crate) fn chains() -> Vec<(Chain, Vec<Rule>)> {
    vec![isolation(), forward(), input()]
}

/// The chain for the administrators' chains. Each network adds the jump to its own.
pub(crate) fn admin() -> Chain {
    Chain { name: ADMIN.to_owned(), base: None }
}

/// The jump to an administrator's chain.
pub(crate) fn admin_jump(name: &str) -> Rule {
    rule(ADMIN, vec![Statement::Jump(name.to_owned())])
}

/// Makes the table, its sets and its chains, or makes them right. The administrators' chains
/// are none of this.
pub(crate) fn build(transaction: &mut Transaction) {
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
    for version in IpVersion::ALL {
        let accepting = accepting(version, containers_name(version));
        rules.extend(accepting.into_iter().map(|statements| rule(FORWARD, statements)));
    }
    (base_chain(FORWARD, Hook::Forward), rules)
}

/// What may pass: replies and mapped ports to these containers, and all that comes from them.
pub(crate) fn accepting(version: IpVersion, containers: &str) -> [Vec<Statement>; 3] {
    let to = || in_set(&[destination(version)], containers);
    let from = in_set(&[source(version)], containers);
    [
        vec![Statement::ConnectionIsEstablished, to(), Statement::Accept],
        vec![Statement::ConnectionIsDnat, to(), Statement::Accept],
        vec![from, Statement::Accept],
    ]
}

/// Replies and mapped ports pass; then each bridge for itself.
fn isolation() -> (Chain, Vec<Rule>) {
    let pair = [Selector::InputInterface, Selector::OutputInterface];
    let out_of = || in_set(&[Selector::InputInterface], PARTICIPATING);
    let into = || in_set(&[Selector::OutputInterface], PARTICIPATING);
    let mut decisions = vec![
        vec![Statement::ConnectionIsEstablished, Statement::Return],
        vec![Statement::ConnectionIsDnat, Statement::Return],
        vec![in_set(&pair, ISOLATED), Statement::Drop],
        vec![in_set(&pair, INSIDE), Statement::Return],
        vec![out_of(), into(), Statement::Drop],
    ];
    for version in IpVersion::ALL {
        // Containers of networks that let everybody in are still other networks' containers.
        let from = in_set(&[source(version)], containers_name(version));
        decisions.push(vec![into(), from, Statement::Drop]);
    }
    let rules = decisions.into_iter().map(|statements| rule(ISOLATION, statements)).collect();
    (Chain { name: ISOLATION.to_owned(), base: None }, rules)
}

/// An isolating bridge's own address answers its own containers, not those of other bridges.
fn input() -> (Chain, Vec<Rule>) {
    let established = vec![Statement::ConnectionIsEstablished, Statement::Accept];
    let number = Some(layout_comment(LAYOUT));
    let mut rules = vec![Rule { comment: number, ..rule(INPUT, established) }];
    for version in IpVersion::ALL {
        for from in [
            in_set(&[Selector::InputInterface], PARTICIPATING),
            in_set(&[source(version)], containers_name(version)),
        ] {
            let to_gateway = in_set(&[destination(version)], gateways_name(version));
            let elsewhere = Statement::DestinationIsNotOfInputInterface;
            rules.push(rule(INPUT, vec![to_gateway, from, elsewhere, Statement::Drop]));
        }
    }
    (base_chain(INPUT, Hook::Input), rules)
}

fn rule(chain: &str, statements: Vec<Statement>) -> Rule {
    Rule { chain: chain.to_owned(), statements, comment: None }
}

fn base_chain(name: &str, hook: Hook) -> Chain {
    let base = BaseChain { kind: ChainKind::Filter, hook, priority: Priority::FILTER };
    Chain { name: name.to_owned(), base: Some(base) }
}

fn in_set(key: &[Selector], set: &str) -> Statement {
    let key = key.iter().copied().map(KeyPart::from).collect();
    Statement::InSet { key, set: set.to_owned() }
}

fn containers_name(version: IpVersion) -> &'static str {
    if version.is_v4() { "containers4" } else { "containers6" }
}

fn gateways_name(version: IpVersion) -> &'static str {
    if version.is_v4() { "gateways4" } else { "gateways6" }
}

fn source(version: IpVersion) -> Selector {
    if version.is_v4() { Selector::Ip4Source } else { Selector::Ip6Source }
}

fn destination(version: IpVersion) -> Selector {
    if version.is_v4() { Selector::Ip4Destination } else { Selector::Ip6Destination }
}

fn set(name: &str, key: Vec<DataType>) -> Set {
    Set { name: name.to_owned(), key, data: Vec::new() }
}

fn map(name: &str, data: Vec<DataType>) -> Set {
    Set { name: name.to_owned(), key: vec![DataType::IfName], data }
}

fn address_type(version: IpVersion) -> DataType {
    if version.is_v4() { DataType::Ipv4Addr } else { DataType::Ipv6Addr }
}
