//! What connection tracking remembers of earlier packets. A flow keeps the destination that its first
//! packet got.

use cni_common::kernel::IpVersion;
use cni_common::kernel::conntrack::{Conntrack, Flow};
use cni_common::kernel::netlink::Connection;
use cni_common::kernel::nft::L4Protocol;
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::step::{Finding, Step};
use super::way::Way;

const SUBJECT: &str = "known flows";

/// Flows to this port that lead elsewhere.
pub(super) fn stale(way: &Way<'_>) -> Step {
    let mapping = way.mapping;
    let version = IpVersion::of(mapping.container);
    let flows = Connection::open(NETLINK_NETFILTER).and_then(|mut connection| {
        let mut conntrack = Conntrack::over(&mut connection);
        conntrack.flows(version, mapping.protocol, Some(mapping.host_port))
    });
    let flows = match flows {
        Ok(flows) => flows,
        Err(error) => return Step::unknown(SUBJECT, &error),
    };
    let concerns = |flow: &&Flow| {
        way.to.is_none_or(|to| flow.original.destination == to)
            && way.from.is_none_or(|from| flow.original.source == from)
            && flow.original.source != mapping.container
    };
    let is_stale = |flow: &&Flow| {
        (flow.reply.source, flow.reply.source_port) != (mapping.container, mapping.container_port)
    };
    let Some(flow) = flows.iter().filter(concerns).find(is_stale) else {
        return Step::ok(SUBJECT, "none leads elsewhere");
    };
    let client = std::net::SocketAddr::new(flow.original.source, flow.original.source_port);
    let text =
        format!("packets of {client} still go to {}, as its first one did", flow.reply.source);
    let remedy = format!(
        "conntrack -D -p {} --orig-port-dst {} ends such flows; cni-chain's ADD and DEL do it, too",
        mapping.protocol, mapping.host_port
    );
    // A TCP connection that goes elsewhere is a connection of its own; a UDP client keeps its port.
    let is_udp = mapping.protocol == L4Protocol::Udp;
    let is_whole_way = is_udp && way.from == Some(flow.original.source);
    let finding = match (is_whole_way, is_udp) {
        (true, _) => Finding::Stop,
        (false, true) => Finding::Doubt,
        (false, false) => Finding::Note,
    };
    Step::new(SUBJECT, finding, text, remedy)
}
