//! Others on the node: one who changes the ruleset all the time, and one who holds xtables' lock.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use crate::chance::Chance;

/// They live until they move out.
pub(crate) struct Neighbours {
    leaving: Arc<AtomicBool>,
    all: Vec<JoinHandle<()>>,
}

impl Neighbours {
    pub(crate) fn move_in(seed: u64) -> Self {
        let leaving = Arc::new(AtomicBool::new(false));
        let live = |work: fn(&mut Chance), seed: u64| {
            let leaving = Arc::clone(&leaving);
            spawn(move || {
                let mut chance = Chance::new(seed);
                while !leaving.load(Ordering::Relaxed) {
                    work(&mut chance);
                }
            })
        };
        let all = vec![live(write_rules, seed), live(hold_the_lock, seed >> 1)];
        Self { leaving, all }
    }

    pub(crate) fn move_out(self) {
        self.leaving.store(true, Ordering::Relaxed);
        for neighbour in self.all {
            neighbour.join().expect("it ends");
        }
    }
}

/// What others do may fail, as when a flush comes between.
fn try_to(script: &str) {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().expect("a shell");
}

fn write_rules(chance: &mut Chance) {
    let port = 20_000 + chance.below(1_000);
    try_to(&format!(
        "nft 'add table ip neighbour; add chain ip neighbour nat {{ type nat hook prerouting priority \
         -90; }}; flush chain ip neighbour nat; add rule ip neighbour nat tcp dport {port} redirect to :81'"
    ));
    if chance.once_in(4) {
        try_to(
            "iptables -w 5 -t nat -N NEIGHBOUR; iptables -w 5 -t nat -A NEIGHBOUR -p udp --dport 9 -j RETURN; \
             iptables -w 5 -t nat -F NEIGHBOUR; iptables -w 5 -t nat -X NEIGHBOUR",
        );
    }
    sleep(chance.span(Duration::from_millis(80)));
}

fn hold_the_lock(chance: &mut Chance) {
    let tenths = chance.below(4);
    try_to(&format!("flock /run/xtables.lock sleep 0.{tenths}"));
    sleep(chance.span(Duration::from_millis(900)));
}
