//! Stdin of a plugin: any bytes, up to the plan that would be carried out.

#![no_main]

use cni_common::cni::Attachment;
use cni_common::cni::log::LogConfig;
use cni_common::cni::protocol::NetworkConfig;
use cni_common::kernel::nft::Object;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|stdin: &[u8]| {
    let Ok(network) = NetworkConfig::from_stdin(stdin) else { return };
    let _ = network.validate_common();
    let _ = network.valid_attachments();
    let _ = network.with_fields(LogConfig::read);
    let previous = network.prev_result();
    let result = previous.ok().flatten().unwrap_or_default();
    let attachment = Attachment {
        network: network.name.clone(),
        container_id: "fuzz".to_owned(),
        ifname: "eth0".to_owned(),
    };
    let Ok(transaction) = cni_portmap::nftables_transaction(&network, &attachment, &result) else {
        return;
    };
    // No key may come twice: the kernel would refuse the whole transaction.
    for operation in &transaction.operations {
        let Object::Elements(set, elements) = &operation.object else { continue };
        let keys: std::collections::HashSet<_> = elements.iter().map(|e| &e.key).collect();
        assert_eq!(keys.len(), elements.len(), "{} has a key twice", set.name);
    }
});
