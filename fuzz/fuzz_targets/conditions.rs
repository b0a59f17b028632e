//! `conditionsV4` and `conditionsV6`: any words, for both families.

#![no_main]

use cni_common::cni::Attachment;
use cni_common::cni::protocol::NetworkConfig;
use cni_common::cni::protocol::json::Json;
use cni_common::kernel::nft::{Object, text::render};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let words: Vec<String> = text.split('\n').map(str::to_owned).collect();
    for version in [4, 6] {
        let words = Json::from(words.clone());
        let stdin = format!(
            r#"{{"name":"n","cniVersion":"1.0.0","backend":"nftables","conditionsV{version}":{words},
                "prevResult":{{"ips":[{{"address":"10.0.0.2/24"}},{{"address":"fd00::2/64"}}]}},
                "runtimeConfig":{{"portMappings":[{{"hostPort":80,"containerPort":80,"protocol":"tcp"}}]}}}}"#
        );
        let network = NetworkConfig::from_stdin(stdin.as_bytes()).expect("an envelope");
        let result = network.prev_result().expect("a result").expect("a result");
        let attachment =
            Attachment { network: "n".into(), container_id: "c".into(), ifname: "eth0".into() };
        let Ok(transaction) = cni_portmap::nftables_transaction(&network, &attachment, &result)
        else {
            continue;
        };
        let is_rule = |object: &Object| matches!(object, Object::Rule(_));
        let rules = transaction.operations.iter().filter(|operation| is_rule(&operation.object));
        // Two lookups for each alternative, of which there are 64 at most, in each family.
        assert!(rules.count() < 2 * (64 + 1) + 20);
        // What was understood must also be printable.
        assert!(!render(&transaction).is_empty());
    }
});
