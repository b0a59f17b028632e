//! CHECK of an attachment of before the change to this plugin.

use cni_common::cni::Finding;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::tc::{Qdisc, QdiscKind};

use super::form::is_tbf_of_go;
use super::leftovers::Leftovers;
use crate::config::{Config, Limit, Subnets};
use crate::host::Host;
use crate::host_end::HostEnd;

/// Whether the limits are those that the Go plugin's ADD makes of this configuration, all of them.
/// Bursts and queues are not compared, since what the Go plugin makes of them varies.
pub(crate) fn check(
    host: &mut Host,
    end: &HostEnd,
    config: &Config,
    found: &Leftovers,
) -> Result<Finding, CniError> {
    let veth = &end.link.name;
    let has_tbf = end.root.as_ref().is_some_and(is_tbf_of_go);
    if !has_tbf && !found.redirect && found.ifb.is_none() {
        return Ok(Finding::Absent);
    }
    let mut mismatches = Vec::new();
    if config.subnets != Subnets::All {
        mismatches.push("the Go plugin's limits are about all addresses".to_owned());
    }
    if config.ingress.is_some_and(|limit| !has_rate(end.root.as_ref(), limit)) {
        mismatches.push(format!("{veth} has no limit of the configured ingressRate"));
    }
    if let Some(limit) = config.egress {
        let root = match &found.ifb {
            Some(ifb) if found.redirect && ifb.up => host.root_qdisc(ifb)?,
            _ => None,
        };
        if !has_rate(root.as_ref(), limit) {
            mismatches.push(format!(
                "{veth} is not redirected to an IFB that has a limit of the configured egressRate"
            ));
        }
    }
    Ok(Finding::of(mismatches))
}

fn has_rate(root: Option<&Qdisc>, limit: Limit) -> bool {
    root.is_some_and(|root| {
        is_tbf_of_go(root)
            && matches!(root.kind, QdiscKind::Tbf(tbf) if tbf.rate.0 == limit.rate.0 / 8)
    })
}
