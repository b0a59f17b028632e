//! The clsact qdisc of a host's end, which the redirects hang on: made if there is none, shared
//! with other programs, and removed with the last filter if it was made for ours.

use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::link::Link;
use cni_common::kernel::tc::{Hook, InstalledFilter, Qdisc, QdiscKind};

use super::layout::{
    CLSACT_IS_FOREIGN, CLSACT_IS_OURS, clsact_is, is_our_filter, our_filters, redirect,
};
use crate::go::Leftovers;
use crate::host::{Host, refused};
use crate::host_end::{HOOKS, HostEnd};
use crate::plan::Plan;

/// Sees to it that the host's end has the hooks that the plan needs. Whether the clsact qdisc is
/// ours is returned as the minor number for our filters.
pub(super) fn prepare(
    host: &mut Host,
    end: &mut HostEnd,
    plan: &Plan,
    go: &Leftovers,
) -> Result<u16, CniError> {
    let (name, index) = (end.link.name.clone(), end.link.index);
    if let Some(found) = &end.clsact {
        if redirect(plan, Hook::Egress).is_none() || found.kind != QdiscKind::Ingress {
            let inherited = if go.redirect { CLSACT_IS_OURS } else { CLSACT_IS_FOREIGN };
            return Ok(clsact_is(end).unwrap_or(inherited));
        }
        // `ingress` has no hook for what goes out.
        let foreign =
            |filter: &InstalledFilter| !is_our_filter(Hook::Ingress, filter) && !go.owns(filter);
        if end.filters(Hook::Ingress).iter().any(foreign) {
            return Err(CniError::new(
                ErrorCode::Kernel,
                format!(
                    "{name} has an ingress qdisc with another program's filters, which leaves no hook for \
                     subnets of incoming traffic: let that program use clsact, or remove the subnets"
                ),
            ));
        }
        host.tc
            .delete_clsact(index, &found.kind)
            .map_err(refused(|| format!("replace the ingress qdisc of {name}")))?;
        end.lose_clsact();
    }
    if HOOKS.into_iter().all(|hook| redirect(plan, hook).is_none()) {
        return Ok(CLSACT_IS_FOREIGN);
    }
    match host.tc.add_clsact(index) {
        // Somebody else was faster.
        Err(error) if error.is_exists() => Ok(CLSACT_IS_FOREIGN),
        outcome => outcome
            .map_err(refused(|| format!("add a clsact qdisc to {name}")))
            .map(|()| CLSACT_IS_OURS),
    }
}

/// Removes our filters and the Go plugin's, with the clsact qdisc if it was made for them and
/// carries nothing else.
pub(super) fn remove_redirects(
    host: &mut Host,
    end: &HostEnd,
    go: &Leftovers,
) -> Result<(), CniError> {
    let Some(clsact) = &end.clsact else { return Ok(()) };
    let class_minor = if go.redirect { Some(CLSACT_IS_OURS) } else { clsact_is(end) };
    let foreign = HOOKS.into_iter().any(|hook| {
        end.filters(hook).iter().any(|filter| !is_our_filter(hook, filter) && !go.owns(filter))
    });
    if class_minor == Some(CLSACT_IS_OURS) && !foreign {
        let name = &end.link.name;
        return host
            .tc
            .delete_clsact(end.link.index, &clsact.kind)
            .map_err(refused(|| format!("remove the redirect of {name}")));
    }
    for hook in HOOKS {
        host.delete_filters(&end.link, hook, our_filters(end, hook))?;
    }
    go.remove_redirect(host, end)
}

/// Removes a clsact qdisc that was made for us and that nobody else came to use.
pub(super) fn remove_idle(host: &mut Host, link: &Link, class_minor: u16) -> Result<(), CniError> {
    if class_minor != CLSACT_IS_OURS {
        return Ok(());
    }
    let found = HostEnd::look(host, link.clone())?;
    if HOOKS.into_iter().any(|hook| !found.filters(hook).is_empty()) {
        return Ok(());
    }
    match found.clsact {
        Some(Qdisc { kind: kind @ (QdiscKind::Clsact | QdiscKind::Ingress), .. }) => host
            .tc
            .delete_clsact(link.index, &kind)
            .map_err(refused(|| format!("remove the idle clsact qdisc of {}", link.name))),
        _ => Ok(()),
    }
}
