//! CHECK of an attachment that only the Go portmap mapped: right after the binaries were swapped.

use serde_json::json;

use crate::takeover::{
    GoOptions, by_go, by_go_on_legacy, gc, go_maps_with_nftables, go_maps_with_options,
};
use cni_testbox::{
    Attachment, HOST_V4, HOST_V6, Implementation, Network, TestBox, Transport, at, both, cases,
    feed, portmap, run, tool,
};

cases! {
    check_passes_while_the_go_plugins_rules_are_complete, backends;
    check_names_what_is_missing_of_the_go_plugins_rules, backends;
    check_looks_into_the_other_iptables, ours;
    check_passes_with_the_go_plugins_nftables_rules, ours;
    check_passes_with_the_go_plugins_nftables_options, ours;
}

const STILL_GO: &str = "still served by the Go plugin's rules; the next ADD takes them over";

/// CHECK passes and says by whose rules.
fn passes_by_go(b: &TestBox, web: &Attachment, port: u16) {
    let before = b.ruleset();
    let outcome = portmap("CHECK", web).mappings(&both(port, 80)).run(b);
    outcome.expect_success();
    assert!(outcome.stderr.contains(STILL_GO), "{outcome:?}");
    assert_eq!(b.ruleset(), before, "CHECK only looks");
}

fn check_passes_while_the_go_plugins_rules_are_complete(b: &TestBox) {
    let networks = [
        Network::dual(1),
        Network::v4(2),
        Network::v6(3),
        Network::dual(4).with(json!({ "snat": false })),
        // IPv4 only: asked for a second bit, ip6tables-legacy 1.8.9 says that it is there.
        Network::v4(5).with(json!({ "markMasqBit": 5 })),
    ];
    for (network, port) in networks.iter().zip(8080..) {
        let web = b.web(network, &format!("on-{}", network.name));
        by_go("ADD", &web, port);
        passes_by_go(b, &web, port);
        b.map(&web, &both(port, 80));
        let outcome = portmap("CHECK", &web).mappings(&both(port, 80)).run(b);
        outcome.expect_success();
        assert!(!outcome.stderr.contains("Go plugin"), "{outcome:?}");
    }
    // Twenty ports in two entry rules, one host address, and a mapping of the other family.
    let web = b.web(&Network::v4(6), "many");
    let mut mappings: Vec<_> = (9000..9020).flat_map(|port| both(port, 80)).collect();
    mappings.extend(at(both(9100, 80), HOST_V4));
    mappings.extend(at(both(9101, 80), HOST_V6));
    let call = |command: &str| portmap(command, &web).mappings(&mappings);
    call("ADD").run_as(Implementation::Go).expect_result();
    let outcome = call("CHECK").run(b);
    outcome.expect_success();
    assert!(outcome.stderr.contains(STILL_GO), "{outcome:?}");
}

/// Each of the rules, one after the other, in both families.
fn check_names_what_is_missing_of_the_go_plugins_rules(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    by_go("ADD", &web, 8080);
    let mut tried = 0;
    for program in ["iptables", "ip6tables"] {
        let saved = run(tool(&format!("{program}-save")).args(["-t", "nat"]));
        for line in saved.lines().filter(|line| line.starts_with("-A ") && line.contains("CNI-")) {
            let without: Vec<&str> = saved.lines().filter(|other| *other != line).collect();
            restore(program, &without);
            let chain = line.split(' ').nth(1).expect("a chain");
            let call = portmap("CHECK", &web).mappings(&both(8080, 80));
            call.run(b).expect_error_with(100, &[chain]);
            restore(program, &saved.lines().collect::<Vec<_>>());
            tried += 1;
        }
    }
    assert!(tried >= 2 * (3 + 2 + 2 + 2), "{tried} rules in both families");
    passes_by_go(b, &web, 8080);
    // Other ports, or another address, are not what the Go plugin was asked for.
    let call = |web: &Attachment, port| portmap("CHECK", web).mappings(&both(port, 80)).run(b);
    call(&web, 8081).expect_error_with(100, &["8081", "is missing"]);
    let mut moved = web.clone();
    moved.result = b.web(&web.network, "other").result;
    call(&moved, 8080).expect_error_with(100, &[&moved.v4()]);
}

/// Replaces the whole nat table.
fn restore(program: &str, lines: &[&str]) {
    feed(&mut tool(&format!("{program}-restore")), &(lines.join("\n") + "\n"));
}

/// The alternatives were switched with containers running: the Go plugin's rules are in the
/// iptables that the plain names do not mean any more.
fn check_looks_into_the_other_iptables(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    by_go_on_legacy(&web, 8080);
    b.out.is_served(8080, "web");
    let call = || portmap("CHECK", &web).mappings(&both(8080, 80)).run(b);
    call().expect_success();
    assert!(call().stderr.contains(STILL_GO));
    run(tool("ip6tables-legacy").args(["-t", "nat", "-F", "CNI-HOSTPORT-SETMARK"]));
    call().expect_error_with(100, &["CNI-HOSTPORT-SETMARK"]);
}

/// Conditions stand before the jumps of its base chains, and `masqAll` in its masquerade rules.
fn check_passes_with_the_go_plugins_nftables_options(b: &TestBox) {
    const CONDITIONS: [(&str, &str); 3] = [
        ("ip saddr != 192.0.2.0/24", "ip6 saddr != 2001:db8:9::/48"),
        ("iifname != \"lo\"", "iifname \"ext*\""),
        ("", ""),
    ];
    for (number, (v4, v6)) in (1..).zip(CONDITIONS) {
        let masq_all = v4.is_empty();
        let keys = json!({ "conditionsV4": [v4], "conditionsV6": [v6], "masqAll": masq_all });
        let network = Network::dual(number).with(keys);
        let (name, port) = (format!("web{number}"), 8080 + u16::from(number));
        let web = b.web(&network, &name);
        for (is_v4, conditions) in [(true, v4), (false, v6)] {
            go_maps_with_options(b, &web, port, is_v4, GoOptions { conditions, masq_all });
        }
        b.out.reach(Transport::Tcp, HOST_V4, port).by(&name);
        b.out.reach(Transport::Tcp, HOST_V6, port).by(&name);
        passes_by_go(b, &web, port);
        if masq_all {
            // Newer nft compares nothing for an address of anybody.
            for (family, address) in [("ip", web.v4()), ("ip6", web.v6())] {
                b.nft(&format!(
                    "flush chain {family} cni_hostport masquerading
                     add rule {family} cni_hostport masquerading {family} daddr {address} masquerade comment {name}"
                ));
            }
            passes_by_go(b, &web, port);
        }
        for family in ["ip", "ip6"] {
            b.nft(&format!("delete table {family} cni_hostport"));
        }
    }
}

fn check_passes_with_the_go_plugins_nftables_rules(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    for v4 in [true, false] {
        go_maps_with_nftables(b, &web, 8080, v4);
    }
    b.out.is_served(8080, "web");
    passes_by_go(b, &web, 8080);
    for (family, words) in [("ip", 2 + 2), ("ip6", 2 + 1)] {
        let listed = run(tool("nft").args(["-a", "list", "table", family, "cni_hostport"]));
        let mut chain = "";
        let mut tried = 0;
        for line in listed.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("chain ").and_then(|rest| rest.split(' ').next())
            {
                chain = name;
            }
            let Some((rule, handle)) = line.split_once(" comment \"web\" # handle ") else {
                continue;
            };
            b.nft(&format!("delete rule {family} cni_hostport {chain} handle {handle}"));
            let call = portmap("CHECK", &web).mappings(&both(8080, 80));
            call.run(b).expect_error_with(100, &["is missing", "cni_hostport"]);
            b.nft(&format!("add rule {family} cni_hostport {chain} {rule} comment \"web\""));
            tried += 1;
        }
        assert_eq!(tried, words, "{listed}");
        passes_by_go(b, &web, 8080);
        b.nft(&format!("flush chain {family} cni_hostport output"));
        let call = portmap("CHECK", &web).mappings(&both(8080, 80));
        call.run(b).expect_error_with(100, &["output does not lead to hostports"]);
        b.nft(&format!(
            "add rule {family} cni_hostport output fib daddr type local jump hostports_all"
        ));
    }
    b.map(&web, &both(8080, 80));
    let outcome = portmap("CHECK", &web).mappings(&both(8080, 80)).run(b);
    outcome.expect_success();
    assert!(!outcome.stderr.contains("Go plugin"), "{outcome:?}");
    gc(b, "net1", &[&web]);
    assert!(!run(tool("nft").args(["list", "tables"])).contains("cni_hostport"));
}
