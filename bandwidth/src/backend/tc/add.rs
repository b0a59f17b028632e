//! ADD: makes what is there that of a plan. A first ADD and a change of limits are the same walk;
//! what is right already is left alone.

use cni_common::cni::OwnerTag;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::link::Link;
use cni_common::kernel::tc::{Hook, Qdisc, QdiscKind};

use super::layout::{HANDLE, Redirect, is_our_tbf, our_filters, redirect, root};
use super::{clsact, ifb, removal};
use crate::go::{self, Leftovers};
use crate::host::{Host, refused};
use crate::host_end::HostEnd;
use crate::plan::Plan;

/// Makes everything as planned, in place of the Go plugin's, or nothing. The IFBs are returned
/// with egress's last.
pub(crate) fn add(
    host: &mut Host,
    mut end: HostEnd,
    plan: &Plan,
    go: &Leftovers,
) -> Result<Vec<Link>, CniError> {
    require_replaceable_root(&end, plan)?;
    let class_minor = clsact::prepare(host, &mut end, plan, go)?;
    build(host, &end, plan, class_minor, go)
        .map_err(|error| roll_back(host, &end.link, &plan.tag, class_minor, error))
}

/// A TBF may take the place of the kernel's own choice, of our TBF, or of the Go plugin's.
fn require_replaceable_root(end: &HostEnd, plan: &Plan) -> Result<(), CniError> {
    let replaceable = |root: &Qdisc| root.handle == 0 || is_our_tbf(root) || go::is_tbf_of_go(root);
    match &end.root {
        Some(found) if root(plan).is_some() && !replaceable(found) => {
            let name = &end.link.name;
            Err(CniError::new(
                ErrorCode::Kernel,
                format!(
                    "{name} has a {} that another program set up: remove it (tc qdisc del dev {name} \
                     root) or remove ingressRate",
                    describe(found)
                ),
            ))
        }
        _ => Ok(()),
    }
}

fn describe(qdisc: &Qdisc) -> String {
    let name = match &qdisc.kind {
        QdiscKind::Tbf(_) => "tbf",
        QdiscKind::Ingress => "ingress",
        QdiscKind::Clsact => "clsact",
        QdiscKind::Other(name) => name,
    };
    format!("{name} qdisc with handle {:x}:", qdisc.handle)
}

fn build(
    host: &mut Host,
    end: &HostEnd,
    plan: &Plan,
    class_minor: u16,
    go: &Leftovers,
) -> Result<Vec<Link>, CniError> {
    let mut ifbs = Vec::new();
    for hook in [Hook::Egress, Hook::Ingress] {
        match redirect(plan, hook) {
            Some(wanted) => ifbs.push(install(host, end, &plan.tag, hook, &wanted, class_minor)?),
            // An IFB that nothing leads to waits for DEL.
            None if our_filters(end, hook).next().is_some() => {
                host.delete_filters(&end.link, hook, our_filters(end, hook))?;
                if let Some(ifb) = ifb::find(host, &plan.tag, hook)? {
                    host.delete_link(&ifb)?;
                }
            }
            None => {}
        }
    }
    let link = &end.link;
    if let Some(tbf) = root(plan) {
        host.tc
            .set_tbf(link.index, HANDLE, tbf)
            .map_err(refused(|| format!("limit what goes to {}", link.name)))?;
        // With an IFB, that one names the owner, and its redirect leads here.
        if ifbs.is_empty() && (link.alias.is_none() || end.names(&plan.tag)) {
            host.set_alias(link, plan.tag.as_str())?;
        }
    } else {
        removal::delete_tbf(host, end, go)?;
        removal::clear_alias(host, end, &plan.tag)?;
    }
    go.remove_redirect(host, end)?;
    go.delete_ifb(host)?;
    if ifbs.is_empty() {
        clsact::remove_idle(host, link, class_minor)?;
    }
    Ok(ifbs)
}

/// Makes an IFB with its TBF, and the filters that lead to it.
fn install(
    host: &mut Host,
    end: &HostEnd,
    tag: &OwnerTag,
    hook: Hook,
    redirect: &Redirect<'_>,
    class_minor: u16,
) -> Result<Link, CniError> {
    let link = &end.link;
    let ifb = ifb::ensure(host, link, tag, hook)?;
    host.tc
        .set_tbf(ifb.index, HANDLE, redirect.tbf)
        .map_err(refused(|| format!("limit {}", ifb.name)))?;
    let ours: Vec<_> = our_filters(end, hook).collect();
    let wanted = redirect.filters(ifb.index, class_minor);
    let same = ours.len() == wanted.len()
        && wanted.iter().all(|filter| ours.iter().any(|found| found.is(filter)));
    if !same {
        host.delete_filters(link, hook, ours.into_iter())?;
        for filter in &wanted {
            host.tc.add_filter(link.index, hook, filter).map_err(refused(|| {
                format!("redirect the traffic of {} to {}", link.name, ifb.name)
            }))?;
        }
    }
    Ok(ifb)
}

/// Takes back what `build` made before its error.
fn roll_back(
    host: &mut Host,
    link: &Link,
    tag: &OwnerTag,
    class_minor: u16,
    error: CniError,
) -> CniError {
    let removed = HostEnd::look(host, link.clone())
        .and_then(|end| removal::remove(host, Some(&end), tag, &Leftovers::default()));
    let outcomes = [removed, clsact::remove_idle(host, link, class_minor)];
    match outcomes.into_iter().find_map(Result::err) {
        None => error,
        Some(left) => {
            let details = format!("{}; and some of it stays: {left}", error.details);
            error.with_details(details)
        }
    }
}
