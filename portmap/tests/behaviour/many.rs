//! What a call costs that has many mappings. Work is counted, not timed: the same on a busy machine.

use cni_testbox::{Network, TestBox, cases, portmap, tcp};
use serde_json::json;

cases! {
    check_of_ten_times_as_many_mappings_is_ten_times_the_work, backends;
}

/// Each mapping is one of each family.
fn check_of_ten_times_as_many_mappings_is_ten_times_the_work(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let instructions = |count: u16| {
        let mappings: Vec<_> = (0..count).map(|number| tcp(10_000 + number, 80)).collect();
        let backend = b.implementation.backend().unwrap_or("nftables");
        let call = portmap("CHECK", &web).mappings(&mappings).set("backend", json!(backend));
        b.map(&web, &mappings);
        call.run(b).expect_silence();
        let counted = call.instructions(&b.implementation.plugin("portmap"), "CHECK");
        b.unmap(&web, &mappings);
        counted.expect("valgrind (apt package valgrind)")
    };
    let (few, many) = (instructions(100), instructions(1000));
    assert!(many < 11 * few, "100 mappings: {few} instructions, 1,000 mappings: {many}");
}
