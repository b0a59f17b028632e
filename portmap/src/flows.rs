//! Stale UDP flows.
//!
//! UDP has no end of connection: a client that keeps sending keeps its conntrack entry, and with
//! it the translation that was right when the first packet came. After ADD, flows to a mapped
//! port must not go on to where they went before; after DEL, not to the container that left.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use cni_common::cni::log::Log;
use cni_common::kernel::IpVersion;
use cni_common::kernel::conntrack::{Conntrack, Flow};
use cni_common::kernel::nft::L4Protocol;
use cni_common::kernel::route::Routes;

use crate::host::Host;
use crate::plan::Mapping;

/// More ports than this are cheaper to find in one dump of all UDP flows.
const PORTS_PER_DUMP: usize = 4;

/// After ADD: deletes flows to the mapped ports that lead anywhere but to the container.
pub(crate) fn forget_stale(host: &mut Host<'_>, mappings: &[Mapping]) {
    let mut local = LocalAddresses::default();
    let outcome = forget(host, mappings, |mapping, flow| {
        let target = flow.original.destination;
        let ours =
            mapping.host_address.map_or_else(|| local.contains(target), |host| host == target);
        ours && !leads_to(flow, mapping)
    });
    report(host.log, outcome);
}

/// After DEL: deletes flows that still lead to the container through a mapping that is gone.
pub(crate) fn forget_removed(host: &mut Host<'_>, mappings: &[Mapping]) {
    let outcome = forget(host, mappings, |mapping, flow| {
        let through = mapping.host_address.is_none_or(|host| host == flow.original.destination);
        through && leads_to(flow, mapping)
    });
    report(host.log, outcome);
}

fn leads_to(flow: &Flow, mapping: &Mapping) -> bool {
    (flow.reply.source, flow.reply.source_port) == (mapping.container, mapping.container_port)
}

/// A flow that stays is a nuisance; a failed ADD would be worse.
fn report(log: &Log, outcome: io::Result<usize>) {
    match outcome {
        Ok(0) => {}
        Ok(count) => log.debug(|| format!("removed {count} stale UDP flows")),
        Err(error) => log.warn(format!(
            "cannot remove stale UDP flows ({error}): long-lived UDP clients may reach the old target until \
             they pause; is the module nf_conntrack_netlink loaded?"
        )),
    }
}

fn forget(
    host: &mut Host<'_>,
    mappings: &[Mapping],
    mut is_stale: impl FnMut(&Mapping, &Flow) -> bool,
) -> io::Result<usize> {
    let mut count = 0;
    for version in IpVersion::ALL {
        let udp: Vec<&Mapping> = mappings
            .iter()
            .filter(|mapping| mapping.protocol == L4Protocol::Udp && mapping.version() == version)
            .collect();
        if udp.is_empty() {
            continue;
        }
        let mut by_port: HashMap<u16, Vec<&Mapping>> = HashMap::new();
        for mapping in udp {
            by_port.entry(mapping.host_port).or_default().push(mapping);
        }
        let mut conntrack = host.conntrack()?;
        let mut stale = candidates(&mut conntrack, version, &by_port)?;
        stale.retain(|flow| {
            let mappings = by_port.get(&flow.original.destination_port);
            // A mapping on the flow's own address is the one that counts.
            let exact = |m: &&&Mapping| m.host_address == Some(flow.original.destination);
            let mapping = mappings.and_then(|list| {
                list.iter().find(exact).or_else(|| list.iter().find(|m| m.host_address.is_none()))
            });
            mapping.is_some_and(|mapping| is_stale(mapping, flow))
        });
        conntrack.delete(&stale)?;
        count += stale.len();
    }
    Ok(count)
}

fn candidates(
    conntrack: &mut Conntrack<'_>,
    version: IpVersion,
    by_port: &HashMap<u16, Vec<&Mapping>>,
) -> io::Result<Vec<Flow>> {
    if by_port.len() > PORTS_PER_DUMP {
        let mut flows = conntrack.flows(version, L4Protocol::Udp, None)?;
        flows.retain(|flow| by_port.contains_key(&flow.original.destination_port));
        return Ok(flows);
    }
    let mut flows = Vec::new();
    for port in by_port.keys() {
        flows.extend(conntrack.flows(version, L4Protocol::Udp, Some(*port))?);
    }
    Ok(flows)
}

/// Which addresses are the host's own, asked of the routing table as the rules' `fib` does.
#[derive(Default)]
struct LocalAddresses {
    routes: Option<Routes>,
    known: HashMap<IpAddr, bool>,
}

impl LocalAddresses {
    fn contains(&mut self, address: IpAddr) -> bool {
        if let Some(known) = self.known.get(&address) {
            return *known;
        }
        if self.routes.is_none() {
            self.routes = Routes::open().ok();
        }
        let route = self.routes.as_mut().and_then(|routes| routes.to(address).ok().flatten());
        let local = route.is_some_and(|route| route.local);
        self.known.insert(address, local);
        local
    }
}
