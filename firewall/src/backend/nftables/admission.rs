//! Which addresses are admitted, and whose they are.

use std::net::IpAddr;

use cni_common::cni::OwnerTag;
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::{
    Element, Elements, Nft, NftError, Set, Transaction, Value, Verb, keys_only, lookup, lookup_all,
};

use super::elements::{self, address};
use super::layout::{self, TABLE};
use crate::config::Policy;
use crate::plan::Plan;

/// The attachment's elements, without its bridge's.
pub(super) fn create_elements(plan: &Plan) -> Transaction {
    let mut transaction = Transaction::new();
    let owner = elements::attachment_element(&plan.tag, &plan.addresses);
    transaction.elements(Verb::Create, &TABLE, &layout::attachments(), vec![owner]);
    for version in IpVersion::ALL {
        let elements =
            plan.of_version(version).map(|address| elements::container_element(address, &plan.tag));
        transaction.elements(
            Verb::Create,
            &TABLE,
            &layout::containers(version),
            elements.collect(),
        );
    }
    if let Some(isolation) = &plan.isolation {
        let member = elements::member_element(&plan.tag, &isolation.bridge, isolation.policy);
        transaction.elements(Verb::Create, &TABLE, &layout::members(), vec![member]);
    }
    transaction
}

/// What an attachment has in the table.
#[derive(Debug, Default)]
pub(super) struct Owned {
    pub(super) elements: Elements,
    /// The addresses that it may have in other tables.
    pub(super) candidates: Vec<IpAddr>,
    pub(super) membership: Option<(String, Policy)>,
    /// Whether `attachments` names it.
    pub(super) is_named: bool,
}

impl Owned {
    /// Whether it had its bridge keep containers apart.
    pub(super) fn is_isolated(&self) -> bool {
        matches!(self.membership, Some((_, Policy::Isolated)))
    }

    /// The addresses that are admitted for it.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.elements.iter().flat_map(|(_, elements)| elements).filter_map(address).collect()
    }

    /// Reads what carries the owner's tag. `known` addresses are looked at besides those that the
    /// attachment's element names; only where neither is all of it, the sets are read.
    pub(super) fn read(
        nft: &mut dyn Nft,
        tag: &OwnerTag,
        known: &[IpAddr],
    ) -> Result<Self, NftError> {
        let (attachments, members, key) =
            (layout::attachments(), layout::members(), elements::owner_key(tag));
        let named = nft.elements_in(&TABLE, &[(&attachments, &key), (&members, &key)])?;
        let mut named = named.into_iter().map(|found| found.filter(|element| tag.owns(element)));
        let (owner, member) = (named.next().flatten(), named.next().flatten());
        let membership = member.as_ref().and_then(elements::membership);

        let (count, named) =
            owner.as_ref().and_then(elements::attachment_addresses).unwrap_or_default();
        let complete = count == named.len();
        let mut addresses = named;
        addresses.extend(known);
        addresses.sort_unstable();
        addresses.dedup();
        let sets = IpVersion::ALL.map(|version| {
            let of_version = |address: &&IpAddr| IpVersion::of(**address) == version;
            let keys = addresses.iter().filter(of_version).map(|a| vec![Value::Address(*a)]);
            (layout::containers(version), keys.collect())
        });
        let mut elements = owned_in(nft, &sets, tag)?;
        let found: usize = elements.iter().map(|(_, held)| held.len()).sum();
        if !complete && found < count {
            elements.clear();
            for set in [layout::containers(IpVersion::V4), layout::containers(IpVersion::V6)] {
                let mut held = nft.elements(&TABLE, &set)?;
                held.retain(|element| tag.owns(element));
                elements.push((set, held));
            }
        }
        addresses.extend(elements.iter().flat_map(|(_, held)| held).filter_map(address));
        let is_named = owner.is_some();
        elements.push((attachments, owner.into_iter().collect()));
        elements.push((members, member.into_iter().collect()));
        Ok(Self { elements, candidates: addresses, membership, is_named })
    }
}

/// Those with these keys that carry the owner's tag, of several sets in one round trip.
pub(super) fn owned_in(
    nft: &mut dyn Nft,
    wanted: &[(Set, Vec<Vec<Value>>)],
    tag: &OwnerTag,
) -> Result<Elements, NftError> {
    let mut found = lookup_all(nft, &TABLE, wanted)?;
    for (_, held) in &mut found {
        held.retain(|element| tag.owns(element));
    }
    Ok(found)
}

/// The plan's addresses where another attachment has them: the newest owner wins.
pub(super) fn held_by_others(nft: &mut dyn Nft, plan: &Plan) -> Result<Elements, NftError> {
    let mut foreign = Elements::new();
    for version in IpVersion::ALL {
        let set = layout::containers(version);
        let keys: Vec<_> = plan.of_version(version).map(|a| vec![Value::Address(a)]).collect();
        let mut held = lookup(nft, &TABLE, &set, &keys)?;
        held.retain(|element| !plan.tag.owns(element));
        foreign.push((set, held));
    }
    Ok(foreign)
}

pub(super) fn delete<'a>(
    transaction: &mut Transaction,
    elements: impl IntoIterator<Item = &'a (Set, Vec<Element>)>,
) {
    for (set, elements) in elements {
        let keys = keys_only(elements.iter());
        transaction.elements(Verb::Delete, &TABLE, set, keys);
    }
}

/// Those of the addresses that some attachment has.
pub(super) fn held_addresses(
    nft: &mut dyn Nft,
    addresses: &[IpAddr],
) -> Result<Vec<IpAddr>, NftError> {
    let mut held = Vec::new();
    for address in addresses {
        let key = [vec![Value::Address(*address)]];
        if !lookup(nft, &TABLE, &layout::containers(IpVersion::of(*address)), &key)?.is_empty() {
            held.push(*address);
        }
    }
    Ok(held)
}
