//! A node is upgraded in place: fifty containers of a chain of Debian's Go plugins keep running and
//! talking while the binaries are swapped; in the end the node is as it was after its boot.

use serde_json::{Value, json};

use cni_testbox::{
    Attachment, Call, HOST_V4, HOST_V6, Implementation, Mapping, Network, Outcome, TestBox,
    Transport, cases, run, tcp, tool, udp,
};

use crate::node::{Node, entry, files, sorted};
use crate::talks::{Silence, TalkedTo, Talks};

cases! {
    fifty_containers_of_a_whole_chain, backends;
}

/// In the order of their chain, behind `bridge`.
const CHAIN: [&str; 4] = ["portmap", "firewall", "bandwidth", "tuning"];
const CONTAINERS: u16 = 50;
/// The echo server's port in those containers that are talked to throughout.
const ECHO: u16 = 7;
const STILL_GO: &str = "the Go plugin's";

/// What becomes of a container after the binaries were swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is added again by ours and lives on.
    Readded,
    /// It lives on with the Go plugins' rules.
    LeftAlone,
    /// It is deleted by ours.
    Deleted,
    /// Its interface goes, and nobody tells the other plugins but GC.
    Forgotten,
}

struct Pod {
    web: Attachment,
    fate: Fate,
    port: u16,
    /// Whether it is talked to throughout.
    talks: bool,
    /// What the last ADD of the chain returned.
    result: Value,
}

impl Pod {
    fn start(b: &TestBox, network: &Network, index: u16) -> Self {
        let web = b.web(network, &format!("c{index}"));
        let fate = match index % 3 {
            0 if index + 3 > CONTAINERS => Fate::LeftAlone,
            0 => Fate::Readded,
            1 => Fate::Deleted,
            _ => Fate::Forgotten,
        };
        let talks = [0, 3].contains(&index) || fate == Fate::LeftAlone;
        if talks {
            web.container.netns.serve_echo(ECHO);
        }
        let result = web.result.clone();
        Self { web, fate, port: 8100 + index, talks, result }
    }

    fn mappings(&self) -> Vec<Mapping> {
        // One of each protocol: asked for a second one, ip6tables-legacy 1.8.9 says that it is there
        // (its -C looks at the protocol only), and the Go plugin goes without.
        let to = if self.talks { ECHO } else { 80 };
        vec![tcp(self.port, to), udp(self.port, 80)]
    }

    /// One plugin's entry, with what the runtime adds to it.
    fn config(&self, plugin: &str, implementation: Implementation) -> Value {
        let mut config = entry(plugin, &self.mappings(), &self.web);
        if implementation != Implementation::Go && ["portmap", "firewall"].contains(&plugin) {
            // Left to itself, our firewall stays with iptables as long as the Go plugin's rules
            // are there.
            config["backend"] = json!(implementation.backend().unwrap_or("nftables"));
        }
        config
    }

    fn call(&self, command: &str, plugin: &str, by: Implementation, previous: &Value) -> Outcome {
        let mut config = self.config(plugin, by);
        config["prevResult"] = previous.clone();
        Call::new(plugin, command, &self.web).replace_config(config).run_as(by)
    }

    /// What the Go firewall lets through for it.
    fn accepted_by_go(&self) -> Vec<String> {
        let hosts = [format!("{}/32", self.web.v4()), format!("{}/128", self.web.v6())];
        let rules = |host: &String| {
            let replies = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
            [
                format!("-A CNI-FORWARD -d {host} {replies}"),
                format!("-A CNI-FORWARD -s {host} -j ACCEPT"),
            ]
        };
        hosts.iter().flat_map(rules).collect()
    }

    fn add(&mut self, by: Implementation) {
        let mut result = self.web.result.clone();
        for plugin in CHAIN {
            result = self.call("ADD", plugin, by, &result).expect_result();
        }
        self.result = result;
    }

    fn del(&self, by: Implementation) {
        for plugin in CHAIN.iter().rev() {
            self.call("DEL", plugin, by, &self.result).expect_silence();
        }
    }

    /// CHECK passes, and says whose the rules are.
    fn check(&self, by: Implementation, go: bool) {
        for plugin in CHAIN {
            let outcome = self.call("CHECK", plugin, by, &self.result);
            outcome.expect_success();
            if ["portmap", "firewall"].contains(&plugin) {
                assert_eq!(outcome.stderr.contains(STILL_GO), go, "{plugin}: {outcome:?}");
            }
        }
    }
}

fn gc(b: &TestBox, network: &Network, valid: &[&Pod]) {
    let valid: Vec<Value> = valid
        .iter()
        .map(|pod| json!({ "containerID": pod.web.container.id, "ifname": "eth0" }))
        .collect();
    for plugin in CHAIN {
        let call = Call::of_network(plugin, "GC", &network.name);
        let outcome = call.set("cni.dev/valid-attachments", json!(valid)).run(b);
        outcome.expect_success();
        assert!(!outcome.stderr.contains("warning"), "{outcome:?}");
    }
}

fn fifty_containers_of_a_whole_chain(b: &TestBox) {
    let network = Network::dual(1);
    Node::use_iptables_once();
    let fresh = Node::look();
    assert_eq!(files(), Vec::<String>::new());
    let mut pods: Vec<Pod> = (0..CONTAINERS).map(|index| Pod::start(b, &network, index)).collect();
    for pod in &mut pods {
        pod.add(Implementation::Go);
    }
    let talks = Talks::default();
    let neighbour = b.web(&network, "neighbour");
    let homes: Vec<Attachment> = pods.iter().map(|pod| pod.web.clone()).collect();
    std::thread::scope(|scope| {
        let _silence = Silence(&talks.end);
        for (pod, home) in pods.iter().zip(&homes).filter(|(pod, _)| pod.talks) {
            // ADD exchanges queueing disciplines: what is in one at that moment is lost, and no
            // more than that.
            let may_lose = u8::from(pod.fate == Fate::Readded);
            let id = pod.web.container.id.clone();
            let talked_to = TalkedTo { id, port: pod.port, may_lose };
            talks.begin(scope, b, &talked_to, home, &neighbour);
        }
        upgrade(b, &network, &mut pods);
    });
    let answers = talks.answers.into_inner();
    assert!(answers > 1000, "{answers} answers while the node was upgraded");

    for pod in pods.iter().filter(|pod| pod.talks || pod.fate == Fate::Readded) {
        pod.del(b.implementation);
        pod.web.leave();
        b.out.cannot_reach(Transport::Udp, HOST_V4, pod.port);
    }
    neighbour.leave();
    // A node that boots has no bridge yet, and with it goes the reason for the guard.
    run(tool("ip").args(["link", "del", "br1"]));
    gc(b, &network, &[]);
    // Neither the Go firewall's rules nor the Go tuning's backups name their network: GC leaves
    // them to DEL, which a runtime's GC calls for what its cache has and its list has not.
    let forgotten: Vec<&Pod> = pods.iter().filter(|pod| pod.fate == Fate::Forgotten).collect();
    assert_eq!(accepted(), sorted(forgotten.iter().flat_map(|pod| pod.accepted_by_go()).collect()));
    let backup = |pod: &&Pod| format!("{}_eth0.json", pod.web.container.id);
    assert_eq!(files(), sorted(forgotten.iter().map(backup).collect()));
    for pod in forgotten {
        pod.del(b.implementation);
    }
    gc(b, &network, &[]);
    assert_eq!(files(), Vec::<String>::new());
    assert_eq!(Node::look(), fresh);
}

/// The rules that let containers through, in both families.
fn accepted() -> Vec<String> {
    let programs = ["iptables-save", "ip6tables-save"];
    let saved = programs.map(|program| run(tool(program).args(["-t", "filter"])));
    let lines = saved.iter().flat_map(|text| text.lines());
    let accepting = lines.filter(|line| line.starts_with("-A") && line.ends_with("ACCEPT"));
    sorted(accepting.map(str::to_owned).collect())
}

/// The binaries are swapped.
fn upgrade(b: &TestBox, network: &Network, pods: &mut [Pod]) {
    for pod in pods.iter() {
        pod.check(b.implementation, true);
    }
    for pod in pods.iter_mut() {
        match pod.fate {
            Fate::Readded => {
                pod.add(b.implementation);
                pod.check(b.implementation, false);
                b.out.reach(Transport::Udp, HOST_V6, pod.port).by(&pod.web.container.id);
            }
            Fate::Deleted => {
                pod.del(b.implementation);
                pod.web.leave();
                b.out.cannot_reach(Transport::Udp, HOST_V4, pod.port);
            }
            Fate::Forgotten => pod.web.leave(),
            Fate::LeftAlone => {}
        }
    }
    let alive: Vec<&Pod> =
        pods.iter().filter(|pod| matches!(pod.fate, Fate::Readded | Fate::LeftAlone)).collect();
    gc(b, network, &alive);
    for pod in alive {
        pod.check(b.implementation, pod.fate == Fate::LeftAlone);
    }
    for pod in pods.iter().filter(|pod| pod.fate == Fate::Forgotten) {
        let id = &pod.web.container.id;
        let rules = b.nft_list_all();
        assert!(!rules.contains(&format!("\"{id}\"")), "{id} is left: {rules}");
    }
}
