//! What limits cost and whether they hold: CPU of ADD and DEL against Debian's Go plugin, and what
//! of iperf3's flood arrives, window by window, and how long a ping takes meanwhile.
//!
//! `cargo build --release`, then `cargo bench -p cni-chain --bench bandwidth`. Needs root, iperf3 and
//! Debian's `containernetworking-plugins`. Takes about seven minutes; `--cpu` leaves the floods out,
//! `--rate MBIT` runs those of one rate, `--queues` compares the queues instead, on a kernel that has
//! both. `--enforce` makes the exit status say whether every limit is kept.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cni_testbox::bench::Limits;
use cni_testbox::flood::{
    Flow, PLACEHOLDER, call, clean, furnish_host, in_namespace, mean_of_ping, measure,
};
use cni_testbox::{Implementation, enter_box};

/// The CPU of our ADD and DEL beside the Go plugin's. Nearly all of it is the kernel's work for an IFB and
/// two qdiscs, and starting a process, which costs more where a hypervisor answers CPUID: on one and the
/// same virtual machine it was 0.32 on some days and 0.37 on others.
const LIMIT: f64 = 0.4;
/// A ping, in milliseconds, that met no queue.
const NO_QUEUE: f64 = 1.0;

fn main() {
    enter_box();
    furnish_host();
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

/// A ping beside TCP that goes into the container or out of it as fast as it may, for each queue.
fn queues(ours: &Path) {
    const QUEUES: [&str; 2] = ["fq_codel", "fifo"];
    println!(
        "| limit | way | flows | idle | fq_codel: ping | lost | throughput | fifo: ping | lost | throughput |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let arguments: Vec<String> = std::env::args().collect();
    let wanted = arguments.iter().skip_while(|word| *word != "--rate").nth(1);
    for mbit in [1_u64, 10, 50, 100, 1000] {
        if wanted.is_some_and(|wanted| *wanted != mbit.to_string()) {
            continue;
        }
        let ways = Flow::ALL.into_iter().filter(|flow| !flow.udp);
        for (flow, flows) in ways.flat_map(|flow| [(flow, 1), (flow, 8)]) {
            let mut row = format!("| {mbit} Mbit/s | {} | {flows} |", flow.name());
            for queue in QUEUES {
                let call = call(mbit * 1_000_000, PLACEHOLDER, Some(queue));
                call.cpu(ours, "ADD");
                if queue == QUEUES[0] {
                    let _ = write!(row, " {:.1} ms |", Pings::run(20).mean);
                }
                let (pings, bits) = beside_bulk(flow, flows);
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

/// Pings while iperf3's TCP fills the link, and the bits per second that its receiver had.
fn beside_bulk(flow: Flow, flows: u32) -> (Pings, f64) {
    let mut server = in_namespace("far", &["iperf3", "-s", "-1"]);
    std::thread::sleep(Duration::from_millis(500));
    let flows = flows.to_string();
    let mut words = vec!["iperf3", "-c", "10.72.0.2", "-J", "-O", "2", "-t", "14", "-P", &flows];
    if flow.into {
        // The server sends.
        words.push("-R");
    }
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
