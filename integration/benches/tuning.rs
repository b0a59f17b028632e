//! What tuning costs: beside its own start-up, and against Debian's Go tuning in the same
//! interleaved run.
//!
//! `./dev bench`, or `cargo bench -p cni-chain --bench tuning`. Needs root and Debian's
//! `containernetworking-plugins`. CPU is user plus system time of the plugin process.
//! `--enforce` makes the exit status say whether every ratio is within its limit.

#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use cni_testbox::bench::{self, Limits, against_go, furnish, mean};
use cni_testbox::{Call, Implementation, enter_box};

fn main() {
    enter_box();
    furnish(&[
        "ip link set lo up",
        "ip netns add c1",
        "ip link add v0 type veth peer name eth0 netns c1",
        "ip link set v0 up",
        "ip -n c1 link set eth0 up",
    ]);
    let (ours, go) = (Implementation::Ours.plugin("tuning"), Implementation::Go.plugin("tuning"));
    let mut limits = Limits::default();
    against_start_up(&ours);
    against_go(&mut limits, &call("pair"), &ours, &go, 0.5);
    call("counted").print_instructions(&ours);
    limits.conclude();
}

/// Sysctls and link attributes that both plugins know.
fn call(container: &str) -> Call {
    let stdin = r#"{"cniVersion":"1.0.0","name":"bench","type":"tuning",
        "sysctl":{"net.core.somaxconn":"500","net.ipv4.conf.IFNAME.arp_filter":"1"},
        "mac":"c2:11:22:33:44:55","mtu":1400,"promisc":true,
        "prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/c1"}],
        "ips":[{"address":"10.71.0.2/24","interface":0}]}}"#;
    bench::call("tuning", container, stdin)
}

fn against_start_up(ours: &Path) {
    const ROUNDS: usize = 400;
    println!(
        "Two sysctls and three link attributes, CPU of our tuning ({ROUNDS} interleaved rounds)"
    );
    let call = call("one");
    let commands = ["VERSION", "ADD", "CHECK", "DEL"];
    let mut samples: [Vec<Duration>; 4] = Default::default();
    for _ in 0..ROUNDS {
        for (command, samples) in commands.iter().zip(&mut samples) {
            samples.push(call.cpu(ours, command));
        }
    }
    for (command, samples) in commands.iter().zip(&samples) {
        println!("  {command:<8} {:>7.0} us", mean(samples));
    }
}
