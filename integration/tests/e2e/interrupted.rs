//! What stays and waits is interrupted anywhere, by any signal: nothing of it is left.

use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use cni_testbox::{TestBox, cases, eventually_within, sh};

use crate::masquerade;
use crate::restore::{Node, PORT, flush};

cases! {
    a_trace_of_real_packets, ours;
    a_watch_that_restores, ours;
    a_watch_that_shows, ours;
}

const SIGNALS: [&str; 4] = ["KILL", "INT", "TERM", "HUP"];
const TRIES: u32 = 24;

/// Points in time, other ones in each run; which, is printed.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let seed = now.subsec_nanos().into();
        println!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        // Knuth's MMIX
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Starts the command, has `meanwhile` happen, and ends it within the time that it takes to be under way.
fn interrupt(node: &Node<'_>, arguments: &[&str], chance: &mut Chance, meanwhile: impl Fn()) {
    let mut command = node.cni_chain(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child: Child = command.spawn().expect("it starts");
    let signal = SIGNALS[usize::try_from(chance.below(4)).expect("small")];
    let (before, after) = (chance.below(100), chance.below(400));
    std::thread::sleep(Duration::from_millis(before));
    meanwhile();
    std::thread::sleep(Duration::from_millis(after));
    println!("{signal} after {before} and {after} ms");
    sh(&format!("kill -{signal} {}", child.id()));
    child.wait().expect("it ends");
    // A plugin that was under way ends by itself.
    eventually_within(Duration::from_secs(20), "no program is left", || {
        let names =
            ["cni-chain", "portmap", "bandwidth", "firewall", "iptables-restor", "xtables-nft-mul"];
        // The box's first process collects no dead ones.
        let running = sh("ps -e -o stat=,comm=");
        let mut lines = running.lines().filter(|line| !line.starts_with('Z'));
        !lines.any(|line| line.split_whitespace().nth(1).is_some_and(|name| names.contains(&name)))
    });
}

/// Everything that is in tables, and the files of a run.
fn everything(b: &TestBox) -> String {
    let files = "find /run /var/lib/cni -type f ! -path '/run/netns/*' | sort | xargs -r sha256sum";
    let saved =
        "for save in iptables-save ip6tables-save; do $save | sed '/^#/d; s/ \\[.*//'; done";
    // nft names a target of iptables' in the tables of one family only, whichever it lists first.
    let rules = b.ruleset().replace("counter masquerade", "counter ");
    rules + &sh(saved) + &sh(files)
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

fn a_trace_of_real_packets(b: &TestBox) {
    let node = Node::new(b);
    node.add_without_listener("web", PORT);
    let (mut chance, before) = (Chance::new(), everything(b));
    for _ in 0..TRIES {
        let port = format!("{PORT}/tcp");
        interrupt(&node, &["trace", &port, "--live", "60"], &mut chance, || {});
        // The kernel removes the table when the socket is closed, a moment later.
        eventually_within(Duration::from_secs(5), "the table is gone", || everything(b) == before);
    }
}

fn a_watch_that_restores(b: &TestBox) {
    let node = masquerade::node(b, &masquerade::bridge());
    let (_, conf) = node.add_without_listener("web", PORT);
    // What a flush and a restore leave, which is not in the order of ADD.
    let whole = || {
        node.restore(&[]);
        assert!(node.is_sound(&conf));
        everything(b)
    };
    flush(b);
    let (mut chance, expected) = (Chance::new(), whole());
    for _ in 0..TRIES {
        interrupt(&node, &["restore", "--watch"], &mut chance, || flush(b));
        assert_eq!(sorted(&whole()), sorted(&expected));
    }
    node.runner().del(&node.list, &conf).expect("DEL");
    let left = everything(b);
    assert!(!left.contains("web"), "{left}");
}

fn a_watch_that_shows(b: &TestBox) {
    let node = Node::new(b);
    node.add_without_listener("web", PORT);
    let (mut chance, before) = (Chance::new(), everything(b));
    for _ in 0..TRIES {
        interrupt(&node, &["show", "--watch"], &mut chance, || {});
        assert_eq!(everything(b), before);
    }
}
