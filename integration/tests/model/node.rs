//! The node, what is done to it, and what the model says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use cni_chain::{NetworkList, RunError, Runner, RuntimeConf, ValidAttachment};
use cni_testbox::{
    Container, GO_PLUGINS, HOST_V4, Implementation, TestBox, Transport, arguments, run, sh, tool,
};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::MOST;
use crate::chance::Chance;
use crate::claims::Claims;
use crate::served::Served;

const NAME: &str = "podnet";
const LIST: &str = "/run/podnet.conflist";
/// Ports that containers are given, so few that most are wanted more than once.
const PORTS: usize = 60;
const FIRST_PORT: u16 = 8_000;
/// The Go plugins' containers get others: theirs are not kept for whoever waits.
const FIRST_GO_PORT: u16 = 30_000;
/// A busy node makes a call fail with code 11 at times; a runtime tries again.
const TRIES: usize = 4;
/// Of so many calls that change something, one is killed.
const KILLED: usize = 20;

/// A container that is there.
struct Member {
    container: Container,
    served: Served,
    conf: RuntimeConf,
    ports: Vec<u16>,
    is_go: bool,
}

/// The node and the model of it.
pub(crate) struct Node<'a> {
    b: &'a TestBox,
    ours: Runner,
    go: Runner,
    list: NetworkList,
    go_list: NetworkList,
    gc_list: NetworkList,
    members: BTreeMap<String, Member>,
    /// Their DEL was lost; only GC removes what they had.
    lost: BTreeSet<String>,
    claims: Claims,
    made: u32,
    counts: BTreeMap<&'static str, usize>,
}

impl<'a> Node<'a> {
    pub(crate) fn new(b: &'a TestBox) -> Self {
        let directory =
            b.implementation.plugin("portmap").parent().expect("a directory").to_owned();
        let go: PathBuf = GO_PLUGINS.into();
        let cache = || "/var/lib/cni".into();
        let backend = b.implementation.backend();
        let text = list("1.0.0", true, backend);
        fs::write(LIST, text.to_string()).expect("a conflist");
        let parsed = |json: &Value| {
            NetworkList::from_bytes(json.to_string().as_bytes()).expect("a conflist")
        };
        Self {
            b,
            ours: Runner::new(vec![directory, go.clone()], cache()),
            go: Runner::new(vec![go], cache()),
            list: parsed(&text),
            go_list: parsed(&list("1.0.0", true, None)),
            gc_list: parsed(&list("1.1.0", false, backend)),
            members: BTreeMap::new(),
            lost: BTreeSet::new(),
            claims: Claims::default(),
            made: 0,
            counts: BTreeMap::new(),
        }
    }

    /// Does one thing at random.
    pub(crate) fn step(&mut self, chance: &mut Chance) {
        let is_full = self.members.len() >= MOST;
        match chance.below(100) {
            0..=44 if !is_full => self.add(chance),
            0..=59 => self.del(chance),
            60..=87 => self.check(chance),
            88..=92 if !is_full => self.add_by_go(chance),
            93..=95 => self.lose(chance),
            96..=97 => self.gc(),
            98 => self.flush(),
            _ => self.restore(false),
        }
    }

    fn count(&mut self, what: &'static str) {
        println!("-- {what}");
        *self.counts.entry(what).or_default() += 1;
    }

    /// What was done, in numbers.
    pub(crate) fn summary(&self) -> String {
        let counts: Vec<String> =
            self.counts.iter().map(|(what, number)| format!("{what} {number}")).collect();
        format!("{} attachments left; {}", self.members.len(), counts.join(", "))
    }

    fn conf(&mut self, chance: &mut Chance, is_go: bool) -> (Container, RuntimeConf, Vec<u16>) {
        self.made += 1;
        let id = format!("c{:05}", self.made);
        let port =
            |chance: &mut Chance| FIRST_PORT + u16::try_from(chance.below(PORTS)).expect("a port");
        let ports: BTreeSet<u16> = if is_go {
            [FIRST_GO_PORT + u16::try_from(self.made % 30_000).expect("a port")].into()
        } else {
            (0..=chance.below(3)).map(|_| port(chance)).collect()
        };
        let mappings: Vec<Value> = ports
            .iter()
            .flat_map(|port| {
                ["tcp", "udp"].map(|protocol| {
                json!({ "hostPort": port, "containerPort": 80, "protocol": protocol })
            })
            })
            .collect();
        let mut capabilities = json!({ "portMappings": mappings });
        if chance.once_in(2) {
            capabilities["bandwidth"] = json!({ "ingressRate": 100_000_000, "ingressBurst": 4_000_000,
                "egressRate": 50_000_000, "egressBurst": 4_000_000 });
        }
        let container = self.b.container(&id);
        let conf = RuntimeConf {
            container_id: id,
            netns: container.netns.path().display().to_string(),
            ifname: "eth0".into(),
            args: Vec::new(),
            capability_args: arguments(&capabilities),
        };
        (container, conf, ports.into_iter().collect())
    }

    fn add(&mut self, chance: &mut Chance) {
        self.count("ADD");
        let (container, conf, ports) = self.conf(chance, false);
        if chance.once_in(KILLED) {
            self.count("killed ADD");
            kill_in_time(&mut self.command("add", &conf), chance);
            // The runtime deletes what it cannot know to be whole.
            self.patiently("DEL of a killed ADD", |node| node.ours.del(&node.list, &conf));
            left_nothing(&conf.container_id);
            if chance.once_in(2) {
                return drop_namespace(&container);
            }
        }
        let added = self.patiently_adding(&conf);
        assert!(added.is_ok(), "ADD of {}: {added:?}", conf.container_id);
        let served = Served::by(&container);
        for port in &ports {
            self.claims.add(&conf.container_id, *port);
        }
        let member = Member { container, served, conf, ports, is_go: false };
        self.members.insert(member.conf.container_id.clone(), member);
    }

    /// A failed ADD is deleted before it is tried again, as runtimes do.
    fn patiently_adding(&mut self, conf: &RuntimeConf) -> Result<(), RunError> {
        let mut outcome = self.ours.add(&self.list, conf).map(drop);
        for _ in 1..TRIES {
            let Err(error) = &outcome else { break };
            println!("ADD of {} is tried again: {error}", conf.container_id);
            self.count("ADD again");
            self.patiently("DEL of a failed ADD", |node| node.ours.del(&node.list, conf));
            left_nothing(&conf.container_id);
            outcome = self.ours.add(&self.list, conf).map(drop);
        }
        outcome
    }

    fn add_by_go(&mut self, chance: &mut Chance) {
        self.count("ADD by Go");
        let (container, conf, ports) = self.conf(chance, true);
        // Go gives up where another writer is faster; that is not ours to judge.
        if let Err(error) = self.go.add(&self.go_list, &conf) {
            println!("Go's ADD of {}: {error}", conf.container_id);
            self.patiently("DEL of Go's ADD", |node| node.ours.del(&node.list, &conf));
            return drop_namespace(&container);
        }
        let served = Served::by(&container);
        for port in &ports {
            self.claims.add(&conf.container_id, *port);
        }
        let member = Member { container, served, conf, ports, is_go: true };
        self.members.insert(member.conf.container_id.clone(), member);
    }

    /// Somebody at random.
    fn anybody(&self, chance: &mut Chance) -> Option<String> {
        let all: Vec<&String> = self.members.keys().collect();
        chance.pick(&all).map(|id| (*id).clone())
    }

    fn del(&mut self, chance: &mut Chance) {
        let Some(id) = self.anybody(chance) else { return };
        self.count("DEL");
        let Member { container, served, conf, .. } = self.members.remove(&id).expect("it is there");
        served.end(&container);
        if chance.once_in(KILLED) {
            self.count("killed DEL");
            kill_in_time(&mut self.command("del", &conf), chance);
        }
        self.patiently("DEL", |node| node.ours.del(&node.list, &conf));
        self.claims.remove(&id);
        left_nothing(&id);
        drop_namespace(&container);
    }

    /// The container goes, and nobody tells the plugins.
    fn lose(&mut self, chance: &mut Chance) {
        let Some(id) = self.anybody(chance) else { return };
        if self.members[&id].is_go {
            return;
        }
        self.count("lost DEL");
        let Member { container, served, .. } = self.members.remove(&id).expect("it is there");
        served.end(&container);
        drop_namespace(&container);
        fs::remove_file(format!("/var/lib/cni/results/{NAME}-{id}-eth0")).expect("its cache");
        self.lost.insert(id);
    }

    fn gc(&mut self) {
        self.count("GC");
        let valid: Vec<ValidAttachment> = self
            .members
            .keys()
            .map(|id| ValidAttachment { container_id: id.clone(), ifname: "eth0".to_owned() })
            .collect();
        self.patiently("GC", |node| node.ours.gc(&node.gc_list, Some(&valid)));
        for id in std::mem::take(&mut self.lost) {
            self.claims.remove(&id);
            left_nothing(&id);
        }
    }

    fn check(&mut self, chance: &mut Chance) {
        let Some(id) = self.anybody(chance) else { return };
        self.count("CHECK");
        let conf = self.members[&id].conf.clone();
        let lost: Vec<u16> = self.members[&id]
            .ports
            .iter()
            .copied()
            .filter(|port| self.claims.owner(*port) != Some(&id))
            .collect();
        if lost.is_empty() {
            let is_go = self.members[&id].is_go;
            self.patiently("CHECK", |node| {
                let chain = if is_go { &node.go_list } else { &node.list };
                node.ours.check(chain, &conf)
            });
            return;
        }
        let error = self.ours.check(&self.list, &conf).expect_err("its port is another's");
        let text = error.to_string();
        if let Some(owner) = self.claims.owner(lost[0]) {
            let is_told = lost
                .iter()
                .any(|port| self.claims.owner(*port).is_some_and(|owner| text.contains(owner)));
            assert!(is_told || error.code() == Some(11), "{owner} is not told: {text}");
        }
    }

    fn flush(&mut self) {
        self.count("flush");
        if self.b.implementation.backend().is_some() {
            sh(
                "for p in iptables ip6tables; do for t in nat filter raw; do $p -w 20 -t $t -F; done; done",
            );
        }
        if self.b.implementation != Implementation::IptablesLegacy {
            sh("nft flush ruleset");
        }
        self.restore(true);
    }

    fn restore(&mut self, is_flushed: bool) {
        self.count("restore");
        self.ask_for_restore(is_flushed);
        if is_flushed {
            // What nobody has any more is gone.
            self.lost.iter().for_each(|id| self.claims.remove(id));
        }
    }

    fn ask_for_restore(&mut self, is_flushed: bool) {
        let directories = std::env::join_paths(&self.ours.plugin_dirs).expect("no colons");
        let mut outcome = (false, String::new());
        for _ in 0..TRIES {
            let output = Command::new(env!("CARGO_BIN_EXE_cni-chain"))
                .args(["restore", "--quiet", "--plugin", "portmap", "--plugin", "firewall"])
                .env("CNI_PATH", &directories)
                .stdin(Stdio::null())
                .output()
                .expect("it runs");
            let text = [output.stdout, output.stderr].concat();
            outcome = (output.status.success(), String::from_utf8_lossy(&text).into_owned());
            // A port of an attachment that nobody remembers stays with it, and restore says so.
            let is_lost =
                self.lost.iter().any(|id| outcome.1.contains(&format!("{NAME}/{id}/eth0")));
            if outcome.0 || is_lost && !is_flushed {
                return;
            }
            println!("restore is tried again: {}", outcome.1);
        }
        panic!("restore: {}", outcome.1);
    }

    /// A call that may have to be made again.
    #[track_caller]
    fn patiently(&mut self, what: &str, mut call: impl FnMut(&Self) -> Result<(), RunError>) {
        let mut outcome = call(self);
        for _ in 1..TRIES {
            let Err(error) = &outcome else { return };
            println!("{what} is tried again: {error}");
            self.count("tried again");
            outcome = call(self);
        }
        assert!(outcome.is_ok(), "{what}: {outcome:?}");
    }

    fn command(&self, verb: &str, conf: &RuntimeConf) -> Command {
        let directories = std::env::join_paths(&self.ours.plugin_dirs).expect("no colons");
        let mut command = Command::new(env!("CARGO_BIN_EXE_cni-chain"));
        let capabilities =
            cni_common::cni::protocol::json::Json::from(conf.capability_args.clone());
        command
            .args([verb, LIST, &conf.netns, "--container-id", &conf.container_id])
            .args(["--cap-args", &capabilities.to_string()])
            .env("CNI_PATH", directories)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Compares everything with the model: by packets, and by names.
    pub(crate) fn look(&self, chance: &mut Chance) {
        for (port, owner) in self.claims.owners() {
            if self.members.contains_key(owner) && chance.once_in(4) {
                self.b.out.reach(Transport::Tcp, HOST_V4, port).by(owner);
            }
        }
        let text = run(tool("nft").args(["list", "ruleset"]))
            + &run(&mut tool("iptables-save"))
            + &run(&mut tool("ip6tables-save"))
            + &run(tool("ip").args(["-o", "link"]));
        let named: BTreeSet<&str> = text
            .match_indices(&format!("{NAME}/c"))
            .filter_map(|(at, _)| text.get(at + NAME.len() + 1..at + NAME.len() + 7))
            .collect();
        let is_known = |id: &&str| self.members.contains_key(*id) || self.lost.contains(*id);
        let unknown: Vec<&str> = named.into_iter().filter(|id| !is_known(id)).collect();
        assert!(unknown.is_empty(), "nobody knows {unknown:?}");
    }

    /// Everybody goes; nothing stays.
    pub(crate) fn end(mut self) {
        self.look(&mut Chance::new(1));
        self.gc();
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            let Member { container, served, conf, .. } = self.members.remove(&id).expect("there");
            served.end(&container);
            self.patiently("DEL", |node| node.ours.del(&node.list, &conf));
            drop_namespace(&container);
        }
        self.gc();
        let rules = run(tool("nft").args(["list", "ruleset"]))
            + &run(&mut tool("iptables-save"))
            + &run(&mut tool("ip6tables-save"));
        let left: Vec<&str> = rules.lines().filter(|line| line.contains(NAME)).collect();
        assert!(left.is_empty(), "{left:#?}");
        let links = run(tool("ip").args(["-o", "link", "show", "type", "ifb"]));
        assert_eq!(links, "");
    }
}

/// The chain, with or without the main plugin, which has no GC in Debian's version.
fn list(version: &str, has_main: bool, backend: Option<&str>) -> Value {
    let mut portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    let mut firewall = json!({ "type": "firewall" });
    if let Some(backend) = backend {
        portmap["backend"] = json!(backend);
        firewall["backend"] = json!(backend);
    }
    let main = json!({ "type": "bridge", "bridge": "br1", "isGateway": true, "hairpinMode": true,
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.88.0.0/16" }], [{ "subnet": "fd88:1::/64" }]],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] } });
    let mut plugins = vec![
        json!({ "type": "tuning", "sysctl": { "net.core.somaxconn": "601" }, "mtu": 1400 }),
        portmap,
        json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } }),
        firewall,
    ];
    if has_main {
        plugins.insert(0, main);
    }
    json!({ "cniVersion": version, "name": NAME, "plugins": plugins })
}

/// Kills the plugin that a call runs at some moment, and in half of the cases the runner before it.
fn kill_in_time(command: &mut Command, chance: &mut Chance) {
    let mut child = command.spawn().expect("it starts");
    sleep(chance.span(Duration::from_millis(150)));
    let plugin = child_of(child.id());
    let runner = chance.once_in(2).then(|| child.id());
    for pid in [runner, plugin].into_iter().flatten() {
        // It may have ended by itself.
        let _ = signal::kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
    let _ = child.wait();
}

fn child_of(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn drop_namespace(container: &Container) {
    run(tool("ip").args(["netns", "del", &container.id]));
}

/// Nothing in the kernel or in a file names the container any more.
#[track_caller]
fn left_nothing(id: &str) {
    let rules = run(tool("nft").args(["list", "ruleset"]));
    let saved = run(&mut tool("iptables-save")) + &run(&mut tool("ip6tables-save"));
    let links = run(tool("ip").args(["-o", "link"]));
    let files: Vec<PathBuf> = ["/run", "/var/lib/cni"]
        .into_iter()
        .flat_map(|top| files_below(top.as_ref()))
        .filter(|path| path.to_string_lossy().contains(id) && !path.starts_with("/run/netns"))
        .collect();
    for text in [rules, saved, links] {
        let left: Vec<&str> = text.lines().filter(|line| line.contains(id)).collect();
        assert!(left.is_empty(), "left of {id}: {left:#?}");
    }
    assert!(files.is_empty(), "left of {id}: {files:?}");
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let below = |path: PathBuf| {
        if path.is_dir() && !path.is_symlink() { files_below(&path) } else { vec![path] }
    };
    entries.flat_map(below).collect()
}
