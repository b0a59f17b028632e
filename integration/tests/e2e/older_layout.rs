//! A node goes from what b302888 left, layout 1, to today's, with traffic flowing; and in the end it is as it
//! was after its boot.
//!
//! The files in `b302888/` are what that commit's plugins made for two containers of one network, as `nft
//! list table` and `iptables-save` printed it; limits and originals are made by hand as it made them.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};

use serde_json::{Value, json};

use cni_testbox::{
    Attachment, Call, HOST_V4, HOST_V6, Network, Outcome, TestBox, Transport, cases, feed, link,
    sh, tcp, tool, udp,
};

use crate::node::{Node, entry, files};
use crate::talks::{Silence, TalkedTo, Talks};

cases! {
    what_b302888_left_is_taken_over, backends;
    what_b302888_left_goes_by_del, backends;
}

/// In the order of their chain, behind `bridge`.
const CHAIN: [&str; 4] = ["portmap", "firewall", "bandwidth", "tuning"];
const DATA_DIR: &str = "/run/cni/tuning";
/// What is said once of each table.
const TAKEN_OVER: &str = "had the layout of an older version; it was taken over";

/// A container whose network, port and name are those in the files.
struct Pod {
    web: Attachment,
    port: u16,
}

impl Pod {
    fn start(b: &TestBox, network: &Network, id: &str, port: u16) -> Self {
        let web = b.web(network, id);
        web.container.netns.serve_echo(7);
        Self { web, port }
    }

    /// One plugin's entry, with what the runtime adds to it, as it was for b302888's ADD.
    fn config(&self, b: &TestBox, plugin: &str) -> Value {
        let mappings = [tcp(self.port, 7), udp(self.port, 80)];
        let mut config = entry(plugin, &mappings, &self.web);
        if ["portmap", "firewall"].contains(&plugin) {
            config["backend"] = json!(b.implementation.backend().unwrap_or("nftables"));
        }
        config["prevResult"] = self.web.result.clone();
        config
    }

    fn call(&self, b: &TestBox, command: &str, plugin: &str) -> Outcome {
        Call::new(plugin, command, &self.web).replace_config(self.config(b, plugin)).run(b)
    }

    /// ADD of the whole chain; what it said.
    fn add(&self, b: &TestBox) -> String {
        let outcomes = CHAIN.map(|plugin| self.call(b, "ADD", plugin));
        for outcome in &outcomes {
            outcome.expect_result();
        }
        outcomes.iter().map(|outcome| outcome.stderr.as_str()).collect()
    }

    /// DEL of the whole chain; what it said.
    fn del(&self, b: &TestBox) -> String {
        let outcomes = CHAIN.map(|plugin| self.call(b, "DEL", plugin));
        outcomes.iter().for_each(Outcome::expect_silence);
        outcomes.iter().map(|outcome| outcome.stderr.as_str()).collect()
    }

    fn check(&self, b: &TestBox) {
        for plugin in CHAIN {
            self.call(b, "CHECK", plugin).expect_silence();
        }
    }

    /// The same before its own ADD: in iptables, the comments of what b302888 mapped name no interface.
    fn check_as_it_is(&self, b: &TestBox) {
        for plugin in CHAIN {
            let outcome = self.call(b, "CHECK", plugin);
            if plugin == "portmap" && b.implementation.backend().is_some() {
                outcome.expect_error_with(100, &["cni-chain restore"]);
            } else {
                outcome.expect_silence();
            }
        }
    }

    /// Everything that b302888's bandwidth and tuning made for it.
    fn limit_and_tune_as_before(&self, ifb: &str) {
        let (id, veth) = (&self.web.container.id, self.web.host_end());
        sh(&format!(
            "ip link add {ifb} mtu 1500 txqueuelen 0 type ifb
            ip link set {ifb} alias net1/{id}/eth0
            ip link set {ifb} up
            tc qdisc add dev {ifb} root handle b0: tbf rate 300mbit burst 375000 latency 15ms
            tc qdisc add dev {veth} clsact
            tc filter add dev {veth} ingress protocol all prio 48387 u32 match u32 0 0 classid 1:1 \
                action mirred egress redirect dev {ifb}
            tc qdisc replace dev {veth} root handle b0: tbf rate 400mbit burst 500000 latency 15ms"
        ));
        let netns = fs::metadata(format!("/run/netns/{id}")).expect("a namespace");
        let index = link(id, "eth0").expect("an interface")["ifindex"].clone();
        let originals = json!([
            { "sysctl": "/proc/sys/net/core/somaxconn", "value": "4096" }, { "mtu": 1500 }]);
        let text = json!({ "format": 1, "owner": format!("net1/{id}/eth0"),
            "namespace": [netns.dev(), netns.ino()], "interface": index, "originals": originals });
        if !fs::exists(DATA_DIR).expect("/run") {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(DATA_DIR)
                .expect("a directory");
        }
        let file = format!("{DATA_DIR}/net1@{id}@eth0.state");
        fs::write(&file, format!("{text}\n")).expect("a file");
        sh(&format!("chmod 600 {file}; ip -n {id} link set eth0 mtu 1400"));
        self.web.container.netns.write_sysctl("core/somaxconn", "512");
    }

    fn settings(&self) -> (String, Value) {
        let id = &self.web.container.id;
        let mtu = link(id, "eth0").expect("an interface")["mtu"].clone();
        (self.web.container.netns.read_sysctl("core/somaxconn"), mtu)
    }

    fn is_reached(&self, b: &TestBox) {
        for host in [HOST_V4, HOST_V6] {
            b.out.reach(Transport::Udp, host, self.port).by(&self.web.container.id);
        }
    }
}

/// Makes everything that b302888's ADDs made.
fn load(b: &TestBox, pods: &[&Pod; 2]) {
    if b.implementation.backend() == Some("iptables") {
        let files = [include_str!("b302888/iptables.save"), include_str!("b302888/ip6tables.save")];
        for (program, saved) in ["iptables-restore", "ip6tables-restore"].iter().zip(files) {
            feed(tool(program).arg("--noflush"), saved);
        }
    } else {
        b.nft(include_str!("b302888/portmap.nft"));
        b.nft(include_str!("b302888/firewall.nft"));
    }
    // As its portmap did for 127.0.0.1.
    b.host.write_sysctl("ipv4/conf/br1/route_localnet", "1");
    let [web, gone] = pods;
    web.limit_and_tune_as_before("bwpb54fe5ecccb4");
    gone.limit_and_tune_as_before("bwp90571f127538");
}

fn gc(b: &TestBox, valid: &[&Attachment]) {
    for plugin in CHAIN {
        Call::of_network(plugin, "GC", "net1").valid(valid).run(b).expect_success();
    }
}

fn status(b: &TestBox) {
    for plugin in CHAIN {
        let status = Call::of_network(plugin, "STATUS", "net1").run(b);
        status.expect_silence();
        assert!(!status.stderr.contains("may not"), "{status}");
    }
}

/// What is said of tables that were taken over: only nftables has any whose layout differs.
fn expect_taken_over(b: &TestBox, said: &str) {
    let tables = if b.implementation.backend().is_some() { 0 } else { 2 };
    assert_eq!(said.matches(TAKEN_OVER).count(), tables, "{said}");
    assert!(!said.contains("another program") && !said.contains("missing"), "{said}");
}

fn what_b302888_left_is_taken_over(b: &TestBox) {
    let network = Network::dual(1);
    Node::use_iptables_once();
    let fresh = Node::look();
    let web = Pod::start(b, &network, "web", 8080);
    let gone = Pod::start(b, &network, "gone", 8081);
    load(b, &[&web, &gone]);
    let neighbour = b.web(&network, "neighbour");
    let home = web.web.clone();
    let talks = Talks::default();
    std::thread::scope(|scope| {
        let _silence = Silence(&talks.end);
        let talked_to = TalkedTo { id: "web".to_owned(), port: 8080, may_lose: 0 };
        talks.begin(scope, b, &talked_to, &home, &neighbour);
        status(b);
        // The first ADD, of whoever, takes over what all have.
        let new = Pod::start(b, &network, "new", 8082);
        expect_taken_over(b, &new.add(b));
        new.is_reached(b);
        new.check(b);
        for pod in [&web, &gone] {
            pod.is_reached(b);
            pod.check_as_it_is(b);
        }
        status(b);
        expect_nothing_said(&gone.del(b));
        assert_eq!(gone.settings(), ("4096".to_owned(), json!(1500)));
        b.out.cannot_reach(Transport::Udp, HOST_V4, 8081);
        gone.web.leave();
        gc(b, &[&web.web, &new.web]);
        web.check_as_it_is(b);
        expect_nothing_said(&web.add(b));
        web.check(b);
        new.del(b);
        new.web.leave();
        web.check(b);
    });
    let answers = talks.answers.into_inner();
    assert!(answers > 50, "{answers} answers while the node was upgraded");
    web.del(b);
    assert_eq!(web.settings(), ("4096".to_owned(), json!(1500)));
    web.web.leave();
    neighbour.leave();
    is_as_after_boot(b, &fresh);
}

fn expect_nothing_said(said: &str) {
    // The box names a backend to every plugin.
    let warnings = said.lines().filter(|line| line.contains("warning"));
    let other: Vec<&str> = warnings.filter(|line| !line.contains("no key \"backend\"")).collect();
    assert_eq!(other, [""; 0]);
}

/// The first call after the upgrade may be a DEL, of a network that was renamed meanwhile, without a result.
fn what_b302888_left_goes_by_del(b: &TestBox) {
    let network = Network::dual(1);
    Node::use_iptables_once();
    let fresh = Node::look();
    let web = Pod::start(b, &network, "web", 8080);
    let gone = Pod::start(b, &network, "gone", 8081);
    load(b, &[&web, &gone]);
    let said: String = CHAIN
        .iter()
        .map(|plugin| {
            let mut config = gone.config(b, plugin);
            config.as_object_mut().expect("an object").remove("prevResult");
            let outcome = Call::new(plugin, "DEL", &gone.web).replace_config(config).run(b);
            outcome.expect_silence();
            outcome.stderr
        })
        .collect();
    expect_taken_over(b, &said);
    assert_eq!(gone.settings(), ("4096".to_owned(), json!(1500)));
    assert!(!b.state().contains("net1/gone/eth0"), "{}", b.state());
    b.out.cannot_reach(Transport::Udp, HOST_V4, 8081);
    web.is_reached(b);
    web.check_as_it_is(b);
    web.del(b);
    web.web.leave();
    gone.web.leave();
    is_as_after_boot(b, &fresh);
}

fn is_as_after_boot(b: &TestBox, fresh: &Node) {
    // A node that boots has no bridge yet, and with it goes the reason for the guard.
    sh("ip link del br1");
    gc(b, &[]);
    assert_eq!(files(), Vec::<String>::new());
    assert_eq!(Node::look(), *fresh);
}
