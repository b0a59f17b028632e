//! The `firewall` binary from outside: the CNI protocol, and input that nobody should send.

use cni_testbox::Sample;
use serde_json::json;

const SAMPLE: Sample = Sample {
    plugin: "firewall",
    keys: |_| json!({}),
    optional_keys: &[
        "backend",
        "firewalldZone",
        "ingressPolicy",
        "iptablesAdminChainName",
        "nftablesForwardChains",
    ],
    no_prev_result: "missing prevResult from earlier plugin",
    del_needs_netns: false,
};

cni_testbox::protocol_suite!(SAMPLE);
cni_testbox::hostile_suite!(SAMPLE);
