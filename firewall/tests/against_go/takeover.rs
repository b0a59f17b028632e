//! From the Go firewall to ours on a live node: CHECK before anything was added again, ADD, DEL, GC,
//! and hosts that lost iptables in between.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use cni_testbox::{
    Attachment, Call, Firewalld, Implementation, Network, TestBox, Transport, WithoutIptables,
    cases, feed, firewall, run, tool,
};

cases! {
    what_the_go_plugin_left_is_taken_over, backends;
    check_passes_while_the_go_plugins_rules_are_complete, backends;
    check_names_what_is_missing_of_the_go_plugins_rules, backends;
    check_looks_into_the_other_iptables, ours;
    check_passes_with_the_go_plugins_sources_in_firewalld, ours;
    add_on_nftables_removes_the_go_plugins_rules, ours;
    gc_removes_the_shared_chains_with_the_last_container, backends;
    gc_of_our_own_chains, iptables_only;
    an_administrators_rules_keep_the_shared_chains, backends;
    an_add_of_the_go_plugin_during_gc_keeps_the_chains, backends;
    a_host_that_lost_iptables_says_what_it_cannot_reach, ours;
}

const POLICIES: [&str; 2] = ["open", "same-bridge"];

fn iptables(policy: &str) -> Value {
    json!({ "backend": "iptables", "ingressPolicy": policy })
}

/// What the configuration may say about ours.
fn keys_of(b: &TestBox, policy: &str) -> Vec<Value> {
    match b.implementation {
        Implementation::Ours => vec![
            json!({ "backend": "nftables", "ingressPolicy": policy }),
            json!({ "ingressPolicy": policy }),
        ],
        _ => vec![iptables(policy)],
    }
}

fn by_go(command: &str, attachment: &Attachment, keys: &Value) {
    let call = firewall(command, attachment).keys(keys);
    call.run_as(Implementation::Go).expect_success();
}

/// Rules and chains of the filter tables, without iptables' own.
fn filter_rules() -> Vec<String> {
    ["iptables-save", "ip6tables-save"]
        .iter()
        .flat_map(|program| {
            let text = run(tool(program).args(["-t", "filter"]));
            let own = |line: &&str| line.starts_with("-A") || line.starts_with(":CNI");
            text.lines().filter(own).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

fn accepting() -> Vec<String> {
    let source = |line: &String| line.starts_with("-A CNI-FORWARD -s ");
    filter_rules().into_iter().filter(source).collect()
}

fn gc(b: &TestBox, network: &str, keys: &Value, valid: &[&Attachment]) -> String {
    let outcome = Call::of_network("firewall", "GC", network).keys(keys).valid(valid).run(b);
    outcome.expect_success();
    outcome.stderr
}

fn what_the_go_plugin_left_is_taken_over(b: &TestBox) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    let keys = json!({ "backend": "iptables" });
    by_go("ADD", &web, &keys);
    by_go("ADD", &other, &keys);
    assert_eq!(accepting().len(), 4);
    // An administrator's rule about the address is none of the Go plugin's.
    let foreign = ["CNI-FORWARD", "-s", &web.v4(), "-p", "sctp", "-j", "DROP"];
    run(tool("iptables").arg("-A").args(foreign));
    let count = || filter_rules().iter().filter(|line| line.ends_with("-p sctp -j DROP")).count();
    b.admit(&web, &keys);
    b.inspect(&web, &keys).expect_silence();
    assert_eq!(count(), 1);
    run(tool("iptables").arg("-D").args(foreign));
    let of_web = |line: &&String| line.contains(&format!("{}/", web.v4()));
    assert_eq!(accepting().iter().filter(of_web).count(), 1, "once, with an owner");
    b.dismiss(&other, &keys);
    assert_eq!(accepting().len(), 2, "other's rules went without ever being ours");
    b.dismiss(&web, &keys);
    assert!(accepting().is_empty());
}

const STILL_GO: &str = "still served by the Go plugin's rules; the next ADD takes them over";

/// CHECK passes and says by whose rules.
fn passes_by_go(b: &TestBox, web: &Attachment, keys: &Value) {
    let before = b.ruleset();
    let outcome = b.inspect(web, keys);
    outcome.expect_success();
    assert!(outcome.stderr.contains(STILL_GO), "{keys}: {outcome:?}");
    assert_eq!(b.ruleset(), before, "CHECK only looks");
}

fn check_passes_while_the_go_plugins_rules_are_complete(b: &TestBox) {
    for (policy, number) in POLICIES.into_iter().zip(1..) {
        for network in [Network::dual(number), Network::v4(10 + number), Network::v6(20 + number)] {
            let web = b.web(&network, &format!("on-{}", network.name));
            by_go("ADD", &web, &iptables(policy));
            for keys in keys_of(b, policy) {
                passes_by_go(b, &web, &keys);
            }
            let keys = &keys_of(b, policy)[0];
            b.admit(&web, keys);
            let outcome = b.inspect(&web, keys);
            outcome.expect_success();
            assert!(!outcome.stderr.contains("Go plugin"), "{outcome:?}");
        }
    }
}

/// Each of the rules, one after the other, in both families.
fn check_names_what_is_missing_of_the_go_plugins_rules(b: &TestBox) {
    let network = Network::dual(1);
    let web = b.web(&network, "web");
    by_go("ADD", &web, &iptables("same-bridge"));
    // Debian's 1.1.1 knows no other policy; 1.7 makes one rule more for "isolated".
    for program in ["iptables", "ip6tables"] {
        let rule = ["-i", "br1", "-o", "br1", "-m", "comment", "--comment"];
        let comment = ["CNI firewall plugin rules (ingressPolicy: isolated)", "-j", "DROP"];
        run(tool(program).args(["-I", "CNI-ISOLATION-STAGE-1"]).args(rule).args(comment));
    }
    for keys in keys_of(b, "isolated") {
        passes_by_go(b, &web, &keys);
        let mut tried = 0;
        for program in ["iptables", "ip6tables"] {
            let saved = run(tool(&format!("{program}-save")).args(["-t", "filter"]));
            let about_cni = |line: &&str| line.starts_with("-A ") && line.contains("CNI");
            for line in saved.lines().filter(about_cni) {
                let without: Vec<&str> = saved.lines().filter(|other| *other != line).collect();
                restore(program, &without);
                let chain = line.split(' ').nth(1).expect("a chain");
                b.inspect(&web, &keys).expect_error_with(100, &["rule missing", chain]);
                restore(program, &saved.lines().collect::<Vec<_>>());
                tried += 1;
            }
        }
        // FORWARD 2, CNI-FORWARD 3, STAGE-1 3, STAGE-2 2.
        assert_eq!(tried, 2 * (2 + 3 + 3 + 2));
        passes_by_go(b, &web, &keys);
        let mut elsewhere = web.clone();
        elsewhere.result = b.web(&network, &format!("c{}", keys.to_string().len())).result;
        b.inspect(&elsewhere, &keys).expect_error_with(100, &["not as ADD made it"]);
    }
}

/// Replaces the whole filter table.
fn restore(program: &str, lines: &[&str]) {
    feed(&mut tool(&format!("{program}-restore")), &(lines.join("\n") + "\n"));
}

/// The alternatives were switched with containers running.
fn check_looks_into_the_other_iptables(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let directory = "/run/legacy";
    std::fs::create_dir_all(directory).expect("a directory on the box's tmpfs");
    for name in ["iptables", "ip6tables"] {
        let link = format!("{directory}/{name}");
        std::os::unix::fs::symlink(format!("/usr/sbin/{name}-legacy"), link).expect("a link");
    }
    let path = format!("{directory}:{}", std::env::var("PATH").expect("a PATH"));
    let add = firewall("ADD", &web).keys(&iptables("same-bridge")).env("PATH", &path);
    add.run_as(Implementation::Go).expect_success();
    assert!(filter_rules().is_empty(), "the plain names mean nft's");
    let keys = json!({ "backend": "nftables", "ingressPolicy": "same-bridge" });
    passes_by_go(b, &web, &keys);
    run(tool("ip6tables-legacy").args(["-F", "CNI-ISOLATION-STAGE-2"]));
    b.inspect(&web, &keys).expect_error_with(100, &["CNI-ISOLATION-STAGE-2"]);
    b.dismiss(&web, &keys);
    gc(b, "net1", &keys, &[]);
    for program in ["iptables-legacy-save", "ip6tables-legacy-save"] {
        let saved = run(tool(program).args(["-t", "filter"]));
        assert!(!saved.contains("CNI"), "{saved}");
    }
}

fn check_passes_with_the_go_plugins_sources_in_firewalld(b: &TestBox) {
    let firewalld = Firewalld::start();
    let web = b.web(&Network::dual(1), "web");
    let keys = json!({ "backend": "firewalld", "ingressPolicy": "same-bridge" });
    by_go("ADD", &web, &keys);
    passes_by_go(b, &web, &keys);
    passes_by_go(b, &web, &json!({ "ingressPolicy": "same-bridge" }));
    run(tool("iptables").args(["-F", "CNI-ISOLATION-STAGE-2"]));
    b.inspect(&web, &keys).expect_error_with(100, &["CNI-ISOLATION-STAGE-2"]);
    let open = json!({ "backend": "firewalld" });
    passes_by_go(b, &web, &open);
    // Isolation that does not show in CNI-FORWARD is somebody's while firewalld admits.
    gc(b, "net1", &keys, &[&web]);
    assert!(filter_rules().iter().any(|line| line.contains("-i br1 ! -o br1")));
    let source = format!("--remove-source={}/128", web.v6());
    firewalld.cmd(&["--zone=trusted", &source]);
    b.inspect(&web, &open).expect_error_with(100, &["is missing from firewalld's zone trusted"]);
    b.admit(&web, &open);
    let outcome = b.inspect(&web, &open);
    outcome.expect_success();
    assert!(!outcome.stderr.contains("Go plugin"), "{outcome:?}");
}

fn add_on_nftables_removes_the_go_plugins_rules(b: &TestBox) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    by_go("ADD", &web, &iptables("open"));
    by_go("ADD", &other, &iptables("open"));
    let keys = json!({ "backend": "nftables" });
    b.admit(&web, &keys);
    assert_eq!(accepting().len(), 2, "other's");
    passes_by_go(b, &other, &keys);
    b.admit(&other, &keys);
    assert!(accepting().is_empty());
    gc(b, "net1", &keys, &[&web, &other]);
    assert_eq!(filter_rules(), Vec::<String>::new());
    b.inspect(&web, &keys).expect_silence();
}

fn gc_removes_the_shared_chains_with_the_last_container(b: &TestBox) {
    for policy in POLICIES {
        for keys in keys_of(b, policy) {
            let (one, two) = (Network::dual(1), Network::dual(2));
            let [web, other] = [b.web(&one, "web"), b.web(&two, "other")];
            for attachment in [&web, &other] {
                by_go("ADD", attachment, &iptables(policy));
            }
            let go = filter_rules();
            gc(b, "net1", &keys, &[&web]);
            assert_eq!(filter_rules(), go, "everybody is there");
            b.dismiss(&web, &keys);
            gc(b, "net1", &keys, &[]);
            let of_web = format!("{}/", web.v4());
            assert!(filter_rules().iter().all(|line| !line.contains(&of_web)));
            assert!(filter_rules().iter().any(|line| line.contains(&other.v4())));
            // What the Go plugin isolates stays isolated while anybody is let through.
            if policy == "same-bridge" {
                let bridge = "-i br1 ! -o br1";
                assert!(filter_rules().iter().any(|line| line.contains(bridge)));
                passes_by_go(b, &other, &keys);
            }
            b.dismiss(&other, &keys);
            gc(b, "net2", &keys, &[]);
            assert_eq!(filter_rules(), Vec::<String>::new(), "{keys}");
            for attachment in [web, other] {
                attachment.leave();
                run(tool("ip").args(["netns", "del", &attachment.container.id]));
            }
        }
    }
}

fn gc_of_our_own_chains(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    for policy in ["open", "same-bridge", "isolated"] {
        let keys = iptables(policy);
        b.admit(&web, &keys);
        gc(b, "net1", &keys, &[&web]);
        b.inspect(&web, &keys).expect_silence();
        gc(b, "net1", &keys, &[]);
        assert_eq!(filter_rules(), Vec::<String>::new(), "{policy}");
        b.admit(&web, &keys);
        b.dismiss(&web, &keys);
        gc(b, "net1", &keys, &[]);
        assert_eq!(filter_rules(), Vec::<String>::new(), "{policy}");
    }
}

fn an_administrators_rules_keep_the_shared_chains(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    by_go("ADD", &web, &iptables("same-bridge"));
    let keys = &keys_of(b, "same-bridge")[0];
    let rule = ["CNI-ADMIN", "-s", "192.0.2.1/32", "-j", "DROP"];
    run(tool("iptables").arg("-A").args(rule));
    b.dismiss(&web, keys);
    gc(b, "net1", keys, &[]);
    let kept = [
        ":CNI-ADMIN - [0:0]",
        ":CNI-FORWARD - [0:0]",
        "-A FORWARD -m comment --comment \"CNI firewall plugin rules\" -j CNI-FORWARD",
        "-A CNI-ADMIN -s 192.0.2.1/32 -j DROP",
        "-A CNI-FORWARD -m comment --comment \"CNI firewall plugin admin overrides\" -j CNI-ADMIN",
    ];
    // Nothing of IPv6, and nothing that isolates: that is nobody's.
    let found = filter_rules().into_iter().map(|line| {
        if line.starts_with(':') {
            line.split('[').next().unwrap_or_default().to_owned() + "[0:0]"
        } else {
            line
        }
    });
    assert_eq!(found.collect::<Vec<_>>(), kept);
    run(tool("iptables").arg("-D").args(rule));
    gc(b, "net1", keys, &[]);
    assert_eq!(filter_rules(), Vec::<String>::new());
}

/// A program that does something right before the real one changes the table.
fn racing(name: &str, first: &str) {
    let directory = std::path::Path::new("/run/race");
    std::fs::create_dir_all(directory).expect("a directory on the box's tmpfs");
    let script = directory.join(name);
    std::fs::write(&script, format!("#!/bin/sh\n{first}\nexec /usr/sbin/{name} \"$@\"\n"))
        .expect("write the script");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&script, mode).expect("make it executable");
}

fn an_add_of_the_go_plugin_during_gc_keeps_the_chains(b: &TestBox) {
    let web = b.web(&Network::v4(1), "web");
    let keys = &keys_of(b, "same-bridge")[0];
    let legacy = b.implementation == Implementation::IptablesLegacy;
    let name = if legacy { "iptables-legacy-restore" } else { "iptables-nft-restore" };
    for (rule, words) in [
        ("CNI-FORWARD -s 10.88.1.99/32 -j ACCEPT", "-A CNI-FORWARD -s 10.88.1.99/32 -j ACCEPT"),
        ("CNI-ISOLATION-STAGE-2 -o br9 -j DROP", "-A CNI-ISOLATION-STAGE-2 -o br9 -j DROP"),
    ] {
        by_go("ADD", &web, &iptables("same-bridge"));
        b.dismiss(&web, keys);
        racing(name, &format!("[ -e /run/raced ] || iptables -A {rule}; touch /run/raced"));
        let path = format!("/run/race:{}", std::env::var("PATH").expect("a PATH"));
        let call = Call::of_network("firewall", "GC", "net1").keys(keys);
        let call = call.set("cni.dev/valid-attachments", json!([])).env("PATH", &path);
        call.run(b).expect_silence();
        let after = filter_rules();
        assert!(after.iter().any(|line| line == words), "the new rule is there: {after:#?}");
        gc(b, "net1", keys, &[]);
        assert_eq!(filter_rules(), after, "as a GC leaves it that comes after the rule");
        run(tool("iptables").arg("-D").args(rule.split(' ')));
        std::fs::remove_file("/run/raced").expect("the race took place");
    }
}

fn a_host_that_lost_iptables_says_what_it_cannot_reach(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    by_go("ADD", &web, &iptables("open"));
    let keys = json!({ "backend": "nftables" });
    let said = |stderr: &str| {
        for words in ["iptables-nft (IPv4)", "iptables-nft (IPv6)", "iptables-nft-save is not"] {
            assert!(stderr.contains(words), "{words}: {stderr}");
        }
    };
    {
        let _without = WithoutIptables::begin();
        b.inspect(&web, &keys).expect_error_with(100, &["cannot be read", "iptables-nft-save"]);
        said(&b.admit(&web, &keys).stderr);
        b.inspect(&web, &keys).expect_silence();
        let del = firewall("DEL", &web).keys(&keys).run(b);
        del.expect_silence();
        said(&del.stderr);
        assert!(!b.nft_list_all().contains("web/eth0"), "nftables was within reach");
        let stderr = gc(b, "net1", &keys, &[]);
        said(&stderr);
        web.container.netns.reach(Transport::Tcp, &web.v4(), 80).by("web");
    }
    assert_eq!(accepting().len(), 2);
    b.dismiss(&web, &keys);
    gc(b, "net1", &keys, &[]);
    assert_eq!(filter_rules(), Vec::<String>::new());
}
