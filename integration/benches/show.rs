//! What the command takes to look at a host with 10,000 mappings: `show` of all, `show` and `trace` of one.
//!
//! `./dev bench`, or `cargo bench -p cni-chain --bench show`. Needs root. CPU is user plus system time of the
//! process and its children. `--enforce` makes the exit status say whether every time is within its limit.

#![forbid(unsafe_code)]

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cni_common::kernel::netns::Netns;
use cni_testbox::bench::{Limits, cpu_of, furnish_bridge, mean, port_mappings};
use cni_testbox::{Implementation, enter_box};

const ROUNDS: usize = 20;
const MANY: u16 = 10_000;
const FIRST: u16 = 20_000;

fn main() {
    enter_box();
    furnish_bridge();
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("ip_forward");
    let netns = Netns::open(Path::new("/run/netns/c1")).expect("netns");
    let listener = netns.run(|| TcpListener::bind("0.0.0.0:80").expect("bind")).expect("setns");
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let all_at_once = port_mappings("10.71.0.2", "many", FIRST..FIRST + MANY);
    all_at_once.cpu(&Implementation::Ours.plugin("portmap"), "ADD");

    let port = (FIRST + MANY / 2).to_string();
    let mut limits = Limits::default();
    println!("Beside {MANY} mappings, CPU of cni-chain ({ROUNDS} rounds)");
    for (arguments, limit) in [
        (vec!["show"], 150.0),
        (vec!["show", "--json"], 150.0),
        (vec!["show", &port], 150.0),
        (vec!["trace", &port], 30.0),
    ] {
        let cpu = milliseconds(&arguments);
        limits.line(&arguments.join(" "), cpu, limit, " ms");
    }
    limits.conclude();
}

fn milliseconds(arguments: &[&str]) -> f64 {
    let samples: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let mut program = Command::new(env!("CARGO_BIN_EXE_cni-chain"));
            program.args(arguments);
            cpu_of(program)
        })
        .collect();
    mean(&samples) / 1000.0
}
