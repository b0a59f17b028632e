//! How many instructions a call of each plugin takes in user space, held against `counts.txt`.
//! Counted by valgrind, not timed: the same on a busy machine. Programs that a plugin runs
//! (iptables) and the kernel's part are not counted.
//!
//! `./dev counts` compares, and `./dev counts --update` writes: this program prints the file's new
//! text then, because in its box the checkout is read-only. `--plugins DIRECTORY` says whose
//! binaries are counted. Needs root and valgrind.

#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;

use cni_testbox::bench::call;
use cni_testbox::{Call, enter_box, sh};

/// Rises and falls up to this part of the written number are not told from chance and from the
/// linker's mood.
const TOLERANCE: f64 = 0.02;
/// What stands in the file until somebody has written why a number rose.
const UNEXPLAINED: &str = "REASON?";
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/counts.txt");

fn main() {
    enter_box();
    let arguments: Vec<String> = std::env::args().collect();
    let after = |word| arguments.iter().skip_while(|argument| *argument != word).nth(1);
    let plugins = after("--plugins").expect("--plugins DIRECTORY");
    furnish_host(Path::new(plugins));

    let written = Table::read();
    let counted: Vec<Count> = CALLS.iter().flat_map(Counted::count_all).collect();
    if arguments.iter().any(|argument| argument == "--update") {
        print!("{}", written.updated(&counted));
    } else if !written.compare(&counted) {
        std::process::exit(1);
    }
}

/// A host with a bridge and one container. The plugins are copied, because the length of a
/// program's path shows in its count.
fn furnish_host(plugins: &Path) {
    sh(&format!(
        "set -e
        mkdir /run/plugins
        cd {} && cp portmap bandwidth tuning firewall /run/plugins
        ip link set lo up
        ip netns add c1
        ip link add br0 type bridge
        ip addr add 10.71.0.1/24 dev br0
        ip addr add fd00:71::1/64 dev br0 nodad
        ip link set br0 up
        ip link add v0 type veth peer name eth0 netns c1
        ip link set v0 master br0 up
        ip -n c1 addr add 10.71.0.2/24 dev eth0
        ip -n c1 addr add fd00:71::2/64 dev eth0 nodad
        ip -n c1 link set eth0 up
        ip -n c1 link set lo up
        ip -n c1 route add default via 10.71.0.1
        echo 1 > /proc/sys/net/ipv4/ip_forward",
        plugins.display()
    ));
}

/// One plugin on one backend, and what it is given.
struct Counted {
    plugin: &'static str,
    /// `-` for a plugin that has but one.
    backend: &'static str,
    /// Members of the configuration beside the usual ones.
    config: &'static str,
}

const PORT_MAPPINGS: &str = r#""backend":"BACKEND","runtimeConfig":{"portMappings":[
    {"hostPort":8080,"containerPort":80,"protocol":"tcp"},
    {"hostPort":5353,"containerPort":53,"protocol":"udp"}]}"#;
const CALLS: [Counted; 6] = [
    Counted { plugin: "portmap", backend: "nftables", config: PORT_MAPPINGS },
    Counted { plugin: "portmap", backend: "iptables", config: PORT_MAPPINGS },
    Counted { plugin: "firewall", backend: "nftables", config: r#""backend":"BACKEND""# },
    Counted { plugin: "firewall", backend: "iptables", config: r#""backend":"BACKEND""# },
    Counted {
        plugin: "bandwidth",
        backend: "-",
        config: r#""ingressRate":8000000,"ingressBurst":800000,"egressRate":8000000,"egressBurst":800000"#,
    },
    Counted {
        plugin: "tuning",
        backend: "-",
        config: r#""sysctl":{"net.core.somaxconn":"500","net.ipv4.conf.IFNAME.arp_filter":"1"},
            "mac":"c2:11:22:33:44:55","mtu":1400,"promisc":true"#,
    },
];

impl Counted {
    fn count_all(&self) -> Vec<Count> {
        let program = Path::new("/run/plugins").join(self.plugin);
        let call = self.call();
        // No line depends on those before it.
        sh("nft flush ruleset");
        // The first ADD makes what all share, and is not the usual case.
        call.cpu_of_add_and_delete(&program);
        // VERSION knows no backend: once is enough.
        let version = (self.backend != "iptables").then_some("VERSION");
        let commands = version.into_iter().chain(["ADD", "CHECK", "DEL"]);
        commands
            .map(|command| Count {
                plugin: self.plugin.to_owned(),
                backend: self.backend.to_owned(),
                command: command.to_owned(),
                instructions: call
                    .instructions(&program, command)
                    .expect("valgrind (apt package valgrind)"),
                reason: String::new(),
            })
            .collect()
    }

    fn call(&self) -> Call {
        let config = self.config.replace("BACKEND", self.backend);
        let stdin = format!(
            r#"{{"cniVersion":"1.0.0","name":"bench","type":"{}",{config},
            "prevResult":{{"cniVersion":"1.0.0","interfaces":[{{"name":"br0"}},{{"name":"v0"}},
            {{"name":"eth0","sandbox":"/run/netns/c1"}}],
            "ips":[{{"address":"10.71.0.2/24","interface":2}},{{"address":"fd00:71::2/64","interface":2}}]}}}}"#,
            self.plugin
        );
        call(self.plugin, "counted", &stdin)
    }
}

/// A line of the file.
#[derive(Clone)]
struct Count {
    plugin: String,
    backend: String,
    command: String,
    instructions: u64,
    /// Why it rose, where it did.
    reason: String,
}

impl Count {
    fn parse(line: &str) -> Option<Self> {
        let (words, reason) = line.split_once("  # ").unwrap_or((line, ""));
        let [plugin, backend, command, instructions] =
            *words.split_whitespace().collect::<Vec<_>>()
        else {
            return None;
        };
        Some(Self {
            plugin: plugin.to_owned(),
            backend: backend.to_owned(),
            command: command.to_owned(),
            instructions: instructions.parse().ok()?,
            reason: reason.to_owned(),
        })
    }

    fn is_of(&self, other: &Self) -> bool {
        (&self.plugin, &self.backend, &self.command)
            == (&other.plugin, &other.backend, &other.command)
    }

    /// 0.01 is one per cent more than `before`.
    fn rise(&self, before: &Self) -> f64 {
        let [now, before] = [self, before]
            .map(|count| f64::from(u32::try_from(count.instructions).expect("a short call")));
        now / before - 1.0
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plugin, backend, command, instructions, reason } = self;
        write!(f, "{plugin:<10} {backend:<9} {command:<8} {instructions:>8}")?;
        if reason.is_empty() { Ok(()) } else { write!(f, "  # {reason}") }
    }
}

/// `counts.txt`: a heading, and then the counts.
struct Table {
    heading: Vec<String>,
    counts: Vec<Count>,
}

impl Table {
    fn read() -> Self {
        let text = std::fs::read_to_string(FILE).expect(FILE);
        let (heading, counts): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.is_empty() || line.starts_with('#'));
        let count = |line: &&str| Count::parse(line).unwrap_or_else(|| panic!("{FILE}: {line}"));
        Self {
            heading: heading.into_iter().map(str::to_owned).collect(),
            counts: counts.iter().map(count).collect(),
        }
    }

    fn before(&self, now: &Count) -> Option<&Count> {
        self.counts.iter().find(|before| before.is_of(now))
    }

    /// With the numbers of today, where they are others. A number within the tolerance stays: many
    /// small rises shall not add up unseen.
    fn updated(&self, counted: &[Count]) -> Self {
        let update = |now: &Count| -> Count {
            match self.before(now) {
                Some(before) if now.rise(before).abs() <= TOLERANCE => before.clone(),
                Some(before) if now.rise(before) > TOLERANCE => {
                    let rise = now.rise(before) * 100.0;
                    let reason =
                        format!("{UNEXPLAINED} (+{rise:.1} % from {})", before.instructions);
                    Count { reason, ..now.clone() }
                }
                _ => now.clone(),
            }
        };
        Self { heading: self.heading.clone(), counts: counted.iter().map(update).collect() }
    }

    /// Prints one line for each count, and says whether none is too high and each rise has its
    /// reason.
    fn compare(&self, counted: &[Count]) -> bool {
        println!("{:<10} {:<9} {:<8} {:>8}", "plugin", "backend", "command", "count");
        let mut good = true;
        for now in counted {
            let (change, verdict) = match self.before(now) {
                None => ("new".to_owned(), "NOT IN THE FILE"),
                Some(before) => {
                    let rise = now.rise(before);
                    let verdict = if rise > TOLERANCE {
                        "TOO HIGH"
                    } else if before.reason.starts_with(UNEXPLAINED) {
                        "NO REASON GIVEN"
                    } else {
                        ""
                    };
                    (format!("{:+.1} %", rise * 100.0), verdict)
                }
            };
            println!("{now}  {change:>7}  {verdict}");
            good &= verdict.is_empty();
        }
        if !good {
            println!(
                "\nIf it has to cost more, run `./dev counts --update` and write the reason into \
                 integration/benches/counts.txt"
            );
        }
        good
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.heading.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        self.counts.iter().try_for_each(|count| writeln!(f, "{count}"))
    }
}
