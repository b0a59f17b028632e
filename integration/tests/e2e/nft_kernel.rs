//! `cni_common::kernel::nft` against the kernel and against `nft`: the netlink backend and the text
//! rendering mean the same, and refusals name the object.

use std::sync::atomic::{AtomicBool, Ordering};

use cni_common::cni::Attachment;
use cni_common::cni::protocol::NetworkConfig;
use cni_common::kernel::nft::compare::{chain_mismatches, rule_expressions};
use cni_common::kernel::nft::text::render;
use cni_common::kernel::nft::{
    Chain, DataType, Element, Family, NetlinkNft, Nft, Object, Operand, Operation, Rule, Selector,
    Set, Statement, Table, Transaction, Value, Verb, look,
};

use cni_testbox::{TestBox, cases, kernel, run, tool};

cases! {
    netlink_and_text_make_the_same_table, ours;
    netlink_and_text_make_the_same_firewall, ours;
    what_nft_lists_can_be_loaded_again, ours;
    rules_are_listed_as_they_are_compared, ours;
    a_refusal_names_the_element, ours;
    a_refusal_names_what_is_missing, ours;
    a_transaction_bound_to_an_old_generation_is_stale, ours;
    validation_leaves_nothing, ours;
    chains_are_compared_also_in_a_crowd, ours;
    what_is_replaced_all_the_time_is_found_whole, ours;
}

const TABLE: Table = Table::new(Family::Inet, "cni_portmap");

/// Everything that portmap ever writes: both families, conditions, a mark bit.
fn transaction() -> Transaction {
    let conditions = r#""markMasqBit":3,
        "conditionsV4":["ip","saddr","!=","192.0.2.0/24","iifname","eth*","meta","mark","&","0xf0","==","0x10"],
        "conditionsV6":["ip6 saddr { 2001:db8::/32, fd00::1 } tcp sport 1024"],"#;
    let mut all = Transaction::new();
    // Twice: once with conditions, once in the shared maps.
    for (ifname, n, conditions) in [("eth0", 71, conditions), ("eth1", 72, "")] {
        let config = format!(
            r#"{{"name":"n","cniVersion":"1.0.0",{conditions}
                "prevResult":{{"ips":[{{"address":"10.{n}.0.2/24"}},{{"address":"fd{n}::2/64"}}]}},
                "runtimeConfig":{{"portMappings":[
                  {{"hostPort":8080,"containerPort":80,"protocol":"tcp"}},
                  {{"hostPort":53,"containerPort":5353,"protocol":"udp","hostIP":"198.51.100.1"}},
                  {{"hostPort":53,"containerPort":5353,"protocol":"udp","hostIP":"2001:db8:100::1"}},
                  {{"hostPort":9,"containerPort":9,"protocol":"sctp","hostIP":"::"}}]}}}}"#
        );
        let network = NetworkConfig::from_stdin(config.as_bytes()).expect("envelope");
        let result = network.prev_result().expect("valid").expect("a result");
        let attachment =
            Attachment { network: "n".into(), container_id: "c".into(), ifname: ifname.into() };
        let made =
            cni_portmap::nftables_transaction(&network, &attachment, &result).expect("valid");
        all.operations.extend(made.operations);
    }
    all
}

fn by_port4() -> Set {
    Set {
        name: "by_port4".to_owned(),
        key: vec![DataType::InetProto, DataType::InetService],
        data: vec![DataType::Ipv4Addr, DataType::InetService],
    }
}

fn open() -> NetlinkNft {
    NetlinkNft::open().expect("a netlink socket")
}

fn listing() -> String {
    run(tool("nft").args(["list", "ruleset"]))
}

/// A difference of two listings in a line, not in two screens.
#[track_caller]
fn assert_same_listing(left: &str, right: &str) {
    let differs = left.lines().zip(right.lines()).find(|(left, right)| left != right);
    assert_eq!(differs, None);
    assert_eq!(left.lines().count(), right.lines().count());
}

fn netlink_and_text_make_the_same_table(b: &TestBox) {
    let transaction = transaction();
    open().commit(&transaction).expect("netlink");
    let by_netlink = listing();
    b.nft("flush ruleset");
    b.nft(&render(&transaction));
    assert_same_listing(&listing(), &by_netlink);
    assert!(
        by_netlink.contains("dnat ip6 to ip6 daddr . meta l4proto . th dport map @by_address6")
    );
}

fn netlink_and_text_make_the_same_firewall(b: &TestBox) {
    let transaction = cni_firewall::everything_in_nftables();
    open().commit(&transaction).expect("netlink");
    let by_netlink = listing();
    b.nft("flush ruleset");
    b.nft(&render(&transaction));
    assert_same_listing(&listing(), &by_netlink);
    b.nft("flush ruleset");
    b.nft(&by_netlink);
    assert_same_listing(&listing(), &by_netlink);
}

fn what_nft_lists_can_be_loaded_again(b: &TestBox) {
    open().commit(&transaction()).expect("netlink");
    let before = listing();
    b.nft("flush ruleset");
    b.nft(&before);
    assert_same_listing(&listing(), &before);
}

/// The comparison of each ADD is one of bytes, unless a set without a name is in the rule.
fn rules_are_listed_as_they_are_compared(_: &TestBox) {
    let mut nft = open();
    let mut compared = 0;
    for transaction in [transaction(), cni_firewall::everything_in_nftables()] {
        nft.commit(&transaction).expect("netlink");
        let table = &transaction.operations[0].table;
        let listed = nft.rules(table).expect("rules");
        for operation in &transaction.operations {
            let Object::Rule(rule) = &operation.object else { continue };
            if rule.statements.iter().any(|part| matches!(part, Statement::ProtocolIn(_))) {
                continue;
            }
            let expected = rule_expressions(table.family, rule);
            let is_listed = listed
                .iter()
                .any(|found| found.chain == rule.chain && found.expressions == expected);
            assert!(is_listed, "{rule:?}\n{listed:?}");
            compared += 1;
        }
    }
    assert!(compared > 40, "{compared}");
}

fn element(port: u16) -> Element {
    let key = vec![Value::Protocol(cni_common::kernel::nft::L4Protocol::Tcp), Value::Port(port)];
    let data = vec![Value::Address([10, 0, 0, 1].into()), Value::Port(1)];
    Element::new(key, data, "n/c/eth0")
}

/// Linux before 6.0 does not say which of several elements it refuses.
fn a_refusal_names_the_element(_: &TestBox) {
    let mut nft = open();
    nft.commit(&transaction()).expect("the table");
    let map = by_port4();
    let mut more = Transaction::new();
    more.elements(Verb::Create, &TABLE, &map, [1, 2, 8080, 4].map(element).to_vec());
    let error = nft.commit(&more).expect_err("8080 is taken");
    assert!(error.is_exists(), "{error}");
    let text = error.to_string();
    let refused = if kernel() < (6, 0) { "4 elements" } else { "element { tcp . 8080 }" };
    assert!(text.contains(&format!("{refused} of map inet cni_portmap by_port4")), "{text}");
    let left = nft.elements(&TABLE, &map).expect("elements");
    assert_eq!(left.len(), 1, "all or nothing: {left:?}");
}

fn a_refusal_names_what_is_missing(_: &TestBox) {
    let mut transaction = Transaction::new();
    let map = by_port4();
    transaction.elements(Verb::Create, &TABLE, &map, vec![element(1)]);
    let error = open().commit(&transaction).expect_err("there is no table");
    assert!(
        error.is_missing() && error.to_string().contains("inet cni_portmap by_port4"),
        "{error}"
    );
}

fn a_transaction_bound_to_an_old_generation_is_stale(b: &TestBox) {
    let mut nft = open();
    let mut transaction = transaction();
    transaction.generation = Some(nft.generation().expect("generation"));
    b.nft("add table ip somebody");
    let error = nft.commit(&transaction).expect_err("the ruleset moved on");
    assert!(error.is_stale(), "{error}");
    assert!(!listing().contains("cni_portmap"));
    transaction.generation = Some(nft.generation().expect("generation"));
    nft.commit(&transaction).expect("the current generation");
}

fn validation_leaves_nothing(_: &TestBox) {
    let mut nft = open();
    nft.validate(&transaction()).expect("a kernel with nf_tables");
    assert_eq!(listing(), "");
    let mut impossible = transaction();
    impossible.push(Verb::Create, &TABLE, Object::Table(None));
    assert!(nft.validate(&impossible).expect_err("made twice").is_exists());
    assert_eq!(listing(), "");
}

/// Chains of three rules each.
fn chains_of(names: &[&str]) -> Vec<(Chain, Vec<Rule>)> {
    let chain = |name: &&str| {
        let rule = |port| Rule {
            chain: (*name).to_owned(),
            statements: vec![
                Statement::Match {
                    selector: Selector::InputInterface,
                    negated: false,
                    operand: Operand::Interface(format!("eth{port}")),
                },
                Statement::Accept,
            ],
            comment: None,
        };
        (Chain { name: (*name).to_owned(), base: None }, (0..3).map(rule).collect())
    };
    names.iter().map(chain).collect()
}

/// A table with much in it is not read as a whole, and is compared all the same.
fn chains_are_compared_also_in_a_crowd(b: &TestBox) {
    let chains = chains_of(&["one", "two", "three"]);
    let mut transaction = Transaction::new();
    transaction.push(Verb::Add, &TABLE, Object::Table(None));
    for (chain, rules) in &chains {
        transaction.chain_with_rules(&TABLE, chain.clone(), rules.clone());
    }
    let mut nft = open();
    nft.commit(&transaction).expect("netlink");
    for crowd in ["", "crowd"] {
        for n in (0..200).filter(|_| !crowd.is_empty()) {
            b.nft(&format!("add chain {TABLE} {crowd}{n}; add rule {TABLE} {crowd}{n} accept"));
        }
        let mut mismatches = || chain_mismatches(&mut nft, &TABLE, &chains).expect("readable");
        assert!(mismatches().is_empty(), "{:?}", mismatches());
        b.nft(&format!("insert rule {TABLE} two drop; flush chain {TABLE} three"));
        let found = mismatches();
        let [two, three] = found.as_slice() else { panic!("{found:?}") };
        assert!(two.contains("two has 4 rules instead of 3"), "{two}");
        assert!(three.contains("three has 0 rules instead of 3"), "{three}");
        let mut again = transaction.clone();
        again.operations.retain(|operation| !matches!(operation.object, Object::Table(_)));
        nft.commit(&again).expect("made right");
    }
}

/// A dump that a commit falls into can show rules of before and after it, without the kernel's saying so.
fn what_is_replaced_all_the_time_is_found_whole(_: &TestBox) {
    let chains = chains_of(&["one"]);
    let mut replacement = Transaction::new();
    replacement.push(Verb::Add, &TABLE, Object::Table(None));
    for (chain, rules) in &chains {
        replacement.chain_with_rules(&TABLE, chain.clone(), rules.clone());
    }
    open().commit(&replacement).expect("a first time");
    let again = Operation { verb: Verb::Delete, table: TABLE, object: Object::Table(None) };
    replacement.operations.insert(0, again);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut nft = open();
            while !done.load(Ordering::Relaxed) {
                nft.commit(&replacement).expect("again");
            }
        });
        let mut nft = open();
        let mut wrong = Vec::new();
        for _ in 0..5000 {
            let mismatches = |nft: &mut dyn Nft| chain_mismatches(nft, &TABLE, &chains);
            wrong.extend(look(&mut nft, mismatches, Vec::is_empty).expect("readable"));
        }
        done.store(true, Ordering::Relaxed);
        assert!(wrong.is_empty(), "{} of 5000: {}", wrong.len(), wrong[0]);
    });
}
