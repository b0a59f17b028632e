//! Native chains of others that drop forwarded packets, and that the configuration names.

use serde_json::{Value, json};

use cni_testbox::{
    Call, HOST_V4, HOST_V6, Network, OUT_V4, OUT_V6, TestBox, Transport, cases, firewall, tcp,
};

cases! {
    a_named_chain_lets_containers_through, ours;
    an_unnamed_chain_drops_and_is_named_by_the_warning, ours;
    the_last_container_leaves_the_table_as_it_was, ours;
    a_chain_of_one_family_gets_that_family, ours;
    check_sees_what_is_missing_from_a_named_chain, ours;
    a_chain_that_is_not_there_is_refused_and_ignored_by_del, ours;
}

/// Somebody's table that drops what no rule of theirs lets through.
const THEIRS: &str = "table inet filter {
    set friends { type ipv4_addr; elements = { 192.0.2.77 }; }
    chain forward { type filter hook forward priority 0; policy drop;
        ip saddr @friends accept comment \"theirs\"
        tcp dport 81 drop
    }
}";

fn named(family: &str) -> Value {
    json!({ "backend": "nftables", "nftablesForwardChains": [
        { "family": family, "table": "filter", "chain": "forward" },
    ] })
}

fn a_named_chain_lets_containers_through(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.out.serve("out", 80);
    b.map(&web, &[tcp(8080, 80)]);
    b.nft(THEIRS);
    let said = b.admit(&web, &named("inet")).stderr;
    assert!(!said.contains("policy drop"), "{said}");
    for (out, host, own) in [(OUT_V4, HOST_V4, web.v4()), (OUT_V6, HOST_V6, web.v6())] {
        web.container.netns.reach(Transport::Tcp, out, 80).by("out");
        b.out.reach(Transport::Tcp, host, 8080).by("web");
        b.out.cannot_reach(Transport::Tcp, &own, 80);
    }
    b.inspect(&web, &named("inet")).expect_silence();
    b.dismiss(&web, &named("inet"));
    web.container.netns.cannot_reach(Transport::Tcp, OUT_V4, 80);
    b.out.cannot_reach(Transport::Tcp, HOST_V4, 8080);
}

fn an_unnamed_chain_drops_and_is_named_by_the_warning(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.out.serve("out", 80);
    b.map(&web, &[tcp(8080, 80)]);
    b.nft(THEIRS);
    let said = b.admit(&web, &json!({ "backend": "nftables" })).stderr;
    assert!(said.contains("chain inet filter forward has policy drop"), "{said}");
    assert!(said.contains("nftablesForwardChains"), "{said}");
    web.container.netns.cannot_reach(Transport::Tcp, OUT_V4, 80);
    b.out.cannot_reach(Transport::Tcp, HOST_V4, 8080);
}

fn the_last_container_leaves_the_table_as_it_was(b: &TestBox) {
    let [first, second] = ["first", "second"].map(|id| b.web(&Network::dual(1), id));
    b.nft(THEIRS);
    let theirs = || b.nft_list("inet filter");
    let before = theirs();
    b.admit(&first, &named("inet"));
    let with_one = theirs();
    b.admit(&first, &named("inet"));
    assert_eq!(theirs(), with_one, "ADD again");
    b.admit(&second, &named("inet"));
    b.dismiss(&first, &named("inet"));
    b.inspect(&second, &named("inet")).expect_silence();
    // DEL needs nothing of the configuration.
    b.dismiss(&second, &json!({}));
    assert_eq!(theirs(), before);

    b.admit(&first, &named("inet"));
    let gc = Call::of_network("firewall", "GC", "net1");
    gc.set("cni.dev/valid-attachments", json!([])).run(b).expect_success();
    assert_eq!(theirs(), before);
}

fn a_chain_of_one_family_gets_that_family(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.out.serve("out", 80);
    b.nft(
        "table ip filter { chain forward { type filter hook forward priority 0; policy drop; }; }",
    );
    let before = b.nft_list("ip filter");
    b.admit(&web, &named("ip"));
    b.inspect(&web, &named("ip")).expect_silence();
    web.container.netns.reach(Transport::Tcp, OUT_V4, 80).by("out");
    web.container.netns.reach(Transport::Tcp, OUT_V6, 80).by("out");
    b.dismiss(&web, &named("ip"));
    assert_eq!(b.nft_list("ip filter"), before);
}

fn check_sees_what_is_missing_from_a_named_chain(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.nft(THEIRS);
    for (damage, words) in [
        ("flush chain inet filter forward".to_owned(), "does not jump to cni_firewall"),
        ("flush chain inet filter cni_firewall".to_owned(), "has other rules"),
        (
            format!("delete element inet filter cni_firewall_containers4 {{ {} }}", web.v4()),
            "is not this attachment's",
        ),
        ("delete table inet filter".to_owned() + "\n" + THEIRS, "does not jump to cni_firewall"),
    ] {
        b.admit(&web, &named("inet"));
        b.inspect(&web, &named("inet")).expect_silence();
        b.nft(&damage);
        b.inspect(&web, &named("inet")).expect_error_with(100, &[words]);
        // ADD again makes it right.
        b.admit(&web, &named("inet"));
        b.inspect(&web, &named("inet")).expect_silence();
    }
    b.nft("delete table inet filter");
    b.dismiss(&web, &named("inet"));
    assert!(!b.ruleset().contains("web/eth0"));
}

fn a_chain_that_is_not_there_is_refused_and_ignored_by_del(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.nft("table inet filter { chain input { type filter hook input priority 0; }; }");
    let before = b.nft_list("inet filter");
    let missing = firewall("ADD", &web).keys(&named("inet")).run(b);
    missing.expect_error_with(7, &["inet filter forward", "does not exist"]);
    let input = json!([{ "family": "inet", "table": "filter", "chain": "input" }]);
    let elsewhere = firewall("ADD", &web).keys(&named("inet"));
    let elsewhere = elsewhere.set("nftablesForwardChains", input).run(b);
    elsewhere.expect_error_with(7, &["inet filter input", "hook forward"]);
    assert!(!b.ruleset().contains("web/eth0"));
    b.dismiss(&web, &named("inet"));
    assert_eq!(b.nft_list("inet filter"), before);
}
