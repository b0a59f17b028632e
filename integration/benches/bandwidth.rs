//! What limits cost and whether they hold: CPU of ADD and DEL against Debian's Go plugin, and what
//! of iperf3's flood arrives, window by window, and how long a ping takes meanwhile.
//!
//! `cargo build --release`, then `cargo bench -p cni-chain --bench bandwidth`. Needs root, iperf3 and
//! Debian's `containernetworking-plugins`. Takes about seven minutes; `--cpu` leaves the floods out,
//! `--rate MBIT` runs those of one rate, `--queues` compares the queues instead, on a kernel that has both. `--enforce` makes the exit status say whether every
//! limit is kept.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cni_testbox::bench::{self, Limits, furnish};
use cni_testbox::{Call, Implementation, enter_box, tool};

/// The CPU of our ADD and DEL beside the Go plugin's. Nearly all of it is the kernel's work for an IFB and
/// two qdiscs, and starting a process, which costs more where a hypervisor answers CPUID: on one and the
/// same virtual machine it was 0.32 on some days and 0.37 on others.
const LIMIT: f64 = 0.4;
/// What containerd sends as a burst.
const PLACEHOLDER: u64 = 4_294_967_295;
/// How long a flood lasts.
const SECONDS: u64 = 6;
/// How often the receiver's counters are read.
const SAMPLE: Duration = Duration::from_millis(20);
/// The averages are those of all windows of this length.
const WINDOW: f64 = 2.0;
/// A ping, in milliseconds, that met no queue.
const NO_QUEUE: f64 = 1.0;
/// A full frame of TCP with timestamps: Ethernet, IPv4 and TCP headers, and the payload.
const TCP_HEADERS: f64 = 66.0;
const TCP_PAYLOAD: f64 = 1448.0;

fn main() {
    enter_box();
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
    let (ours, go) =
        (Implementation::Ours.plugin("bandwidth"), Implementation::Go.plugin("bandwidth"));
    if std::env::args().any(|word| word == "--queues") {
        return queues(&ours);
    }
    let mut limits = Limits::default();
    cpu(&mut limits, &ours, &go);
    let arguments: Vec<String> = std::env::args().collect();
    let wanted = arguments.iter().skip_while(|word| *word != "--rate").nth(1);
    for mbit in [1, 10, 100, 1000] {
        if arguments.iter().any(|word| word == "--cpu")
            || wanted.is_some_and(|wanted| *wanted != mbit.to_string())
        {
            continue;
        }
        let rate = mbit * 1_000_000;
        for (burst, what) in
            [(PLACEHOLDER, "containerd's burst"), (rate * 3 / 50, "a given burst of 60 ms")]
        {
            println!("{mbit} Mbit/s, {what}");
            for flow in Flow::ALL {
                throughput(&mut limits, rate, burst, flow, [&ours, &go]);
            }
        }
    }
    limits.conclude();
}

/// A ping beside TCP that goes into the container as fast as it may, for each queue.
fn queues(ours: &Path) {
    const QUEUES: [&str; 2] = ["fq_codel", "fifo"];
    println!(
        "| limit | flows | idle | fq_codel: ping | lost | throughput | fifo: ping | lost | throughput |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let arguments: Vec<String> = std::env::args().collect();
    let wanted = arguments.iter().skip_while(|word| *word != "--rate").nth(1);
    for mbit in [1_u64, 10, 50, 100, 1000] {
        if wanted.is_some_and(|wanted| *wanted != mbit.to_string()) {
            continue;
        }
        for flows in [1, 8] {
            let mut row = format!("| {mbit} Mbit/s | {flows} |");
            for queue in QUEUES {
                let call = call(mbit * 1_000_000, PLACEHOLDER, Some(queue));
                call.cpu(ours, "ADD");
                if queue == QUEUES[0] {
                    let _ = write!(row, " {:.1} ms |", Pings::run(20).mean);
                }
                let (pings, bits) = beside_bulk(flows);
                let Pings { sent, lost, mean } = pings;
                let mbit = bits / 1e6;
                let _ = write!(row, " {mean:.1} ms | {lost} of {sent} | {mbit:.2} Mbit/s |");
                call.cpu(ours, "DEL");
                clean();
            }
            println!("{row}");
        }
    }
}

/// What ping says of some questions.
struct Pings {
    sent: u32,
    lost: u32,
    /// In milliseconds.
    mean: f64,
}

impl Pings {
    fn run(count: u32) -> Self {
        let words = ["ping", "-q", "-i", "0.1", "-W", "3", "-c", &count.to_string(), "10.72.0.2"];
        let said = in_namespace("c1", &words).wait_with_output().expect("ping");
        let said = String::from_utf8_lossy(&said.stdout);
        let received =
            said.split(", ").nth(1).and_then(|part| part.split(' ').next()?.parse().ok());
        Self { sent: count, lost: count - received.unwrap_or(0), mean: mean_of_ping(&said) }
    }
}

/// Pings while iperf3's TCP comes in, and the bits per second that its receiver had.
fn beside_bulk(flows: u32) -> (Pings, f64) {
    let mut server = in_namespace("far", &["iperf3", "-s", "-1"]);
    std::thread::sleep(Duration::from_millis(500));
    let words =
        ["iperf3", "-c", "10.72.0.2", "-R", "-J", "-O", "2", "-t", "14", "-P", &flows.to_string()];
    let client = in_namespace("c1", &words);
    std::thread::sleep(Duration::from_secs(3));
    let pings = Pings::run(100);
    let report = client.wait_with_output().expect("iperf3");
    let _ = server.kill();
    let _ = server.wait();
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).expect("JSON of iperf3");
    let received = &report["end"]["sum_received"]["bits_per_second"];
    (pings, received.as_f64().unwrap_or(f64::NAN))
}

/// A call with the same limit for both directions, and a queue if it is not the plugin's own choice.
fn call(rate: u64, burst: u64, queue: Option<&str>) -> Call {
    let queue = queue.map(|queue| format!(r#""queue":"{queue}","#)).unwrap_or_default();
    let stdin = format!(
        r#"{{"cniVersion":"1.0.0","name":"bench","type":"bandwidth",{queue}
        "ingressRate":{rate},"ingressBurst":{burst},"egressRate":{rate},"egressBurst":{burst},
        "prevResult":{{"cniVersion":"1.0.0","interfaces":[{{"name":"v0"}},
        {{"name":"eth0","sandbox":"/run/netns/c1"}}]}}}}"#
    );
    bench::call("bandwidth", "bench", &stdin)
}

/// The Go plugin's DEL leaves the bucket, so a shell takes it away after each; its time is not
/// counted.
fn cpu(limits: &mut Limits, ours: &Path, go: &Path) {
    const ROUNDS: u32 = 60;
    println!("Both limits, ADD+DEL, ours and Debian's Go plugin ({ROUNDS} interleaved rounds)");
    let both = call(8_000_000, 800_000, None);
    let mut sums = [0.0; 2];
    for _ in 0..ROUNDS {
        for (plugin, sum) in [ours, go].into_iter().zip(&mut sums) {
            *sum += (both.cpu(plugin, "ADD") + both.cpu(plugin, "DEL")).as_secs_f64() * 1e6;
            clean();
        }
    }
    let [our, their] = sums.map(|sum| sum / f64::from(ROUNDS));
    println!("  ours {our:.0} us, Go {their:.0} us: Go costs {:.1} times as much", their / our);
    limits.line("ours / Go", our / their, LIMIT, "x");
    both.print_instructions(ours);
    clean();
}

/// Takes away what any plugin may have left.
fn clean() {
    let script = "tc qdisc del dev v0 root; tc qdisc del dev v0 ingress; tc qdisc del dev v0 clsact; \
                  for i in $(ip -o link show type ifb | cut -d: -f2); do ip link del $i; done";
    let _ = Command::new("sh").args(["-c", script]).stderr(Stdio::null()).status();
}

#[derive(Clone, Copy)]
struct Flow {
    into: bool,
    udp: bool,
}

impl Flow {
    const ALL: [Self; 4] = [
        Self { into: true, udp: false },
        Self { into: false, udp: false },
        Self { into: true, udp: true },
        Self { into: false, udp: true },
    ];

    fn name(self) -> &'static str {
        match (self.udp, self.into) {
            (false, true) => "TCP in",
            (false, false) => "TCP out",
            (true, true) => "UDP in",
            (true, false) => "UDP out",
        }
    }
}

/// One plugin's limit under one flow.
struct Seen {
    /// The most and the least that arrived in any window, as a part of the limit.
    most: f64,
    least: f64,
    /// The mean ping meanwhile, in milliseconds.
    ping: f64,
}

fn throughput(limits: &mut Limits, rate: u64, burst: u64, flow: Flow, plugins: [&PathBuf; 2]) {
    let [ours, go] = plugins.map(|plugin| {
        let call = call(rate, burst, None);
        call.cpu(plugin, "ADD");
        let seen = measure(rate, flow);
        call.cpu(plugin, "DEL");
        clean();
        seen
    });
    println!(
        "  {:<8} ours {:.3} to {:.3} of the limit, ping {:.1} ms; Go {:.3} to {:.3}, ping {:.1} ms",
        flow.name(),
        ours.least,
        ours.most,
        ours.ping,
        go.least,
        go.most,
        go.ping
    );
    let tolerance = if rate >= 1_000_000_000 { 0.10 } else { 0.05 };
    limits.line("most in any 2 s / limit", ours.most, 1.0 + tolerance, "x");
    if go.most < 1.0 && ours.most < 1.0 {
        // Without a limit for the first seconds, it was the sender that set the pace.
        println!("  this machine sends less than the limit: no verdict on the least");
        return;
    }
    limits.line("limit / least in any 2 s", 1.0 / ours.least, 1.0 / (1.0 - tolerance), "x");
    if go.most > 1.0 + tolerance {
        println!(
            "  the Go plugin lets {:.1} times the limit through: no load, no latency",
            go.most
        );
    } else if ours.ping < NO_QUEUE && go.ping < NO_QUEUE {
        println!("  no queue forms behind either limit: this machine's sender waits for it");
    } else {
        limits.line("ping under load / the Go plugin's", ours.ping / go.ping, 1.0, "x");
    }
}

fn measure(rate: u64, flow: Flow) -> Seen {
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

fn in_namespace(name: &str, words: &[&str]) -> Child {
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
fn mean_of_ping(text: &str) -> f64 {
    let numbers = text.rsplit(" = ").next().unwrap_or_default();
    numbers.split('/').nth(1).and_then(|mean| mean.parse().ok()).unwrap_or(f64::NAN)
}
