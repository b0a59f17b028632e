//! What the nftables backend does to a ruleset, on one that lives in memory.

use cni_common::cni::log::Log;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::cni::{Attachment, Finding, Stale};
use cni_common::kernel::nft::fake::FakeNft;
use cni_common::kernel::nft::{L4Protocol, Nft as _, Object, Set, Table, Transaction, Verb};

use super::layout::Layout;
use super::sets::{self, TABLE};
use super::{Wanted, add, check, garbage, owned};
use crate::backend::conflict;
use crate::config::{Conditions, Config, HostAddress, OnConflict, PortMapping};
use crate::plan::{Addresses, Mapping, Plan};

const EPERM: i32 = 1;
const ENOSPC: i32 = 28;

fn config(ports: &[(u16, u16)]) -> Config {
    let mappings = ports.iter().map(|(host_port, container_port)| PortMapping {
        host_port: *host_port,
        container_port: *container_port,
        protocol: L4Protocol::Tcp,
        host: HostAddress::Any,
    });
    Config { mappings: mappings.collect(), ..Config::default() }
}

fn plan_with(network: &str, container: &str, config: &Config, last_byte: u8) -> Wanted<'static> {
    plan_on(network, container, "eth0", config, last_byte)
}

fn plan_on(
    network: &str,
    container: &str,
    ifname: &str,
    config: &Config,
    last_byte: u8,
) -> Wanted<'static> {
    let attachment = Attachment {
        network: network.to_owned(),
        container_id: container.to_owned(),
        ifname: ifname.to_owned(),
    };
    let addresses = Addresses {
        v4: format!("10.0.0.{last_byte}/24").parse().ok(),
        v6: format!("fd00::{last_byte}/64").parse().ok(),
    };
    Wanted::by(Box::leak(Box::new(Plan::new(&attachment, config, addresses))))
        .expect("no conditions that could be wrong")
}

fn plan(container: &str, last_byte: u8, ports: &[(u16, u16)]) -> Wanted<'static> {
    plan_with("net", container, &config(ports), last_byte)
}

fn replace(nft: &mut FakeNft, wanted: &Wanted<'_>, log: &Log) -> Result<Vec<Mapping>, CniError> {
    let has_table = nft.tables(&[TABLE]).expect("in memory").contains(&true);
    add::add(nft, wanted, has_table, log).map(|added| added.mappings)
}

fn add_as(
    nft: &mut FakeNft,
    wanted: &Wanted<'_>,
    on_conflict: OnConflict,
    log: &Log,
) -> Result<Vec<Mapping>, CniError> {
    let plan = Plan { on_conflict, ..wanted.plan.clone() };
    replace(nft, &Wanted::by(&plan).expect("compiled before"), log)
}

/// ADD as the plugin carries it out: a plan without mappings is a removal.
fn add(nft: &mut FakeNft, wanted: &Wanted<'_>) -> Result<(), CniError> {
    if wanted.content.is_empty() {
        return owned::remove(nft, &wanted.content.tag, None, &Log::disabled()).map(|_| ());
    }
    replace(nft, wanted, &Log::disabled()).map(|_| ())
}

/// CHECK as the plugin ends it.
fn check(nft: &mut FakeNft, wanted: &Wanted<'_>) -> Result<(), CniError> {
    let (finding, held) = check::check(nft, wanted)?;
    match finding {
        Finding::Sound => conflict::lost(&held),
        Finding::Absent => Err(CniError::new(ErrorCode::CheckFailed, "absent")),
        Finding::Mismatches(mismatches) => CniError::unless_sound("mismatches", &mismatches, ""),
    }
}

fn added(nft: &mut FakeNft, wanted: &Wanted<'_>) {
    add(nft, wanted).expect("ADD");
    check(nft, wanted).expect("CHECK right after ADD");
}

/// DEL without any knowledge but the attachment.
fn remove(nft: &mut FakeNft, wanted: &Wanted<'_>) -> Vec<String> {
    let removed = owned::remove(nft, &wanted.content.tag, None, &Log::disabled()).expect("DEL");
    removed.iter().map(ToString::to_string).collect()
}

/// GC on a host where no interface has `route_localnet`.
fn collect_garbage(
    nft: &mut FakeNft,
    network: &str,
    valid: &[Attachment],
) -> Result<Vec<Mapping>, CniError> {
    gc(nft, network, valid, false)
}

fn gc(
    nft: &mut FakeNft,
    network: &str,
    valid: &[Attachment],
    needs_guard: bool,
) -> Result<Vec<Mapping>, CniError> {
    let valid =
        valid.iter().map(|valid| Attachment { network: network.to_owned(), ..valid.clone() });
    garbage::collect_garbage(nft, &Stale::new(network, valid), || needs_guard, &Log::disabled())
}

fn count_of(nft: &FakeNft, text: &str) -> usize {
    nft.dump().matches(text).count()
}

/// An attachment that is valid in whichever network is collected.
fn valid(container: &str) -> Attachment {
    let network = String::new();
    Attachment { network, container_id: container.to_owned(), ifname: "eth0".to_owned() }
}

#[test]
fn the_first_add_is_not_refused() {
    let mut nft = FakeNft::new();
    added(&mut nft, &plan("c1", 2, &[(8080, 80)]));
    assert_eq!((nft.committed().len(), nft.refused()), (1, 0));
}

#[test]
fn a_table_that_goes_after_the_look_is_made() {
    let mut nft = FakeNft::new();
    let wanted = plan("c1", 2, &[(8080, 80)]);
    add::add(&mut nft, &wanted, true, &Log::disabled()).expect("ADD");
    check(&mut nft, &wanted).expect("CHECK right after ADD");
    assert_eq!((nft.committed().len(), nft.refused()), (1, 1));
}

#[test]
fn adding_twice_is_adding_once() {
    let mut nft = FakeNft::new();
    let plan = plan("c1", 2, &[(8080, 80), (8443, 443)]);
    added(&mut nft, &plan);
    let once = nft.dump();
    added(&mut nft, &plan);
    assert_eq!(nft.dump(), once);
}

#[test]
fn what_is_added_is_removed_and_what_is_gone_is_no_error() {
    let mut nft = FakeNft::new();
    let (one, two) = (plan("c1", 2, &[(8080, 80)]), plan("c2", 3, &[(8081, 80)]));
    assert_eq!(remove(&mut nft, &one), Vec::<String>::new());
    assert_eq!(nft.dump(), "", "DEL on an empty host makes nothing");
    added(&mut nft, &one);
    let before = nft.dump();
    added(&mut nft, &two);
    assert_eq!(remove(&mut nft, &two), ["*:8081/tcp -> 10.0.0.3:80", "*:8081/tcp -> [fd00::3]:80"]);
    assert_eq!(nft.dump(), before);
    assert!(remove(&mut nft, &two).is_empty());
    assert_eq!(nft.dump(), before);
    check(&mut nft, &one).expect("the other attachment is as it was");
    let error = check(&mut nft, &two).expect_err("nothing is there");
    assert_eq!(error.code, ErrorCode::CheckFailed);
}

#[test]
fn adding_again_with_other_ports_or_another_address_replaces() {
    let mut nft = FakeNft::new();
    let bystander = plan("c9", 9, &[(9, 9)]);
    added(&mut nft, &bystander);
    for changed in [
        plan("c1", 2, &[(8081, 80)]),
        plan("c1", 2, &[(8080, 81)]),
        plan("c1", 3, &[(8080, 80)]),
        plan("c1", 2, &[(8080, 80), (8081, 80)]),
        plan("c1", 2, &[(8081, 80), (8080, 80)]),
        plan("c1", 2, &[]),
    ] {
        let mut fresh = nft.clone();
        added(&mut fresh, &changed);
        let mut again = nft.clone();
        added(&mut again, &plan("c1", 2, &[(8080, 80), (1000, 10)]));
        added(&mut again, &changed);
        assert_eq!(again.dump(), fresh.dump());
    }
}

#[test]
fn adding_nothing_to_an_empty_host_makes_nothing() {
    let mut nft = FakeNft::new();
    added(&mut nft, &plan("c1", 2, &[]));
    assert!(nft.committed().is_empty() && nft.dump().is_empty());
}

#[test]
fn the_newest_owner_of_a_port_wins_and_says_so() {
    let mut nft = FakeNft::new();
    let (old, new) = (plan("c1", 2, &[(8080, 80), (9090, 90)]), plan("c2", 3, &[(8080, 81)]));
    added(&mut nft, &old);
    let log = Log::disabled();
    replace(&mut nft, &new, &log).expect("taken over");
    check(&mut nft, &new).expect("the new owner's mapping is complete");
    let warnings = log.warnings().join("\n");
    assert!(warnings.contains("*:8080/tcp -> 10.0.0.2:80"), "{warnings}");
    assert!(warnings.contains("net/c1/eth0") && warnings.contains("net/c2/eth0"), "{warnings}");
    let error = check(&mut nft, &old).expect_err("the old owner lost a port");
    assert!(error.msg.contains("net/c2/eth0"), "{error}");

    // The old owner's DEL comes late: its other port goes, the new owner's stays.
    assert_eq!(remove(&mut nft, &old), ["*:9090/tcp -> 10.0.0.2:90", "*:9090/tcp -> [fd00::2]:90"]);
    check(&mut nft, &new).expect("the new owner's mapping is untouched");
    assert_eq!(count_of(&nft, "net/c1/"), 0);
}

/// Else its DEL would read every map, and CHECK of what is left to it would fail for ever.
#[test]
fn who_loses_a_port_still_knows_how_much_it_has() {
    let mut nft = FakeNft::new();
    let old = plan("c1", 2, &[(8080, 80), (9090, 90)]);
    let left = plan("c1", 2, &[(9090, 90)]);
    added(&mut nft, &old);
    nft.interpose(Transaction::new());
    added(&mut nft, &plan("c2", 3, &[(8080, 80)]));
    check(&mut nft, &left).expect("the other port is complete");
    let removed = owned::remove(&mut nft, &old.content.tag, Some(&old.content), &Log::disabled());
    assert_eq!((removed.expect("DEL").len(), count_of(&nft, "net/c1/")), (2, 0));
    // An address that is another's by now takes the last element, and with it the name.
    added(&mut nft, &plan("c3", 3, &[(8080, 80)]));
    assert_eq!(count_of(&nft, "net/c2/"), 0);
}

/// The ruleset as if nobody had ever been in a conflict.
fn without_flags(nft: &FakeNft) -> String {
    nft.dump().replace(": 0x8000", ": 0x0000")
}

fn del(nft: &mut FakeNft, wanted: &Wanted<'_>, log: &Log) -> usize {
    let content = &wanted.content;
    owned::remove(nft, &content.tag, Some(content), log).expect("DEL").len()
}

#[test]
fn a_port_comes_back_to_who_lost_it() {
    let mut nft = FakeNft::new();
    let plans: Vec<Wanted<'static>> = [2, 3, 4]
        .map(|n| plan(&format!("c{n}"), n, &[(8080, 80), (9000 + u16::from(n), 80)]))
        .into();
    added(&mut nft, &plans[0]);
    let first = nft.dump();
    added(&mut nft, &plans[1]);
    let second = nft.dump();
    added(&mut nft, &plans[2]);
    let log = Log::disabled();
    assert_eq!(del(&mut nft, &plans[2], &log), 4);
    assert!(log.warnings().join("\n").contains("net/c3/eth0 serves again"), "{:?}", log.warnings());
    assert_eq!(nft.dump(), second, "the newest of those that wait");
    check(&mut nft, &plans[1]).expect("complete again");
    del(&mut nft, &plans[1], &Log::disabled());
    check(&mut nft, &plans[0]).expect("complete again");
    assert_eq!(without_flags(&nft), first);
    // What waits goes with its owner.
    added(&mut nft, &plans[1]);
    assert_eq!(del(&mut nft, &plans[0], &Log::disabled()), 2);
    assert_eq!(count_of(&nft, "net/c2/"), 0);
    assert_eq!(del(&mut nft, &plans[1], &Log::disabled()), 4);
    assert_eq!(count_of(&nft, "net/c"), 0);
}

#[test]
fn a_port_comes_back_when_its_owner_is_garbage_or_wants_others() {
    let old = plan("c1", 2, &[(8080, 80)]);
    let mut contested = FakeNft::new();
    added(&mut contested, &old);
    added(&mut contested, &plan("c2", 3, &[(8080, 80)]));
    let mut nft = contested.clone();
    collect_garbage(&mut nft, "net", &[valid("c1")]).expect("GC");
    check(&mut nft, &old).expect("serves again");
    let mut nft = contested.clone();
    added(&mut nft, &plan("c2", 3, &[(8081, 80)]));
    check(&mut nft, &old).expect("serves again");
    let mut nft = contested;
    collect_garbage(&mut nft, "net", &[valid("c2")]).expect("GC of the one that waits");
    assert_eq!(count_of(&nft, "net/c1/"), 0);
    added(&mut nft, &plan("c2", 3, &[(8080, 80)]));
}

#[test]
fn the_second_network_of_a_container_serves_when_the_first_goes() {
    let mut nft = FakeNft::new();
    let first = plan_with("net", "c1", &config(&[(8080, 80), (8443, 443)]), 2);
    let second = plan_on("net2", "c1", "eth1", &config(&[(8080, 80), (8443, 443)]), 3);
    let mut alone = FakeNft::new();
    added(&mut alone, &second);
    added(&mut nft, &first);
    added(&mut nft, &second);
    check(&mut nft, &first).expect("kept");
    del(&mut nft, &first, &Log::disabled());
    check(&mut nft, &second).expect("serves by itself");
    // Waiting twice is waiting once.
    added(&mut nft, &first);
    let before = nft.dump();
    added(&mut nft, &first);
    assert_eq!(nft.dump(), before);
    // Against another container both lose, and the second, which had it, comes back first.
    added(&mut nft, &first);
    let rival = plan("rival", 9, &[(8080, 80)]);
    added(&mut nft, &rival);
    check(&mut nft, &first).expect_err("lost");
    del(&mut nft, &rival, &Log::disabled());
    check(&mut nft, &first).expect("waits for the same container");
    assert_eq!(count_of(&nft, "tcp . 8080 comment \"net2/c1/eth1\""), 2, "it had it last");
}

/// Keys of two maps are not the same key.
#[test]
fn the_first_network_keeps_only_what_it_has() {
    let mut nft = FakeNft::new();
    let v4_only = Config {
        mappings: vec![PortMapping {
            host: HostAddress::AnyV4,
            ..config(&[(8080, 80)]).mappings[0].clone()
        }],
        ..Config::default()
    };
    added(&mut nft, &plan_with("net", "c1", &v4_only, 2));
    let second = plan_on("net2", "c1", "eth1", &config(&[(8080, 80)]), 3);
    let active = replace(&mut nft, &second, &Log::disabled()).expect("ADD");
    let active: Vec<String> = active.iter().map(ToString::to_string).collect();
    assert_eq!(active, ["*:8080/tcp -> [fd00::3]:80"]);
    check(&mut nft, &second).expect("complete");
}

/// Its container's DEL was lost: nothing may lead to who has the address now.
#[test]
fn an_address_is_its_newest_attachments() {
    let mut nft = FakeNft::new();
    let old = plan("c1", 2, &[(8080, 80), (9090, 90)]);
    let new = plan("c2", 2, &[(8081, 80)]);
    added(&mut nft, &old);
    added(&mut nft, &new);
    assert_eq!(count_of(&nft, "net/c1/"), 0, "{}", nft.dump());
    assert_eq!(remove(&mut nft, &old), Vec::<String>::new());
    check(&mut nft, &new).expect("untouched");
    // Somebody who waited for a port of the one that is gone has it again.
    let waiting = plan("c3", 3, &[(7070, 70)]);
    added(&mut nft, &waiting);
    added(&mut nft, &plan("c4", 4, &[(7070, 70)]));
    added(&mut nft, &plan("c5", 4, &[(6060, 60)]));
    check(&mut nft, &waiting).expect("serves again");
    // Who takes address and port of one that others waited for gives the port back to them.
    added(&mut nft, &plan("c6", 6, &[(7070, 70)]));
    let heir = plan("c7", 6, &[(7070, 70)]);
    added(&mut nft, &heir);
    del(&mut nft, &heir, &Log::disabled());
    check(&mut nft, &waiting).expect("serves again");
}

#[test]
fn a_network_that_was_renamed_is_found() {
    let mut nft = FakeNft::new();
    let bystander = plan("c9", 9, &[(9, 9)]);
    added(&mut nft, &bystander);
    let before = nft.dump();
    let named = plan_with("net", "c1", &config(&[(8080, 80)]), 2);
    let renamed = plan_with("renamed", "c1", &config(&[(8080, 80)]), 2);
    added(&mut nft, &named);
    check(&mut nft, &renamed).expect("the same owner");
    let listings = nft.listings();
    assert_eq!(del(&mut nft, &renamed, &Log::disabled()), 2);
    assert_eq!((nft.dump(), nft.listings()), (before.clone(), listings));
    added(&mut nft, &named);
    added(&mut nft, &renamed);
    assert_eq!((count_of(&nft, "net/c1/"), remove(&mut nft, &named).len()), (0, 2));
    assert_eq!(nft.dump(), before);
}

#[test]
fn on_conflict_fail_sees_overlaps() {
    let on = |address: &str, port| Config {
        mappings: vec![PortMapping {
            host: HostAddress::One(address.parse().expect("an address")),
            ..config(&[(port, 80)]).mappings[0].clone()
        }],
        ..Config::default()
    };
    let mut nft = FakeNft::new();
    added(&mut nft, &plan("c1", 2, &[(8080, 80)]));
    added(&mut nft, &plan_with("net", "c2", &on("192.0.2.1", 9090), 3));
    let before = nft.dump();
    let log = Log::disabled();
    for (refused, owner) in [
        (plan_with("net", "c3", &on("192.0.2.1", 8080), 4), "net/c1/eth0"),
        (plan_with("net", "c3", &on("2001:db8::1", 8080), 4), "net/c1/eth0"),
        (plan("c3", 4, &[(9090, 80)]), "net/c2/eth0"),
    ] {
        let error = add_as(&mut nft, &refused, OnConflict::Fail, &log).expect_err("taken");
        assert!(error.code == ErrorCode::PortConflict && error.msg.contains(owner), "{error}");
        assert_eq!(nft.dump(), before);
        // The newest wins where that is wanted; the more specific one is served.
        added(&mut nft.clone(), &refused);
    }
    for free in [
        plan_with("net", "c3", &on("192.0.2.2", 9090), 4),
        plan_with("net", "c3", &on("2001:db8::1", 9090), 4),
    ] {
        add_as(&mut nft.clone(), &free, OnConflict::Fail, &log).expect("nobody has it");
    }
}

/// What is asked for again waits no longer than what was asked for since.
#[test]
fn who_yields_comes_behind_all_that_wait() {
    let mut nft = FakeNft::new();
    let [holder, old, first, last] = [2, 3, 4, 5].map(|n| plan(&format!("c{n}"), n, &[(8080, 80)]));
    added(&mut nft, &old);
    added(&mut nft, &holder);
    for patient in [&first, &last, &first] {
        let log = Log::disabled();
        let active = add_as(&mut nft, patient, OnConflict::Wait, &log).expect("ADD");
        assert!(active.is_empty() && log.warnings().len() == 2, "{:?}", log.warnings());
    }
    for (gone, heir) in [(&holder, &old), (&old, &last), (&last, &first)] {
        del(&mut nft, gone, &Log::disabled());
        check(&mut nft, heir).expect("serves");
        let is_last = heir.content.tag == first.content.tag;
        assert_eq!(check(&mut nft, &first).is_ok(), is_last);
    }
}

/// CHECK says who has the port, and advises nothing that would refuse.
#[test]
fn check_of_a_loser_names_the_winner() {
    let mut nft = FakeNft::new();
    let old = plan("c1", 2, &[(8080, 80), (9090, 90)]);
    added(&mut nft, &old);
    added(&mut nft, &plan("c2", 3, &[(8080, 80)]));
    let error = check(&mut nft, &old).expect_err("lost");
    assert_eq!(error.code, ErrorCode::PortConflict);
    assert!(error.msg.contains("*:8080/tcp") && error.msg.contains("net/c2/eth0"), "{error}");
    assert!(!error.to_string().contains("restore"), "{error}");
    // With more wrong than that, it is all told.
    flush_rules(&mut nft);
    let (finding, held) = check::check(&mut nft, &old).expect("a finding");
    let Finding::Mismatches(mismatches) = finding else { panic!("{finding:?}") };
    let text = mismatches.join("; ");
    assert!(held[0].1.contains("net/c2/eth0") && text.contains("guard"), "{text}");
}

#[test]
fn where_nothing_conflicts_nobody_asks_for_claims() {
    let mut nft = FakeNft::new();
    let plan = plan("c1", 2, &[(8080, 80), (8443, 443)]);
    added(&mut nft, &plan);
    let (listings, queries) = (nft.listings(), nft.queries());
    del(&mut nft, &plan, &Log::disabled());
    assert_eq!((nft.listings() - listings, nft.queries() - queries), (0, 1));
}

#[test]
fn a_late_delete_that_knows_its_keys_spares_their_new_owner() {
    let mut nft = FakeNft::new();
    let (old, new) = (plan("c1", 2, &[(8080, 80)]), plan("c2", 3, &[(8080, 80)]));
    added(&mut nft, &old);
    added(&mut nft, &new);
    let removed = owned::remove(&mut nft, &old.content.tag, Some(&old.content), &Log::disabled())
        .expect("DEL");
    assert!(removed.is_empty(), "{removed:?}");
    check(&mut nft, &new).expect("untouched");
    assert_eq!(count_of(&nft, "net/c1/"), 0);
}

#[test]
fn a_reused_address_belongs_to_its_new_container() {
    let mut nft = FakeNft::new();
    let (old, new) = (plan("c1", 2, &[(8080, 80)]), plan("c2", 2, &[(8081, 80)]));
    added(&mut nft, &old);
    let log = Log::disabled();
    add_as(&mut nft, &new, OnConflict::Fail, &log).expect("no port is taken");
    let warnings = log.warnings().join("\n");
    assert!(
        warnings.contains("net/c1/eth0 was removed: net/c2/eth0 has that address"),
        "{warnings}"
    );
    remove(&mut nft, &old);
    check(&mut nft, &new).expect("masquerading included");
    assert_eq!(count_of(&nft, "net/c1/"), 0);
}

#[test]
fn on_conflict_fail_names_the_owner_and_changes_nothing() {
    let mut nft = FakeNft::new();
    added(&mut nft, &plan("c1", 2, &[(8080, 80)]));
    let before = nft.dump();
    let refused = plan("c2", 3, &[(7070, 70), (8080, 81)]);
    let log = Log::disabled();
    let error = add_as(&mut nft, &refused, OnConflict::Fail, &log).expect_err("taken");
    assert_eq!(error.code, ErrorCode::PortConflict);
    assert!(error.msg.contains("net/c1/eth0") && error.msg.contains("*:8080/tcp"), "{error}");
    assert_eq!(nft.dump(), before);
    // One's own earlier mapping is no conflict.
    let own = plan("c1", 2, &[(8080, 82)]);
    add_as(&mut nft, &own, OnConflict::Fail, &log).expect("its own port");
    check(&mut nft, &own).expect("replaced");
}

#[test]
fn a_refused_commit_leaves_everything_as_it_was() {
    let old = plan("c1", 2, &[(8080, 80)]);
    let mut empty = FakeNft::new();
    empty.fail_commit(0, EPERM);
    let error = add(&mut empty, &old).expect_err("EPERM");
    assert!(error.code == ErrorCode::Kernel && error.msg.contains("CAP_NET_ADMIN"), "{error}");
    assert_eq!(empty.dump(), "");

    // The first commit of an empty host makes the table.
    let mut empty = FakeNft::new();
    empty.fail_commit(0, ENOSPC);
    add(&mut empty, &old).expect_err("ENOSPC");
    assert_eq!(empty.dump(), "");
    assert!(empty.committed().is_empty());

    let mut occupied = FakeNft::new();
    added(&mut occupied, &old);
    for (what, next) in [
        ("a new attachment", plan("c2", 3, &[(8081, 80)])),
        ("a repeated ADD", old.clone()),
        ("a takeover", plan("c2", 3, &[(8080, 80)])),
    ] {
        let mut nft = occupied.clone();
        nft.fail_commit(0, ENOSPC);
        add(&mut nft, &next).expect_err(what);
        assert_eq!(nft.dump(), occupied.dump(), "{what}");
        added(&mut nft, &next);
    }
    let mut nft = occupied.clone();
    nft.fail_commit(0, ENOSPC);
    owned::remove(&mut nft, &old.content.tag, None, &Log::disabled()).expect_err("ENOSPC");
    assert_eq!(nft.dump(), occupied.dump());
    nft.fail_commit(0, ENOSPC);
    collect_garbage(&mut nft, "net", &[]).expect_err("ENOSPC");
    assert_eq!(nft.dump(), occupied.dump());
}

/// What `nft flush table inet cni_portmap` does: the maps stay, the rules are gone.
fn flush_rules(nft: &mut FakeNft) {
    flush_chains(nft, &Layout::shared());
}

fn flush_chains(nft: &mut FakeNft, layout: &Layout) {
    let mut transaction = Transaction::new();
    for (chain, _) in layout.chains() {
        transaction.push(Verb::Flush, &TABLE, Object::Chain(chain));
    }
    nft.commit(&transaction).expect("flush");
}

#[test]
fn lost_rules_are_noticed_and_restored() {
    let mut nft = FakeNft::new();
    let (one, two) = (plan("c1", 2, &[(8080, 80)]), plan("c2", 3, &[(8081, 80)]));
    added(&mut nft, &one);
    flush_rules(&mut nft);
    check(&mut nft, &one).expect_err("rules are gone");
    let log = Log::disabled();
    replace(&mut nft, &two, &log).expect("ADD");
    assert!(log.warnings().join("\n").contains("restored"), "{:?}", log.warnings());
    check(&mut nft, &two).expect("restored");
    check(&mut nft, &one).expect("restored for everybody");
}

#[test]
fn an_add_that_cannot_restore_lost_rules_leaves_nothing() {
    let mut nft = FakeNft::new();
    added(&mut nft, &plan("c1", 2, &[(8080, 80)]));
    flush_rules(&mut nft);
    let before = nft.dump();
    nft.fail_commit(1, ENOSPC);
    add(&mut nft, &plan("c2", 3, &[(8081, 80)])).expect_err("ENOSPC");
    assert_eq!(nft.dump(), before);
}

#[test]
fn a_decision_on_a_ruleset_that_moved_is_made_anew() {
    for turns in [1, 3] {
        let mut nft = FakeNft::new();
        let old = plan("c1", 2, &[(8080, 80)]);
        let new = plan("c1", 2, &[(8081, 80)]);
        added(&mut nft, &old);
        for _ in 0..turns {
            nft.interpose(Transaction::new());
        }
        added(&mut nft, &new);
        assert_eq!(count_of(&nft, "8080"), 0);
        for _ in 0..turns {
            nft.interpose(Transaction::new());
        }
        assert_eq!(remove(&mut nft, &new).len(), 2);
        assert_eq!(count_of(&nft, "net/c1/"), 0);
        added(&mut nft, &old);
        for _ in 0..turns {
            nft.interpose(Transaction::new());
        }
        collect_garbage(&mut nft, "net", &[]).expect("GC");
        assert_eq!(nft.dump(), "");
    }
}

#[test]
fn a_port_that_changes_hands_during_a_delete_stays_with_its_new_owner() {
    let mut nft = FakeNft::new();
    let (old, new) = (plan("c1", 2, &[(8080, 80)]), plan("c2", 3, &[(8080, 80)]));
    added(&mut nft, &old);
    // What the other ADD commits between this DEL's reads and its commit.
    let mut rival = nft.clone();
    added(&mut rival, &new);
    nft.interpose(rival.committed().last().expect("the takeover").clone());
    assert!(remove(&mut nft, &old).is_empty());
    check(&mut nft, &new).expect("untouched");
    assert_eq!(count_of(&nft, "net/c1/"), 0);
}

#[test]
fn a_ruleset_that_never_rests_is_given_up() {
    let mut nft = FakeNft::new();
    let plan = plan("c1", 2, &[(8080, 80)]);
    added(&mut nft, &plan);
    for _ in 0..1000 {
        nft.interpose(Transaction::new());
    }
    let error = owned::remove(&mut nft, &plan.content.tag, None, &Log::disabled())
        .expect_err("never rests");
    assert_eq!(error.code, ErrorCode::TryAgainLater);
}

#[test]
fn what_is_in_the_way_for_ever_is_not_tried_for_ever() {
    let mut nft = FakeNft::new();
    let mut transaction = Transaction::new();
    transaction.push(Verb::Add, &TABLE, Object::Table(None));
    let foreign = Set { name: "by_port4".to_owned(), ..sets::attachments() };
    transaction.push(Verb::Add, &TABLE, Object::Set(foreign));
    nft.commit(&transaction).expect("somebody's map");
    let before = nft.dump();
    let error = add(&mut nft, &plan("c1", 2, &[(8080, 80)])).expect_err("in the way");
    assert_eq!(error.code, ErrorCode::Kernel);
    assert!(error.details.contains("by_port4"), "{error}");
    assert_eq!(nft.dump(), before);
}

#[test]
fn known_keys_are_looked_up_and_not_searched_for() {
    let mut nft = FakeNft::new();
    let plan = plan("c1", 2, &[(8080, 80), (8443, 443)]);
    added(&mut nft, &plan);
    let listings = nft.listings();
    let removed = owned::remove(&mut nft, &plan.content.tag, Some(&plan.content), &Log::disabled())
        .expect("DEL");
    assert_eq!((removed.len(), nft.listings()), (4, listings));
    // Gone already: that, too, costs no listing.
    owned::remove(&mut nft, &plan.content.tag, Some(&plan.content), &Log::disabled())
        .expect("DEL again");
    owned::remove(&mut nft, &plan.content.tag, None, &Log::disabled())
        .expect("DEL without knowledge");
    assert_eq!(nft.listings(), listings);
}

#[test]
fn an_add_beside_others_reads_no_map() {
    let mut nft = FakeNft::new();
    added(&mut nft, &plan("c1", 2, &[(8080, 80)]));
    add(&mut nft, &plan("c2", 3, &[(8081, 80)])).expect("ADD");
    assert_eq!(nft.listings(), 0);
}

#[test]
fn keys_that_are_no_longer_all_of_them_are_searched_for() {
    let mut nft = FakeNft::new();
    let old = plan("c1", 2, &[(8080, 80), (8443, 443)]);
    for known in [plan("c1", 2, &[(8080, 80)]), plan("c1", 3, &[(1, 1)]), plan("c1", 2, &[])] {
        added(&mut nft, &old);
        let removed =
            owned::remove(&mut nft, &old.content.tag, Some(&known.content), &Log::disabled())
                .expect("DEL");
        assert_eq!((removed.len(), count_of(&nft, "net/c1/")), (4, 0));
    }
}

#[test]
fn two_networks_and_two_interfaces_of_one_container_are_apart() {
    let mut nft = FakeNft::new();
    let one = plan_with("net", "c1", &config(&[(8080, 80)]), 2);
    let other = plan_on("net2", "c1", "eth1", &config(&[(8081, 80)]), 3);
    added(&mut nft, &one);
    let before = nft.dump();
    added(&mut nft, &other);
    check(&mut nft, &one).expect("both are there");
    remove(&mut nft, &other);
    assert_eq!(nft.dump(), before);
    added(&mut nft, &other);
    collect_garbage(&mut nft, "net2", &[]).expect("GC of the other network");
    assert_eq!(nft.dump(), before);
}

#[test]
fn the_first_network_of_a_container_keeps_its_ports() {
    let mut nft = FakeNft::new();
    let first = plan_with("net", "c1", &config(&[(8080, 80)]), 2);
    let second = plan_on("net2", "c1", "eth1", &config(&[(8080, 80), (8081, 80)]), 3);
    added(&mut nft, &first);
    let before = nft.dump();
    for on_conflict in [OnConflict::Replace, OnConflict::Fail] {
        let log = Log::disabled();
        let active = add_as(&mut nft, &second, on_conflict, &log).expect("ADD");
        let ports: Vec<_> = active.iter().map(|mapping| mapping.host_port).collect();
        assert_eq!((ports, log.warnings()), (vec![8081, 8081], vec![]));
        check(&mut nft, &first).expect("kept");
        check(&mut nft, &second).expect("all that is its own");
        let removed =
            owned::remove(&mut nft, &second.content.tag, Some(&second.content), &Log::disabled())
                .expect("DEL");
        assert_eq!((removed.len(), without_flags(&nft)), (2, before.clone()));
    }
    // Nothing at all is left for a network whose every port is the first one's.
    let same = plan_on("net2", "c1", "eth1", &config(&[(8080, 80)]), 3);
    added(&mut nft, &same);
    check(&mut nft, &first).expect("kept");
    assert!(remove(&mut nft, &same).is_empty());
    assert_eq!(without_flags(&nft), before);
    // Another container is nobody's sibling.
    added(&mut nft, &plan_with("net", "c11", &config(&[(8080, 80)]), 4));
    check(&mut nft, &first).expect_err("taken over");
}

/// As Calico, Cilium and AWS have them. Nobody calls GC on their nodes.
#[test]
fn a_container_without_a_subnet_takes_its_source_with_it() {
    let single = |container: &str, last_byte: u8, ports: &[(u16, u16)]| {
        let attachment = plan(container, 0, &[]).plan.attachment.clone();
        let addresses = Addresses {
            v4: format!("10.0.0.{last_byte}/32").parse().ok(),
            v6: format!("fd00::{last_byte}/128").parse().ok(),
        };
        let plan = Box::new(Plan::new(&attachment, &config(ports), addresses));
        Wanted::by(Box::leak(plan)).expect("no conditions that could be wrong")
    };
    let sources = |nft: &mut FakeNft| -> usize {
        let sets = ["sources4_32", "sources6_128"].into_iter().filter_map(sets::sources_by_name);
        sets.map(|set| nft.elements(&TABLE, &set).map_or(0, |elements| elements.len())).sum()
    };
    let mut nft = FakeNft::new();
    added(&mut nft, &single("c1", 2, &[(8080, 80)]));
    added(&mut nft, &single("c2", 3, &[(8081, 80)]));
    assert_eq!(sources(&mut nft), 4);
    // Another address for the same attachment, and again the first.
    added(&mut nft, &single("c2", 4, &[(8081, 80)]));
    added(&mut nft, &single("c2", 3, &[(8081, 80)]));
    added(&mut nft, &single("c2", 3, &[(8082, 80)]));
    assert_eq!(sources(&mut nft), 4);
    remove(&mut nft, &single("c2", 3, &[]));
    assert_eq!(sources(&mut nft), 2);
    // Whose DEL was lost, has not got it any more.
    added(&mut nft, &single("c3", 2, &[(8083, 80)]));
    remove(&mut nft, &single("c1", 2, &[]));
    assert_eq!(sources(&mut nft), 2);
    check(&mut nft, &single("c3", 2, &[(8083, 80)])).expect("CHECK");
    remove(&mut nft, &single("c3", 2, &[]));
    assert_eq!(sources(&mut nft), 0);
}

#[test]
fn garbage_is_what_the_network_owns_and_nobody_names() {
    let mut nft = FakeNft::new();
    let plans = [
        plan_with("net", "c1", &config(&[(1, 80)]), 2),
        plan_with("net", "c2", &config(&[(2, 80)]), 3),
        // Names that begin alike are other networks' and other containers'.
        plan_on("net2", "c1", "eth1", &config(&[(3, 80)]), 4),
        plan_on("ne", "c1", "eth2", &config(&[(4, 80)]), 5),
        plan_with("net", "c11", &config(&[(5, 80)]), 6),
    ];
    for plan in &plans {
        added(&mut nft, plan);
    }
    let removed = collect_garbage(&mut nft, "net", &[valid("c1")]).expect("GC");
    let mut ports: Vec<_> = removed.iter().map(|mapping| mapping.host_port).collect();
    ports.sort_unstable();
    assert_eq!(ports, [2, 2, 5, 5]);
    for kept in [&plans[0], &plans[2], &plans[3]] {
        check(&mut nft, kept).expect("kept");
    }
    assert_eq!(count_of(&nft, "/c2/") + count_of(&nft, "/c11/"), 0);
    let before = (nft.dump(), nft.committed().len());
    let again = collect_garbage(&mut nft, "net", &[valid("c1")]).expect("GC again");
    assert!(again.is_empty());
    assert_eq!((nft.dump(), nft.committed().len()), before, "nothing to collect, no commit");
    // The same container's other interface is another attachment.
    let other = Attachment { ifname: "eth1".to_owned(), ..valid("c1") };
    assert_eq!(collect_garbage(&mut nft, "net", &[other]).expect("GC").len(), 2);
}

#[test]
fn the_table_goes_with_the_last_garbage_unless_something_else_is_in_it() {
    let mut nft = FakeNft::new();
    assert!(collect_garbage(&mut nft, "net", &[]).expect("nothing there").is_empty());
    added(&mut nft, &plan("c1", 2, &[(8080, 80)]));
    collect_garbage(&mut nft, "net", &[]).expect("GC");
    assert_eq!(nft.dump(), "");

    added(&mut nft, &plan("c1", 2, &[(8080, 80)]));
    let somebodys = Set { name: "somebodys".to_owned(), ..sets::attachments() };
    let mut transaction = Transaction::new();
    transaction.push(Verb::Add, &TABLE, Object::Set(somebodys));
    nft.commit(&transaction).expect("somebody's set");
    collect_garbage(&mut nft, "net", &[]).expect("GC");
    assert!(nft.dump().contains("somebodys") && count_of(&nft, "net/c1/") == 0);
}

/// CVE-2020-8558: `route_localnet` outlives the mappings it was set for.
#[test]
fn the_table_stays_for_its_guard_as_long_as_that_has_a_reason() {
    let mut nft = FakeNft::new();
    added(&mut nft, &plan("c1", 2, &[(8080, 80)]));
    let gc = |nft: &mut FakeNft, needs_guard: bool| gc(nft, "net", &[], needs_guard).expect("GC");
    assert_eq!(gc(&mut nft, true).len(), 2);
    assert_eq!(count_of(&nft, "net/c1/"), 0, "no mapping stays with it");
    assert!(nft.dump().contains("ip daddr 127.0.0.0/8 iifname != \"lo\" drop"), "{}", nft.dump());
    let before = (nft.dump(), nft.committed().len());
    assert!(gc(&mut nft, true).is_empty());
    assert_eq!((nft.dump(), nft.committed().len()), before, "nothing to collect, no commit");
    added(&mut nft, &plan("c2", 3, &[(8080, 80)]));
    assert_eq!(gc(&mut nft, true).len(), 2);
    gc(&mut nft, false);
    assert_eq!(nft.dump(), "");
}

#[test]
fn conditions_are_those_of_the_add() {
    let mut nft = FakeNft::new();
    let conditional = |words: &str, port: u16| Config {
        conditions: Conditions { v4: vec![words.to_owned()], ..Conditions::default() },
        ..config(&[(port, 80)])
    };
    let narrowed = plan_with("net", "c1", &conditional("ip saddr 192.0.2.0/24", 8080), 2);
    added(&mut nft, &narrowed);
    assert!(nft.dump().contains("ip saddr 192.0.2.0/24"));
    // The network's conditions have changed; what was added before keeps its own.
    let changed = plan_with("net", "c2", &conditional("ip saddr 198.51.100.0/24", 8081), 3);
    added(&mut nft, &changed);
    assert!(nft.dump().contains("ip saddr 192.0.2.0/24"));
    check(&mut nft, &narrowed).expect("as it was added");
    // DEL knows nothing of the conditions and finds the mappings all the same.
    assert_eq!(remove(&mut nft, &plan("c1", 2, &[(8080, 80)])).len(), 2);
    assert_eq!(count_of(&nft, "net/c1/"), 0);
    // GC takes chains that nothing is mapped behind any more.
    let kept = valid("c2");
    collect_garbage(&mut nft, "net", &[kept]).expect("GC");
    assert_eq!(count_of(&nft, "192.0.2.0/24"), 0);
    check(&mut nft, &changed).expect("kept");
}

/// Entries of one list, each with the same ports from the runtime.
#[test]
fn entries_of_one_list_are_told_apart_by_what_gates_them() {
    let conditional = |words: &str| Config {
        conditions: Conditions { v4: vec![words.to_owned()], ..Conditions::default() },
        ..config(&[(8080, 80)])
    };
    let plans = [
        plan("c1", 2, &[(8080, 80)]),
        plan_with("net", "c1", &conditional("ip saddr 192.0.2.0/24"), 2),
        plan_with("net", "c1", &conditional("ip saddr 198.51.100.0/24"), 2),
        plan_with("net", "c1", &Config { mark_bit: 5, ..config(&[(8080, 80)]) }, 2),
    ];
    for first in &plans {
        for second in plans.iter().filter(|second| !std::ptr::eq(*second, first)) {
            let mut nft = FakeNft::new();
            added(&mut nft, first);
            let alone = nft.dump();
            added(&mut nft, second);
            let both = nft.dump();
            for again in [first, second] {
                check(&mut nft, first).expect("the first serves");
                check(&mut nft, second).expect("the second serves");
                added(&mut nft, again);
                assert_eq!(nft.dump(), both);
            }
            // Rules that somebody flushed are put back.
            flush_chains(&mut nft, &first.layout);
            added(&mut nft, first);
            // One that maps nothing any more takes its own.
            let removed = owned::remove_entry(&mut nft, &second.content, &Log::disabled());
            assert_eq!(removed.expect("removed").len(), 2);
            check(&mut nft, first).expect("the first serves");
            let comments = |dump: &str| dump.matches("net/c1/eth0").count();
            assert_eq!(comments(&nft.dump()), comments(&alone));
            added(&mut nft, second);
            assert_eq!(remove(&mut nft, first).len(), 4);
            assert_eq!(count_of(&nft, "net/c1/"), 0);
        }
    }
}

#[test]
fn names_of_300_bytes() {
    let mut nft = FakeNft::new();
    let long = |head: &str| format!("{head}{}", "x".repeat(300 - head.len()));
    let tail = |last: &str| format!("{}{last}", "x".repeat(300 - last.len()));
    let plans = [
        plan_with(&long("a"), &long("c"), &config(&[(1, 80)]), 2),
        plan_with(&long("a"), &tail("c"), &config(&[(2, 80)]), 3),
        plan_on(&tail("a"), &long("c"), "eth1", &config(&[(3, 80)]), 4),
        plan_on(&tail("b"), &long("c"), "eth2", &config(&[(4, 80)]), 5),
    ];
    for plan in &plans {
        added(&mut nft, plan);
    }
    for plan in &plans {
        check(&mut nft, plan).expect("all are apart");
    }
    assert_eq!(remove(&mut nft, &plans[0]).len(), 2);
    for plan in &plans[1..] {
        check(&mut nft, plan).expect("kept");
    }
    collect_garbage(&mut nft, &tail("a"), &[]).expect("GC");
    check(&mut nft, &plans[2]).expect_err("collected");
    let kept = Attachment { container_id: tail("c"), ..valid("") };
    collect_garbage(&mut nft, &long("a"), &[kept]).expect("GC");
    for kept in [&plans[1], &plans[3]] {
        check(&mut nft, kept).expect("kept");
    }
}

#[test]
fn status_tries_without_a_trace() {
    let mut nft = FakeNft::new();
    let sample = plan("probe", 2, &[(1, 1)]);
    let log = Log::disabled();
    check::status(&mut nft, &sample, &log).expect("an empty host can serve");
    assert!(nft.dump().is_empty() && nft.committed().is_empty());
    added(&mut nft, &plan("c1", 3, &[(8080, 80)]));
    let before = (nft.dump(), nft.committed().len());
    check::status(&mut nft, &sample, &log).expect("a host in use can serve");
    assert_eq!((nft.dump(), nft.committed().len()), before);
    flush_rules(&mut nft);
    assert!(log.warnings().is_empty(), "{:?}", log.warnings());
    check::status(&mut nft, &sample, &log).expect("the next ADD restores the rules");
    assert!(log.warnings().join("\n").contains("guard"), "{:?}", log.warnings());
}

#[test]
fn other_tables_are_never_touched() {
    let mut nft = FakeNft::new();
    let foreign = Table::new(TABLE.family, "foreign");
    let mut transaction = Transaction::new();
    transaction.push(Verb::Add, &foreign, Object::Table(None));
    transaction.push(Verb::Add, &foreign, Object::Set(sets::attachments()));
    nft.commit(&transaction).expect("foreign table");
    let before = nft.dump();
    let plan = plan("c1", 2, &[(8080, 80)]);
    added(&mut nft, &plan);
    added(&mut nft, &plan);
    remove(&mut nft, &plan);
    collect_garbage(&mut nft, "net", &[]).expect("GC");
    assert_eq!(nft.dump(), before);
    let touches = |transaction: &Transaction| {
        transaction.operations.iter().any(|operation| operation.table == foreign)
    };
    assert_eq!(nft.committed().iter().filter(|t| touches(t)).count(), 1, "its own making");
}

/// An older version's ADD writes into the map before it looks.
#[test]
fn another_layout_has_another_map_of_attachments() {
    let name = sets::attachments().name;
    assert_eq!((super::number::LAYOUT, name.as_str()), (2, "attachments"), "raise both, or none");
}
