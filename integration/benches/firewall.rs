//! What firewall costs: against Debian's Go firewall in the same interleaved run on both backends,
//! and, on nftables, what 5,000 attachments add to a call and to a forwarded packet.
//!
//! `./dev bench`, or `cargo bench -p cni-chain --bench firewall`. Needs root and Debian's
//! `containernetworking-plugins` and `iptables`. CPU is user plus system time of the plugin
//! process and its children; wall time is shown for round trips only. Numbers move with the
//! machine, ratios less. `--enforce` makes the exit status say whether every ratio is within its
//! limit.

#![forbid(unsafe_code)]

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cni_common::kernel::netns::Netns;
use cni_testbox::bench::{self, Limits, against_go, compare, furnish, mean};
use cni_testbox::{Call, Implementation, enter_box};

const MANY: u16 = 5_000;
const CONTAINER: &str = "10.71.0.2";
const CONTAINER_V6: &str = "fd00:71::2";
const PEER: &str = "10.72.0.2";

fn main() {
    enter_box();
    furnish_host();
    let bench = Bench {
        ours: Implementation::Ours.plugin("firewall"),
        go: Implementation::Go.plugin("firewall"),
    };
    let mut limits = Limits::default();
    bench.at_scale(&mut limits);
    bench.against_go(&mut limits);
    call("counted", CONTAINER, "nftables").print_instructions(&bench.ours);
    limits.conclude();
}

/// A host with two bridges and a container on each, in namespaces of its own.
fn furnish_host() {
    furnish(&["ip link set lo up", "ip netns add other-host"]);
    for (number, subnet) in [(1, "10.71.0"), (2, "10.72.0")] {
        furnish(&[&format!(
            "set -e; ip netns add c{number}; ip link add br{number} type bridge
            ip addr add {subnet}.1/24 dev br{number}; ip link set br{number} up
            ip link add v{number} type veth peer name eth0 netns c{number}
            ip link set v{number} master br{number} up
            ip -n c{number} addr add {subnet}.2/24 dev eth0; ip -n c{number} link set eth0 up
            ip -n c{number} route add default via {subnet}.1"
        )]);
    }
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("ip_forward");
}

fn call(container: &str, address: &str, backend: &str) -> Call {
    call_for(container, &[address], backend)
}

fn call_for(container: &str, addresses: &[&str], backend: &str) -> Call {
    let ips: Vec<String> = addresses
        .iter()
        .map(|address| format!(r#"{{"address":"{address}/16","interface":1}}"#))
        .collect();
    let ips = ips.join(",");
    let stdin = format!(
        r#"{{"cniVersion":"1.0.0","name":"bench","type":"firewall","backend":"{backend}",
        "prevResult":{{"cniVersion":"1.0.0","interfaces":[{{"name":"br1"}},{{"name":"eth0","sandbox":"/run/netns/c1"}}],
        "ips":[{ips}]}}}}"#
    );
    bench::call("firewall", container, &stdin)
}

struct Bench {
    ours: PathBuf,
    go: PathBuf,
}

impl Bench {
    fn against_go(&self, limits: &mut Limits) {
        // Each on a host of its own: where the Go plugin has left its chains, ours looks into them.
        let other_host = Netns::open(Path::new("/run/netns/other-host")).expect("netns");
        for (what, addresses, limit) in [
            ("a dual-stack container", [CONTAINER, CONTAINER_V6].as_slice(), Some(0.05)),
            // Half the work for the Go plugin, while ours is mostly start-up: no promise.
            ("a container with IPv4 alone", &[CONTAINER], None),
        ] {
            println!("{what}: ours on nftables, Go on iptables, each on its own host");
            let [native, iptables] =
                ["nftables", "iptables"].map(|backend| call_for("pair", addresses, backend));
            let go = || other_host.run(|| iptables.cpu_of_add_and_delete(&self.go)).expect("setns");
            compare(limits, || native.cpu_of_add_and_delete(&self.ours), go, limit);
        }
        println!("a dual-stack container: both on iptables");
        let iptables = call_for("pair", &[CONTAINER, CONTAINER_V6], "iptables");
        against_go(limits, &iptables, &self.ours, &self.go, 0.5);
    }

    /// Calls and packets, first without and then with many other attachments.
    fn at_scale(&self, limits: &mut Limits) {
        println!("One more attachment beside {MANY} on nftables");
        let round_trip = RoundTrip::new();
        let others: Vec<Call> = (0..MANY)
            .map(|index| {
                let [high, low] = index.to_be_bytes();
                call(&format!("other{index}"), &format!("10.80.{high}.{low}"), "nftables")
            })
            .collect();
        let run_others = |command| {
            for call in &others {
                call.cpu(&self.ours, command);
            }
        };
        // The first samples of all warm the machine up and are not used.
        self.measure(&round_trip);
        // Empty, full, full, empty: drift of the machine cancels out.
        let first_empty = self.measure(&round_trip);
        run_others("ADD");
        let (first_full, second_full) = (self.measure(&round_trip), self.measure(&round_trip));
        run_others("DEL");
        let second_empty = self.measure(&round_trip);
        let of = |first: &Cost, second: &Cost, part: Part| f64::midpoint(part(first), part(second));
        let parts: [(&str, Part, f64); 4] = [
            ("CPU of ADD", |cost| cost.calls[0], 1.5),
            ("CPU of CHECK", |cost| cost.calls[1], 1.5),
            ("CPU of DEL", |cost| cost.calls[2], 1.5),
            ("UDP round trip", |cost| cost.round_trip, 1.3),
        ];
        for (what, part, limit) in parts {
            let empty = of(&first_empty, &second_empty, part);
            let full = of(&first_full, &second_full, part);
            let text = format!("{what}: {full:.1} us / {empty:.1} us when alone");
            limits.line(&text, full / empty, limit, "x");
        }
    }

    fn measure(&self, round_trip: &RoundTrip) -> Cost {
        const ROUNDS: usize = 200;
        let call = call("more", CONTAINER, "nftables");
        let mut samples: [Vec<Duration>; 3] = Default::default();
        for _ in 0..ROUNDS {
            for (command, samples) in ["ADD", "CHECK", "DEL"].iter().zip(&mut samples) {
                samples.push(call.cpu(&self.ours, command));
            }
        }
        call.cpu(&self.ours, "ADD");
        let round_trip = round_trip.median();
        call.cpu(&self.ours, "DEL");
        Cost { calls: samples.map(|samples| mean(&samples)), round_trip }
    }
}

/// One of the costs.
type Part = fn(&Cost) -> f64;

/// In microseconds.
struct Cost {
    /// ADD, CHECK, DEL.
    calls: [f64; 3],
    round_trip: f64,
}

/// A container that sends and one that echoes, each on a bridge of its own: the host forwards
/// between them.
struct RoundTrip {
    sender: UdpSocket,
}

impl RoundTrip {
    fn new() -> Self {
        let bound = |namespace: &str, address: &str| {
            let path = Path::new("/run/netns").join(namespace);
            let netns = Netns::open(&path).expect("netns");
            netns.run(|| UdpSocket::bind((address, 7)).expect("bind")).expect("setns")
        };
        let (sender, echo) = (bound("c1", CONTAINER), bound("c2", PEER));
        sender.connect((PEER, 7)).expect("connect");
        sender.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            loop {
                let (length, from) = echo.recv_from(&mut buffer).expect("receive");
                echo.send_to(&buffer[..length], from).expect("send");
            }
        });
        Self { sender }
    }

    fn median(&self) -> f64 {
        const PACKETS: usize = 20_000;
        let mut buffer = [0; 64];
        let mut samples: Vec<Duration> = (0..PACKETS)
            .map(|_| {
                let start = Instant::now();
                self.sender.send(b"ping").expect("send");
                self.sender.recv(&mut buffer).expect("an echo: the host does not forward");
                start.elapsed()
            })
            .collect();
        samples.sort();
        samples[PACKETS / 2].as_secs_f64() * 1e6
    }
}
