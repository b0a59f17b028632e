//! The `portmap` binary from outside: the CNI protocol, and input that nobody should send.

mod mappings;
mod own;

use cni_testbox::Sample;
use serde_json::json;

const SAMPLE: Sample = Sample {
    plugin: "portmap",
    keys: |number| {
        let port = 8070 + 10 * number;
        json!({ "runtimeConfig": { "portMappings": [
            { "hostPort": port, "containerPort": 80, "protocol": "tcp" },
            { "hostPort": port, "containerPort": 53, "protocol": "udp" }] } })
    },
    optional_keys: &[
        "backend",
        "conditionsV4",
        "conditionsV6",
        "externalSetMarkChain",
        "markMasqBit",
        "masqAll",
        "onConflict",
        "snat",
    ],
    no_prev_result: "must be called as chained plugin",
    del_needs_netns: false,
};

cni_testbox::protocol_suite!(SAMPLE);
cni_testbox::hostile_suite!(SAMPLE);
