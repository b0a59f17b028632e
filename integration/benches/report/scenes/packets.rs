//! A new connection through a mapped port, and datagrams of one that is there, from a client outside.
//!
//! Client and server are one thread on one CPU, so that what is measured is the kernel's work on the packets and no
//! waking up.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cni_common::kernel::netns::Netns;
use cni_testbox::bench::stay_on_one_cpu;
use cni_testbox::{feed, run as run_command, tool};
use nix::sched::sched_setaffinity;
use nix::unistd::Pid;
use serde_json::json;

use super::{Setup, number};
use crate::attachment::Attachment;
use crate::host::{Host, path_of};
use crate::record::Of;
use crate::subject::Implementation;

const SCENE: &str = "packets";
const MANY: usize = 10_000;
const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 2);
/// How often, and how long, datagrams go through one way in a round.
const SLICES: usize = 15;
const SLICE: Duration = Duration::from_millis(20);
/// Fewer than a socket's buffer holds.
const BURST: usize = 32;
/// Until connection tracking has forgotten what was there before, as the host is furnished.
const FORGOTTEN: Duration = Duration::from_millis(1500);

pub(super) fn run(setup: &Setup) -> Result<(), String> {
    let mut ways = vec![Way::new("no mapping", None, 0)?];
    for by in &setup.implementations {
        ways.push(Way::new(&by.name, Some(by), 1)?);
        if by.is_ours() {
            ways.push(Way::new(&by.name, Some(by), MANY)?);
        }
    }
    let before = stay_on_one_cpu();
    let connects = setup.rounds(250, 50);
    for round in 0..=setup.rounds(12, 2) {
        if round > 0 {
            std::thread::sleep(FORGOTTEN);
        }
        for way in &mut ways {
            let (times, rate) = way.round(connects);
            // The first warms up.
            if round > 0 {
                way.connects.push(times);
                way.rates.push(rate);
            }
        }
    }
    sched_setaffinity(Pid::from_raw(0), &before).expect("the CPUs of before");
    for way in &ways {
        let of = Of { scene: SCENE, by: way.by.clone(), at: way.mappings, ..Of::default() };
        of.tell("connect", &way.connects);
        of.tell("packets per second", &way.rates);
    }
    Ok(())
}

/// How packets get to a container, on a host of its own.
struct Way {
    by: String,
    mappings: usize,
    target: SocketAddr,
    client: Netns,
    tcp: TcpListener,
    server: UdpSocket,
    /// Of each round: the median in microseconds, and datagrams per second.
    connects: Vec<f64>,
    rates: Vec<f64>,
    _host: Host,
}

impl Way {
    fn new(name: &str, by: Option<&Implementation>, mappings: usize) -> Result<Self, String> {
        let host = Host::furnish(&format!("packets-{name}-{mappings}"), 0);
        let outside = host.name.replacen("host", "out", 1);
        run_command(tool("ip").args(["netns", "add", &outside]));
        host.ip(&format!(
            "link add ext0 type veth peer name eth0 netns {outside}\n\
             addr add {HOST}/24 dev ext0\nlink set ext0 up"
        ));
        feed(
            tool("ip").args(["-n", &outside, "-batch", "-"]),
            &format!(
                "link set lo up\naddr add 198.51.100.2/24 dev eth0\nlink set eth0 up\nroute add default via {HOST}"
            ),
        );
        host.shell(
            "nft 'table ip tracked { chain c { type nat hook output priority 0; }; }'
             cd /proc/sys/net/netfilter; for timeout in nf_conntrack_tcp_timeout*; do echo 1 > $timeout; done",
        );
        let target = match by {
            None => (CONTAINER, 80).into(),
            Some(by) => {
                map(by, &host, mappings)?;
                (HOST, 8080).into()
            }
        };
        let open = |path: PathBuf| Netns::open(&path).expect("ip netns add made it");
        let container = open(host.container_path());
        let bound = || {
            let any = (Ipv4Addr::UNSPECIFIED, 80);
            (TcpListener::bind(any).expect("bind"), UdpSocket::bind(any).expect("bind"))
        };
        let (tcp, server) = container.run(bound).expect("the container");
        server.set_nonblocking(true).expect("a socket option");
        let client = open(path_of(&outside));
        Ok(Self {
            by: name.into(),
            mappings,
            target,
            client,
            tcp,
            server,
            connects: Vec::new(),
            rates: Vec::new(),
            _host: host,
        })
    }

    fn round(&self, connects: usize) -> (f64, f64) {
        let work = || {
            let mut times: Vec<f64> = (0..connects).map(|_| self.connect()).collect();
            times.sort_by(f64::total_cmp);
            (times[times.len() / 2], self.flood())
        };
        // A thread has its maker's CPUs.
        self.client.run(work).expect("the client's namespace")
    }

    fn connect(&self) -> f64 {
        let start = Instant::now();
        let stream = TcpStream::connect(self.target).expect("connect");
        let elapsed = start.elapsed();
        drop(stream);
        drop(self.tcp.accept().expect("a connection"));
        elapsed.as_secs_f64() * 1e6
    }

    /// The fastest of a round's slices: what is slower waited for something else.
    fn flood(&self) -> f64 {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
        socket.connect(self.target).expect("a target");
        (0..SLICES).map(|_| self.slice(&socket)).fold(0.0, f64::max)
    }

    fn slice(&self, socket: &UdpSocket) -> f64 {
        let (mut arrived, start, mut buffer) = (0, Instant::now(), [0; 64]);
        while start.elapsed() < SLICE {
            for _ in 0..BURST {
                socket.send(&[0; 18]).expect("send");
            }
            while self.server.recv(&mut buffer).is_ok() {
                arrived += 1;
            }
        }
        number(arrived) / start.elapsed().as_secs_f64()
    }
}

/// The port 8080 over TCP and UDP, and as many more as are asked for, of a hundred other containers.
fn map(by: &Implementation, host: &Host, mappings: usize) -> Result<(), String> {
    const CONTAINERS: usize = 100;
    let backend = if by.is_ours() { "nftables" } else { "iptables" };
    let program = by.directory.join("portmap");
    let add = |number: usize, ports: Vec<(usize, &str)>| {
        let mappings: Vec<_> = ports
            .iter()
            .map(|(port, protocol)| json!({ "hostPort": port, "containerPort": 80, "protocol": protocol }))
            .collect();
        let call = Attachment::new(host, number).call("portmap", backend);
        let call = call.set("runtimeConfig", json!({ "portMappings": mappings }));
        host.inside(|| call.cost(&program, "ADD"))
    };
    add(0, vec![(8080, "tcp"), (8080, "udp")])?;
    if mappings < CONTAINERS {
        return Ok(());
    }
    let each = mappings / CONTAINERS;
    for number in 1..=CONTAINERS {
        add(number, (0..each).map(|index| (20_000 + number * each + index, "tcp")).collect())?;
    }
    Ok(())
}
