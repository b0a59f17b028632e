//! What limits cost and whether they hold: CPU of ADD and DEL against Debian's Go plugin, and what
//! iperf3 gets through, second by second, and how long a ping takes meanwhile.
//!
//! `cargo build --release`, then `cargo bench -p cni-chain --bench bandwidth`. Needs root, iperf3 and
//! Debian's `containernetworking-plugins`. Takes about six minutes; `--quick` leaves UDP and the
//! given bursts out, `--udp` TCP and the given bursts. `--enforce` makes the exit status say whether every limit is kept.

#![forbid(unsafe_code)]

#[expect(dead_code, reason = "each benchmark uses its part of the harness")]
mod harness;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use harness::{Call, Limits, enter_box, furnish, go_plugin, our_plugin};

/// What containerd sends as a burst.
const PLACEHOLDER: u64 = 4_294_967_295;
const SECONDS: usize = 5;
/// iperf3 reports ten times a second.
const REPORTS: usize = 10;
/// Ethernet, IPv4, TCP with timestamps: what a full frame has beside its payload.
const TCP_PAYLOAD: f64 = 1448.0 / 1514.0;
const UDP_PAYLOAD: f64 = 1448.0 / 1490.0;

fn main() {
    enter_box();
    furnish(&[
        "mount -t tmpfs tmpfs /run",
        "mkdir -p /run/netns",
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
    ]);
    let (ours, go) = (our_plugin("bandwidth"), go_plugin("bandwidth"));
    let mut limits = Limits::default();
    cpu(&mut limits, &ours, &go);
    let asked = |name: &str| std::env::args().any(|argument| argument == name);
    let (tcp_only, udp_only) = (asked("--quick"), asked("--udp"));
    for rate in [1_000_000, 10_000_000, 100_000_000, 1_000_000_000] {
        for (burst, what) in
            [(PLACEHOLDER, "containerd's burst"), (rate / 20, "a given burst of 50 ms")]
        {
            if (tcp_only || udp_only) && burst != PLACEHOLDER {
                continue;
            }
            println!("{} Mbit/s, {what}", rate / 1_000_000);
            for flow in Flow::ALL {
                if (tcp_only && flow.udp) || (udp_only && !flow.udp) {
                    continue;
                }
                throughput(&mut limits, rate, burst, flow, [&ours, &go]);
            }
        }
    }
    limits.conclude();
}

/// A call with the same limit for both directions.
fn call(rate: u64, burst: u64) -> Call {
    let stdin = format!(
        r#"{{"cniVersion":"1.0.0","name":"bench","type":"bandwidth",
        "ingressRate":{rate},"ingressBurst":{burst},"egressRate":{rate},"egressBurst":{burst},
        "prevResult":{{"cniVersion":"1.0.0","interfaces":[{{"name":"v0"}},
        {{"name":"eth0","sandbox":"/run/netns/c1"}}]}}}}"#
    );
    Call { container: "bench".to_owned(), stdin }
}

/// The Go plugin's DEL leaves the bucket, so a shell takes it away after each; its time is not
/// counted.
fn cpu(limits: &mut Limits, ours: &Path, go: &Path) {
    const ROUNDS: u32 = 60;
    println!("Both limits, ADD+DEL, ours and Debian's Go plugin ({ROUNDS} interleaved rounds)");
    let both = call(8_000_000, 800_000);
    let mut sums = [0.0; 2];
    for _ in 0..ROUNDS {
        for (plugin, sum) in [ours, go].into_iter().zip(&mut sums) {
            *sum += (both.run(plugin, "ADD") + both.run(plugin, "DEL")).as_secs_f64() * 1e6;
            clean();
        }
    }
    let [our, their] = sums.map(|sum| sum / f64::from(ROUNDS));
    println!("  ours {our:.0} us, Go {their:.0} us: Go costs {:.1} times as much", their / our);
    limits.line("ours / Go", our / their, 1.0 / 3.0, "x");
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
    /// The most and the least that arrived in any two seconds, as a part of the limit.
    most: f64,
    least: f64,
    /// The mean ping meanwhile, in milliseconds.
    ping: f64,
}

fn throughput(limits: &mut Limits, rate: u64, burst: u64, flow: Flow, plugins: [&PathBuf; 2]) {
    let [ours, go] = plugins.map(|plugin| {
        let call = call(rate, burst);
        call.run(plugin, "ADD");
        let seen = measure(rate, flow);
        call.run(plugin, "DEL");
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
    // At 1 Mbit/s a lost frame holds back a fifth of a second of what iperf3 counts in order.
    let slow_tcp = !flow.udp && rate <= 1_000_000;
    let tolerance = if slow_tcp || rate >= 1_000_000_000 { 1.10 } else { 1.05 };
    limits.line("most in any 2 s / limit", ours.most, tolerance, "x");
    if go.most < 1.0 {
        // Without a limit for the first seconds, it was the sender that set the pace.
        println!("  this machine sends less than the limit: no verdict on the least");
        return;
    }
    limits.line("limit / least in any 2 s", 1.0 / ours.least, tolerance, "x");
}

fn measure(rate: u64, flow: Flow) -> Seen {
    let mut server = in_namespace("far", &["iperf3", "-s", "-1", "-J", "-i", "0.1"]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let seconds = SECONDS.to_string();
    let mut words = vec!["iperf3", "-c", "10.72.0.2", "-J", "-i", "0.1", "-t", &seconds];
    // Reversed, the far end sends and the container's end is the one that reports what arrived.
    if flow.into {
        words.push("-R");
    }
    // A quarter more than fits.
    let flood = (rate + rate / 4).to_string();
    if flow.udp {
        words.extend(["-u", "-l", "1448", "-b", &flood]);
    }
    let client = in_namespace("c1", &words);
    let ping = ["ping", "-q", "-i", "0.1", "-c", "40", "-W", "3", "10.72.0.2"];
    let ping = in_namespace("c1", &ping).wait_with_output().expect("ping");
    let client = client.wait_with_output().expect("iperf3");
    let receiver = if flow.into {
        server.kill().ok();
        let _ = server.wait();
        client.stdout
    } else {
        server.wait_with_output().expect("iperf3").stdout
    };
    let bits = bits_of_intervals(&String::from_utf8_lossy(&receiver));
    let payload = if flow.udp { UDP_PAYLOAD } else { TCP_PAYLOAD };
    #[expect(clippy::cast_precision_loss, reason = "bits of two seconds")]
    let limit = rate as f64 * 2.0 * payload;
    let windows: Vec<f64> =
        bits.windows(2 * REPORTS).map(|window| window.iter().sum::<f64>() / limit).collect();
    assert!(!windows.is_empty(), "iperf3 reported nothing: {}", String::from_utf8_lossy(&receiver));
    Seen {
        most: windows.iter().copied().fold(0.0, f64::max),
        least: windows.iter().copied().fold(f64::MAX, f64::min),
        ping: mean_of_ping(&String::from_utf8_lossy(&ping.stdout)),
    }
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

/// The bits of each interval of an iperf3 report.
fn bits_of_intervals(report: &str) -> Vec<f64> {
    let report: serde_json::Value = serde_json::from_str(report).unwrap_or_default();
    let intervals = report["intervals"].as_array().cloned().unwrap_or_default();
    let bits = intervals.iter().filter_map(|interval| interval["sum"]["bytes"].as_f64());
    bits.take(SECONDS * REPORTS).map(|bytes| bytes * 8.0).collect()
}

/// The mean in `rtt min/avg/max/mdev = 0.1/0.2/0.3/0.1 ms`.
fn mean_of_ping(text: &str) -> f64 {
    let numbers = text.rsplit(" = ").next().unwrap_or_default();
    numbers.split('/').nth(1).and_then(|mean| mean.parse().ok()).unwrap_or(f64::NAN)
}
