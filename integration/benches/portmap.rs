//! What portmap costs: against its own start-up, against Debian's Go portmap in the same
//! interleaved run, and with 10,000 mappings present.
//!
//! `./dev bench`, or `cargo bench -p cni-chain --bench portmap`. Needs root and Debian's
//! `containernetworking-plugins`. CPU is user plus system time of the plugin process and its
//! children; wall time is shown for connects only. Numbers move with the machine, ratios less.
//! `--enforce` makes the exit status say whether every ratio is within its limit.

#![forbid(unsafe_code)]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cni_common::kernel::netns::Netns;
use cni_testbox::bench::{Limits, against_go, furnish_bridge, mean, port_mappings};
use cni_testbox::{Call, Implementation, enter_box};

const MANY: u16 = 10_000;
const CONTAINER: &str = "10.71.0.2";

fn main() {
    enter_box();
    furnish_host();
    let bench = Bench {
        ours: Implementation::Ours.plugin("portmap"),
        go: Implementation::Go.plugin("portmap"),
    };
    let mut limits = Limits::default();
    bench.against_start_up(&mut limits);
    bench.against_go(&mut limits);
    bench.at_scale(&mut limits);
    bench.many_at_once(&mut limits);
    bench.connects(&mut limits);
    config("counted", [8080].into_iter()).print_instructions(&bench.ours);
    limits.conclude();
}

/// A host with a bridge and one container, in namespaces of its own.
fn furnish_host() {
    furnish_bridge();
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("ip_forward");
}

struct Bench {
    ours: PathBuf,
    go: PathBuf,
}

fn config(container: &str, ports: impl Iterator<Item = u16>) -> Call {
    port_mappings(CONTAINER, container, ports)
}

impl Bench {
    fn against_start_up(&self, limits: &mut Limits) {
        const ROUNDS: usize = 400;
        println!("One mapping, CPU of our portmap ({ROUNDS} interleaved rounds)");
        let call = config("one", [8080].into_iter());
        let commands = ["VERSION", "ADD", "CHECK", "DEL"];
        let mut samples: [Vec<Duration>; 4] = Default::default();
        for _ in 0..ROUNDS {
            for (command, samples) in commands.iter().zip(&mut samples) {
                samples.push(call.cpu(&self.ours, command));
            }
        }
        let version = mean(&samples[0]);
        for (command, samples) in commands.iter().zip(&samples) {
            println!("  {command:<8} {:>7.0} us", mean(samples));
        }
        limits.line("ADD / VERSION", mean(&samples[1]) / version, 2.0, "x");
    }

    fn against_go(&self, limits: &mut Limits) {
        let call = config("pair", [8080].into_iter());
        against_go(limits, &call, &self.ours, &self.go, 0.05);
    }

    fn at_scale(&self, limits: &mut Limits) {
        const ROUNDS: usize = 200;
        println!("One more mapping beside {MANY}, CPU ({ROUNDS} rounds each)");
        let call = config("more", [8080].into_iter());
        let measure = || {
            let mut samples: [Vec<Duration>; 3] = Default::default();
            for _ in 0..ROUNDS {
                for (command, samples) in ["ADD", "CHECK", "DEL"].iter().zip(&mut samples) {
                    samples.push(call.cpu(&self.ours, command));
                }
            }
            samples.map(|samples| mean(&samples))
        };
        let fill = Self::fill();
        // Empty, full, full, empty: drift of the machine cancels out.
        self.run_all(&fill, "DEL");
        let first_empty = measure();
        self.run_all(&fill, "ADD");
        let (first_full, second_full) = (measure(), measure());
        self.run_all(&fill, "DEL");
        let second_empty = measure();
        for (index, command) in ["ADD", "CHECK", "DEL"].iter().enumerate() {
            let empty = f64::midpoint(first_empty[index], second_empty[index]);
            let crowded = f64::midpoint(first_full[index], second_full[index]);
            limits.line(
                &format!("{command}: {crowded:.0} us / {empty:.0} us when empty"),
                crowded / empty,
                1.5,
                "x",
            );
        }
    }

    /// 10,000 mappings of a hundred containers, each with an address of its own: an address is its
    /// newest attachment's.
    fn fill() -> Vec<Call> {
        (0..100)
            .map(|index| {
                port_mappings(
                    &format!("10.71.1.{index}"),
                    &format!("fill{index}"),
                    (0..100).map(move |port| 20_000 + index * 100 + port),
                )
            })
            .collect()
    }

    fn run_all(&self, calls: &[Call], command: &str) {
        for call in calls {
            call.cpu(&self.ours, command);
        }
    }

    fn many_at_once(&self, limits: &mut Limits) {
        println!("{MANY} mappings in one ADD, CPU (5 rounds)");
        let call = config("many", 20_000..20_000 + MANY);
        let mut samples: [Vec<Duration>; 3] = Default::default();
        for _ in 0..5 {
            for (command, samples) in ["ADD", "CHECK", "DEL"].iter().zip(&mut samples) {
                samples.push(call.cpu(&self.ours, command));
            }
        }
        limits.line("ADD", mean(&samples[0]) / 1000.0, 250.0, " ms");
        println!(
            "  CHECK {:.1} ms, DEL {:.1} ms",
            mean(&samples[1]) / 1000.0,
            mean(&samples[2]) / 1000.0
        );
    }

    fn connects(&self, limits: &mut Limits) {
        const CONNECTS: usize = 3000;
        println!("TCP connect through the mapped port, wall clock median of {CONNECTS}");
        let netns = Netns::open(Path::new("/run/netns/c1")).expect("netns");
        let listener = netns.run(|| TcpListener::bind("0.0.0.0:80").expect("bind")).expect("setns");
        std::thread::spawn(move || listener.incoming().for_each(drop));
        let call = config("one", [8080].into_iter());
        call.cpu(&self.ours, "ADD");
        let median = || {
            let mut samples: Vec<Duration> = (0..CONNECTS)
                .map(|_| {
                    let start = Instant::now();
                    let stream = TcpStream::connect("10.71.0.1:8080").expect("connect");
                    let elapsed = start.elapsed();
                    drop(stream);
                    elapsed
                })
                .collect();
            samples.sort();
            samples[CONNECTS / 2].as_secs_f64() * 1e6
        };
        median();
        let fill = Self::fill();
        let first_one = median();
        self.run_all(&fill, "ADD");
        let (first_many, second_many) = (median(), median());
        self.run_all(&fill, "DEL");
        let second_one = median();
        let (one, many) =
            (f64::midpoint(first_one, second_one), f64::midpoint(first_many, second_many));
        limits.line(
            &format!("{many:.1} us beside {MANY} / {one:.1} us alone"),
            many / one,
            1.3,
            "x",
        );
        call.cpu(&self.ours, "DEL");
    }
}
