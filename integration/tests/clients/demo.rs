//! The demo with the programs of the box's userland. `tests/demo.rs` has the rest of it.

use cni_testbox::{TestBox, cases, run, tool};

use crate::compat::Compat;
use crate::node;

cases! {
    every_packet_arrives, ours;
}

fn every_packet_arrives(b: &TestBox) {
    node::put_plugins(b.implementation);
    let told = run(&mut node::cni_chain(&["demo"]));
    println!("{told}");
    let nft = run(tool("nft").arg("--version"));
    let version = nft.split(' ').nth(1).expect("name, version").trim_start_matches('v');
    Compat::of("nft", version, b).works("all", "the demo, whose tables it reads");
}
