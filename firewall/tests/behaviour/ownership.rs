//! Whose rules are whose: re-used addresses, repeated and parallel calls, GC, what tampering
//! does to CHECK, and that nothing stays behind.

use std::collections::HashMap;

use serde_json::{Value, json};

use cni_testbox::{Attachment, Call, Network, TestBox, cases, firewall, nft, run, tool};

cases! {
    a_late_del_on_nftables_spares_the_new_owner, ours;
    a_late_del_on_iptables_spares_the_new_owner, go_defect(
        "rules name no owner but the address"
    );
    repeated_calls_on_nftables_change_nothing, ours;
    repeated_calls_on_iptables_change_nothing, backends;
    del_on_nftables_needs_the_owner_only, ours;
    del_on_iptables_needs_the_owner_only, go_defect("DEL without prevResult removes nothing");
    isolation_on_nftables_goes_with_the_last_attachment, ours;
    isolation_on_iptables_goes_with_the_last_attachment, go_defect("isolation is never removed");
    a_changed_policy_on_nftables_replaces_the_old_one, ours;
    a_changed_policy_on_iptables_replaces_the_old_one, backends;
    gc_on_nftables_keeps_to_its_network, ours;
    gc_on_iptables_keeps_to_its_network, backends;
    tampering_on_nftables_is_noticed, ours;
    tampering_on_iptables_is_noticed, backends;
    parallel_calls_on_nftables_leave_exactly_the_right_rules, ours;
    parallel_calls_on_iptables_leave_exactly_the_right_rules, backends;
    a_host_that_changes_its_backend_keeps_no_old_rules, ours;
}

const NFTABLES: &str = "nftables";
const IPTABLES: &str = "iptables";
const TABLE: &str = "inet cni_firewall";

fn keys(backend: &str, policy: &str) -> Value {
    json!({ "backend": backend, "ingressPolicy": policy })
}

fn open(backend: &str) -> Value {
    json!({ "backend": backend })
}

/// iptables makes a built-in chain when it first needs it, and then keeps it.
fn make_built_in_chains(backend: &str) {
    if backend == IPTABLES {
        for tool_name in ["iptables", "ip6tables"] {
            run(tool(tool_name).args(["-P", "INPUT", "ACCEPT"]));
        }
    }
}

/// The addresses that the backend lets through, each with the tag that it carries.
fn admitted(b: &TestBox, backend: &str) -> Vec<String> {
    let mut found: Vec<String> = if backend == NFTABLES {
        // The table by itself: newer versions of nft print comments of iptables' rules as their own.
        let there = nft::tables().iter().any(|table| table == TABLE);
        let text = if there { b.nft_list(TABLE) } else { String::new() };
        let element = |line: &str| {
            let line = line.trim_start_matches(['\t', ' ']);
            let ours = line.contains("comment \"net");
            ours.then(|| line.to_owned())
        };
        text.lines().filter_map(element).collect()
    } else {
        let rule = |line: &&str| line.starts_with("-A CNI-FORWARD -s ");
        b.ruleset().lines().filter(rule).map(str::to_owned).collect()
    };
    found.sort();
    found
}

fn late_del(b: &TestBox, backend: &str) {
    let network = Network::dual(1).single_address();
    let keys = open(backend);
    let old = b.web(&network, "old");
    b.admit(&old, &keys);
    old.leave();
    let new = b.web(&network, "new");
    assert_eq!(old.v4(), new.v4(), "the address was given again");
    b.admit(&new, &keys);
    b.dismiss(&old, &keys);
    assert_eq!(admitted(b, backend).len(), if backend == NFTABLES { 3 } else { 2 });
    assert!(admitted(b, backend).iter().all(|line| line.contains("net1/new/eth0")));
    b.inspect(&new, &keys).expect_silence();
}

fn a_late_del_on_nftables_spares_the_new_owner(b: &TestBox) {
    late_del(b, NFTABLES);
}

fn a_late_del_on_iptables_spares_the_new_owner(b: &TestBox) {
    late_del(b, IPTABLES);
}

fn repeated_calls(b: &TestBox, backend: &str) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    for policy in ["open", "same-bridge", "isolated"] {
        let keys = keys(backend, policy);
        b.admit(&other, &keys);
        let without = b.ruleset();
        b.admit(&web, &keys);
        let with = b.ruleset();
        assert_ne!(with, without);
        b.admit(&web, &keys);
        assert_eq!(sorted(&b.ruleset()), sorted(&with), "{policy}: ADD again");
        b.inspect(&web, &keys).expect_silence();
        b.dismiss(&web, &keys);
        assert_eq!(b.ruleset(), without, "{policy}: DEL");
        b.dismiss(&web, &keys);
        assert_eq!(b.ruleset(), without, "{policy}: DEL again");
        b.inspect(&web, &keys).expect_error_with(100, &["not as ADD made it", "cni-chain restore"]);
    }
}

/// Order among equals is nobody's business.
fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

fn repeated_calls_on_nftables_change_nothing(b: &TestBox) {
    repeated_calls(b, NFTABLES);
}

fn repeated_calls_on_iptables_change_nothing(b: &TestBox) {
    repeated_calls(b, IPTABLES);
}

fn del_without_prev_result(b: &TestBox, backend: &str) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    b.admit(&other, &open(backend));
    let without = b.ruleset();
    b.admit(&web, &open(backend));
    let del = firewall("DEL", &web).keys(&open(backend)).without("prevResult");
    del.env("CNI_NETNS", "").run(b).expect_silence();
    assert_eq!(b.ruleset(), without);
}

fn del_on_nftables_needs_the_owner_only(b: &TestBox) {
    del_without_prev_result(b, NFTABLES);
}

fn del_on_iptables_needs_the_owner_only(b: &TestBox) {
    del_without_prev_result(b, IPTABLES);
}

fn isolation_goes(b: &TestBox, backend: &str) {
    let (first, second) = (Network::dual(1), Network::dual(2));
    let [a, c, far] = [b.web(&first, "a"), b.web(&first, "c"), b.web(&second, "far")];
    let keys = keys(backend, "same-bridge");
    // The skeleton that stays.
    make_built_in_chains(backend);
    b.admit(&far, &open(backend));
    b.dismiss(&far, &open(backend));
    let skeleton = b.ruleset();
    for attachment in [&a, &c, &far] {
        b.admit(attachment, &keys);
    }
    b.dismiss(&a, &keys);
    assert!(b.ruleset().contains("br1"), "c still wants br1 isolated");
    b.inspect(&c, &keys).expect_silence();
    b.dismiss(&c, &keys);
    assert!(!b.ruleset().contains("br1"), "nobody wants br1 isolated any more");
    b.inspect(&far, &keys).expect_silence();
    b.dismiss(&far, &keys);
    assert_eq!(b.ruleset(), skeleton);
}

fn isolation_on_nftables_goes_with_the_last_attachment(b: &TestBox) {
    isolation_goes(b, NFTABLES);
}

fn isolation_on_iptables_goes_with_the_last_attachment(b: &TestBox) {
    isolation_goes(b, IPTABLES);
}

fn changed_policy(b: &TestBox, backend: &str) {
    let web = b.web(&Network::dual(1), "web");
    make_built_in_chains(backend);
    let snapshots: Vec<String> = ["open", "same-bridge", "isolated"]
        .iter()
        .map(|policy| {
            b.admit(&web, &keys(backend, policy));
            let snapshot = b.ruleset();
            b.dismiss(&web, &keys(backend, policy));
            snapshot
        })
        .collect();
    for (policy, snapshot) in [("isolated", 2), ("same-bridge", 1), ("open", 0), ("isolated", 2)] {
        b.admit(&web, &keys(backend, policy));
        assert_eq!(sorted(&b.ruleset()), sorted(&snapshots[snapshot]), "{policy}");
    }
}

fn a_changed_policy_on_nftables_replaces_the_old_one(b: &TestBox) {
    changed_policy(b, NFTABLES);
}

fn a_changed_policy_on_iptables_replaces_the_old_one(b: &TestBox) {
    changed_policy(b, IPTABLES);
}

fn gc(b: &TestBox, backend: &str) {
    let (one, two) = (Network::dual(1), Network::dual(2));
    let [a, c, far] = [b.web(&one, "a"), b.web(&one, "c"), b.web(&two, "far")];
    let isolated = keys(backend, "isolated");
    b.admit(&far, &isolated);
    b.admit(&c, &isolated);
    let without = b.ruleset();
    b.admit(&a, &isolated);
    let collect = |network: &str, valid: Value| {
        let call = Call::of_network("firewall", "GC", network).keys(&isolated);
        call.set("cni.dev/valid-attachments", valid).run(b).expect_success();
    };
    let call = Call::of_network("firewall", "GC", "net1").keys(&isolated);
    call.run(b).expect_success();
    b.inspect(&a, &isolated).expect_silence();
    collect("net1", json!([{ "containerID": "c", "ifname": "eth0" }]));
    assert_eq!(b.ruleset(), without);
    collect("net1", json!([]));
    b.inspect(&far, &isolated).expect_silence();
    assert!(!b.ruleset().contains("br1"));
    collect("net2", json!(null));
    assert!(!b.ruleset().contains("br2") && admitted(b, backend).is_empty());
    if backend == NFTABLES {
        assert!(!b.ruleset().contains("cni_firewall"), "an empty table goes");
    }
}

fn gc_on_nftables_keeps_to_its_network(b: &TestBox) {
    gc(b, NFTABLES);
}

fn gc_on_iptables_keeps_to_its_network(b: &TestBox) {
    gc(b, IPTABLES);
}

/// CHECK fails, changes nothing, and the next ADD makes it pass again.
fn noticed(b: &TestBox, web: &Attachment, keys: &Value, what: &str) {
    let tampered = b.ruleset();
    b.inspect(web, keys).expect_error_with(100, &["not as ADD made it", "cni-chain restore"]);
    assert_eq!(b.ruleset(), tampered, "{what}: CHECK only looks");
    b.admit(web, keys);
    b.inspect(web, keys).expect_silence();
}

fn tampering_on_nftables_is_noticed(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let keys = keys(NFTABLES, "isolated");
    b.admit(&web, &keys);
    b.inspect(&web, &keys).expect_silence();
    let (v4, v6) = (web.v4(), web.v6());
    for command in [
        format!("delete element inet cni_firewall containers4 {{ {v4} }}"),
        format!("delete element inet cni_firewall containers6 {{ {v6} }}"),
        "delete element inet cni_firewall gateways4 { 10.88.1.1 }".to_owned(),
        "delete element inet cni_firewall participating { \"br1\" }".to_owned(),
        "delete element inet cni_firewall inside { \"br1\" . \"br1\" }".to_owned(),
        "delete element inet cni_firewall isolated { \"br1\" . \"br1\" }".to_owned(),
        "flush map inet cni_firewall bridges".to_owned(),
        "flush map inet cni_firewall attachments".to_owned(),
        "flush chain inet cni_firewall forward".to_owned(),
        "flush chain inet cni_firewall isolation".to_owned(),
        "flush chain inet cni_firewall input".to_owned(),
        "flush chain inet cni_firewall admin".to_owned(),
        "insert rule inet cni_firewall isolation accept".to_owned(),
        "add chain inet cni_firewall forward { policy drop; }".to_owned(),
        "flush ruleset".to_owned(),
    ] {
        b.nft(&command);
        if command.contains("policy drop") {
            b.inspect(&web, &keys).expect_error_with(100, &["drops what no rule decides"]);
            b.nft("add chain inet cni_firewall forward { policy accept; }");
            continue;
        }
        noticed(b, &web, &keys, &command);
    }
    let port = run(tool("ip").args(["-o", "link", "show", "master", "br1"]));
    let port = port.split(": ").nth(1).and_then(|name| name.split('@').next()).expect("a port");
    run(tool("ip").args(["link", "set", port, "type", "bridge_slave", "isolated", "off"]));
    noticed(b, &web, &keys, "the port's isolation");
}

fn tampering_on_iptables_is_noticed(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let keys = keys(IPTABLES, "isolated");
    b.admit(&web, &keys);
    b.inspect(&web, &keys).expect_silence();
    for (words, duplicates) in [
        (vec!["-F", "CNI-FORWARD"], false),
        (vec!["-D", "CNI-FORWARD", "1"], false),
        (vec!["-D", "CNI-FORWARD", "3"], false),
        (vec!["-F", "CNI-ISOLATION-STAGE-1"], false),
        (vec!["-D", "CNI-ISOLATION-STAGE-1", "3"], false),
        (vec!["-D", "CNI-ISOLATION-STAGE-2", "1"], false),
        (vec!["-F", "CNI-ISOLATION-INPUT"], false),
        (vec!["-F", "CNI-ISOLATION-SOURCES"], false),
        (vec!["-F", "CNI-ISOLATION-MEMBERS"], false),
        (vec!["-D", "FORWARD", "1"], false),
        (vec!["-F", "INPUT"], false),
        (vec!["-F", "FORWARD"], true),
    ] {
        run(tool("iptables").args(&words));
        noticed(b, &web, &keys, &words.join(" "));
        if duplicates {
            // Acceptance in front of isolation: a way around it.
            let rule = ["-m", "comment", "--comment", "CNI firewall plugin rules"];
            let jump = [&rule[..], &["-j", "CNI-FORWARD"]].concat();
            run(tool("iptables").args([&["-I", "FORWARD"][..], &jump].concat()));
            noticed(b, &web, &keys, "the order of the jumps");
        }
    }
}

/// Rounds of the parallel cases; set `FIREWALL_ROUNDS` for more.
fn rounds() -> usize {
    let asked = std::env::var("FIREWALL_ROUNDS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(2)
}

/// Twenty attachments of one namespace, so that the plugin and not `bridge` is what is measured.
fn crowd(web: &Attachment) -> Vec<(String, Value)> {
    (0..20)
        .map(|n| {
            let mut result = web.result.clone();
            result["ips"][0]["address"] = json!(format!("10.88.1.{}/24", 100 + n));
            result["ips"][1]["address"] = json!(format!("fd88:1::{}/64", 100 + n));
            (format!("crowd{n}"), result)
        })
        .collect()
}

fn parallel(b: &TestBox, backend: &str) {
    let web = b.web(&Network::dual(1), "web");
    let crowd = crowd(&web);
    let call = |command: &str, keys: &Value, (id, result): &(String, Value)| {
        let call = firewall(command, &web).keys(keys).set("prevResult", result.clone());
        call.env("CNI_CONTAINERID", id)
    };
    let all = |command: &str, keys: &Value| {
        std::thread::scope(|scope| {
            for member in &crowd {
                let call = call(command, keys, member);
                scope.spawn(move || call.run_until_served(b));
            }
        });
    };
    make_built_in_chains(backend);
    b.admit(&web, &open(backend));
    b.dismiss(&web, &open(backend));
    let skeleton = b.ruleset();
    for round in 0..rounds() {
        let keys = keys(backend, ["open", "same-bridge", "isolated"][round % 3]);
        // The first round on iptables meets no chains at all.
        if round == 0 {
            b.nft("flush ruleset");
            make_built_in_chains(backend);
        }
        all("ADD", &keys);
        for member in &crowd {
            call("CHECK", &keys, member).run(b).expect_silence();
        }
        if backend == IPTABLES {
            no_rule_twice(b);
        }
        all("DEL", &keys);
        assert_eq!(sorted(&b.ruleset()), sorted(&skeleton), "round {round}");
    }
}

fn no_rule_twice(b: &TestBox) {
    for tool_name in ["iptables-save", "ip6tables-save"] {
        let text = run(&mut tool(tool_name));
        let mut seen = HashMap::new();
        for line in text.lines().filter(|line| line.starts_with("-A ")) {
            *seen.entry(line).or_insert(0) += 1;
        }
        let twice: Vec<_> = seen.into_iter().filter(|(_, count)| *count > 1).collect();
        assert!(twice.is_empty(), "{tool_name}: {twice:?}\n{}", b.ruleset());
    }
}

fn parallel_calls_on_nftables_leave_exactly_the_right_rules(b: &TestBox) {
    parallel(b, NFTABLES);
}

fn parallel_calls_on_iptables_leave_exactly_the_right_rules(b: &TestBox) {
    parallel(b, IPTABLES);
}

fn a_host_that_changes_its_backend_keeps_no_old_rules(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.admit(&web, &open(IPTABLES));
    b.admit(&web, &open(NFTABLES));
    assert!(admitted(b, IPTABLES).is_empty());
    b.inspect(&web, &open(NFTABLES)).expect_silence();
    b.admit(&web, &open(IPTABLES));
    assert!(admitted(b, NFTABLES).is_empty());
    // DEL cleans whatever backend it is called for.
    b.dismiss(&web, &open(NFTABLES));
    assert!(admitted(b, IPTABLES).is_empty());
}
