//! What an older kernel cannot do, and what is said there instead. That it names no element in a refusal, the tests of
//! `nf_tables` know; how tuning does without cookies of namespaces, its own tests.

use std::process::{Command, Stdio};

use cni_testbox::{Network, TestBox, both, cases, kernel, sh};

use crate::require_guest;

cases! {
    tracing_says_which_kernel_it_takes, ours;
}

/// Tables that go with who made them came with Linux 5.12.
fn tracing_says_which_kernel_it_takes(b: &TestBox) {
    require_guest();
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    let mut trace = Command::new(env!("CARGO_BIN_EXE_cni-chain"));
    let output =
        trace.args(["trace", "8080", "--live", "1"]).stdin(Stdio::null()).output().expect("run it");
    let said = String::from_utf8_lossy(&output.stderr);
    let refused = "cannot have packets traced: that takes Linux 5.12";
    assert_eq!(said.contains(refused), kernel() < (5, 12), "{said}");
    assert!(!sh("nft list tables").contains("cni_chain_trace"));
}
