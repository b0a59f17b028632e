//! The nftables backend: applies, checks, removes and enumerates what a plan asks for.
//!
//! A bridge's part in the packet path is shared by its attachments, so whoever changes it first
//! reads how many there are, and commits bound to the generation that it read. Removal is
//! compare-and-delete by owner: an address is re-used while the old container's DEL is still to
//! come.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use cni_common::cni::attachment::Attachment;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::{CniError, ErrorCode, ValidAttachment};
use cni_common::cni::{Failure as _, OwnerTag};
use cni_common::kernel::nft::compare::{
    chain_mismatches, chains_are_whole, element_mismatch, has_rule,
};
use cni_common::kernel::nft::object::concatenation;
use cni_common::kernel::nft::{
    Chain, Element, Elements, Nft, NftError, Object, Set, Table, Transaction, Value, Verb,
    keys_only, lookup,
};
use cni_common::kernel::retry::retry;

use crate::forward_chains::{self, Leaving};
use crate::layout::{self, Share, TABLE};
use crate::plan::{Plan, Policy};

/// Makes exactly what the plan asks for, replacing whatever the attachment had before.
pub fn add(nft: &mut dyn Nft, plan: &Plan, log: &Log) -> Result<(), CniError> {
    const DOING: &str = "cannot install the firewall rules";
    forward_chains::require(nft, &plan.forward_chains)?;
    if plan.isolation.is_none() && plan.forward_chains.is_empty() {
        match nft.commit(&create_elements(plan)) {
            Ok(()) if is_sound(nft, plan).map_err(|error| error.into_cni(DOING))? => {
                return Ok(());
            }
            Ok(()) => log.debug(|| format!("table {TABLE} is not whole: building it")),
            Err(error) if error.is_missing() || error.is_exists() || error.is_transient() => {
                log.debug(|| format!("looking what is there: {error}"));
            }
            Err(error) => return Err(error.into_cni(DOING)),
        }
    }
    let outcome = retry(|| {
        let mut transaction = Transaction::new();
        let generation = nft.generation()?;
        layout::build(&mut transaction);
        add_admin_chain(nft, &plan.admin_chain, &mut transaction)?;
        let owned = Owned::read(nft, &plan.tag, &plan.addresses)?;
        let foreign = held_by_others(nft, plan)?;
        delete(&mut transaction, owned.elements.iter().chain(&foreign));
        transaction.operations.extend(create_elements(plan).operations);
        change_bridges(nft, owned.membership.as_ref(), plan, &mut transaction)?;
        let leaving = Leaving { tag: &plan.tag, addresses: &owned.candidates };
        forward_chains::change(nft, &leaving, Some(plan), &mut transaction)?;
        transaction.generation = Some(generation);
        nft.commit(&transaction)?;
        Ok(foreign)
    });
    match outcome.map_err(|error: NftError| error.into_cni(DOING)) {
        Ok(foreign) => {
            for element in foreign.iter().flat_map(|(_, elements)| elements) {
                log.warn(format!(
                    "address {} of attachment {} was taken over by {}, the newest owner",
                    concatenation(&element.key),
                    element.owner(),
                    plan.tag
                ));
            }
            Ok(())
        }
        Err(error) => {
            // What the first transaction made must not stay behind. What undoing it meets is
            // what this met, and is said by its error.
            let _ = remove(nft, &plan.tag, &plan.addresses);
            Err(error)
        }
    }
}

/// The attachment's elements, without its bridge's.
fn create_elements(plan: &Plan) -> Transaction {
    let mut transaction = Transaction::new();
    let owner = layout::attachment_element(&plan.tag, &plan.addresses);
    transaction.elements(Verb::Create, &TABLE, &layout::attachments(), vec![owner]);
    for v4 in [true, false] {
        let elements =
            plan.of_family(v4).map(|address| layout::container_element(address, &plan.tag));
        transaction.elements(Verb::Create, &TABLE, &layout::containers(v4), elements.collect());
    }
    if let Some(isolation) = &plan.isolation {
        let member = layout::member_element(&plan.tag, &isolation.bridge, isolation.policy);
        transaction.elements(Verb::Create, &TABLE, &layout::members(), vec![member]);
    }
    transaction
}

/// Whether the chains have their rules: somebody may have flushed them and left the sets.
fn is_sound(nft: &mut dyn Nft, plan: &Plan) -> Result<bool, NftError> {
    let expected = layout::chains();
    // `admin` has the jump to it and one to the administrator's chain.
    let names = [layout::ADMIN.to_owned(), plan.admin_chain.clone()];
    let admin = nft.chains_at(&TABLE, &names)?;
    let used =
        admin.iter().zip([2, 1]).all(|(f, least)| f.as_ref().is_some_and(|f| f.uses >= least));
    Ok(used && chains_are_whole(nft, &TABLE, &expected)?)
}

/// The administrator's chain and the jump to it, unless they are there.
fn add_admin_chain(
    nft: &mut dyn Nft,
    name: &str,
    transaction: &mut Transaction,
) -> Result<(), NftError> {
    let chain = Chain { name: name.to_owned(), base: None };
    transaction.push(Verb::Add, &TABLE, Object::Chain(chain));
    let jump = layout::admin_jump(name);
    if !has_rule(&TABLE, &nft.rules(&TABLE)?, &jump) {
        transaction.push(Verb::Add, &TABLE, Object::Rule(jump));
    }
    Ok(())
}

/// What an attachment has in the table.
#[derive(Debug, Default)]
struct Owned {
    elements: Elements,
    /// The addresses that it may have in other tables.
    candidates: Vec<IpAddr>,
    membership: Option<(String, Policy)>,
}

impl Owned {
    /// Reads what carries the tag. `known` addresses are looked at besides those that the
    /// attachment's element names; only where neither is all of it, the sets are read.
    fn read(nft: &mut dyn Nft, tag: &OwnerTag, known: &[IpAddr]) -> Result<Self, NftError> {
        let key = layout::owner_key(tag);
        let owner = owned_at(nft, &layout::attachments(), std::slice::from_ref(&key), tag)?;
        let member = owned_at(nft, &layout::members(), &[key], tag)?;
        let membership = member.first().and_then(layout::membership);

        let (count, named) =
            owner.first().and_then(layout::attachment_addresses).unwrap_or_default();
        let complete = count == named.len();
        let mut addresses = named;
        addresses.extend(known);
        addresses.sort_unstable();
        addresses.dedup();
        let mut elements = Elements::new();
        let mut found = 0;
        for v4 in [true, false] {
            let set = layout::containers(v4);
            let keys: Vec<_> = addresses
                .iter()
                .filter(|address| address.is_ipv4() == v4)
                .map(|address| vec![Value::Address(*address)])
                .collect();
            let held = owned_at(nft, &set, &keys, tag)?;
            found += held.len();
            elements.push((set, held));
        }
        if !complete && found < count {
            elements.clear();
            for set in [layout::containers(true), layout::containers(false)] {
                let mut held = nft.elements(&TABLE, &set)?;
                held.retain(|element| element.is_commented(tag.as_str()));
                elements.push((set, held));
            }
        }
        addresses.extend(elements.iter().flat_map(|(_, held)| held).filter_map(address));
        elements.push((layout::attachments(), owner));
        elements.push((layout::members(), member));
        Ok(Self { elements, candidates: addresses, membership })
    }
}

fn owned_at(
    nft: &mut dyn Nft,
    set: &Set,
    keys: &[Vec<Value>],
    tag: &OwnerTag,
) -> Result<Vec<Element>, NftError> {
    let mut held = lookup(nft, &TABLE, set, keys)?;
    held.retain(|element| element.is_commented(tag.as_str()));
    Ok(held)
}

/// The plan's addresses where another attachment has them: the newest owner wins.
fn held_by_others(nft: &mut dyn Nft, plan: &Plan) -> Result<Elements, NftError> {
    let mut foreign = Elements::new();
    for v4 in [true, false] {
        let set = layout::containers(v4);
        let keys: Vec<_> = plan.of_family(v4).map(|a| vec![Value::Address(a)]).collect();
        let mut held = lookup(nft, &TABLE, &set, &keys)?;
        held.retain(|element| !element.is_commented(plan.tag.as_str()));
        foreign.push((set, held));
    }
    Ok(foreign)
}

fn delete<'a>(
    transaction: &mut Transaction,
    elements: impl IntoIterator<Item = &'a (Set, Vec<Element>)>,
) {
    for (set, elements) in elements {
        let keys = keys_only(elements.iter());
        transaction.elements(Verb::Delete, &TABLE, set, keys);
    }
}

/// Takes the attachment's old share in a bridge back and gives it its new one.
fn change_bridges(
    nft: &mut dyn Nft,
    before: Option<&(String, Policy)>,
    plan: &Plan,
    transaction: &mut Transaction,
) -> Result<(), NftError> {
    let after = plan.isolation.as_ref();
    let mut shares = BTreeMap::new();
    if let Some((bridge, policy)) = before {
        let share = read_share(nft, bridge)?;
        shares.insert(bridge.clone(), share.minus(*policy));
    }
    if let Some(isolation) = after {
        let share = match shares.get(&isolation.bridge) {
            Some(share) => *share,
            None => read_share(nft, &isolation.bridge)?,
        };
        shares.insert(isolation.bridge.clone(), share.plus(isolation.policy));
    }
    for (bridge, share) in &shares {
        set_share(nft, bridge, *share, transaction)?;
    }
    after.map_or(Ok(()), |isolation| {
        claim_gateways(nft, &isolation.bridge, &isolation.gateways, transaction)
    })
}

fn read_share(nft: &mut dyn Nft, bridge: &str) -> Result<Share, NftError> {
    let held = lookup(nft, &TABLE, &layout::bridges(), &[layout::bridge_key(bridge)])?;
    Ok(held.first().and_then(Share::from_element).unwrap_or_default())
}

/// Makes the packet path hold what this share means.
fn set_share(
    nft: &mut dyn Nft,
    bridge: &str,
    share: Share,
    transaction: &mut Transaction,
) -> Result<(), NftError> {
    let set = layout::bridges();
    let held = lookup(nft, &TABLE, &set, &[layout::bridge_key(bridge)])?;
    transaction.elements(Verb::Delete, &TABLE, &set, keys_only(&held));
    if !share.is_none() {
        transaction.elements(Verb::Create, &TABLE, &set, vec![share.element(bridge)]);
    }
    for (set, key, wanted) in share.lookups(bridge) {
        let held = lookup(nft, &TABLE, &set, std::slice::from_ref(&key))?;
        let element = Element { key, data: Vec::new(), comment: None };
        match (wanted, held.is_empty()) {
            (true, true) => transaction.elements(Verb::Create, &TABLE, &set, vec![element]),
            (false, false) => transaction.elements(Verb::Delete, &TABLE, &set, vec![element]),
            _ => {}
        }
    }
    if share.is_none() {
        for v4 in [true, false] {
            // As many as there are isolating bridges, not as there are containers.
            let set = layout::gateways(v4);
            let mut held = nft.elements(&TABLE, &set)?;
            held.retain(|element| element.comment.as_deref() == Some(bridge));
            transaction.elements(Verb::Delete, &TABLE, &set, keys_only(&held));
        }
    }
    Ok(())
}

fn claim_gateways(
    nft: &mut dyn Nft,
    bridge: &str,
    gateways: &[IpAddr],
    transaction: &mut Transaction,
) -> Result<(), NftError> {
    for gateway in gateways {
        let set = layout::gateways(gateway.is_ipv4());
        let wanted = layout::gateway_element(*gateway, bridge);
        let held = lookup(nft, &TABLE, &set, std::slice::from_ref(&wanted.key))?;
        if held.first().is_some_and(|held| held.comment == wanted.comment) {
            continue;
        }
        transaction.elements(Verb::Delete, &TABLE, &set, keys_only(&held));
        transaction.elements(Verb::Create, &TABLE, &set, vec![wanted]);
    }
    Ok(())
}

/// What a removal took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The addresses that were the attachment's.
    pub addresses: Vec<IpAddr>,
    /// The policy that the attachment had its bridge keep.
    pub policy: Option<Policy>,
}

/// Removes what carries the tag. `known` addresses are looked at besides those that the table
/// itself names.
pub fn remove(nft: &mut dyn Nft, tag: &OwnerTag, known: &[IpAddr]) -> Result<Removed, CniError> {
    retry(|| {
        let generation = nft.generation()?;
        let owned = Owned::read(nft, tag, known)?;
        let mut transaction = Transaction::new();
        delete(&mut transaction, &owned.elements);
        if let Some((bridge, policy)) = &owned.membership {
            let share = read_share(nft, bridge)?.minus(*policy);
            set_share(nft, bridge, share, &mut transaction)?;
        }
        let leaving = Leaving { tag, addresses: &owned.candidates };
        forward_chains::change(nft, &leaving, None, &mut transaction)?;
        if !transaction.is_empty() {
            transaction.generation = Some(generation);
            nft.commit(&transaction)?;
        }
        let elements = owned.elements.iter().flat_map(|(_, elements)| elements);
        let addresses = elements.filter_map(address).collect();
        Ok(Removed { addresses, policy: owned.membership.map(|(_, policy)| policy) })
    })
    .map_err(|error: NftError| error.into_cni("cannot remove the firewall rules"))
}

/// Those of the addresses that some attachment has.
pub fn held_addresses(nft: &mut dyn Nft, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, NftError> {
    let mut held = Vec::new();
    for address in addresses {
        let key = [vec![Value::Address(*address)]];
        if !lookup(nft, &TABLE, &layout::containers(address.is_ipv4()), &key)?.is_empty() {
            held.push(*address);
        }
    }
    Ok(held)
}

/// Whether the attachment has anything in the table.
pub fn holds(nft: &mut dyn Nft, tag: &OwnerTag) -> Result<bool, NftError> {
    let key = layout::owner_key(tag);
    Ok(!owned_at(nft, &layout::attachments(), &[key], tag)?.is_empty())
}

/// GC: removes what attachments to `network` own that are not in `valid`, makes the bridges'
/// counts right, and removes the table once it holds nothing. Returns the addresses that went.
pub fn collect_garbage(
    nft: &mut dyn Nft,
    network: &str,
    valid: &[ValidAttachment],
) -> Result<Vec<IpAddr>, CniError> {
    let valid = valid_tags(network, valid);
    let is_stale = |element: &Element| {
        let comment = element.comment.as_deref().unwrap_or_default();
        OwnerTag::belongs_to(comment, network) && !valid.contains(comment)
    };
    retry(|| {
        let generation = nft.generation()?;
        let mut transaction = Transaction::new();
        let mut left = 0;
        let mut addresses = Vec::new();
        for set in [layout::attachments(), layout::containers(true), layout::containers(false)] {
            let (stale, fresh) = split(nft.elements(&TABLE, &set)?, is_stale);
            left += fresh.len();
            addresses.extend(stale.iter().filter_map(address));
            delete(&mut transaction, [&(set, stale)]);
        }
        let (stale, fresh) = split(nft.elements(&TABLE, &layout::members())?, is_stale);
        left += fresh.len();
        for (bridge, share) in shares_without(&stale, &fresh) {
            set_share(nft, &bridge, share, &mut transaction)?;
        }
        delete(&mut transaction, [&(layout::members(), stale)]);
        let mut elsewhere = Transaction::new();
        forward_chains::collect_garbage(nft, is_stale, &mut elsewhere)?;
        let unused = left == 0 && is_there(nft)? && nothing_else(nft)?;
        if transaction.is_empty() && elsewhere.is_empty() && !unused {
            return Ok(addresses);
        }
        if unused {
            transaction = Transaction::new();
            transaction.push(Verb::Delete, &TABLE, Object::Table(None));
            elsewhere.operations.retain(|operation| operation.table != TABLE);
        }
        transaction.operations.extend(elsewhere.operations);
        transaction.generation = Some(generation);
        nft.commit(&transaction)?;
        Ok(addresses)
    })
    .map_err(|error: NftError| error.into_cni("cannot collect stale firewall rules"))
}

/// The address that an element of `containers` stands for.
fn address(element: &Element) -> Option<IpAddr> {
    match element.key.as_slice() {
        [Value::Address(address)] => Some(*address),
        _ => None,
    }
}

/// The tags of the attachments that a runtime still knows.
#[must_use]
pub fn valid_tags(network: &str, valid: &[ValidAttachment]) -> HashSet<String> {
    let tag = |attachment: &ValidAttachment| {
        let ValidAttachment { container_id, ifname } = attachment.clone();
        Attachment { network: network.to_owned(), container_id, ifname }.tag().to_string()
    };
    valid.iter().map(tag).collect()
}

fn split(
    elements: Vec<Element>,
    is_stale: impl Fn(&Element) -> bool,
) -> (Vec<Element>, Vec<Element>) {
    elements.into_iter().partition(is_stale)
}

/// The shares of the bridges that stale members had a part in, counted from those that remain.
fn shares_without(stale: &[Element], fresh: &[Element]) -> BTreeMap<String, Share> {
    let mut shares: BTreeMap<String, Share> = stale
        .iter()
        .filter_map(layout::membership)
        .map(|(bridge, _)| (bridge, Share::default()))
        .collect();
    for (bridge, policy) in fresh.iter().filter_map(layout::membership) {
        if let Some(share) = shares.get_mut(&bridge) {
            *share = share.plus(policy);
        }
    }
    shares
}

fn is_there(nft: &mut dyn Nft) -> Result<bool, NftError> {
    let chains = nft.chains_at(&TABLE, &[layout::ADMIN.to_owned()])?;
    Ok(chains.iter().any(Option::is_some))
}

/// Rules outside our own chains are an administrator's, and keep the table.
fn nothing_else(nft: &mut dyn Nft) -> Result<bool, NftError> {
    let ours: HashSet<String> = layout::chains()
        .into_iter()
        .map(|(chain, _)| chain.name)
        .chain([layout::ADMIN.to_owned()])
        .collect();
    let sets = layout::sets().into_iter().chain([forward_chains::hooks()]);
    let known: HashSet<String> = sets.map(|set| set.name).collect();
    Ok(nft.rules(&TABLE)?.iter().all(|rule| ours.contains(&rule.chain))
        && nft.sets(&TABLE)?.iter().all(|name| known.contains(name)))
}

/// CHECK: compares what is there with the plan, exactly. What it finds wrong, in words.
pub fn check(nft: &mut dyn Nft, plan: &Plan) -> Result<Vec<String>, NftError> {
    let mut faults = Vec::new();
    let mut expected =
        vec![(layout::attachments(), layout::attachment_element(&plan.tag, &plan.addresses))];
    for address in &plan.addresses {
        let element = layout::container_element(*address, &plan.tag);
        expected.push((layout::containers(address.is_ipv4()), element));
    }
    if let Some(isolation) = &plan.isolation {
        let member = layout::member_element(&plan.tag, &isolation.bridge, isolation.policy);
        expected.push((layout::members(), member));
        for gateway in &isolation.gateways {
            let element = layout::gateway_element(*gateway, &isolation.bridge);
            expected.push((layout::gateways(gateway.is_ipv4()), element));
        }
    }
    for (set, wanted) in &expected {
        let held = lookup(nft, &TABLE, set, std::slice::from_ref(&wanted.key))?;
        faults.extend(element_mismatch(&TABLE, set, wanted, held.first()));
    }
    let key = [layout::owner_key(&plan.tag)];
    if let Some(isolation) = &plan.isolation {
        faults.extend(bridge_faults(nft, &isolation.bridge, isolation.policy)?);
    } else if !owned_at(nft, &layout::members(), &key, &plan.tag)?.is_empty() {
        faults.push(format!("map {TABLE} members still isolates this attachment's bridge"));
    }
    faults.extend(chain_faults(nft, Some(&plan.admin_chain))?);
    faults.extend(forward_chains::faults(nft, plan)?);
    Ok(faults)
}

fn bridge_faults(nft: &mut dyn Nft, bridge: &str, policy: Policy) -> Result<Vec<String>, NftError> {
    let share = read_share(nft, bridge)?;
    if share.count(policy) == 0 {
        return Ok(vec![format!(
            "map {TABLE} bridges does not count {bridge} as {}",
            policy.as_str()
        )]);
    }
    let mut faults = Vec::new();
    for (set, key, wanted) in share.lookups(bridge) {
        let there = !lookup(nft, &TABLE, &set, std::slice::from_ref(&key))?.is_empty();
        if there != wanted {
            let problem = if wanted { "is missing from" } else { "should not be in" };
            let key = concatenation(&key);
            faults.push(format!("element {{ {key} }} {problem} set {TABLE} {}", set.name));
        }
    }
    Ok(faults)
}

/// What is wrong with the chains, and with the way to the administrator's chain if it is given.
fn chain_faults(nft: &mut dyn Nft, admin_chain: Option<&str>) -> Result<Vec<String>, NftError> {
    let mut faults = chain_mismatches(nft, &TABLE, &layout::chains())?;
    if let Some(name) = admin_chain {
        let chain = nft.chains_at(&TABLE, &[name.to_owned()])?;
        let jump = layout::admin_jump(name);
        if chain.iter().all(Option::is_none) || !has_rule(&TABLE, &nft.rules(&TABLE)?, &jump) {
            faults.push(format!("chain {TABLE} {} does not jump to {name}", layout::ADMIN));
        }
    }
    Ok(faults)
}

/// STATUS: lets the kernel try the whole table, and looks whether the real one is sound.
pub fn status(nft: &mut dyn Nft, sample: &Plan) -> Result<(), CniError> {
    nft.validate(&probe(sample)).map_err(|error| {
        let remedy = error.remedy();
        CniError::new(ErrorCode::NotAvailable, format!("firewall cannot use nf_tables: {remedy}"))
            .with_details(error.to_string())
    })?;
    let unreadable = |error: NftError| {
        CniError::new(
            ErrorCode::NotAvailable,
            format!("firewall cannot read table {TABLE}: {}", error.remedy()),
        )
        .with_details(error.to_string())
    };
    if nft.elements(&TABLE, &layout::attachments()).map_err(unreadable)?.is_empty() {
        return Ok(());
    }
    let faults = chain_faults(nft, None).map_err(unreadable)?;
    let Some(first) = faults.first() else { return Ok(()) };
    Err(CniError::new(
        ErrorCode::LimitedConnectivity,
        format!(
            "containers may not be reachable or isolated: {first}; the next ADD restores the table"
        ),
    )
    .with_details(faults.join("; ")))
}

/// Everything that ADD could ever send, in a table of another name.
fn probe(sample: &Plan) -> Transaction {
    let mut probe = Transaction::new();
    layout::build(&mut probe);
    let chain = Chain { name: sample.admin_chain.clone(), base: None };
    probe.push(Verb::Add, &TABLE, Object::Chain(chain));
    probe.push(Verb::Add, &TABLE, Object::Rule(layout::admin_jump(&sample.admin_chain)));
    probe.operations.extend(create_elements(sample).operations);
    if let Some(isolation) = &sample.isolation {
        let bridge = &isolation.bridge;
        let share = Share::default().plus(isolation.policy);
        probe.elements(Verb::Create, &TABLE, &layout::bridges(), vec![share.element(bridge)]);
        for (set, key, _) in share.lookups(bridge) {
            let element = Element { key, data: Vec::new(), comment: None };
            probe.elements(Verb::Create, &TABLE, &set, vec![element]);
        }
        for gateway in &isolation.gateways {
            let element = layout::gateway_element(*gateway, bridge);
            probe.elements(
                Verb::Create,
                &TABLE,
                &layout::gateways(gateway.is_ipv4()),
                vec![element],
            );
        }
    }
    probe.in_table(&Table::new(TABLE.family, "cni_firewall_probe"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward_chains::ForwardChain;
    use crate::plan::Isolation;
    use cni_common::kernel::nft::fake::FakeNft;
    use cni_common::kernel::nft::{BaseChain, ChainKind, Family, Hook, Priority, Rule, Statement};

    fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn plan(id: &str, list: &[&str], isolation: Option<(&str, Policy)>) -> Plan {
        let attachment =
            Attachment { network: "net".into(), container_id: id.into(), ifname: "eth0".into() };
        Plan {
            tag: attachment.tag(),
            addresses: addresses(list),
            isolation: isolation.map(|(bridge, policy)| Isolation {
                bridge: bridge.to_owned(),
                policy,
                gateways: addresses(&["10.0.0.1"]),
            }),
            admin_chain: "CNI-ADMIN".to_owned(),
            forward_chains: Vec::new(),
        }
    }

    fn install(nft: &mut FakeNft, plan: &Plan) {
        add(nft, plan, &Log::disabled()).expect("ADD");
        assert_eq!(check(nft, plan).expect("readable"), Vec::<String>::new());
    }

    /// A table with its skeleton and nobody in it.
    fn skeleton() -> FakeNft {
        let mut nft = FakeNft::new();
        let first = plan("first", &["10.0.0.9"], None);
        install(&mut nft, &first);
        remove(&mut nft, &first.tag, &[]).expect("DEL");
        nft
    }

    #[test]
    fn the_usual_add_is_one_commit_and_no_listing() {
        let mut nft = skeleton();
        let before = (nft.committed().len() + 1, nft.listings());
        install(&mut nft, &plan("c", &["10.0.0.2", "fd00::2"], None));
        // Neither it nor CHECK listed a set, which costs as much as there are containers.
        assert_eq!((nft.committed().len(), nft.listings()), before);
    }

    #[test]
    fn del_finds_everything_without_a_listing() {
        let mut nft = skeleton();
        let before = nft.dump();
        let web = plan("c", &["10.0.0.2", "fd00::2"], None);
        install(&mut nft, &web);
        let listings = nft.listings();
        let removed = remove(&mut nft, &web.tag, &[]).expect("DEL");
        assert_eq!(removed.addresses, web.addresses);
        assert_eq!((nft.listings(), nft.dump()), (listings, before));
    }

    #[test]
    fn more_addresses_than_the_element_names_are_found_all_the_same() {
        let mut nft = skeleton();
        let before = nft.dump();
        let web = plan("c", &["10.0.0.2", "10.0.0.3", "fd00::2", "fd00::3"], None);
        install(&mut nft, &web);
        remove(&mut nft, &web.tag, &[]).expect("DEL");
        assert_eq!(nft.dump(), before);
    }

    #[test]
    fn the_newest_owner_keeps_the_address() {
        let mut nft = skeleton();
        let old = plan("old", &["10.0.0.2"], Some(("br0", Policy::SameBridge)));
        let new = plan("new", &["10.0.0.2"], Some(("br0", Policy::SameBridge)));
        install(&mut nft, &old);
        install(&mut nft, &new);
        let removed = remove(&mut nft, &old.tag, &old.addresses).expect("late DEL");
        assert!(removed.addresses.is_empty());
        assert_eq!(check(&mut nft, &new).expect("readable"), Vec::<String>::new());
    }

    #[test]
    fn a_bridge_is_isolated_while_anybody_asks_for_it() {
        let mut nft = skeleton();
        let before = nft.dump();
        let open = plan("a", &["10.0.0.2"], Some(("br0", Policy::SameBridge)));
        let strict = plan("b", &["10.0.0.3"], Some(("br0", Policy::Isolated)));
        install(&mut nft, &open);
        let with_one = nft.dump();
        install(&mut nft, &strict);
        assert_eq!(check(&mut nft, &open).expect("readable"), Vec::<String>::new());
        remove(&mut nft, &strict.tag, &[]).expect("DEL");
        assert_eq!(nft.dump(), with_one);
        remove(&mut nft, &open.tag, &[]).expect("DEL");
        assert_eq!(nft.dump(), before);
    }

    #[test]
    fn a_ruleset_that_moves_is_read_again() {
        let mut nft = skeleton();
        for _ in 0..3 {
            nft.interpose(Transaction::new());
        }
        let web = plan("c", &["10.0.0.2"], Some(("br0", Policy::Isolated)));
        install(&mut nft, &web);
        nft.interpose(Transaction::new());
        remove(&mut nft, &web.tag, &[]).expect("DEL");
        assert!(!nft.dump().contains("br0"));
    }

    #[test]
    fn a_failed_add_leaves_nothing() {
        const ENOSPC: i32 = 28;
        for skip in 0..2 {
            let mut nft = skeleton();
            let before = nft.dump();
            nft.fail_commit(skip, ENOSPC);
            let web = plan("c", &["10.0.0.2"], Some(("br0", Policy::Isolated)));
            let outcome = add(&mut nft, &web, &Log::disabled());
            assert_eq!(outcome.is_err(), skip == 0);
            if skip == 0 {
                assert_eq!(nft.dump(), before);
            }
        }
    }

    #[test]
    fn gc_repairs_counts_and_removes_an_empty_table() {
        let mut nft = FakeNft::new();
        let [a, b] = ["a", "b"].map(|id| {
            let address = if id == "a" { "10.0.0.2" } else { "10.0.0.3" };
            plan(id, &[address], Some(("br0", Policy::Isolated)))
        });
        install(&mut nft, &b);
        let only_b = nft.dump();
        install(&mut nft, &a);
        let valid = [ValidAttachment { container_id: "b".into(), ifname: "eth0".into() }];
        let gone = collect_garbage(&mut nft, "net", &valid).expect("GC");
        assert_eq!((gone, nft.dump()), (a.addresses, only_b));
        collect_garbage(&mut nft, "other", &[]).expect("GC");
        assert!(nft.dump().contains("br0"));
        collect_garbage(&mut nft, "net", &[]).expect("GC");
        assert_eq!(nft.dump(), "");
        // DEL leaves the table; GC finds nothing stale in it, and nothing else.
        install(&mut nft, &b);
        remove(&mut nft, &b.tag, &b.addresses).expect("DEL");
        assert_ne!(nft.dump(), "");
        collect_garbage(&mut nft, "net", &[]).expect("GC");
        assert_eq!(nft.dump(), "");
    }

    /// Somebody's chain that forwarded packets come through.
    fn with_foreign_chain(nft: &mut FakeNft) -> ForwardChain {
        let hooked =
            ForwardChain { table: Table::new(Family::Inet, "filter"), chain: "forward".to_owned() };
        let base =
            BaseChain { kind: ChainKind::Filter, hook: Hook::Forward, priority: Priority::FILTER };
        let chain = Chain { name: hooked.chain.clone(), base: Some(base) };
        let rule = Rule {
            chain: hooked.chain.clone(),
            statements: vec![Statement::Drop],
            comment: Some("theirs".to_owned()),
        };
        let mut transaction = Transaction::new();
        transaction.push(Verb::Add, &hooked.table, Object::Table(None));
        transaction.chain_with_rules(&hooked.table, chain, vec![rule]);
        nft.commit(&transaction).expect("a chain");
        hooked
    }

    #[test]
    fn a_foreign_chain_is_as_it_was_when_the_last_has_left() {
        let mut nft = skeleton();
        let hooked = with_foreign_chain(&mut nft);
        let before = nft.dump();
        let [a, b] = [("a", "10.0.0.2"), ("b", "10.0.0.3")].map(|(id, address)| Plan {
            forward_chains: vec![hooked.clone()],
            ..plan(id, &[address, "fd00::2"], None)
        });
        install(&mut nft, &a);
        let with_one = nft.dump();
        install(&mut nft, &a);
        assert_eq!(nft.dump(), with_one, "ADD again");
        assert_eq!(with_one.matches("jump cni_firewall").count(), 1);
        let jump = with_one.find("jump cni_firewall").expect("a jump");
        assert!(jump < with_one.find("theirs").expect("their rule"), "{with_one}");
        install(&mut nft, &b);
        remove(&mut nft, &a.tag, &a.addresses).expect("DEL");
        assert_eq!(check(&mut nft, &b).expect("readable"), Vec::<String>::new());
        remove(&mut nft, &b.tag, &[]).expect("DEL");
        assert_eq!(nft.dump(), before);

        install(&mut nft, &a);
        collect_garbage(&mut nft, "net", &[]).expect("GC");
        assert!(!nft.dump().contains("cni_firewall"), "{}", nft.dump());
        assert!(nft.dump().contains("theirs"));
    }

    #[test]
    fn a_foreign_chain_that_is_not_there_is_an_error() {
        let mut nft = skeleton();
        let before = nft.dump();
        let missing =
            ForwardChain { table: Table::new(Family::Inet, "filter"), chain: "nowhere".into() };
        let web = Plan { forward_chains: vec![missing], ..plan("c", &["10.0.0.2"], None) };
        let error = add(&mut nft, &web, &Log::disabled()).expect_err("no such chain");
        assert_eq!(error.code, ErrorCode::InvalidNetworkConfig);
        remove(&mut nft, &web.tag, &[]).expect("DEL");
        assert_eq!(nft.dump(), before);
    }
}
