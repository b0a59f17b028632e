//! What the plugin makes of the host it is on: which backend, which tools, which foreign chains;
//! and what it refuses.

use serde_json::{Value, json};

use cni_testbox::{
    Call, HOST_V4, Network, OUT_V4, Outcome, TestBox, Transport, cases, firewall, run, tcp, tool,
};

cases! {
    a_bare_host_uses_nftables_and_starts_nothing, ours;
    a_host_whose_forward_chain_drops_uses_iptables, ours;
    a_foreign_chain_that_drops_is_named, ours;
    a_host_without_ip6tables_serves_ipv4, go_defect("both tools are needed in any case");
    the_administrators_chain_comes_first_and_is_kept, ours;
    the_administrators_iptables_chain_is_kept, ours;
    the_bridge_is_found_wherever_it_is_listed, ours;
    what_is_refused_leaves_nothing, ours;
    without_a_bridge_isolation_leaves_nothing, go_defect(
        "accept rules are made before the bridge is looked for"
    );
    without_privilege_nothing_changes, ours;
    status_lets_the_kernel_try, ours;
    a_rootless_network_is_looked_into, ours;
}

fn status(b: &TestBox, keys: &Value) -> Outcome {
    let outcome = Call::of_network("firewall", "STATUS", "net1").keys(keys).run(b);
    outcome.expect_success();
    outcome
}

fn a_bare_host_uses_nftables_and_starts_nothing(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let trace = "/run/trace";
    let wrapper = ["strace", "-f", "-e", "trace=execve", "-o", trace];
    for command in ["ADD", "CHECK", "DEL"] {
        firewall(command, &web).keys(&json!({})).under(&wrapper).run(b).expect_success();
        let text = std::fs::read_to_string(trace).expect("strace wrote it");
        assert_eq!(text.matches("execve(").count(), 1, "{command}: {text}");
        assert_eq!(b.ruleset().contains("web/eth0"), command != "DEL");
    }
    assert!(b.ruleset().contains("table inet cni_firewall"));
    let gc = Call::of_network("firewall", "GC", "net1");
    let gc = gc.set("cni.dev/valid-attachments", json!([])).under(&wrapper);
    gc.run(b).expect_success();
    let text = std::fs::read_to_string(trace).expect("strace wrote it");
    assert_eq!(text.matches("execve(").count(), 1, "GC: {text}");
    assert_eq!(b.ruleset(), "", "the empty table goes");
    let said = status(b, &json!({})).stderr;
    assert!(said.contains("backend nftables: neither firewalld nor iptables"), "{said}");
}

fn drop_forwarded() {
    run(tool("iptables").args(["-P", "FORWARD", "DROP"]));
    run(tool("ip6tables").args(["-P", "FORWARD", "DROP"]));
}

fn a_host_whose_forward_chain_drops_uses_iptables(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.out.serve("out", 80);
    drop_forwarded();
    b.map(&web, &[tcp(8080, 80)]);
    web.container.netns.cannot_reach(Transport::Tcp, OUT_V4, 80);
    b.out.cannot_reach(Transport::Tcp, HOST_V4, 8080);
    let said = status(b, &json!({})).stderr;
    assert!(said.contains("backend iptables: iptables' chain ip filter FORWARD"), "{said}");
    b.admit(&web, &json!({}));
    web.container.netns.reach(Transport::Tcp, OUT_V4, 80).by("out");
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
    b.out.cannot_reach(Transport::Tcp, &web.v4(), 80);
    b.inspect(&web, &json!({})).expect_silence();
    b.dismiss(&web, &json!({}));
    web.container.netns.cannot_reach(Transport::Tcp, OUT_V4, 80);
}

fn a_foreign_chain_that_drops_is_named(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.nft("table inet filter { chain forward { type filter hook forward priority 0; policy drop; }; }");
    let words = "chain inet filter forward has policy drop";
    let said = b.admit(&web, &json!({})).stderr;
    assert!(said.contains(words), "{said}");
    let said = status(b, &json!({})).stderr;
    assert!(said.contains(words), "{said}");
}

/// Makes the links behind Debian's `ip6tables*` lead nowhere.
fn hide_ip6tables() {
    let (links, copy) = ("/etc/alternatives", "/run/alternatives");
    run(std::process::Command::new("cp").args(["-a", links, copy]));
    for name in ["ip6tables", "ip6tables-save", "ip6tables-restore"] {
        std::fs::remove_file(format!("{copy}/{name}")).expect("Debian's alternatives have it");
    }
    run(tool("mount").args(["--bind", copy, links]));
}

fn a_host_without_ip6tables_serves_ipv4(b: &TestBox) {
    let keys = json!({ "backend": "iptables" });
    let (web, dual) = (b.web(&Network::v4(1), "web"), b.web(&Network::dual(2), "dual"));
    hide_ip6tables();
    for command in ["ADD", "CHECK", "DEL"] {
        firewall(command, &web).keys(&keys).run(b).expect_success();
    }
    let rules = || run(&mut tool("iptables-save")).matches("-A CNI-FORWARD -s").count();
    let (code, text) = firewall("ADD", &dual).keys(&keys).run(b).expect_error();
    assert!(code == 101 && text.contains("ip6tables") && text.contains("install"), "{text}");
    assert_eq!(rules(), 0);
}

fn the_administrators_chain_comes_first_and_is_kept(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let other = b.web(&Network::dual(2), "other");
    let keys = json!({
        "backend": "nftables", "ingressPolicy": "same-bridge", "iptablesAdminChainName": "MY-OWN",
    });
    b.admit(&web, &keys);
    b.admit(&other, &keys);
    other.container.netns.cannot_reach(Transport::Tcp, &web.v4(), 80);
    b.nft("add rule inet cni_firewall MY-OWN tcp dport 80 accept");
    other.container.netns.reach(Transport::Tcp, &web.v4(), 80).by("web");
    let own = |b: &TestBox| b.ruleset().contains("tcp dport 80 accept");
    b.admit(&web, &keys);
    b.inspect(&web, &keys).expect_silence();
    assert!(own(b), "ADD again");
    b.dismiss(&web, &keys);
    b.dismiss(&other, &keys);
    let gc = Call::of_network("firewall", "GC", "net1").keys(&keys);
    gc.set("cni.dev/valid-attachments", json!([])).run(b).expect_success();
    assert!(own(b), "DEL and GC");
}

fn the_administrators_iptables_chain_is_kept(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let keys = json!({ "backend": "iptables", "iptablesAdminChainName": "MY-OWN" });
    run(tool("iptables").args(["-N", "MY-OWN"]));
    run(tool("iptables").args(["-A", "MY-OWN", "-p", "tcp", "--dport", "80", "-j", "DROP"]));
    b.admit(&web, &keys);
    b.out.cannot_reach(Transport::Tcp, &web.v4(), 80);
    b.dismiss(&web, &keys);
    assert!(b.ruleset().contains("-A MY-OWN -p tcp -m tcp --dport 80 -j DROP"));
}

fn the_bridge_is_found_wherever_it_is_listed(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let keys = json!({ "backend": "nftables", "ingressPolicy": "isolated" });
    b.admit(&web, &keys);
    let expected = b.ruleset();
    let mut reversed = web.result.clone();
    let count = reversed["interfaces"].as_array().expect("a list").len();
    reversed["interfaces"].as_array_mut().expect("a list").reverse();
    for ip in reversed["ips"].as_array_mut().expect("a list") {
        let index = usize::try_from(ip["interface"].as_u64().expect("an index")).expect("small");
        ip["interface"] = json!(count - 1 - index);
    }
    let mut bare = web.result.clone();
    bare["interfaces"] = json!([]);
    for ip in bare["ips"].as_array_mut().expect("a list") {
        ip.as_object_mut().expect("an object").remove("interface");
    }
    for result in [reversed, bare] {
        b.dismiss(&web, &keys);
        let add = firewall("ADD", &web).keys(&keys).set("prevResult", result);
        add.run(b).expect_result();
        assert_eq!(b.ruleset(), expected);
    }
}

fn what_is_refused_leaves_nothing(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let before = b.ruleset();
    let long = "x".repeat(29);
    for (keys, code) in [
        (json!({ "backend": "bogus" }), 2),
        (json!({ "backend": 7 }), 7),
        (json!({ "ingressPolicy": "closed" }), 2),
        (json!({ "backend": "iptables", "iptablesAdminChainName": "a\n-F" }), 7),
        (json!({ "backend": "iptables", "iptablesAdminChainName": "a -j DROP" }), 7),
        (json!({ "backend": "iptables", "iptablesAdminChainName": long }), 7),
        (json!({ "backend": "nftables", "iptablesAdminChainName": "x; flush ruleset" }), 7),
        (json!({ "backend": "iptables", "iptablesAdminChainName": "CNI-FORWARD" }), 7),
    ] {
        let call = firewall("ADD", &web).keys(&keys);
        call.run(b).expect_error_with(code, &[]);
        assert_eq!(b.ruleset(), before, "{keys}");
        // DEL cleans up whatever the configuration says.
        b.dismiss(&web, &keys);
    }
    let without = firewall("ADD", &web).keys(&json!({})).without("prevResult");
    without.run(b).expect_error_with(7, &["missing prevResult from earlier plugin"]);
    assert_eq!(b.ruleset(), before);
}

fn without_a_bridge_isolation_leaves_nothing(b: &TestBox) {
    // Its own end of a link to outside: no bridge anywhere.
    let container = b.container("web");
    let mut web = b.web(&Network::dual(1), "elsewhere");
    web.container = container;
    web.result = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.88.1.9/24" }] });
    let before = b.ruleset();
    let keys = json!({ "backend": "iptables", "ingressPolicy": "same-bridge" });
    firewall("ADD", &web).keys(&keys).run(b).expect_error();
    assert_eq!(b.ruleset(), before);
}

fn without_privilege_nothing_changes(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    for backend in ["nftables", "iptables"] {
        let keys = json!({ "backend": backend });
        let before = b.ruleset();
        let add = firewall("ADD", &web).keys(&keys).without_net_admin();
        add.run(b).expect_error();
        assert_eq!(b.ruleset(), before, "{backend}: ADD");
        b.admit(&web, &keys);
        let with = b.ruleset();
        let del = firewall("DEL", &web).keys(&keys).without_net_admin();
        del.run(b).expect_error();
        assert_eq!(b.ruleset(), with, "{backend}: DEL");
        b.dismiss(&web, &keys);
    }
}

fn status_lets_the_kernel_try(b: &TestBox) {
    let keys = json!({ "backend": "nftables" });
    status(b, &keys);
    assert_eq!(b.ruleset(), "", "STATUS leaves nothing");
    let call = Call::of_network("firewall", "STATUS", "net1").keys(&keys).without_net_admin();
    call.run(b).expect_error_with(50, &["CAP_NET_ADMIN"]);
    let web = b.web(&Network::dual(1), "web");
    b.admit(&web, &keys);
    status(b, &keys);
    b.nft("flush chain inet cni_firewall forward");
    // The next ADD repairs it, so it is none of a runtime's business.
    let said = status(b, &keys).stderr;
    assert!(said.contains("warning") && said.contains("forward"), "{said}");
}

/// Made together with its user namespace, the network namespace has a list of legacy tables that only the
/// machine's root may read.
fn a_rootless_network_is_looked_into(b: &TestBox) {
    let status = |script: &str| {
        let outcome = Call::of_network("firewall", "STATUS", "net1").rootless(script).run(b);
        outcome.expect_success();
        outcome.stderr
    };
    let said = status("! cat /proc/net/ip_tables_names; PLUGIN");
    assert!(said.contains("backend nftables"), "{said}");
    let said = status("iptables-legacy -P FORWARD DROP; PLUGIN");
    assert!(said.contains("backend iptables"), "{said}");
}
