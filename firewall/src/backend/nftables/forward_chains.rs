//! Rules in other people's nftables chains, where they would drop containers' packets.
//!
//! An accept in one table does not override a drop in another. In the table of each chain that
//! the configuration names there is a chain of ours, and sets of containers' addresses for it,
//! because a rule sees its own table's sets only. The named chain gets one jump. A map in our own
//! table counts the addresses table by table, so that the last one to leave takes it all along.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cni_common::cni::Failure as _;
use cni_common::cni::OwnerTag;
use cni_common::cni::attachment::network_short_name;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::compare::is_rule;
use cni_common::kernel::nft::{
    BaseChain, Chain, ChainKind, DataType, Element, Family, Hook, InstalledRule, Nft, NftError,
    Object, Priority, Rule, Set, Statement, Table, Transaction, Value, Verb, keys_only,
};

use super::elements;
use super::layout::{self, TABLE};
use crate::config::{ForwardChain, OWN_NAME};
use crate::plan::Plan;

/// Our chain in a table that is not ours.
const CHAIN: &str = OWN_NAME;

/// The map of tables that have our chain: `digest -> addresses in it`, with the table's name as
/// comment. It exists only as long as there are any.
pub(super) fn hooks() -> Set {
    let (key, data) = (vec![DataType::IfName], vec![DataType::Mark]);
    Set { name: "forward_chains".to_owned(), key, data }
}

fn containers(version: IpVersion) -> Set {
    let set = layout::containers(version);
    Set { name: format!("{CHAIN}_{}", set.name), ..set }
}

/// The table that a chain is in.
pub(super) fn table_of(chain: &ForwardChain) -> Table {
    let family = chain.version.map_or(Family::Inet, Family::of);
    Table { family, name: chain.table.clone().into() }
}

/// The IP versions whose packets a table sees.
fn versions(table: &Table) -> &'static [IpVersion] {
    match table.family {
        Family::Inet => &IpVersion::ALL,
        Family::Ip => &[IpVersion::V4],
        Family::Ip6 => &[IpVersion::V6],
        Family::Bridge => &[],
    }
}

fn rules(table: &Table) -> Vec<Rule> {
    let verdicts = versions(table)
        .iter()
        .flat_map(|version| layout::accepting(*version, &containers(*version).name));
    verdicts.map(|statements| rule(CHAIN, statements, None)).collect()
}

fn jump(chain: &str) -> Rule {
    rule(chain, vec![Statement::Jump(CHAIN.to_owned())], Some("cni-chain firewall"))
}

fn rule(chain: &str, statements: Vec<Statement>, comment: Option<&str>) -> Rule {
    Rule { chain: chain.to_owned(), statements, comment: comment.map(str::to_owned) }
}

/// Makes a chain of others, for a host that has nothing else.
pub(super) fn assume(forward: &ForwardChain, transaction: &mut Transaction) {
    let base =
        BaseChain { kind: ChainKind::Filter, hook: Hook::Forward, priority: Priority::FILTER };
    let chain = Chain { name: forward.chain.clone(), base: Some(base) };
    let table = table_of(forward);
    transaction.push(Verb::Add, &table, Object::Table(None));
    transaction.push(Verb::Add, &table, Object::Chain(chain));
}

/// Refuses chains that are not there, or that forwarded packets do not come through, and tables in
/// which our chain's name is taken.
pub(super) fn require(nft: &mut dyn Nft, chains: &[ForwardChain]) -> Result<(), CniError> {
    let cannot_look =
        |error: NftError| error.into_cni("cannot look at the chains of nftablesForwardChains");
    for forward in chains {
        let (table, chain) = (&table_of(forward), &forward.chain);
        let found = nft.chains_at(table, std::slice::from_ref(chain)).map_err(cannot_look)?;
        let Some(found) = found.into_iter().flatten().next() else {
            return Err(CniError::config(format!(
                "nftablesForwardChains names chain {table} {chain}, which does not exist: make it before \
                 containers start, or remove it from the list"
            )));
        };
        if found.chain.base.is_none_or(|base| base.hook != Hook::Forward) {
            return Err(CniError::config(format!(
                "nftablesForwardChains names chain {table} {chain}, which is no base chain of hook forward: \
                 name the chain that forwarded packets enter"
            )));
        }
        if is_name_taken(nft, table).map_err(cannot_look)? {
            return Err(CniError::config(format!(
                "table {table} has a chain {CHAIN} that is not the plugin's, which has to make one of that \
                 name for nftablesForwardChains: rename it"
            )));
        }
    }
    Ok(())
}

/// Who leaves the chains: an attachment, from those of these addresses that it has.
pub(super) struct Leaver<'a> {
    /// The attachment.
    pub(super) tag: &'a OwnerTag,
    /// The addresses that it may have.
    pub(super) addresses: &'a [IpAddr],
}

/// Takes out what the attachment has, and puts in what the plan asks for, whoever had that
/// address before.
pub(super) fn change(
    nft: &mut dyn Nft,
    leaver: &Leaver<'_>,
    plan: Option<&Plan>,
    transaction: &mut Transaction,
) -> Result<(), NftError> {
    let recorded = recorded(nft)?;
    let named = plan.map(|plan| plan.forward_chains.as_slice()).unwrap_or_default();
    let named_tables = named.iter().map(table_of);
    let tables: BTreeSet<Table> = recorded.keys().cloned().chain(named_tables).collect();
    let mut left = BTreeMap::new();
    for table in tables {
        let there = is_there(nft, &table)?;
        let mut count = match recorded.get(&table) {
            _ if !there => 0,
            Some(count) => *count,
            // Our own table was lost and made again.
            None => all(nft, &table)?.iter().map(|(_, elements)| elements.len()).sum(),
        };
        for version in versions(&table) {
            let gone =
                if there { leavers(nft, &table, *version, leaver, plan)? } else { Vec::new() };
            count = count.saturating_sub(gone.len());
            delete(transaction, &table, &containers(*version), &gone);
        }
        let chains: Vec<_> = named.iter().filter(|named| table_of(named) == table).collect();
        if let (Some(plan), false) = (plan, chains.is_empty()) {
            build(nft, &table, &chains, transaction)?;
            count += fill(&table, plan, transaction);
        } else if there && count == 0 {
            dismantle(nft, &table, transaction)?;
        }
        left.insert(table, count);
    }
    record(&recorded, &left, transaction);
    Ok(())
}

/// GC: takes out what is stale, and counts anew.
pub(super) fn collect_garbage(
    nft: &mut dyn Nft,
    is_stale: impl Fn(&Element) -> bool,
    transaction: &mut Transaction,
) -> Result<(), NftError> {
    let recorded = recorded(nft)?;
    let mut left = BTreeMap::new();
    for table in recorded.keys() {
        let mut count = 0;
        for (set, elements) in all(nft, table)? {
            let (stale, fresh): (Vec<_>, Vec<_>) = elements.into_iter().partition(&is_stale);
            count += fresh.len();
            delete(transaction, table, &set, &stale);
        }
        if count == 0 && is_there(nft, table)? {
            dismantle(nft, table, transaction)?;
        }
        left.insert(table.clone(), count);
    }
    record(&recorded, &left, transaction);
    Ok(())
}

/// The tables that have our chain, and how many addresses are in each.
fn recorded(nft: &mut dyn Nft) -> Result<BTreeMap<Table, usize>, NftError> {
    let elements = nft.elements(&TABLE, &hooks())?;
    Ok(elements.iter().filter_map(from_record).collect())
}

fn from_record(element: &Element) -> Option<(Table, usize)> {
    let (family, name) = element.comment.as_deref()?.split_once(' ')?;
    let family = [Family::Inet, Family::Ip, Family::Ip6].into_iter().find(|f| f.as_str() == family);
    let [Value::Mark(count)] = element.data.as_slice() else { return None };
    let table = Table { family: family?, name: name.to_owned().into() };
    Some((table, usize::try_from(*count).ok()?))
}

fn to_record(table: &Table, count: usize) -> Element {
    let name = table.to_string();
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let key = vec![Value::Name(network_short_name(&name))];
    Element::new(key, vec![Value::Mark(count)], &name)
}

fn record(
    before: &BTreeMap<Table, usize>,
    after: &BTreeMap<Table, usize>,
    transaction: &mut Transaction,
) {
    let after: BTreeMap<_, _> = after.iter().filter(|(_, count)| **count > 0).collect();
    if before.iter().eq(after.iter().map(|(table, count)| (*table, *count))) {
        return;
    }
    let set = hooks();
    if after.is_empty() {
        transaction.push(Verb::Delete, &TABLE, Object::Set(set));
        return;
    }
    transaction.push(Verb::Add, &TABLE, Object::Set(set.clone()));
    transaction.push(Verb::Flush, &TABLE, Object::Set(set.clone()));
    let elements = after.into_iter().map(|(table, count)| to_record(table, *count)).collect();
    transaction.elements(Verb::Create, &TABLE, &set, elements);
}

/// Whether our chain is in the table. One of that name without our sets is somebody else's.
fn is_there(nft: &mut dyn Nft, table: &Table) -> Result<bool, NftError> {
    Ok(has_chain(nft, table)? && has_our_sets(nft, table)?)
}

/// Whether somebody else has a chain of our name in the table.
pub(super) fn is_name_taken(nft: &mut dyn Nft, table: &Table) -> Result<bool, NftError> {
    Ok(has_chain(nft, table)? && !has_our_sets(nft, table)?)
}

fn has_chain(nft: &mut dyn Nft, table: &Table) -> Result<bool, NftError> {
    Ok(nft.chains_at(table, &[CHAIN.to_owned()])?.iter().any(Option::is_some))
}

fn has_our_sets(nft: &mut dyn Nft, table: &Table) -> Result<bool, NftError> {
    let known = nft.sets(table)?;
    Ok(versions(table).iter().any(|version| known.contains(&containers(*version).name)))
}

fn all(nft: &mut dyn Nft, table: &Table) -> Result<Vec<(Set, Vec<Element>)>, NftError> {
    let sets = versions(table).iter().map(|version| containers(*version));
    sets.map(|set| nft.elements(table, &set).map(|elements| (set, elements))).collect()
}

/// The elements that the attachment has, and those in the way of the plan's.
fn leavers(
    nft: &mut dyn Nft,
    table: &Table,
    version: IpVersion,
    leaver: &Leaver<'_>,
    plan: Option<&Plan>,
) -> Result<Vec<Element>, NftError> {
    let wanted: Vec<IpAddr> =
        plan.map(|plan| plan.of_version(version).collect()).unwrap_or_default();
    let own = leaver.addresses.iter().copied().filter(|address| IpVersion::of(*address) == version);
    let addresses: BTreeSet<IpAddr> = own.chain(wanted.iter().copied()).collect();
    let keys: Vec<_> = addresses.into_iter().map(|a| vec![Value::Address(a)]).collect();
    let mut held: Vec<Element> =
        nft.elements_at(table, &containers(version), &keys)?.into_iter().flatten().collect();
    held.retain(|element| {
        leaver.tag.owns(element)
            || wanted.iter().any(|address| element.key == [Value::Address(*address)])
    });
    Ok(held)
}

fn delete(transaction: &mut Transaction, table: &Table, set: &Set, elements: &[Element]) {
    transaction.elements(Verb::Delete, table, set, keys_only(elements));
}

fn build(
    nft: &mut dyn Nft,
    table: &Table,
    chains: &[&ForwardChain],
    transaction: &mut Transaction,
) -> Result<(), NftError> {
    for version in versions(table) {
        transaction.push(Verb::Add, table, Object::Set(containers(*version)));
    }
    let chain = Chain { name: CHAIN.to_owned(), base: None };
    transaction.chain_with_rules(table, chain, rules(table));
    let installed = nft.rules(table)?;
    for ForwardChain { chain, .. } in chains {
        if !installed.iter().any(|rule| rule.chain == *chain && is_jump(table, rule)) {
            transaction.push(Verb::Add, table, Object::FirstRule(jump(chain)));
        }
    }
    Ok(())
}

/// Whatever the comment: nobody else has reason to jump to our chain, which could not be removed
/// then.
fn is_jump(table: &Table, rule: &InstalledRule) -> bool {
    is_rule(table, &jump(&rule.chain), rule)
}

/// Puts the plan's addresses in and says how many.
fn fill(table: &Table, plan: &Plan, transaction: &mut Transaction) -> usize {
    let mut count = 0;
    for version in versions(table) {
        let elements: Vec<_> =
            plan.of_version(*version).map(|a| elements::container_element(a, &plan.tag)).collect();
        count += elements.len();
        transaction.elements(Verb::Create, table, &containers(*version), elements);
    }
    count
}

fn dismantle(
    nft: &mut dyn Nft,
    table: &Table,
    transaction: &mut Transaction,
) -> Result<(), NftError> {
    for rule in nft.rules(table)?.into_iter().filter(|rule| is_jump(table, rule)) {
        transaction.push(Verb::Delete, table, Object::RuleHandle(rule.chain, rule.handle));
    }
    let chain = || Object::Chain(Chain { name: CHAIN.to_owned(), base: None });
    transaction.push(Verb::Flush, table, chain());
    transaction.push(Verb::Delete, table, chain());
    let known = nft.sets(table)?;
    for set in versions(table).iter().map(|version| containers(*version)) {
        if known.contains(&set.name) {
            transaction.push(Verb::Delete, table, Object::Set(set));
        }
    }
    Ok(())
}

/// CHECK: what is wrong in the named chains, in words.
pub(super) fn mismatches(nft: &mut dyn Nft, plan: &Plan) -> Result<Vec<String>, NftError> {
    let mut mismatches = Vec::new();
    for forward in &plan.forward_chains {
        let (table, chain) = (&table_of(forward), &forward.chain);
        let installed = nft.rules(table)?;
        if !installed.iter().any(|rule| rule.chain == *chain && is_jump(table, rule)) {
            let found = nft.chains_at(table, std::slice::from_ref(chain))?;
            let drops = found.iter().flatten().any(|found| found.drops);
            let why = if drops { ", and has policy drop" } else { "" };
            mismatches.push(format!("chain {table} {chain} does not jump to {CHAIN}{why}"));
        }
        let ours: Vec<_> = installed.iter().filter(|rule| rule.chain == CHAIN).collect();
        let wanted = rules(table);
        let same =
            |(wanted, installed): (&Rule, &&InstalledRule)| is_rule(table, wanted, installed);
        if wanted.len() != ours.len() || !wanted.iter().zip(&ours).all(same) {
            mismatches.push(format!("chain {table} {CHAIN} has other rules than it should have"));
        }
        for address in &plan.addresses {
            let version = IpVersion::of(*address);
            if !versions(table).contains(&version) {
                continue;
            }
            let set = containers(version);
            let held = nft.elements_at(table, &set, &[vec![Value::Address(*address)]])?;
            if !held.iter().flatten().any(|element| plan.tag.owns(element)) {
                let name = set.name;
                mismatches.push(format!(
                    "element {{ {address} }} of set {table} {name} is not this attachment's"
                ));
            }
        }
    }
    Ok(mismatches)
}
