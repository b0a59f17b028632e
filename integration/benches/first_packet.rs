//! What the first packet of a connection through a mapping costs: beside no mapping at all, beside the Go
//! plugin's on iptables and on nftables, and with 10,000 more of ours.
//!
//! `./dev bench`, or `cargo bench -p cni-chain --bench first_packet`. Needs root, nft, and Debian's
//! `containernetworking-plugins`. Client and server are one thread on one CPU, so that what is measured is
//! the kernel's work on the packets and no waking up. No connection has the addresses and ports of one that
//! connection tracking still knows: it would be a later packet of that one. Wall clock, of which the fastest tenth counts: what
//! is slower waited for something else. The ways take turns, so that a drift of the machine meets them
//! all. Only differences within one run mean something, and those below 5 per cent nothing.

#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use cni_common::kernel::netns::Netns;
use cni_testbox::bench::{self, Limits, furnish, furnish_bridge, stay_on_one_cpu};
use cni_testbox::{Implementation, enter_box, feed, sh, tool};

const ROUNDS: usize = 12;
/// Of each kind, in each round of each way.
const SAMPLES: usize = 250;
/// Until connection tracking has forgotten what was there before, as `furnish_host` sets it.
const FORGOTTEN: Duration = Duration::from_millis(1500);
/// The client's first port over UDP.
const CLIENT_PORT: u16 = 12_000;
/// How long a packet may take that is not lost.
const PATIENCE: Duration = Duration::from_secs(2);
const MANY: usize = 10_000;
const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 2);
/// Ours may be this many times as slow as the Go plugin's faster backend: as fast, but for the noise, which
/// moves one and the same way by 5 % from run to run.
const LIMIT: f64 = 1.06;

fn main() {
    enter_box();
    stay_on_one_cpu();
    furnish_host();
    let server = Server::start();
    let clients = [("host", None), ("outside", Some("/run/netns/out"))];
    let mut times: Vec<Vec<Times>> = vec![vec![Times::default(); clients.len()]; WAYS.len()];
    for _ in 0..ROUNDS {
        for (way, times) in WAYS.iter().zip(&mut times) {
            way.install();
            std::thread::sleep(FORGOTTEN);
            for ((_, netns), times) in clients.iter().zip(times) {
                times.add(&server, *netns, way.target());
            }
            sh("nft flush ruleset");
        }
    }
    let mut limits = Limits::default();
    for (index, (client, _)) in clients.iter().enumerate() {
        println!("From {client}: a tenth of {} was as fast [us]", ROUNDS * SAMPLES);
        let fastest: Vec<[f64; 2]> = times.iter_mut().map(|way| way[index].fastest()).collect();
        for (way, [tcp, udp]) in WAYS.iter().zip(&fastest) {
            println!("  {:<28} TCP connect {tcp:>7.2}   UDP round trip {udp:>7.2}", way.name());
        }
        for (kind, what) in ["TCP connect", "UDP round trip"].iter().enumerate() {
            let of = |way: Way| {
                let position = WAYS.iter().position(|other| *other == way);
                fastest[position.expect("one of the ways")][kind]
            };
            let go = of(Way::GoIptables).min(of(Way::GoNftables));
            limits.line(&format!("{what}: ours / Go"), of(Way::Ours) / go, LIMIT, "x");
            let many = of(Way::OursBesideMany) / of(Way::Ours);
            limits.line(&format!("{what}: beside {MANY} / alone"), many, LIMIT, "x");
        }
    }
    limits.conclude();
}

/// A host with an interface that leads outside, a bridge and one container.
fn furnish_host() {
    furnish_bridge();
    furnish(&[
        "ip netns add out",
        "ip link add ext0 type veth peer name eth0 netns out",
        "ip addr add 198.51.100.1/24 dev ext0",
        "ip link set ext0 up",
        "ip -n out addr add 198.51.100.2/24 dev eth0",
        "ip -n out link set eth0 up",
        "ip -n out route add default via 198.51.100.1",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "cd /proc/sys/net/netfilter; for timeout in nf_conntrack_udp_timeout* nf_conntrack_tcp_timeout*; \
         do echo 1 > $timeout; done",
    ]);
}

/// The container takes connections and answers datagrams, on port 80.
struct Server {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Server {
    fn start() -> Self {
        let netns = Netns::open(Path::new("/run/netns/c1")).expect("netns");
        let any = (Ipv4Addr::UNSPECIFIED, 80);
        let tcp = netns.run(|| TcpListener::bind(any).expect("bind")).expect("setns");
        let udp = netns.run(|| UdpSocket::bind(any).expect("bind")).expect("setns");
        udp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { tcp, udp }
    }

    fn connect(&self, target: SocketAddr) -> Duration {
        let start = Instant::now();
        let stream = TcpStream::connect(target).expect("connect");
        let elapsed = start.elapsed();
        drop(stream);
        drop(self.tcp.accept().expect("a connection"));
        elapsed
    }

    fn ask(&self, port: u16, target: SocketAddr) -> Duration {
        let mut buffer = [0; 16];
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.connect(target).expect("a target");
        let start = Instant::now();
        socket.send(b"?").expect("send");
        let (length, client) = self.udp.recv_from(&mut buffer).expect("a question");
        self.udp.send_to(&buffer[..length], client).expect("send");
        socket.recv(&mut buffer).expect("an answer");
        start.elapsed()
    }
}

/// How packets get to the container.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Unmapped,
    Ours,
    OursBesideMany,
    GoIptables,
    GoNftables,
}

const WAYS: [Way; 5] =
    [Way::Unmapped, Way::Ours, Way::OursBesideMany, Way::GoIptables, Way::GoNftables];

impl Way {
    fn name(self) -> String {
        match self {
            Self::Unmapped => "to the container itself".to_owned(),
            Self::Ours => "ours".to_owned(),
            Self::OursBesideMany => format!("ours beside {MANY}"),
            Self::GoIptables => "Go on iptables".to_owned(),
            Self::GoNftables => "Go on nftables".to_owned(),
        }
    }

    fn target(self) -> SocketAddr {
        match self {
            Self::Unmapped => (CONTAINER, 80).into(),
            _ => (HOST, 8080).into(),
        }
    }

    fn install(self) {
        let ours = Implementation::Ours.plugin("portmap");
        match self {
            // With connection tracking, as all others.
            Self::Unmapped => load("table ip t { chain c { type nat hook output priority 0; }; }"),
            Self::Ours => add(&ours, "one", CONTAINER, 8080..8081),
            Self::OursBesideMany => {
                add(&ours, "one", CONTAINER, 8080..8081);
                for index in 0..100 {
                    let address = Ipv4Addr::new(10, 71, 1, index);
                    let first = 20_000 + u16::from(index) * 50;
                    add(&ours, &format!("fill{index}"), address, first..first + 50);
                }
            }
            Self::GoIptables => {
                add(&Implementation::Go.plugin("portmap"), "one", CONTAINER, 8080..8081);
            }
            Self::GoNftables => load(GO_NFTABLES),
        }
    }
}

fn load(ruleset: &str) {
    feed(tool("nft").args(["-f", "-"]), ruleset);
}

/// Each port over TCP and UDP.
fn add(plugin: &Path, container: &str, address: Ipv4Addr, ports: std::ops::Range<u16>) {
    let mapping = |port: u16| {
        ["tcp", "udp"].map(|protocol| {
            format!(r#"{{"hostPort":{port},"containerPort":80,"protocol":"{protocol}"}}"#)
        })
    };
    let mappings: Vec<String> = ports.flat_map(mapping).collect();
    let stdin = format!(
        r#"{{"cniVersion":"1.0.0","name":"bench","type":"portmap","runtimeConfig":{{"portMappings":[{}]}},
        "prevResult":{{"cniVersion":"1.0.0","interfaces":[{{"name":"br0"}},{{"name":"eth0","sandbox":"/run/netns/c1"}}],
        "ips":[{{"address":"{address}/16","interface":1}}]}}}}"#,
        mappings.join(",")
    );
    bench::call("portmap", container, &stdin).cpu(plugin, "ADD");
}

/// As the Go plugin's nftables backend (1.6 and newer) leaves it: Debian's knows none.
const GO_NFTABLES: &str = "
    table ip cni_hostport {
        chain hostports {
            tcp dport 8080 dnat to 10.71.0.2:80
            udp dport 8080 dnat to 10.71.0.2:80
        }
        chain hostip_hostports {
        }
        chain hostports_all {
            jump hostip_hostports
            jump hostports
        }
        chain prerouting {
            type nat hook prerouting priority -100;
            fib daddr type local jump hostports_all
        }
        chain output {
            type nat hook output priority -100;
            fib daddr type local jump hostports_all
        }
        chain masquerading {
            type nat hook postrouting priority 100;
            ip saddr 10.71.0.2 ip daddr 10.71.0.2 masquerade
            ip saddr 127.0.0.1 ip daddr 10.71.0.2 masquerade
        }
    }";

/// Of one way, from one client.
#[derive(Clone, Default)]
struct Times {
    tcp: Vec<Duration>,
    udp: Vec<Duration>,
}

impl Times {
    fn add(&mut self, server: &Server, netns: Option<&str>, target: SocketAddr) {
        let sample = || {
            let mut ports = CLIENT_PORT..;
            for warm in [true, false] {
                let count = if warm { SAMPLES / 10 } else { SAMPLES };
                let tcp: Vec<Duration> = (0..count).map(|_| server.connect(target)).collect();
                let ports = ports.by_ref().take(count);
                let udp: Vec<Duration> = ports.map(|port| server.ask(port, target)).collect();
                if !warm {
                    return (tcp, udp);
                }
            }
            unreachable!("the second turn returns")
        };
        let (tcp, udp) = match netns {
            None => sample(),
            Some(path) => Netns::open(Path::new(path)).expect("netns").run(sample).expect("setns"),
        };
        self.tcp.extend(tcp);
        self.udp.extend(udp);
    }

    fn fastest(&mut self) -> [f64; 2] {
        [&mut self.tcp, &mut self.udp].map(|times| {
            times.sort();
            times[times.len() / 10].as_secs_f64() * 1e6
        })
    }
}
