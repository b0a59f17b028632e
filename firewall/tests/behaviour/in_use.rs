//! A node in use: beside other programs' rules, and while somebody changes them.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use cni_testbox::{
    Attachment, Call, Firewalld, HOST_V4, HOST_V6, Network, OUT_V4, OUT_V6, TestBox, Transport,
    batch, cases, firewall, link, listed, run, tcp, tool,
};

cases! {
    a_host_that_starts_to_drop_is_noticed_and_add_follows, ours;
    a_native_chain_that_starts_to_drop_is_noticed_and_add_follows, ours;
    a_legacy_policy_of_drop_beside_iptables_nft_is_entered, ours;
    rules_of_others_in_forward_move_the_attachment_and_our_own_do_not, ours;
    sources_in_firewalld_do_not_make_ours_the_go_plugins, ours;
    isolation_with_br_netfilter_stops_what_is_not_ip_too, ours;
    the_last_policy_decides_about_the_ports_isolation, ours;
    del_takes_the_ports_isolation_back_whatever_the_policy_of_the_day, ours;
    isolation_of_the_bridge_plugin_stays, ours;
    a_chain_of_our_name_that_is_not_ours_is_not_touched, ours;
    an_administrators_chain_has_no_name_that_means_something_else, ours;
    a_gateway_of_this_moment_is_guarded, ours;
    status_warns_of_what_the_next_add_repairs, ours;
    add_compares_what_the_chains_hold, ours;
    status_without_privilege_is_not_available, ours;
}

fn keys(backend: &str, policy: &str) -> Value {
    json!({ "backend": backend, "ingressPolicy": policy })
}

fn status(keys: &Value) -> Call {
    Call::of_network("firewall", "STATUS", "net1").keys(keys)
}

/// Out and back in, both versions, through whatever the host drops.
fn serves(b: &TestBox, web: &Attachment) {
    for (out, host) in [(OUT_V4, HOST_V4), (OUT_V6, HOST_V6)] {
        web.container.netns.reach(Transport::Tcp, out, 80).by("out");
        b.out.reach(Transport::Tcp, host, 8080).by("web");
    }
    b.out.cannot_reach(Transport::Tcp, &web.v4(), 80);
}

fn is_cut_off(web: &Attachment) {
    web.container.netns.cannot_reach(Transport::Tcp, OUT_V4, 80);
    web.container.netns.cannot_reach(Transport::Tcp, OUT_V6, 80);
}

fn set_policy(programs: &[&str], policy: &str) {
    for program in programs {
        run(tool(program).args(["-P", "FORWARD", policy]));
    }
}

/// What dockerd and ufw do.
fn a_host_that_starts_to_drop_is_noticed_and_add_follows(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.out.serve("out", 80);
    b.map(&web, &[tcp(8080, 80)]);
    let auto = json!({});
    b.admit(&web, &auto);
    assert!(b.ruleset().contains("table inet cni_firewall"));
    b.inspect(&web, &auto).expect_silence();
    set_policy(&["iptables", "ip6tables"], "DROP");
    is_cut_off(&web);
    b.inspect(&web, &auto).expect_error_with(
        100,
        &["table inet cni_firewall", "chain ip filter FORWARD has policy drop"],
    );
    b.admit(&web, &auto);
    serves(b, &web);
    b.inspect(&web, &auto).expect_silence();
    assert!(!b.nft_list("inet cni_firewall").contains("web/eth0"), "it is in one place");
    // And back.
    b.dismiss(&web, &auto);
    is_cut_off(&web);
    set_policy(&["iptables", "ip6tables"], "ACCEPT");
}

fn a_native_chain_that_starts_to_drop_is_noticed_and_add_follows(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.out.serve("out", 80);
    b.map(&web, &[tcp(8080, 80)]);
    let auto = json!({});
    b.admit(&web, &auto);
    b.nft("table inet filter { chain forward { type filter hook forward priority 0; policy drop; }; }");
    let theirs = b.nft_list("inet filter");
    is_cut_off(&web);
    let words = ["chain inet filter forward", "has policy drop"];
    b.inspect(&web, &auto).expect_error_with(100, &words);
    b.admit(&web, &auto);
    serves(b, &web);
    b.inspect(&web, &auto).expect_silence();
    b.dismiss(&web, &auto);
    is_cut_off(&web);
    assert_eq!(b.nft_list("inet filter"), theirs, "as it was");
    // Whoever insists on nftables is only warned.
    let insisting = json!({ "backend": "nftables" });
    let said = b.admit(&web, &insisting).stderr;
    assert!(said.contains("chain inet filter forward has policy drop"), "{said}");
    b.inspect(&web, &insisting).expect_silence();
    assert_eq!(b.nft_list("inet filter"), theirs);
}

fn a_legacy_policy_of_drop_beside_iptables_nft_is_entered(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.out.serve("out", 80);
    b.map(&web, &[tcp(8080, 80)]);
    for keys in [json!({}), json!({ "backend": "iptables" })] {
        // Both drop: an accept in one is none in the other.
        for both in [false, true] {
            let legacy = ["iptables-legacy", "ip6tables-legacy"];
            let nft = ["iptables", "ip6tables"];
            set_policy(&legacy, "DROP");
            if both {
                set_policy(&nft, "DROP");
            }
            is_cut_off(&web);
            b.admit(&web, &keys);
            serves(b, &web);
            b.inspect(&web, &keys).expect_silence();
            run(tool("iptables-legacy").args(["-F", "CNI-FORWARD"]));
            b.inspect(&web, &keys).expect_error_with(100, &["legacy iptables"]);
            b.admit(&web, &keys);
            b.inspect(&web, &keys).expect_silence();
            b.dismiss(&web, &keys);
            is_cut_off(&web);
            set_policy(&legacy, "ACCEPT");
            set_policy(&nft, "ACCEPT");
        }
        // It starts after ADD.
        b.admit(&web, &keys);
        set_policy(&["iptables-legacy"], "DROP");
        web.container.netns.cannot_reach(Transport::Tcp, OUT_V4, 80);
        b.inspect(&web, &keys).expect_error_with(100, &["legacy iptables"]);
        b.admit(&web, &keys);
        serves(b, &web);
        b.dismiss(&web, &keys);
        set_policy(&["iptables-legacy"], "ACCEPT");
    }
}

fn rules_of_others_in_forward_move_the_attachment_and_our_own_do_not(b: &TestBox) {
    let (web, other) = (b.web(&Network::dual(1), "web"), b.web(&Network::dual(2), "other"));
    b.admit(&web, &json!({}));
    // Another network insists on iptables, and makes its jumps there.
    b.admit(&other, &json!({ "backend": "iptables", "ingressPolicy": "same-bridge" }));
    b.inspect(&web, &json!({})).expect_silence();
    run(tool("iptables").args(["-A", "FORWARD", "-j", "REJECT"]));
    b.inspect(&web, &json!({})).expect_error_with(100, &["ip filter FORWARD has rules"]);
    b.admit(&web, &json!({}));
    b.inspect(&web, &json!({})).expect_silence();
}

/// `nft flush ruleset` takes our table, and firewalld still says that it has the source.
fn sources_in_firewalld_do_not_make_ours_the_go_plugins(b: &TestBox) {
    let firewalld = Firewalld::start();
    let (web, apart) = (b.web(&Network::dual(1), "web"), b.web(&Network::dual(2), "apart"));
    let (open, isolated) = (json!({}), json!({ "ingressPolicy": "same-bridge" }));
    b.admit(&web, &open);
    b.admit(&apart, &isolated);
    web.container.netns.cannot_reach(Transport::Tcp, &apart.v4(), 80);
    b.nft("flush ruleset");
    let source = format!("--query-source={}/32", web.v4());
    assert_eq!(firewalld.cmd(&["--zone=trusted", &source]).trim(), "yes");
    for (attachment, keys) in [(&web, &open), (&apart, &isolated)] {
        b.inspect(attachment, keys).expect_error_with(100, &["table inet cni_firewall"]);
        b.admit(attachment, keys);
        b.inspect(attachment, keys).expect_silence();
    }
    web.container.netns.cannot_reach(Transport::Tcp, &apart.v4(), 80);

    // Nothing of it is left behind, by DEL or by GC.
    let remembered = || std::fs::read_dir("/run/cni/firewall").expect("a directory").count();
    assert_eq!(remembered(), 2);
    b.dismiss(&web, &open);
    assert_eq!(remembered(), 1);
    let gc = Call::of_network("firewall", "GC", "net2").keys(&isolated).valid(&[]);
    gc.run(b).expect_success();
    assert_eq!(remembered(), 0);
}

fn knows(asker: &Attachment, address: &str) -> bool {
    let neighbours = || run(tool("ip").args(["neighbour", "show", "to", address]));
    asker.container.netns.enter(neighbours).contains("lladdr")
}

/// Types of frames that pass no IP rules: one for experiments, and a VLAN tag, which Linux takes with
/// VLAN ID 0 for a priority and delivers what is behind it.
const NOT_IP: [[u8; 6]; 2] = [[0x88, 0xb5, 0, 0, 0, 0], [0x81, 0x00, 0x00, 0x00, 0x08, 0x00]];

/// Whether frames of this type get from one container to the other.
fn frames_arrive(from: &Attachment, to: &Attachment, kind: [u8; 6]) -> bool {
    const FRAMES: usize = 200;
    let mac = |attachment: &Attachment| -> Vec<u8> {
        let link = link(&attachment.container.id, &attachment.ifname).expect("an interface");
        let text = link["address"].as_str().expect("an address");
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hex digits")).collect()
    };
    let frame = [mac(to), mac(from), kind.to_vec(), vec![0; 46]].concat();
    let received = || -> usize {
        let links = listed(&format!("ip -s -j link show dev {}", to.host_end()));
        let packets = links[0]["stats64"]["tx"]["packets"].as_u64().expect("a counter");
        usize::try_from(packets).expect("few")
    };
    let before = received();
    // socat makes a frame of each block that it reads.
    let mut socat = Command::new("ip")
        .args(["netns", "exec", &from.container.id, "socat", "-u", "-b"])
        .args([&frame.len().to_string(), "STDIN", &format!("INTERFACE:{}", from.ifname)])
        .stdin(Stdio::piped())
        .spawn()
        .expect("socat: apt-get install socat");
    socat.stdin.take().expect("piped").write_all(&frame.repeat(FRAMES)).expect("socat reads");
    assert!(socat.wait().expect("socat ends").success());
    // On a busy machine they lie in a processor's backlog for a while after socat has ended.
    (0..10).any(|_| {
        let arrive = received() - before > FRAMES / 2;
        if !arrive {
            sleep(Duration::from_millis(20));
        }
        arrive
    })
}

fn isolation_with_br_netfilter_stops_what_is_not_ip_too(b: &TestBox) {
    let network = Network::dual(1);
    b.host.bridge_netfilter(true);
    for backend in ["nftables", "iptables"] {
        let name = |role: &str| format!("{role}-{backend}");
        let web = b.web(&network, &name("web"));
        // Of another policy, and so no isolated port either.
        let attacker = b.web(&network, &name("attacker"));
        let isolated = keys(backend, "isolated");
        attacker.container.netns.reach(Transport::Tcp, &web.v4(), 80).by(&name("web"));
        assert!(knows(&attacker, &web.v4()));
        for kind in NOT_IP {
            assert!(frames_arrive(&attacker, &web, kind), "{backend}: {kind:x?} before");
        }
        b.map(&web, &[tcp(8080, 80)]);
        b.admit(&web, &isolated);
        b.admit(&attacker, &keys(backend, "same-bridge"));
        for attachment in [&web, &attacker] {
            attachment.container.netns.batch(&["neighbour flush all"]);
        }
        attacker.container.netns.cannot_reach(Transport::Tcp, &web.v4(), 80);
        assert!(!knows(&attacker, &web.v4()), "{backend}: ARP");
        web.container.netns.cannot_reach(Transport::Tcp, &attacker.v4(), 80);
        assert!(!knows(&web, &attacker.v4()), "{backend}: ARP the other way");
        for kind in NOT_IP {
            assert!(!frames_arrive(&attacker, &web, kind), "{backend}: {kind:x?}");
            assert!(!frames_arrive(&web, &attacker, kind), "{backend}: {kind:x?} the other way");
        }
        b.inspect(&web, &isolated).expect_silence();
        // The gateway answers, and mapped ports lead from port to port.
        for host in [HOST_V4, HOST_V6] {
            attacker.container.netns.reach(Transport::Tcp, host, 8080).by(&name("web"));
        }
        let listing = b.nft_list("bridge cni_firewall");
        assert!(listing.contains("ether type ip return"), "{listing}");
        b.nft("flush chain bridge cni_firewall forward");
        b.inspect(&web, &isolated).expect_error_with(100, &["chain bridge cni_firewall forward"]);
        b.admit(&web, &isolated);
        // Who still asked for the other meanwhile may have been heard.
        attacker.container.netns.batch(&["neighbour flush all"]);
        attacker.container.netns.cannot_reach(Transport::Tcp, &web.v4(), 80);
        assert!(!knows(&attacker, &web.v4()), "{backend}: ARP after ADD again");

        // What nft lists can be loaded again.
        b.nft(&format!("delete table bridge cni_firewall; {listing}"));
        b.inspect(&web, &isolated).expect_silence();
        b.dismiss(&web, &isolated);
        assert!(!b.ruleset().contains("table bridge"), "{backend}: the last takes it along");
        // GC finds what no DEL was told of.
        b.admit(&web, &isolated);
        Call::of_network("firewall", "GC", "net1")
            .keys(&isolated)
            .valid(&[])
            .run(b)
            .expect_success();
        assert!(!b.ruleset().contains("table bridge"), "{backend}: GC");
        b.unmap(&web, &[tcp(8080, 80)]);
        b.dismiss(&attacker, &isolated);
    }
    b.host.bridge_netfilter(false);
}

fn is_isolated(attachment: &Attachment) -> bool {
    let port = attachment.host_end();
    run(tool("ip").args(["-d", "link", "show", &port])).contains("isolated on")
}

fn the_last_policy_decides_about_the_ports_isolation(b: &TestBox) {
    let network = Network::dual(1);
    for backend in ["nftables", "iptables"] {
        let (web, other) = (
            b.web(&network, &format!("web-{backend}")),
            b.web(&network, &format!("other-{backend}")),
        );
        for policy in ["same-bridge", "open"] {
            for attachment in [&web, &other] {
                b.admit(attachment, &keys(backend, "isolated"));
                assert!(is_isolated(attachment), "{backend}");
            }
            other.container.netns.cannot_reach(Transport::Tcp, &web.v4(), 80);
            for attachment in [&web, &other] {
                b.admit(attachment, &keys(backend, policy));
                assert!(!is_isolated(attachment), "{backend}: {policy}");
                b.inspect(attachment, &keys(backend, policy)).expect_silence();
            }
            other
                .container
                .netns
                .reach(Transport::Tcp, &web.v4(), 80)
                .by(&format!("web-{backend}"));
            other
                .container
                .netns
                .reach(Transport::Tcp, &web.v6(), 80)
                .by(&format!("web-{backend}"));
        }
        // On another backend than before, too.
        let before = if backend == "nftables" { "iptables" } else { "nftables" };
        b.admit(&web, &keys(before, "isolated"));
        b.admit(&web, &keys(backend, "open"));
        assert!(!is_isolated(&web), "{before} to {backend}");
        for attachment in [&web, &other] {
            b.dismiss(attachment, &keys(backend, "open"));
        }
    }
}

fn del_takes_the_ports_isolation_back_whatever_the_policy_of_the_day(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    for backend in ["nftables", "iptables"] {
        for day in ["open", "same-bridge", "isolated", "bogus"] {
            b.admit(&web, &keys(backend, "isolated"));
            assert!(is_isolated(&web));
            b.dismiss(&web, &keys(backend, day));
            assert!(!is_isolated(&web), "{backend}: DEL with {day}");
        }
    }
}

fn isolation_of_the_bridge_plugin_stays(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    batch(&[&format!("link set {} type bridge_slave isolated on", web.host_end())]);
    for backend in ["nftables", "iptables"] {
        for policy in ["open", "same-bridge"] {
            b.admit(&web, &keys(backend, policy));
            b.dismiss(&web, &keys(backend, policy));
            assert!(is_isolated(&web), "{backend}: {policy}");
        }
    }
}

fn a_chain_of_our_name_that_is_not_ours_is_not_touched(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.nft(
        "table inet filter {
            chain cni_firewall { tcp dport 9 drop comment \"theirs\"; }
            chain forward { type filter hook forward priority 0; policy drop; jump cni_firewall; }
        }",
    );
    let theirs = b.nft_list("inet filter");
    let entry = json!({ "family": "inet", "table": "filter", "chain": "forward" });
    let named = json!({ "backend": "nftables", "nftablesForwardChains": [entry] });
    firewall("ADD", &web).keys(&named).run(b).expect_error_with(7, &["cni_firewall", "rename it"]);
    status(&named).run(b).expect_error_with(7, &["cni_firewall", "rename it"]);
    assert_eq!(b.nft_list("inet filter"), theirs, "ADD");
    b.dismiss(&web, &named);
    assert_eq!(b.nft_list("inet filter"), theirs, "DEL");

    // Ours was there, and somebody put one of theirs in its place.
    b.nft("flush chain inet filter forward; delete chain inet filter cni_firewall");
    b.admit(&web, &named);
    b.nft("delete table inet filter");
    b.nft(&theirs);
    b.dismiss(&web, &named);
    assert_eq!(b.nft_list("inet filter"), theirs, "DEL after a reload");
}

fn an_administrators_chain_has_no_name_that_means_something_else(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    for backend in ["nftables", "iptables"] {
        for name in ["REJECT", "LOG", "ip", "th", "queue", "CNI-ISOLATION-SOURCES"] {
            let keys = json!({ "backend": backend, "iptablesAdminChainName": name });
            let outcome = firewall("ADD", &web).keys(&keys).run(b);
            outcome.expect_error_with(7, &["iptablesAdminChainName"]);
        }
        assert!(!b.ruleset().contains("cni_firewall") && !b.ruleset().contains("CNI-"));
    }
    // What was made can be listed and loaded again.
    let keys = json!({ "backend": "nftables", "iptablesAdminChainName": "log-all" });
    b.admit(&web, &keys);
    let listing = b.nft_list("inet cni_firewall");
    b.nft("flush ruleset");
    b.nft(&listing);
    b.inspect(&web, &keys).expect_silence();
}

/// Duplicate address detection lasts a second or two on a bridge that was just made.
fn a_gateway_of_this_moment_is_guarded(b: &TestBox) {
    let (network, far_network) = (Network::dual(1), Network::dual(2));
    b.host.serve("host", 4000);
    for backend in ["nftables", "iptables"] {
        let web = b.web(&network, &format!("web-{backend}"));
        let far = b.web(&far_network, &format!("far-{backend}"));
        let gateway = network.gateway_v6();
        b.host.write_sysctl("ipv6/conf/br1/accept_dad", "1");
        b.host.write_sysctl("ipv6/conf/br1/dad_transmits", "30");
        batch(&[
            &format!("address del {gateway}/64 dev br1"),
            &format!("address add {gateway}/64 dev br1"),
        ]);
        let addresses = run(tool("ip").args(["-6", "address", "show", "dev", "br1"]));
        assert!(addresses.contains("tentative"), "{addresses}");
        for attachment in [&web, &far] {
            b.admit(attachment, &keys(backend, "same-bridge"));
        }
        b.inspect(&web, &keys(backend, "same-bridge")).expect_silence();
        batch(&[
            &format!("address del {gateway}/64 dev br1"),
            &format!("address add {gateway}/64 dev br1 nodad"),
        ]);
        web.container.netns.reach(Transport::Tcp, &gateway, 4000).by("host");
        far.container.netns.cannot_reach(Transport::Tcp, &gateway, 4000);
        for attachment in [&web, &far] {
            b.dismiss(attachment, &keys(backend, "same-bridge"));
        }
    }
}

/// What somebody did to the chains, as long as the next ADD can repair it.
const DAMAGE: [&str; 5] = [
    "flush chain inet cni_firewall forward",
    "flush chain inet cni_firewall isolation",
    "insert rule inet cni_firewall forward drop",
    "add chain inet cni_firewall forward { policy drop; }",
    // As many rules as before, and one of them of another meaning.
    "flush chain inet cni_firewall input; add rule inet cni_firewall input drop; \
     add rule inet cni_firewall input accept; add rule inet cni_firewall input accept; \
     add rule inet cni_firewall input accept; add rule inet cni_firewall input accept",
];

fn status_warns_of_what_the_next_add_repairs(b: &TestBox) {
    let network = Network::dual(1);
    let (web, next) = (b.web(&network, "web"), b.web(&network, "next"));
    let keys = keys("nftables", "open");
    b.admit(&web, &keys);
    for damage in DAMAGE {
        b.nft(damage);
        let outcome = status(&keys).run(b);
        outcome.expect_success();
        assert!(outcome.stderr.contains("the next ADD"), "{damage}: {outcome:?}");
        b.admit(&next, &keys);
        let outcome = status(&keys).run(b);
        outcome.expect_success();
        assert!(!outcome.stderr.contains("the next ADD"), "{damage}: {outcome:?}");
        b.inspect(&web, &keys).expect_silence();
        b.dismiss(&next, &keys);
    }
    // What no ADD can repair.
    b.nft("flush ruleset; table inet cni_firewall { chain forward { type filter hook input priority 0; }; }");
    status(&keys).run(b).expect_error_with(50, &["chain inet cni_firewall forward"]);
    firewall("ADD", &web).keys(&keys).run(b).expect_error();
}

fn add_compares_what_the_chains_hold(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let (first, second) = (b.web(&Network::dual(2), "first"), b.web(&Network::dual(2), "second"));
    b.admit(&web, &keys("nftables", "same-bridge"));
    b.admit(&first, &keys("nftables", "open"));
    first.container.netns.cannot_reach(Transport::Tcp, &web.v4(), 80);
    // Every chain keeps its number of rules.
    let rules = run(tool("nft").args(["-a", "list", "chain", "inet", "cni_firewall", "isolation"]));
    for line in rules.lines().filter(|line| line.contains("drop # handle")) {
        let handle = line.rsplit(' ').next().expect("a handle");
        b.nft(&format!("replace rule inet cni_firewall isolation handle {handle} accept"));
    }
    first.container.netns.reach(Transport::Tcp, &web.v4(), 80).by("web");
    b.admit(&second, &keys("nftables", "open"));
    first.container.netns.cannot_reach(Transport::Tcp, &web.v4(), 80);
    second.container.netns.cannot_reach(Transport::Tcp, &web.v6(), 80);
    b.inspect(&web, &keys("nftables", "same-bridge")).expect_silence();
}

fn status_without_privilege_is_not_available(b: &TestBox) {
    for keys in [
        json!({}),
        json!({ "backend": "nftables" }),
        json!({ "backend": "iptables" }),
        json!({ "nftablesForwardChains": [{ "family": "inet", "table": "t", "chain": "c" }] }),
    ] {
        status(&keys).without_net_admin().run(b).expect_error_with(50, &[]);
    }
}
