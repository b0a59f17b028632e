//! Frames between a bridge's ports that are not IP, where IP passes the host's rules (`br_netfilter`):
//! ARP, VLAN tags and everything else pass none of those. The table `bridge cni_firewall` drops
//! them from and to the ports of isolated attachments.
//!
//! An isolated port would do the same, but would also stop a mapped port's packets on their way from
//! port to port.

use cni_common::cni::protocol::CniError;
use cni_common::cni::{Failure as _, OwnerTag, Stale};
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::compare::{chain_mismatches, element_mismatch};
use cni_common::kernel::nft::{
    BaseChain, Chain, ChainKind, DataType, Element, Family, Hook, KeyPart, Nft, NftError, Object,
    Operand, Priority, Rule, Selector, Set, Statement, Table, Transaction, Value, Verb, keys_only,
    layout_comment, look_for_newer, lookup, unchanged_since,
};
use cni_common::kernel::retry::retry;

use crate::config::OWN_NAME;

const TABLE: Table = Table::new(Family::Bridge, OWN_NAME);
const FORWARD: &str = "forward";
/// The number of the table's layout, as in `inet cni_firewall`; the first rule tells it.
const LAYOUT: u32 = 1;

/// The ports of isolated attachments; an element's comment is its owner's tag.
fn ports() -> Set {
    Set { name: "ports".to_owned(), key: vec![DataType::IfName], data: Vec::new() }
}

/// `short name of the owner -> port`, for a DEL that knows nothing but the owner.
fn attachments() -> Set {
    let name = "attachments".to_owned();
    Set { name, key: vec![DataType::IfName], data: vec![DataType::IfName] }
}

fn forward() -> (Chain, Vec<Rule>) {
    let base =
        BaseChain { kind: ChainKind::Filter, hook: Hook::Forward, priority: Priority::FILTER };
    let rule = |statements| Rule { chain: FORWARD.to_owned(), statements, comment: None };
    let numbered = |rule| Rule { comment: Some(layout_comment(LAYOUT)), ..rule };
    let is_ip = |version| Statement::Match {
        selector: Selector::EtherType,
        negated: false,
        operand: Operand::EtherType(version),
    };
    let on_port = |interface: Selector| Statement::InSet {
        key: vec![KeyPart::from(interface)],
        set: ports().name,
    };
    let rules = vec![
        numbered(rule(vec![is_ip(IpVersion::V4), Statement::Return])),
        rule(vec![is_ip(IpVersion::V6), Statement::Return]),
        rule(vec![on_port(Selector::InputInterface), Statement::Drop]),
        rule(vec![on_port(Selector::OutputInterface), Statement::Drop]),
    ];
    (Chain { name: FORWARD.to_owned(), base: Some(base) }, rules)
}

/// Fails if a newer version made the table.
fn refuse_newer(nft: &mut dyn Nft) -> Result<(), NftError> {
    look_for_newer(nft, &TABLE, FORWARD, LAYOUT).map(drop)
}

fn owner_key(tag: &OwnerTag) -> Vec<Value> {
    vec![Value::Name(tag.owner_name())]
}

fn elements(tag: &OwnerTag, port: &str) -> [(Set, Element); 2] {
    let port = Value::Name(port.to_owned());
    let owner = Element::new(owner_key(tag), vec![port.clone()], tag.as_str());
    [(attachments(), owner), (ports(), Element::new(vec![port], Vec::new(), tag.as_str()))]
}

/// Stops such frames from and to the attachment's port. A port's newest owner has it.
pub(crate) fn stop(nft: &mut dyn Nft, tag: &OwnerTag, port: &str) -> Result<(), NftError> {
    retry(|| {
        let generation = nft.generation()?;
        refuse_newer(nft)?;
        let mut transaction = Transaction::new();
        transaction.push(Verb::Add, &TABLE, Object::Table(Some("cni-chain firewall")));
        for set in [attachments(), ports()] {
            transaction.push(Verb::Add, &TABLE, Object::Set(set));
        }
        let (chain, rules) = forward();
        transaction.chain_with_rules(&TABLE, chain, rules);
        let mut in_the_way = owned(nft, tag)?;
        let wanted = elements(tag, port);
        let held = lookup(nft, &TABLE, &ports(), std::slice::from_ref(&wanted[1].1.key))?;
        for element in held {
            let found = (ports(), element);
            if !in_the_way.contains(&found) {
                in_the_way.push(found);
            }
        }
        delete(&mut transaction, &in_the_way);
        for (set, element) in wanted {
            transaction.elements(Verb::Create, &TABLE, &set, vec![element]);
        }
        transaction.generation = Some(generation);
        nft.commit(&transaction)
    })
}

/// What carries the owner's tag.
fn owned(nft: &mut dyn Nft, tag: &OwnerTag) -> Result<Vec<(Set, Element)>, NftError> {
    let mut owned = Vec::new();
    for owner in lookup(nft, &TABLE, &attachments(), &[owner_key(tag)])? {
        if !tag.owns(&owner) {
            continue;
        }
        let port = lookup(nft, &TABLE, &ports(), std::slice::from_ref(&owner.data))?;
        let own = port.into_iter().filter(|port| tag.owns(port));
        owned.extend(own.map(|port| (ports(), port)));
        owned.push((attachments(), owner));
    }
    Ok(owned)
}

fn delete(transaction: &mut Transaction, elements: &[(Set, Element)]) {
    for (set, element) in elements {
        transaction.elements(Verb::Delete, &TABLE, set, keys_only([element]));
    }
}

/// Lets such frames of the attachment's port pass again. The table goes with the last port.
pub(crate) fn release(nft: &mut dyn Nft, tag: &OwnerTag) -> Result<(), NftError> {
    remove(nft, |nft| owned(nft, tag))
}

/// Lets go of the ports of stale attachments.
pub(crate) fn collect_garbage(nft: &mut dyn Nft, stale: &Stale) -> Result<(), CniError> {
    let outcome = remove(nft, |nft| {
        let mut found = Vec::new();
        for set in [attachments(), ports()] {
            let elements = nft.elements(&TABLE, &set)?;
            let is_stale = |e: &Element| e.comment.as_deref().is_some_and(|c| stale.includes(c));
            found.extend(elements.into_iter().filter(is_stale).map(|e| (set.clone(), e)));
        }
        Ok(found)
    });
    outcome.map_err(|error| error.into_cni("cannot collect stale firewall rules of bridges"))
}

fn remove(
    nft: &mut dyn Nft,
    find: impl Fn(&mut dyn Nft) -> Result<Vec<(Set, Element)>, NftError>,
) -> Result<(), NftError> {
    retry(|| {
        let generation = nft.generation()?;
        refuse_newer(nft)?;
        let found = find(nft)?;
        if found.is_empty() {
            return unchanged_since(nft, generation);
        }
        let mut transaction = Transaction::new();
        let all: usize = [attachments(), ports()]
            .iter()
            .map(|set| nft.elements(&TABLE, set).map(|elements| elements.len()))
            .sum::<Result<_, _>>()?;
        if all == found.len() {
            transaction.push(Verb::Delete, &TABLE, Object::Table(None));
        } else {
            delete(&mut transaction, &found);
        }
        transaction.generation = Some(generation);
        nft.commit(&transaction)
    })
}

/// How the table differs from what [`stop`] makes.
pub(crate) fn mismatches(
    nft: &mut dyn Nft,
    tag: &OwnerTag,
    port: &str,
) -> Result<Vec<String>, NftError> {
    refuse_newer(nft)?;
    let mut mismatches = chain_mismatches(nft, &TABLE, &[forward()])?;
    for (set, wanted) in elements(tag, port) {
        let held = lookup(nft, &TABLE, &set, std::slice::from_ref(&wanted.key))?;
        if !held.iter().any(|element| tag.has(&wanted, element)) {
            mismatches.extend(element_mismatch(&TABLE, &set, &wanted, held.first()));
        }
    }
    Ok(mismatches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use cni_common::kernel::nft::fake::FakeNft;

    fn tag(id: &str) -> OwnerTag {
        Plan::sample(id, &[], None).tag
    }

    #[test]
    fn ports_have_owners_and_the_table_goes_with_the_last() {
        let mut nft = FakeNft::new();
        let [a, b] = ["a", "b"].map(tag);
        stop(&mut nft, &a, "veth1").expect("ADD");
        let with_a = nft.dump();
        stop(&mut nft, &a, "veth1").expect("ADD again");
        assert_eq!(nft.dump(), with_a);
        stop(&mut nft, &b, "veth2").expect("ADD");
        assert_eq!(mismatches(&mut nft, &b, "veth2").expect("readable"), Vec::<String>::new());
        assert!(!mismatches(&mut nft, &b, "veth3").expect("readable").is_empty());
        release(&mut nft, &b).expect("DEL");
        assert_eq!(nft.dump(), with_a);
        // The name was given again before the old container's DEL.
        stop(&mut nft, &b, "veth1").expect("ADD");
        release(&mut nft, &a).expect("late DEL");
        assert_eq!(mismatches(&mut nft, &b, "veth1").expect("readable"), Vec::<String>::new());
        collect_garbage(&mut nft, &Stale::new("other", [])).expect("GC");
        assert!(nft.dump().contains("veth1"));
        collect_garbage(&mut nft, &Stale::new("net", [])).expect("GC");
        assert_eq!(nft.dump(), "");
    }
}
