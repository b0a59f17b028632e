//! Hosts that lack something: an ADD that cannot be served fails before it changes anything, and STATUS
//! says what is missing.
//!
//! What a kernel lacks is in `guest/modules.rs`: modules are the machine's.

use cni_testbox::{
    Attachment, Call, Network, TestBox, bandwidth, both, cases, firewall, portmap, run, sh, tool,
    tuning,
};
use serde_json::json;

cases! {
    without_net_admin, ours;
    in_a_user_namespace, ours;
    with_few_descriptors, ours;
    where_nothing_can_be_started, ours;
    with_read_only_sysctls, ours;
    with_a_read_only_run, ours;
    with_a_full_disk, ours;
    without_ipv6, ours;
}

/// One call of each plugin, with the key that makes its command look at everything.
fn calls(command: &str, web: &Attachment) -> Vec<Call> {
    let iptables = json!({ "backend": "iptables" });
    vec![
        portmap(command, web).mappings(&both(8080, 80)),
        portmap(command, web).mappings(&both(8080, 80)).keys(&iptables),
        firewall(command, web),
        firewall(command, web).keys(&iptables),
        bandwidth(command, web).ingress(8_000_000, 80_000).egress(8_000_000, 80_000),
        tuning(command, web).set("sysctl", json!({ "net.core.somaxconn": "601" })),
    ]
}

const PLUGINS: [&str; 4] = ["portmap", "firewall", "bandwidth", "tuning"];

fn status(plugin: &str) -> Call {
    let call = Call::of_network(plugin, "STATUS", "net1");
    if plugin == "tuning" {
        call.set("sysctl", json!({ "net.core.somaxconn": "601" }))
    } else {
        call
    }
}

/// A container, on a host whose plugins have all been at work: their empty tables stay until a GC.
fn furnish(b: &TestBox, network: &Network) -> Attachment {
    let web = b.web(network, "web");
    for command in ["ADD", "DEL"] {
        for call in calls(command, &web) {
            call.run(b).success();
        }
    }
    web
}

/// Each ADD succeeds, and then so do CHECK and DEL of a host that lacks nothing; or nothing changes. How
/// many failed.
#[track_caller]
fn add_all(b: &TestBox, web: &Attachment, wrapper: &[&str]) -> usize {
    let mut failed = 0;
    let others = calls("CHECK", web).into_iter().zip(calls("DEL", web));
    for (add, (check, del)) in calls("ADD", web).iter().zip(others) {
        let before = b.state();
        let outcome = add.clone().under(wrapper).run(b);
        if outcome.succeeded() {
            check.run(b).success();
            del.run(b).success();
        } else {
            failed += 1;
            outcome.expect_refusal();
        }
        assert_eq!(b.state(), before, "{outcome}");
    }
    failed
}

/// STATUS of these plugins fails, and names one of the words.
#[track_caller]
fn missing(b: &TestBox, plugins: &[&str], wrapper: &[&str], words: &[&str]) {
    for plugin in plugins {
        let outcome = status(plugin).under(wrapper).run(b);
        let (code, text) = outcome.expect_error();
        assert!(code == 50 || code == 11, "{outcome}");
        assert!(words.iter().any(|word| text.contains(word)), "{outcome}");
    }
}

fn without_net_admin(b: &TestBox) {
    let web = furnish(b, &Network::dual(1));
    let wrapper = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];
    assert!(add_all(b, &web, &wrapper) >= 5);
    missing(b, &PLUGINS[..3], &wrapper, &["CAP_NET_ADMIN", "root"]);
}

fn in_a_user_namespace(b: &TestBox) {
    let web = furnish(b, &Network::dual(1));
    let wrapper = ["unshare", "--user", "--map-root-user"];
    assert_eq!(add_all(b, &web, &wrapper), 6);
    missing(b, &["portmap", "firewall"], &wrapper, &["CAP_NET_ADMIN", "root"]);
}

fn with_few_descriptors(b: &TestBox) {
    let web = furnish(b, &Network::dual(1));
    let mut failed = Vec::new();
    for limit in 3..=13 {
        let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        failed.push(add_all(b, &web, &["sh", "-c", &script]));
    }
    assert!(failed[0] == 6 && failed[10] == 0, "{failed:?}");
}

fn where_nothing_can_be_started(b: &TestBox) {
    let web = furnish(b, &Network::dual(1));
    let inject = "inject=clone,clone3,vfork:error=EAGAIN";
    let wrapper = ["strace", "-o", "/run/trace", "-e", inject];
    for add in calls("ADD", &web) {
        let before = b.state();
        let outcome = add.under(&wrapper).run(b);
        if !outcome.succeeded() {
            outcome.expect_error_with(11, &["try again"]);
            assert_eq!(b.state(), before, "{outcome}");
        }
    }
    for plugin in PLUGINS {
        let outcome = status(plugin).under(&wrapper).run(b);
        assert!(outcome.succeeded() || outcome.expect_error().0 == 11, "{outcome}");
    }
}

fn make_read_only(path: &str, bind: &str) {
    run(tool("mount").args([bind, path, path]));
    run(tool("mount").args(["-o", "remount,bind,ro", path]));
}

fn with_read_only_sysctls(b: &TestBox) {
    let web = furnish(b, &Network::dual(1));
    sh(&format!("echo 0 > /proc/sys/net/ipv4/conf/{}/route_localnet", web.network.bridge()));
    make_read_only("/proc/sys", "--bind");
    assert_eq!(add_all(b, &web, &[]), 3);
    missing(b, &["portmap", "tuning"], &[], &["/proc/sys"]);
}

fn with_a_read_only_run(b: &TestBox) {
    let web = furnish(b, &Network::dual(1));
    // With what is mounted beneath, which stays as it is.
    make_read_only("/run", "--rbind");
    assert_eq!(add_all(b, &web, &[]), 4);
    missing(b, &["tuning"], &[], &["/run/cni/tuning"]);
}

fn with_a_full_disk(b: &TestBox) {
    let web = furnish(b, &Network::dual(1));
    sh("mount -t tmpfs -o size=4k,nr_inodes=8 full /run/cni; mkdir -m 700 /run/cni/tuning;
        head -c 4096 /dev/zero > /run/cni/filler || true");
    assert_eq!(add_all(b, &web, &[]), 1);
    missing(b, &["tuning"], &[], &["/run/cni/tuning"]);
}

fn without_ipv6(b: &TestBox) {
    sh(
        "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6",
    );
    let web = furnish(b, &Network::v4(1));
    assert_eq!(add_all(b, &web, &[]), 0);
    for plugin in PLUGINS {
        status(plugin).run(b).success();
    }
}
