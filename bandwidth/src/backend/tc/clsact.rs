//! The clsact qdisc of a host's end, which the redirects hang on: made if there is none, shared
//! with other programs, and removed with the last filter if it was made for ours.

use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::link::Link;
use cni_common::kernel::tc::{Hook, HookChange, InstalledFilter, Qdisc, QdiscKind};

use super::layout::{
    CLSACT_IS_FOREIGN, CLSACT_IS_OURS, clsact_is, is_our_filter, our_filters, redirect,
};
use crate::go::Leftovers;
use crate::host::{Host, deletions};
use crate::host_end::{HOOKS, HostEnd};
use crate::plan::Plan;

/// How the host's end gets the hooks that a plan needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hooks {
    /// Whether the clsact qdisc is ours, as the minor number of our filters.
    pub(super) class_minor: u16,
    /// What comes before the filters, in the same datagram: a clsact qdisc that is killed without a
    /// filter is nobody's.
    pub(super) first: Vec<HookChange>,
}

impl Hooks {
    /// Whether the filters that are there go with the qdisc that they are on.
    pub(super) fn lose_filters(&self) -> bool {
        matches!(self.first.first(), Some(HookChange::DeleteClsact(_)))
    }
}

/// Finds out what the host's end lacks.
pub(super) fn prepare(end: &HostEnd, plan: &Plan, go: &Leftovers) -> Result<Hooks, CniError> {
    let name = &end.link.name;
    let mut first = Vec::new();
    if let Some(found) = &end.clsact {
        if redirect(plan, Hook::Egress).is_none() || found.kind != QdiscKind::Ingress {
            let inherited = if go.redirect { CLSACT_IS_OURS } else { CLSACT_IS_FOREIGN };
            return Ok(Hooks { class_minor: clsact_is(end).unwrap_or(inherited), first });
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
        first.push(HookChange::DeleteClsact(found.kind.clone()));
    }
    if HOOKS.into_iter().all(|hook| redirect(plan, hook).is_none()) {
        return Ok(Hooks { class_minor: CLSACT_IS_FOREIGN, first });
    }
    first.push(HookChange::AddClsact);
    Ok(Hooks { class_minor: CLSACT_IS_OURS, first })
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
    let changes = if class_minor == Some(CLSACT_IS_OURS) && !foreign {
        vec![HookChange::DeleteClsact(clsact.kind.clone())]
    } else {
        let ours = HOOKS.into_iter().flat_map(|hook| deletions(hook, our_filters(end, hook)));
        ours.chain(go.redirect_deletions(end)).collect()
    };
    host.change_hooks(&end.link, &changes).map(|_| ())
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
        Some(Qdisc { kind: kind @ (QdiscKind::Clsact | QdiscKind::Ingress), .. }) => {
            host.change_hooks(link, &[HookChange::DeleteClsact(kind)]).map(|_| ())
        }
        _ => Ok(()),
    }
}
