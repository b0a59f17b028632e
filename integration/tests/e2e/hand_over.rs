//! `cni-chain uninstall --hand-over`: containers go back to Debian's Go plugins while they talk, and after
//! those plugins' DEL the host is as if ours had never been there.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use cni_chain::{NetworkList, Runner, RuntimeConf};
use serde_json::{Value, json};

use cni_testbox::{
    Container, Firewalld, GO_PLUGINS, HOST_V4, HOST_V6, Namespace, TestBox, Transport, arguments,
    attempt, cases, listed, newer, sh,
};

cases! {
    containers_go_back_while_they_talk, backends;
    what_waits_in_a_queue_is_not_lost, ours;
    without_a_word_running_containers_keep_the_plugins, ours;
    nobody_to_hand_over_to, ours;
    what_a_newer_version_made_stays, ours;
    two_entries_of_portmap_go_back, iptables_only;
    sources_of_firewalld_stay, ours;
    a_del_that_is_under_way_leaves_nothing, ours;
    a_second_interface_goes_back, backends;
    what_was_appended_stays_for_running_containers, ours;
}

const DIR: &str = "/opt/cni/bin";
const FILE: &str = "/etc/cni/net.d/10-podnet.conflist";
/// The echo server's port in each container.
const ECHO: u16 = 7;
const PLUGINS: [&str; 4] = ["portmap", "bandwidth", "tuning", "firewall"];
/// Bits per second: fast enough for all questions.
const RATE: u64 = 20_000_000;
/// So slow that a few questions without a pause are always in a queue.
const SLOW: u64 = 64_000;

struct Node<'a> {
    b: &'a TestBox,
    list: NetworkList,
}

struct Pod {
    container: Container,
    conf: RuntimeConf,
    port: u16,
}

impl<'a> Node<'a> {
    /// With Debian's plugins in /opt/cni/bin, and a network of all four.
    fn new(b: &'a TestBox) -> Self {
        assert!(!Path::new(DIR).exists(), "the box is fresh");
        sh(&format!("mkdir -p {DIR} && cp {GO_PLUGINS}/* {DIR}/"));
        let backend = b.implementation.backend().unwrap_or("nftables");
        let list = json!({ "cniVersion": "1.0.0", "name": "podnet", "plugins": [
            { "type": "bridge", "bridge": "br1", "isGateway": true, "hairpinMode": true,
              "ipam": { "type": "host-local",
                "ranges": [[{ "subnet": "10.88.1.0/24" }], [{ "subnet": "fd88:1::/64" }]],
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] } },
            { "type": "portmap", "backend": backend, "capabilities": { "portMappings": true } },
            { "type": "firewall", "backend": backend },
            { "type": "bandwidth", "capabilities": { "bandwidth": true } },
            { "type": "tuning", "mtu": 1400, "sysctl": { "net.core.somaxconn": "512" } },
        ]});
        Self::of(b, &list)
    }

    fn of(b: &'a TestBox, list: &Value) -> Self {
        let list = NetworkList::from_bytes(list.to_string().as_bytes()).expect("a conflist");
        Self { b, list }
    }

    fn runner() -> Runner {
        Runner::new(vec![DIR.into()], "/var/lib/cni".into())
    }

    fn add(&self, id: &str, port: u16) -> Pod {
        self.add_limited(id, port, RATE)
    }

    fn add_limited(&self, id: &str, port: u16, rate: u64) -> Pod {
        let container = self.b.container(id);
        let conf = RuntimeConf {
            container_id: id.into(),
            netns: container.netns.path().display().to_string(),
            ifname: "eth0".into(),
            args: Vec::new(),
            capability_args: arguments(&json!({
                "portMappings": [
                    { "hostPort": port, "containerPort": ECHO, "protocol": "tcp" },
                    { "hostPort": port, "containerPort": 80, "protocol": "udp" }],
                "bandwidth": { "ingressRate": rate, "ingressBurst": 16_000,
                    "egressRate": rate, "egressBurst": 16_000 } })),
        };
        Self::runner().add(&self.list, &conf).expect("ADD");
        container.netns.serve(id, 80);
        container.netns.serve_echo(ECHO);
        Pod { container, conf, port }
    }

    /// The Go plugins find all that they look for. portmap's CHECK finds fault with its own rules, where
    /// there are two families.
    fn is_sound_to_go(&self, pod: &Pod) {
        let mut list: Value = serde_json::from_slice(self.list.bytes()).expect("JSON");
        list["plugins"].as_array_mut().expect("a list").retain(|entry| entry["type"] != "portmap");
        let list = NetworkList::from_bytes(list.to_string().as_bytes()).expect("a conflist");
        Self::runner().check(&list, &pod.conf).expect("CHECK");
    }

    fn del(&self, pod: &Pod) {
        Self::runner().del(&self.list, &pod.conf).expect("DEL");
        sh(&format!("ip netns del {}", pod.container.id));
    }

    /// Who asks, and where: outside, the host by its address and by 127.0.0.1, the container itself, a neighbour.
    fn askers<'p>(
        &'p self,
        pod: &'p Pod,
        neighbour: &'p Container,
    ) -> Vec<(&'p Namespace, &'static str)> {
        let clients = [&self.b.out, &self.b.host, &pod.container.netns, &neighbour.netns];
        let mut askers: Vec<(&Namespace, &'static str)> =
            clients.into_iter().flat_map(|client| [(client, HOST_V4), (client, HOST_V6)]).collect();
        askers.push((&self.b.host, "127.0.0.1"));
        askers
    }
}

/// Runs it; whether it succeeded, and what it said.
fn cni_chain(program: &str, arguments: &str) -> (bool, String) {
    let output = attempt(&format!("{program} {arguments}"));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    println!("{arguments}: {said}");
    (output.status.success(), said)
}

#[track_caller]
fn install(arguments: &str) {
    let arguments = format!("install --bin-dir {DIR} {arguments}");
    assert!(cni_chain(env!("CARGO_BIN_EXE_cni-chain"), &arguments).0);
}

fn uninstall(arguments: &str) -> (bool, String) {
    cni_chain(&format!("{DIR}/cni-chain"), &format!("uninstall --bin-dir {DIR} {arguments}"))
}

fn is_gos(plugin: &str) -> bool {
    let go = fs::read(Path::new(GO_PLUGINS).join(plugin)).expect("Debian's");
    fs::read(Path::new(DIR).join(plugin)).expect("there") == go
}

/// Ends the talks when it is dropped, also by a panic.
struct Silence<'a>(&'a AtomicBool);

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn containers_go_back_while_they_talk(b: &TestBox) {
    let node = Node::new(b);
    // Tables that iptables keeps once it has made them.
    sh("for program in iptables ip6tables; do $program -t raw -P PREROUTING ACCEPT; done");
    // What the Go plugins leave by themselves, shared chains and the bridge.
    let first = node.add("first", 8000);
    node.is_sound_to_go(&first);
    node.del(&first);
    let before = b.state();

    install("");
    let pods: Vec<Pod> =
        (0..4_u16).map(|index| node.add(&format!("c{index}"), 8100 + index)).collect();
    let ruleset = b.ruleset();
    assert!(PLUGINS.iter().all(|plugin| !is_gos(plugin)));
    let neighbour = &pods[3].container;
    let (end, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _silence = Silence(&end);
        let repeat = |ask: &mut dyn FnMut()| {
            while !end.load(Ordering::Relaxed) {
                ask();
                answers.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(50));
            }
        };
        for pod in &pods[..3] {
            for (client, host) in node.askers(pod, neighbour) {
                scope.spawn(move || {
                    repeat(&mut || client.tcp_flow(host, pod.port).echo());
                });
            }
            for (host, source) in [(HOST_V4, pod.port + 20_000), (HOST_V6, pod.port + 30_000)] {
                let mut connection = b.out.tcp_flow(host, pod.port);
                scope.spawn(move || repeat(&mut || connection.echo()));
                let datagrams = b.out.udp_flow(source, host, pod.port);
                let id = &pod.container.id;
                // The Go portmap's ADD forgets UDP flows of its ports: an answer that is under way then is lost.
                let mut may_lose = 1_u8;
                scope.spawn(move || {
                    repeat(&mut || match datagrams.try_reach() {
                        Some(reply) => drop(reply.by(id)),
                        None => may_lose = may_lose.checked_sub(1).expect("one datagram at most"),
                    });
                });
            }
        }
        sleep(Duration::from_millis(300));
        let asked = answers.load(Ordering::Relaxed);
        let (succeeded, said) = uninstall("--hand-over --dry-run");
        assert!(
            succeeded && said.contains("podnet/c0/eth0: would be handed over: portmap"),
            "{said}"
        );
        assert_eq!(b.ruleset(), ruleset);
        let (succeeded, said) = uninstall("--hand-over");
        assert!(succeeded, "{said}");
        for index in 0..4 {
            let line =
                format!("podnet/c{index}/eth0: handed over: portmap, firewall, bandwidth, tuning");
            assert!(said.contains(&line), "{said}");
        }
        sleep(Duration::from_secs(1));
        let asked = answers.load(Ordering::Relaxed) - asked;
        assert!(asked > 300, "{asked} answers while they were handed over");
    });
    assert!(PLUGINS.iter().all(|plugin| is_gos(plugin)));
    assert!(!Path::new(DIR).join("cni-chain").exists());
    for table in ["cni_portmap", "cni_firewall", "cni-chain"] {
        assert!(!b.nft_list_all().contains(table), "{table}: {}", b.nft_list_all());
    }
    for pod in &pods {
        node.is_sound_to_go(pod);
        // What its DEL gives back.
        let backup = format!("/run/cni/tuning/{}_eth0.json", pod.container.id);
        let backup: Value =
            serde_json::from_slice(&fs::read(backup).expect("a backup")).expect("JSON");
        assert_eq!(backup, json!({ "mtu": 1500 }));
        for host in [HOST_V4, HOST_V6] {
            b.out.reach(Transport::Udp, host, pod.port).by(&pod.container.id);
        }
        let mtu = sh(&format!("ip -n {} -o link show eth0", pod.container.id));
        assert!(mtu.contains("mtu 1400"), "{mtu}");
    }
    for pod in &pods {
        node.del(pod);
        b.out.cannot_reach(Transport::Udp, HOST_V4, pod.port);
    }
    assert_eq!(b.state(), before);
}

/// Asked at its own address: the Go portmap's ADD forgets UDP flows of its ports, with what is under way.
fn what_waits_in_a_queue_is_not_lost(b: &TestBox) {
    let node = Node::new(b);
    install("");
    let pod = node.add_limited("slow", 8100, SLOW);
    let address =
        sh("ip -n slow -4 -o addr show eth0 | grep -o '10\\.88\\.1\\.[0-9]*' | head -n 1");
    let (end, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _silence = Silence(&end);
        for source in 30_000..30_010 {
            let datagrams = b.host.udp_flow(source, address.trim(), 80);
            let (end, answers) = (&end, &answers);
            scope.spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    datagrams.reach().by("slow");
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        sleep(Duration::from_secs(1));
        let qdiscs = listed("tc -s -j qdisc show");
        let is_busy =
            |qdisc: &&Value| qdisc["kind"] == "tbf" && qdisc["backlog"].as_u64() > Some(0);
        assert!(qdiscs.iter().any(|qdisc| is_busy(&qdisc)), "{qdiscs:?}");
        assert!(uninstall("--hand-over").0);
        sleep(Duration::from_secs(1));
    });
    let answers = answers.into_inner();
    // Without a limit there would be thousands each second.
    assert!((100..1500).contains(&answers), "{answers} answers");
    node.is_sound_to_go(&pod);
    node.del(&pod);
}

fn without_a_word_running_containers_keep_the_plugins(b: &TestBox) {
    let node = Node::new(b);
    install("");
    let pod = node.add("web", 8100);
    let ruleset = b.ruleset();
    let (succeeded, said) = uninstall("");
    assert!(!succeeded && said.contains("podnet/web/eth0: say --hand-over, or --leave"), "{said}");
    assert!(PLUGINS.iter().all(|plugin| !is_gos(plugin)));
    let (succeeded, _) = uninstall("--leave");
    assert!(succeeded && PLUGINS.iter().all(|plugin| is_gos(plugin)));
    assert_eq!(b.ruleset(), ruleset, "what it has is left");
    b.out.reach(Transport::Udp, HOST_V4, pod.port).by("web");
    // Installed again, it is ours as before.
    install("");
    node.del(&pod);
    b.out.cannot_reach(Transport::Udp, HOST_V4, pod.port);
    assert!(uninstall("").0 && PLUGINS.iter().all(|plugin| is_gos(plugin)));
    assert!(!b.nft_list_all().contains("table inet cni_"), "{}", b.nft_list_all());
}

fn what_a_newer_version_made_stays(b: &TestBox) {
    let node = Node::new(b);
    install("");
    let pod = node.add("web", 8100);
    newer::renumber_table("inet cni_portmap");
    let before = b.nft_list("inet cni_portmap");
    let (succeeded, said) = uninstall("--hand-over");
    assert!(!succeeded && said.contains("layout 9"), "{said}");
    assert_eq!(b.nft_list("inet cni_portmap"), before);
    b.out.reach(Transport::Udp, HOST_V4, pod.port).by("web");
}

fn nobody_to_hand_over_to(b: &TestBox) {
    let node = Node::new(b);
    fs::remove_file(format!("{DIR}/firewall")).expect("a copy");
    install("");
    let pod = node.add("web", 8100);
    let (succeeded, said) = uninstall("--hand-over");
    assert!(!succeeded && said.contains("there was no other firewall before"), "{said}");
    assert!(["portmap", "bandwidth", "tuning"].iter().all(|plugin| !is_gos(plugin)));
    b.out.reach(Transport::Udp, HOST_V4, pod.port).by("web");
    // What is broken there fails for that one, which stays as it is, and can be tried again.
    fs::write(format!("{DIR}/firewall.go-backup"), "#!/bin/sh\nexit 1\n").expect("a copy");
    sh(&format!("chmod +x {DIR}/firewall.go-backup"));
    let (succeeded, said) = uninstall("--hand-over");
    assert!(!succeeded && said.contains("podnet/web/eth0: failed: firewall: "), "{said}");
    assert!(is_gos("portmap") && Path::new(DIR).join("cni-chain").exists());
    assert!(b.nft_list_all().contains("cni_firewall"), "ours stays where the other one fails");
    b.out.reach(Transport::Udp, HOST_V4, pod.port).by("web");
    fs::copy(Path::new(GO_PLUGINS).join("firewall"), format!("{DIR}/firewall")).expect("a copy");
    let (succeeded, said) = uninstall("--hand-over");
    assert!(succeeded && said.contains("podnet/web/eth0: handed over: "), "{said}");
    assert!(!b.nft_list_all().contains("table inet cni_"), "{}", b.nft_list_all());
    b.out.reach(Transport::Udp, HOST_V4, pod.port).by("web");
    node.del(&pod);
}

/// With different conditions, in one chain of the Go plugin's.
fn two_entries_of_portmap_go_back(b: &TestBox) {
    let node = Node::new(b);
    let mut list: Value = serde_json::from_slice(node.list.bytes()).expect("JSON");
    let mut entry = list["plugins"][1].clone();
    list["plugins"][1]["conditionsV4"] = json!(["-s", "198.51.100.0/24"]);
    entry["conditionsV4"] = json!(["-s", "203.0.113.0/24"]);
    list["plugins"].as_array_mut().expect("a list").insert(2, entry);
    let node = Node::of(b, &list);
    install("");
    let far = b.far();
    let pod = node.add("web", 8100);
    let (succeeded, said) = uninstall("--hand-over");
    assert!(
        succeeded && said.contains("handed over: portmap, firewall, bandwidth, tuning"),
        "{said}"
    );
    for client in [&b.out, &far] {
        client.reach(Transport::Udp, HOST_V4, pod.port).by("web");
    }
    assert!(!b.ruleset().contains("if: ") && !b.nft_list_all().contains("cni_portmap"));
    node.del(&pod);
    assert!(!b.ruleset().contains("8100"), "{}", b.ruleset());
}

/// The runtime's DEL ends while the Go plugin's ADD begins.
fn a_del_that_is_under_way_leaves_nothing(b: &TestBox) {
    let node = Node::new(b);
    install("");
    let pod = node.add("web", 8100);
    let script = format!(
        "#!/bin/sh\nrm -f /var/lib/cni/results/podnet-web-eth0\nexec {GO_PLUGINS}/portmap\n"
    );
    fs::write(format!("{DIR}/portmap.go-backup"), script).expect("a copy");
    let (succeeded, said) = uninstall("--hand-over");
    assert!(
        succeeded && said.contains("podnet/web/eth0: deleted by its runtime meanwhile"),
        "{said}"
    );
    let ruleset = b.ruleset();
    assert!(!ruleset.contains("8100") && !ruleset.contains("10.88.1."), "{ruleset}");
    b.out.cannot_reach(Transport::Udp, HOST_V4, pod.port);
}

/// They are the same of either plugin.
fn sources_of_firewalld_stay(b: &TestBox) {
    let firewalld = Firewalld::start();
    let node = Node::new(b);
    let mut list: Value = serde_json::from_slice(node.list.bytes()).expect("JSON");
    list["plugins"][2] = json!({ "type": "firewall" });
    let node = Node::of(b, &list);
    install("");
    let pod = node.add("web", 8100);
    let sources = || firewalld.cmd(&["--zone=trusted", "--list-sources"]);
    let before = sources();
    assert!(before.contains("10.88.1."), "{before}");
    let (succeeded, said) = uninstall("--hand-over");
    assert!(succeeded, "{said}");
    assert_eq!(sources(), before);
    assert!(!b.nft_list_all().contains("table inet cni_"), "{}", b.nft_list_all());
    assert!(!Path::new("/run/cni/firewall").exists() || sh("ls /run/cni/firewall").is_empty());
    node.is_sound_to_go(&pod);
    node.del(&pod);
    assert_eq!(sources().trim(), "");
}

/// A second interface, whose chain in iptables has a name that the Go plugin does not have.
fn a_second_interface_goes_back(b: &TestBox) {
    let node = Node::new(b);
    install("");
    let pod = node.add("web", 8100);
    let second = RuntimeConf {
        ifname: "eth1".into(),
        capability_args: arguments(&json!({ "portMappings": [
            { "hostPort": 8200, "containerPort": 80, "protocol": "udp" }] })),
        ..pod.conf.clone()
    };
    let mut list: Value = serde_json::from_slice(node.list.bytes()).expect("JSON");
    list["name"] = json!("second");
    list["plugins"][0]["bridge"] = json!("br2");
    list["plugins"][0]["ipam"] = json!({ "type": "host-local", "subnet": "10.88.2.0/24" });
    let other = Node::of(b, &list);
    Node::runner().add(&other.list, &second).expect("ADD");
    let (succeeded, said) = uninstall("--hand-over");
    assert!(succeeded && said.contains("second/web/eth1: handed over: "), "{said}");
    for (port, host) in [(8100, HOST_V4), (8100, HOST_V6)] {
        b.out.reach(Transport::Udp, host, port).by("web");
    }
    assert!(b.ruleset().contains("8200") && !b.ruleset().contains("if: "), "{}", b.ruleset());
    Node::runner().del(&other.list, &second).expect("DEL");
    node.del(&pod);
    assert!(!b.ruleset().contains("8100") && !b.ruleset().contains("8200"), "{}", b.ruleset());
}

/// A runtime that no longer finds an entry in its list calls no DEL for it.
fn what_was_appended_stays_for_running_containers(b: &TestBox) {
    let bare = Node::new(b);
    let mut list: Value = serde_json::from_slice(bare.list.bytes()).expect("JSON");
    list["plugins"].as_array_mut().expect("a list").truncate(1);
    fs::create_dir_all("/etc/cni/net.d").expect("a copy");
    let text = format!("{list:#}");
    fs::write(FILE, &text).expect("a copy");
    install(&format!("--append portmap --conflist {FILE}"));
    let appended: Value = serde_json::from_slice(&fs::read(FILE).expect("there")).expect("JSON");
    let node = Node::of(b, &appended);
    let pod = node.add("web", 8100);
    let (succeeded, said) = uninstall("--hand-over");
    assert!(succeeded && said.contains(&format!("{FILE} keeps portmap")), "{said}");
    assert!(is_gos("portmap") && Path::new(DIR).join("cni-chain").exists());
    assert!(fs::read_to_string(FILE).expect("there").contains("portmap"));
    b.out.reach(Transport::Udp, HOST_V4, pod.port).by("web");
    node.del(&pod);
    b.out.cannot_reach(Transport::Udp, HOST_V4, pod.port);
    let (succeeded, said) = uninstall("");
    assert!(succeeded && said.contains(&format!("{FILE} has lost portmap")), "{said}");
    assert_eq!(fs::read_to_string(FILE).expect("there"), text);
    assert!(!Path::new(DIR).join("cni-chain").exists());
}
