//! DEL: the filters before the IFB, since a redirect to an interface that is gone drops everything; and
//! what tells the owner last, the alias of the IFB or of the host's end, so that GC finds what a DEL that
//! was killed has left. The TBF of a host's end, which says nothing itself, goes first.

use cni_common::cni::OwnerTag;
use cni_common::cni::holder::on_all;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::tc::{Action, Hook};
use cni_common::kernel::veth::VETH;

use super::layout::{is_our_tbf, our_filters};
use super::{clsact, ifb};
use crate::go::Leftovers;
use crate::host::{Host, refused};
use crate::host_end::{HOOKS, HostEnd};

/// Removes everything that the attachment owns, and the Go plugin's. An error on one object does
/// not stop the rest.
pub(crate) fn remove(
    host: &mut Host,
    end: Option<&HostEnd>,
    tag: &OwnerTag,
    go: &Leftovers,
) -> Result<(), CniError> {
    let mut outcomes = Vec::new();
    if let Some(end) = end {
        outcomes.push(delete_tbf(host, end, go));
    }
    match end.map_or(Ok(()), |end| clsact::remove_redirects(host, end, go)) {
        Ok(()) => {
            for hook in HOOKS {
                outcomes.push(delete_ifb(host, end, tag, hook));
            }
            outcomes.push(go.delete_ifb(host));
        }
        failed => outcomes.push(failed),
    }
    if let Some(end) = end {
        outcomes.push(clear_alias(host, end, tag));
    }
    on_all(outcomes, |outcome| outcome)
}

/// Deletes the attachment's IFB behind a hook. Unless redirects to it are gone for certain,
/// they are looked for.
fn delete_ifb(
    host: &mut Host,
    end: Option<&HostEnd>,
    tag: &OwnerTag,
    hook: Hook,
) -> Result<(), CniError> {
    let Some(ifb) = ifb::find(host, end, tag, hook)? else { return Ok(()) };
    if end.is_none() {
        clear_ends_that_lead_to(host, &[ifb.index])?;
    }
    host.delete_link(&ifb)
}

/// Takes away our TBF or the Go plugin's from the host's end.
pub(super) fn delete_tbf(host: &mut Host, end: &HostEnd, go: &Leftovers) -> Result<(), CniError> {
    if end.root.as_ref().is_some_and(|root| is_our_tbf(root) || go.owns_root(root)) {
        host.kernel
            .delete_root(end.link.index)
            .map_err(refused(|| format!("remove the limit of {}", end.link.name)))?;
    }
    Ok(())
}

/// Takes away the owner that we gave to the host's end.
pub(super) fn clear_alias(host: &mut Host, end: &HostEnd, tag: &OwnerTag) -> Result<(), CniError> {
    if end.names(tag) { host.set_alias(&end.link, "") } else { Ok(()) }
}

/// Removes our redirects and TBFs wherever something is sent to these links.
pub(super) fn clear_ends_that_lead_to(host: &mut Host, ifbs: &[u32]) -> Result<(), CniError> {
    let all = host.all_links()?;
    for link in all.iter().filter(|link| link.kind.as_deref() == Some(VETH)) {
        let end = HostEnd::look(host, link.clone())?;
        let leads_there =
            |action| matches!(action, Some(Action::Redirect(to)) if ifbs.contains(&to));
        if HOOKS
            .into_iter()
            .any(|hook| our_filters(&end, hook).any(|filter| leads_there(filter.action)))
        {
            clear_end(host, &end)?;
        }
    }
    Ok(())
}

/// Removes our TBF and our redirects from a host's end.
pub(super) fn clear_end(host: &mut Host, end: &HostEnd) -> Result<(), CniError> {
    let nothing_of_go = Leftovers::default();
    delete_tbf(host, end, &nothing_of_go)?;
    clsact::remove_redirects(host, end, &nothing_of_go)
}
