//! A way in for the fuzz target `netlink` (fuzz/), which is a crate of its own.
//!
//! What reads the kernel's answers is private: nobody but the backends may call it. This one
//! function gives the fuzzer all of it without making any of it part of the interface.

use crate::kernel::nft::decode;
use crate::kernel::nft::{DataType, Set};
use crate::kernel::{conntrack, netlink};

/// Reads a datagram as every kind of answer that is ever expected. Must not panic.
pub fn read_datagram(datagram: &[u8]) {
    let sets = [
        Set { name: "s".into(), key: vec![DataType::IfName], data: vec![DataType::Mark] },
        Set {
            name: "s".into(),
            key: vec![DataType::Ipv4Addr, DataType::InetProto, DataType::InetService],
            data: vec![DataType::Ipv6Addr, DataType::InetService],
        },
        Set { name: "s".into(), key: vec![DataType::Ipv6Addr; 2], data: vec![] },
    ];
    for message in netlink::messages(datagram) {
        let payload = message.payload();
        let _ = netlink::status(&message);
        let _ = decode::generation(payload);
        let _ = decode::chain(payload);
        let _ = decode::rule(payload);
        let _ = decode::set_name(payload);
        for set in &sets {
            let _ = decode::elements(payload, set);
        }
        let _ = conntrack::parse(payload);
    }
}
