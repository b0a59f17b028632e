//! How many instructions a call of each plugin takes in user space, held against `counts.txt`.
//! Counted by valgrind, not timed: the same on a busy machine. Programs that a plugin runs
//! (iptables) and the kernel's part are not counted.
//!
//! `./dev counts` compares, and `./dev counts --update` writes: this program prints the file's new
//! text then, because in its box the checkout is read-only. `./dev order` writes which functions such
//! calls run, for the linker. `--plugins DIRECTORY` says whose binaries are run, `--libc ARCHIVE` what they are linked
//! with. Needs root and valgrind.

#![forbid(unsafe_code)]

mod order;
mod table;

use std::path::{Path, PathBuf};

use cni_testbox::bench::call;
use cni_testbox::{Call, enter_box, sh};

use order::Order;
use table::{Count, Table};

fn main() {
    enter_box();
    let arguments: Vec<String> = std::env::args().collect();
    let after = |word| arguments.iter().skip_while(|argument| *argument != word).nth(1);
    let plugins = after("--plugins").expect("--plugins DIRECTORY");
    furnish_host(Path::new(plugins));

    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    if has("--order") {
        let libc = after("--libc").expect("--libc ARCHIVE");
        print!("{}", Order::of(CALLS.iter().flat_map(Counted::functions), libc));
        return;
    }
    let written = Table::read();
    let counted: Vec<Count> = CALLS.iter().flat_map(Counted::count_all).collect();
    if has("--update") {
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
        let (program, call) = self.usual_case();
        self.commands()
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

    /// The functions that its commands run, by the linker's names. What runs iptables takes its time there.
    fn functions(&self) -> Vec<String> {
        if self.backend == "iptables" {
            return Vec::new();
        }
        let (program, call) = self.usual_case();
        self.commands().flat_map(|command| call.functions(&program, command)).collect()
    }

    /// No call depends on those of another line, and the first ADD, which makes what all share, is made.
    fn usual_case(&self) -> (PathBuf, Call) {
        let (program, call) = (Path::new("/run/plugins").join(self.plugin), self.call());
        sh("nft flush ruleset");
        call.cpu_of_add_and_delete(&program);
        (program, call)
    }

    /// VERSION knows no backend: once is enough.
    fn commands(&self) -> impl Iterator<Item = &'static str> {
        let version = (self.backend != "iptables").then_some("VERSION");
        version.into_iter().chain(["ADD", "CHECK", "DEL"])
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
