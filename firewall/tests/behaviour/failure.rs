//! Calls that fail have changed nothing, and an ADD that fails over a live attachment leaves what was
//! there.

use std::sync::atomic::{AtomicBool, Ordering};

use cni_testbox::{Call, Network, TestBox, cases, fail_each, firewall, stubs};
use serde_json::{Value, json};

cases! {
    a_failed_request_changes_nothing, ours;
    a_failed_add_with_another_policy_changes_nothing, ours;
    a_failed_family_changes_nothing_in_the_other, iptables_only;
    a_failed_move_strips_nobody, ours;
    a_lost_answer_is_asked_for_again, ours;
    what_cannot_be_looked_at_is_no_mismatch, ours;
    check_beside_others_changes_never_fails, ours;
    what_cannot_be_opened_is_not_empty, iptables_only;
}

fn isolated() -> Value {
    json!({ "backend": "nftables", "ingressPolicy": "isolated" })
}

/// Whatever is answered, the attachment has all that it had.
fn a_failed_request_changes_nothing(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    for keys in [json!({}), isolated()] {
        b.admit(&web, &keys);
        let before = b.state();
        let add = firewall("ADD", &web).keys(&keys);
        for (system_calls, failure) in
            [("sendto", "error=ENOBUFS"), ("recvfrom", "error=ENOBUFS"), ("socket", "error=EMFILE")]
        {
            fail_each(b, &add, system_calls, failure, |nth, outcome| {
                assert_eq!(b.state(), before, "{system_calls} {nth}: {outcome}");
            });
        }
    }
}

fn a_failed_add_with_another_policy_changes_nothing(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let policy = |policy: &str| json!({ "backend": "nftables", "ingressPolicy": policy });
    for (old, new) in [("open", "isolated"), ("isolated", "same-bridge"), ("same-bridge", "open")] {
        b.admit(&web, &policy(old));
        let before = b.state();
        let add = firewall("ADD", &web).keys(&policy(new));
        fail_each(b, &add, "sendto", "error=ENOBUFS", |nth, outcome| {
            if outcome.succeeded() {
                b.admit(&web, &policy(old));
            }
            assert_eq!(b.state(), before, "{old} to {new}, {nth}: {outcome}");
        });
        b.dismiss(&web, &policy(new));
    }
}

/// The rules, without empty chains: iptables-nft makes those that the kernel's hooks have, and leaves them.
fn rules(b: &TestBox) -> Vec<String> {
    let ruleset = b.ruleset();
    ruleset.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect()
}

fn a_failed_family_changes_nothing_in_the_other(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let path = stubs(&["ip6tables-restore"], "cat; exit 2");
    let policy = |policy: &str| json!({ "ingressPolicy": policy });
    let policies = ["open", "isolated", "same-bridge"];
    for (old, new) in policies.iter().flat_map(|old| policies.map(|new| (*old, new))) {
        b.admit(&web, &policy(old));
        let before = rules(b);
        let add = firewall("ADD", &web).keys(&policy(new)).env("PATH", &path);
        // One that has nothing to change succeeds.
        if old != new {
            add.run(b).expect_error();
        }
        assert_eq!(rules(b), before, "{old} to {new}");
        b.dismiss(&web, &policy(new));
    }
    firewall("ADD", &web).env("PATH", &path).run(b).expect_error();
    assert!(!b.ruleset().contains("web/eth0"));
}

/// What was admitted in iptables, and is to be in nftables from now on.
fn a_failed_move_strips_nobody(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.admit(&web, &json!({ "backend": "iptables" }));
    let path = stubs(&["ip6tables-save", "ip6tables-nft-save"], "exit 1");
    let add = firewall("ADD", &web).keys(&json!({ "backend": "nftables" })).env("PATH", &path);
    add.run(b).expect_error();
    let rules = b.nft_list_all();
    assert!(rules.contains(&web.v4()) && rules.contains(&web.v6()), "{rules}");
}

/// The kernel has committed when its answer is lost. Success is true, and a failure has changed nothing.
fn a_lost_answer_is_asked_for_again(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let call = |command| firewall(command, &web).keys(&isolated());
    call("ADD").run(b).success();
    let admitted = b.nft_list_all();
    call("DEL").run(b).success();
    let bare = b.nft_list_all();
    for failure in ["error=ENOBUFS", "error=EAGAIN"] {
        fail_each(b, &call("ADD"), "recvfrom", failure, |nth, outcome| {
            let expected = if outcome.succeeded() { &admitted } else { &bare };
            assert_eq!(&b.nft_list_all(), expected, "ADD {failure} {nth}: {outcome}");
            call("DEL").run(b).success();
        });
        call("ADD").run(b).success();
        fail_each(b, &call("DEL"), "recvfrom", failure, |nth, outcome| {
            if outcome.succeeded() {
                assert_eq!(b.nft_list_all(), bare, "DEL {failure} {nth}: {outcome}");
            }
            call("ADD").run(b).success();
        });
        call("DEL").run(b).success();
    }
}

fn what_cannot_be_looked_at_is_no_mismatch(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.admit(&web, &isolated());
    let check = firewall("CHECK", &web).keys(&isolated());
    for (system_calls, failure) in
        [("recvfrom", "error=EAGAIN"), ("sendto", "error=ENOBUFS"), ("socket", "error=EMFILE")]
    {
        fail_each(b, &check, system_calls, failure, |nth, outcome| {
            let is_true = outcome.succeeded() || outcome.expect_error().0 != 100;
            assert!(is_true, "{system_calls} {nth}: {outcome}");
        });
    }
}

/// The table is whole at any time: it is replaced by itself, in one transaction.
fn check_beside_others_changes_never_fails(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let isolated = json!({ "backend": "nftables", "ingressPolicy": "isolated" });
    b.admit(&web, &isolated);
    let table = b.nft_list("inet cni_firewall");
    let replacement = format!("delete table inet cni_firewall\n{table}");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                b.nft(&replacement);
            }
        });
        let outcomes = (0..300).map(|_| b.inspect(&web, &isolated));
        let failures: Vec<_> = outcomes.filter(|outcome| !outcome.succeeded()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(failures.is_empty(), "{} failed: {}", failures.len(), failures[0]);
    });
}

/// Of what there is to remove, some is found by files: the kernel's list of legacy tables, for one.
fn what_cannot_be_opened_is_not_empty(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let calls = [firewall("DEL", &web), Call::of_network("firewall", "GC", "net1").valid(&[])];
    for call in &calls {
        b.admit(&web, &json!({}));
        for failure in ["error=EMFILE", "error=EACCES"] {
            fail_each(b, call, "?open,openat", failure, |nth, outcome| {
                let left = b.ruleset();
                if outcome.succeeded() {
                    assert!(!left.contains("net1/web/eth0"), "{failure} {nth}: {left}");
                    b.admit(&web, &json!({}));
                }
            });
            b.admit(&web, &json!({}));
        }
    }
}
