//! tuning as a runtime sees it: what a call needs, and how it is refused.

#![forbid(unsafe_code)]

mod calls;
#[path = "../support/mod.rs"]
mod support;

use cni_testbox::Sample;
use serde_json::json;

const SAMPLE: Sample = Sample {
    plugin: "tuning",
    keys: |_| json!({ "mtu": 1400, "sysctl": { "net.core.somaxconn": "601" } }),
    optional_keys: &[
        "mac",
        "promisc",
        "mtu",
        "allmulti",
        "txQLen",
        "sysctl",
        "allowlistStrict",
        "dataDir",
    ],
    no_prev_result: "Required prevResult missing",
    del_needs_netns: true,
};

cni_testbox::protocol_suite!(SAMPLE);
cni_testbox::hostile_suite!(SAMPLE);
