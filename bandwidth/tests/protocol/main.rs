//! The `bandwidth` binary from outside: the CNI protocol, and input that nobody should send.

use cni_testbox::Sample;
use serde_json::json;

const SAMPLE: Sample = Sample {
    plugin: "bandwidth",
    keys: |_| json!({ "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000 }),
    optional_keys: &["latency", "honorRuntimeBurst", "shapedSubnets", "unshapedSubnets"],
    no_prev_result: "must be called as chained plugin",
    del_needs_netns: true,
};

cni_testbox::protocol_suite!(SAMPLE);
cni_testbox::hostile_suite!(SAMPLE);
