//! A node's life at random, against a model of what must exist.
//!
//! Hundreds of attachments come and go through whole chains of real plugins, while another program
//! changes the ruleset, somebody holds xtables' lock, calls are killed, DELs are lost and the ruleset
//! is flushed. After every few steps the kernel is compared with the model, by packets and by what
//! `nft`, `iptables-save`, `ip` and the files say. A seed makes a run again.
//!
//! `MODEL_SECONDS` and `MODEL_SEED` in the environment say how long and which; `./dev model` sets them.

mod chance;
mod claims;
mod neighbour;
mod node;
mod served;

use std::time::{Duration, Instant};

use cni_testbox::{TestBox, cases};

use chance::Chance;
use neighbour::Neighbours;
use node::Node;

cases! {
    a_node_lives, backends;
}

/// Attachments at the same time.
const MOST: usize = 300;
/// How long a run in CI takes, in seconds; a run of each backend comes to two minutes.
const SECONDS: u64 = 40;
/// CI tries the same every time, as far as time lets it: what it fails on is the change's. `./dev model`
/// tries others.
const SEED: u64 = 1_883_153_470_622_227;
/// Steps from one look at everything to the next.
const STEPS: usize = 25;

fn a_node_lives(b: &TestBox) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("MODEL_SEED").unwrap_or(SEED);
    let span = Duration::from_secs(number("MODEL_SECONDS").unwrap_or(SECONDS));
    println!("MODEL_SEED={seed}");
    let mut chance = Chance::new(seed);
    let mut node = Node::new(b);
    let neighbours = Neighbours::move_in(chance.next());
    let end = Instant::now() + span;
    while Instant::now() < end {
        for _ in 0..STEPS {
            node.step(&mut chance);
        }
        node.look(&mut chance);
    }
    neighbours.move_out();
    println!("{}", node.summary());
    node.end();
}
