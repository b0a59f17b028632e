//! What the Go plugin left for one attachment.
//!
//! Its IFB's name tells the network, which may be renamed, and the container, but not the interface.
//! What is taken for this attachment's is therefore what hangs on its veth.

use cni_common::cni::Attachment;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::link::Link;
use cni_common::kernel::tc::{Action, Hook, HookChange, InstalledFilter, Qdisc, QdiscKind};
use cni_common::kernel::veth::VETH;

use super::form::{ifb_name, is_filter_of_go, is_ifb_of_go, is_tbf_of_go};
use crate::config::Config;
use crate::host::{Host, deletions};
use crate::host_end::HostEnd;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leftovers {
    /// The IFB, if nothing else uses it.
    pub(super) ifb: Option<Link>,
    /// The IFB's index, or that of an IFB that is gone.
    targets: Vec<u32>,
    /// Whether the host's end redirects to it.
    pub(crate) redirect: bool,
    /// The rate that a TBF of theirs would have, in bytes per second.
    rate: Option<u64>,
}

impl Leftovers {
    /// Looks for them. Without the host's end, or a configuration, less is certain to be this
    /// attachment's.
    pub(crate) fn find(
        host: &mut Host,
        end: Option<&HostEnd>,
        attachment: &Attachment,
        config: Option<&Config>,
    ) -> Result<Self, CniError> {
        let mut ifb = host.link(&ifb_name(attachment))?.filter(is_ifb_of_go);
        if ifb.is_none()
            && let Some(target) = end.and_then(target_of_go)
        {
            // Its name would be another one, had the network had today's name at ADD.
            ifb = host.link_by_index(target)?.filter(is_ifb_of_go);
        }
        let mut found = Self {
            // A filter whose IFB is gone leads to 0 and drops everything.
            targets: ifb.iter().map(|ifb| ifb.index).chain([0]).collect(),
            rate: ingress_rate(config),
            ..Self::default()
        };
        let used_elsewhere = match end {
            Some(end) => {
                found.redirect = end.filters(Hook::Ingress).iter().any(|filter| found.owns(filter));
                !found.redirect
            }
            None => match &ifb {
                Some(ifb) => targets_of_go(host)?.contains(&ifb.index),
                None => false,
            },
        };
        found.ifb = ifb.filter(|_| !used_elsewhere);
        Ok(found)
    }

    /// Looks for those that could be in an ADD's way: none without a filter, since an IFB that
    /// nothing leads to does nothing, and waits for DEL.
    pub(crate) fn find_in_use(
        host: &mut Host,
        end: &HostEnd,
        attachment: &Attachment,
        config: &Config,
    ) -> Result<Self, CniError> {
        if end.filters(Hook::Ingress).iter().any(is_filter_of_go) {
            return Self::find(host, Some(end), attachment, Some(config));
        }
        Ok(Self { rate: ingress_rate(Some(config)), ..Self::default() })
    }

    /// Whether a filter is theirs and leads to this attachment's IFB.
    pub(crate) fn owns(&self, filter: &InstalledFilter) -> bool {
        is_filter_of_go(filter)
            && matches!(filter.action, Some(Action::Redirect(to)) if self.targets.contains(&to))
    }

    /// Whether the root qdisc of the host's end is theirs: by its form, and by a redirect beside
    /// it or a rate that is the configured one.
    pub(crate) fn owns_root(&self, root: &Qdisc) -> bool {
        let QdiscKind::Tbf(tbf) = root.kind else { return false };
        is_tbf_of_go(root) && (self.redirect || self.rate == Some(tbf.rate.0))
    }

    /// What removes the redirect and leaves the qdisc that it hangs on.
    pub(crate) fn redirect_deletions(&self, end: &HostEnd) -> Vec<HookChange> {
        let theirs = end.filters(Hook::Ingress).iter().filter(|filter| self.owns(filter));
        if self.redirect { deletions(Hook::Ingress, theirs) } else { Vec::new() }
    }

    /// Deletes the IFB, to which nothing may lead any more.
    pub(crate) fn delete_ifb(&self, host: &mut Host) -> Result<(), CniError> {
        self.ifb.as_ref().map_or(Ok(()), |ifb| host.delete_link(ifb))
    }
}

fn ingress_rate(config: Option<&Config>) -> Option<u64> {
    config.and_then(|config| config.ingress).map(|limit| limit.rate.0 / 8)
}

/// The interface that a host's end redirects to, if the Go plugin made it do so.
fn target_of_go(end: &HostEnd) -> Option<u32> {
    let theirs = end.filters(Hook::Ingress).iter().find(|filter| is_filter_of_go(filter))?;
    match theirs.action {
        // 0 is what the kernel says of one that is gone.
        Some(Action::Redirect(to)) if to != 0 => Some(to),
        _ => None,
    }
}

/// The interfaces that filters of the Go plugin lead to.
pub(super) fn targets_of_go(host: &mut Host) -> Result<Vec<u32>, CniError> {
    let all = host.all_links()?;
    let mut targets = Vec::new();
    for veth in all.iter().filter(|link| link.kind.as_deref() == Some(VETH)) {
        let filters = host.filters(veth, Hook::Ingress)?;
        targets.extend(filters.iter().filter(|filter| is_filter_of_go(filter)).filter_map(
            |filter| match filter.action {
                Some(Action::Redirect(to)) => Some(to),
                _ => None,
            },
        ));
    }
    Ok(targets)
}
