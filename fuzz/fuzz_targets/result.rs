//! `prevResult`: any JSON, from every version to every version.

#![no_main]

use cni_common::cni::protocol::json::Json;
use cni_common::cni::protocol::{CniResult, CniVersion};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(json) = Json::parse(text) else { return };
    for fallback in [CniVersion::V0_1_0, CniVersion::V0_3_1, CniVersion::V1_1_0] {
        let Ok(result) = CniResult::from_json(&json, fallback) else { continue };
        for version in CniVersion::ALL {
            let Ok(converted) = result.to_json(version) else { continue };
            // What we print, the next plugin must be able to read.
            let text = converted.to_pretty();
            let again = Json::parse(text.as_bytes()).expect("our own JSON");
            CniResult::from_json(&again, version).expect("our own result");
        }
    }
});
