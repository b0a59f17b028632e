//! Decisions and races, on a ruleset in memory.

use std::net::IpAddr;

use cni_common::cni::log::Log;
use cni_common::cni::protocol::ErrorCode;
use cni_common::cni::{Attachment, Finding, Stale};
use cni_common::kernel::nft::fake::FakeNft;
use cni_common::kernel::nft::{
    BaseChain, Chain, ChainKind, Family, Hook, Nft, Object, Priority, Rule, Statement, Table,
    Transaction, Verb,
};

use super::add::add;
use super::check::check;
use super::remove::{collect_garbage, remove};
use crate::config::{ForwardChain, Policy};
use crate::plan::Plan;

fn plan(id: &str, list: &[&str], isolation: Option<(&str, Policy)>) -> Plan {
    let mut plan = Plan::sample(id, list, isolation.map(|(_, policy)| policy));
    if let (Some(isolation), Some((bridge, _))) = (&mut plan.isolation, isolation) {
        bridge.clone_into(&mut isolation.bridge);
    }
    plan
}

fn gc(nft: &mut FakeNft, network: &str, valid: &[&str]) -> Vec<IpAddr> {
    let attachment = |id: &&str| Attachment {
        network: network.into(),
        container_id: (*id).into(),
        ifname: "eth0".into(),
    };
    let stale = Stale::new(network, valid.iter().map(attachment));
    collect_garbage(nft, &stale, &Log::disabled()).expect("GC")
}

fn install(nft: &mut FakeNft, plan: &Plan) {
    add(nft, plan, &Log::disabled()).expect("ADD");
    assert_eq!(check(nft, plan).expect("readable"), Finding::Sound);
}

/// A table with its skeleton and nobody in it.
fn skeleton() -> FakeNft {
    let mut nft = FakeNft::new();
    let first = plan("first", &["10.0.0.9"], None);
    install(&mut nft, &first);
    remove(&mut nft, &first.tag, &[], &Log::disabled()).expect("DEL");
    nft
}

#[test]
fn the_first_add_is_not_refused() {
    let mut nft = FakeNft::new();
    install(&mut nft, &plan("c", &["10.0.0.2"], None));
    assert_eq!((nft.committed().len(), nft.refused()), (1, 0));
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
    let removed = remove(&mut nft, &web.tag, &[], &Log::disabled()).expect("DEL");
    assert_eq!(removed.addresses, web.addresses);
    assert_eq!((nft.listings(), nft.dump()), (listings, before));
}

#[test]
fn more_addresses_than_the_element_names_are_found_all_the_same() {
    let mut nft = skeleton();
    let before = nft.dump();
    let web = plan("c", &["10.0.0.2", "10.0.0.3", "fd00::2", "fd00::3"], None);
    install(&mut nft, &web);
    remove(&mut nft, &web.tag, &[], &Log::disabled()).expect("DEL");
    assert_eq!(nft.dump(), before);
}

#[test]
fn the_newest_owner_keeps_the_address() {
    let mut nft = skeleton();
    let old = plan("old", &["10.0.0.2"], Some(("br0", Policy::SameBridge)));
    let new = plan("new", &["10.0.0.2"], Some(("br0", Policy::SameBridge)));
    install(&mut nft, &old);
    install(&mut nft, &new);
    let removed = remove(&mut nft, &old.tag, &old.addresses, &Log::disabled()).expect("late DEL");
    assert!(removed.addresses.is_empty());
    assert_eq!(check(&mut nft, &new).expect("readable"), Finding::Sound);
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
    assert_eq!(check(&mut nft, &open).expect("readable"), Finding::Sound);
    remove(&mut nft, &strict.tag, &[], &Log::disabled()).expect("DEL");
    assert_eq!(nft.dump(), with_one);
    remove(&mut nft, &open.tag, &[], &Log::disabled()).expect("DEL");
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
    remove(&mut nft, &web.tag, &[], &Log::disabled()).expect("DEL");
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
    let gone = gc(&mut nft, "net", &["b"]);
    assert_eq!((gone, nft.dump()), (a.addresses, only_b));
    gc(&mut nft, "other", &[]);
    assert!(nft.dump().contains("br0"));
    gc(&mut nft, "net", &[]);
    assert_eq!(nft.dump(), "");
    // DEL leaves the table; GC finds nothing stale in it, and nothing else.
    install(&mut nft, &b);
    remove(&mut nft, &b.tag, &b.addresses, &Log::disabled()).expect("DEL");
    assert_ne!(nft.dump(), "");
    gc(&mut nft, "net", &[]);
    assert_eq!(nft.dump(), "");
}

fn native_chain(name: &str) -> ForwardChain {
    ForwardChain { version: None, table: "filter".to_owned(), chain: name.to_owned() }
}

/// Somebody's chain that forwarded packets come through.
fn with_foreign_chain(nft: &mut FakeNft) -> ForwardChain {
    let hooked = native_chain("forward");
    let base =
        BaseChain { kind: ChainKind::Filter, hook: Hook::Forward, priority: Priority::FILTER };
    let chain = Chain { name: hooked.chain.clone(), base: Some(base) };
    let rule = Rule {
        chain: hooked.chain.clone(),
        statements: vec![Statement::Drop],
        comment: Some("theirs".to_owned()),
    };
    let mut transaction = Transaction::new();
    let table = Table::new(Family::Inet, "filter");
    transaction.push(Verb::Add, &table, Object::Table(None));
    transaction.chain_with_rules(&table, chain, vec![rule]);
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
    remove(&mut nft, &a.tag, &a.addresses, &Log::disabled()).expect("DEL");
    assert_eq!(check(&mut nft, &b).expect("readable"), Finding::Sound);
    remove(&mut nft, &b.tag, &[], &Log::disabled()).expect("DEL");
    assert_eq!(nft.dump(), before);

    install(&mut nft, &a);
    gc(&mut nft, "net", &[]);
    assert!(!nft.dump().contains("cni_firewall"), "{}", nft.dump());
    assert!(nft.dump().contains("theirs"));
}

#[test]
fn a_foreign_chain_that_is_not_there_is_an_error() {
    let mut nft = skeleton();
    let before = nft.dump();
    let missing = native_chain("nowhere");
    let web = Plan { forward_chains: vec![missing], ..plan("c", &["10.0.0.2"], None) };
    let error = add(&mut nft, &web, &Log::disabled()).expect_err("no such chain");
    assert_eq!(error.code, ErrorCode::InvalidNetworkConfig);
    remove(&mut nft, &web.tag, &[], &Log::disabled()).expect("DEL");
    assert_eq!(nft.dump(), before);
}

/// An older version's DEL trusts the name of the map, and its ADD writes into it before it looks.
#[test]
fn another_layout_has_another_map_of_attachments() {
    let name = super::layout::attachments().name;
    assert_eq!((super::layout::LAYOUT, name.as_str()), (2, "attachments"), "raise both, or none");
}
