//! iperf3's flood through limits: what of it arrives, window by window, and how long a ping takes meanwhile.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bench::{self, furnish};
use crate::{Call, tool};

/// What containerd sends as a burst.
pub const PLACEHOLDER: u64 = 4_294_967_295;
/// How long a flood lasts.
const SECONDS: u64 = 6;
/// How often the receiver's counters are read.
const SAMPLE: Duration = Duration::from_millis(20);
/// The averages are those of all windows of this length.
const WINDOW: f64 = 2.0;
/// A full frame of TCP with timestamps: Ethernet, IPv4 and TCP headers, and the payload.
const TCP_HEADERS: f64 = 66.0;
const TCP_PAYLOAD: f64 = 1448.0;

/// A host that forwards between the container `c1` and the namespace `far`.
pub fn furnish_host() {
    tool("iperf3");
    furnish(&[
        "ip link set lo up",
        "ip netns add c1",
        "ip netns add far",
        "ip link add v0 type veth peer name eth0 netns c1",
        "ip link add f0 type veth peer name far0 netns far",
        "ip addr add 10.71.0.1/24 dev v0; ip link set v0 up",
        "ip addr add 10.72.0.1/24 dev f0; ip link set f0 up",
        "ip -n c1 addr add 10.71.0.2/24 dev eth0; ip -n c1 link set eth0 up",
        "ip -n c1 route add default via 10.71.0.1",
        "ip -n far addr add 10.72.0.2/24 dev far0; ip -n far link set far0 up",
        "ip -n far route add default via 10.72.0.1",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        // Windows as they are when the other end is far away.
        "ip netns exec c1 sh -c 'echo 4096 1048576 16777216 > /proc/sys/net/ipv4/tcp_rmem'",
        "ip netns exec far sh -c 'echo 4096 1048576 16777216 > /proc/sys/net/ipv4/tcp_rmem'",
    ]);
}

/// A call of bandwidth with the same limit for both directions, and a queue if it is not the plugin's own choice.
pub fn call(rate: u64, burst: u64, queue: Option<&str>) -> Call {
    let queue = queue.map(|queue| format!(r#""queue":"{queue}","#)).unwrap_or_default();
    let stdin = format!(
        r#"{{"cniVersion":"1.0.0","name":"bench","type":"bandwidth",{queue}
        "ingressRate":{rate},"ingressBurst":{burst},"egressRate":{rate},"egressBurst":{burst},
        "prevResult":{{"cniVersion":"1.0.0","interfaces":[{{"name":"v0"}},
        {{"name":"eth0","sandbox":"/run/netns/c1"}}]}}}}"#
    );
    bench::call("bandwidth", "bench", &stdin)
}

/// Takes away what any plugin may have left at `v0`: the Go plugin's DEL leaves the bucket.
pub fn clean() {
    let script = "tc qdisc del dev v0 root; tc qdisc del dev v0 ingress; tc qdisc del dev v0 clsact; \
                  for i in $(ip -o link show type ifb | cut -d: -f2); do ip link del $i; done";
    let _ = Command::new("sh").args(["-c", script]).stderr(Stdio::null()).status();
}

/// Which way a flood goes, and over what.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Into the container.
    pub into: bool,
    /// UDP, not TCP.
    pub udp: bool,
}

impl Flow {
    /// Each way, over each.
    pub const ALL: [Self; 4] = [
        Self { into: true, udp: false },
        Self { into: false, udp: false },
        Self { into: true, udp: true },
        Self { into: false, udp: true },
    ];

    /// As a table has it.
    pub fn name(self) -> &'static str {
        match (self.udp, self.into) {
            (false, true) => "TCP in",
            (false, false) => "TCP out",
            (true, true) => "UDP in",
            (true, false) => "UDP out",
        }
    }
}

/// One plugin's limit under one flow.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The most that arrived in any window, as a part of the limit.
    pub most: f64,
    /// The least.
    pub least: f64,
    /// The mean ping meanwhile, in milliseconds.
    pub ping: f64,
}

/// Floods the limit that is there.
pub fn measure(rate: u64, flow: Flow) -> Seen {
    let mut server = in_namespace("far", &["iperf3", "-s", "-1"]);
    std::thread::sleep(Duration::from_millis(300));
    let seconds = SECONDS.to_string();
    // One flow's window or socket buffer would be full before the queue is.
    let flows = match rate {
        1_000_000 => 2,
        10_000_000 => 4,
        1_000_000_000 if !flow.udp => 32,
        _ => 8,
    };
    let parallel = flows.to_string();
    let mut words = vec!["iperf3", "-c", "10.72.0.2", "-t", &seconds, "-P", &parallel];
    if flow.into {
        words.push("-R");
    }
    // A quarter more than fits. Of small datagrams iperf3 cannot send a gigabit; of a large one, each
    // fragment but the last is a full frame.
    let flood = ((rate + rate / 4) / flows).to_string();
    let size = if rate >= 1_000_000_000 { "59200" } else { "1448" };
    if flow.udp {
        words.extend(["-u", "-l", size, "-b", &flood]);
    }
    let receiver = if flow.into { ("c1", "eth0") } else { ("far", "far0") };
    let samples = std::thread::spawn(move || samples(receiver.0, receiver.1));
    let mut client = in_namespace("c1", &words);
    let ping = ["ping", "-q", "-i", "0.1", "-c", "40", "-W", "3", "10.72.0.2"];
    std::thread::sleep(Duration::from_millis(500));
    let ping = in_namespace("c1", &ping).wait_with_output().expect("ping");
    let samples = samples.join().expect("samples");
    for process in [&mut client, &mut server] {
        process.kill().ok();
        let _ = process.wait();
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let limit = rate as f64 / 8.0;
    let shares: Vec<f64> =
        windows(&samples, flow.udp).iter().map(|average| average / limit).collect();
    assert!(!shares.is_empty(), "nothing arrived");
    Seen {
        most: shares.iter().copied().fold(0.0, f64::max),
        least: shares.iter().copied().fold(f64::MAX, f64::min),
        ping: mean_of_ping(&String::from_utf8_lossy(&ping.stdout)),
    }
}

/// What had arrived at an interface at a time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    seconds: f64,
    bytes: f64,
    packets: f64,
}

/// Reads the counters of a namespace's interface for as long as a flood lasts.
fn samples(namespace: &str, interface: &str) -> Vec<Sample> {
    let netns = std::fs::File::open(format!("/run/netns/{namespace}")).expect("namespace");
    nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
    let started = Instant::now();
    let mut samples = Vec::new();
    while started.elapsed() < Duration::from_secs(SECONDS) {
        let text = std::fs::read_to_string("/proc/thread-self/net/dev").expect("counters");
        let line = text.lines().find_map(|line| line.trim().strip_prefix(interface));
        let numbers: Vec<f64> = line
            .and_then(|line| line.strip_prefix(':'))
            .expect("the interface's line")
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let seconds = started.elapsed().as_secs_f64();
        samples.push(Sample { seconds, bytes: numbers[0], packets: numbers[1] });
        std::thread::sleep(SAMPLE);
    }
    samples
}

/// The bytes per second of every window, from the flood's first on.
fn windows(samples: &[Sample], udp: bool) -> Vec<f64> {
    /// More than iperf3 says before it begins.
    const GREETINGS: f64 = 3000.0;
    let first = samples[0].bytes;
    let Some(start) = samples.iter().position(|sample| sample.bytes > first + GREETINGS) else {
        return Vec::new();
    };
    let flood = &samples[start.saturating_sub(1)..];
    let window = |(at, from): (usize, &Sample)| {
        let to = flood[at..].iter().find(|to| to.seconds >= from.seconds + WINDOW)?;
        let (bytes, packets) = (to.bytes - from.bytes, to.packets - from.packets);
        // The stack counts the headers of many segments once; the limit counts each frame.
        let frames = (TCP_PAYLOAD + TCP_HEADERS) / TCP_PAYLOAD;
        let wire = if udp { bytes } else { (bytes - TCP_HEADERS * packets) * frames };
        Some(wire / (to.seconds - from.seconds))
    };
    flood.iter().enumerate().filter_map(window).collect()
}

/// A program in a namespace, whose stdout can be read.
pub fn in_namespace(name: &str, words: &[&str]) -> Child {
    Command::new("ip")
        .args(["netns", "exec", name])
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("ip netns exec")
}

/// The mean in `rtt min/avg/max/mdev = 0.1/0.2/0.3/0.1 ms`.
pub fn mean_of_ping(text: &str) -> f64 {
    let numbers = text.rsplit(" = ").next().unwrap_or_default();
    numbers.split('/').nth(1).and_then(|mean| mean.parse().ok()).unwrap_or(f64::NAN)
}
