//! ADD: makes what is there that of a plan. A first ADD and a change of limits are the same walk;
//! what is right already is left alone.

use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::link::Link;
use cni_common::kernel::tc::{Filter, Hook, HookChange, InstalledFilter, Qdisc, QdiscKind};

use super::before::Before;
use super::clsact::{self, Hooks};
use super::layout::{CLSACT_IS_FOREIGN, is_our_tbf, our_filters, redirect, root};
use super::limit::{self, Held};
use super::{ifb, removal};
use crate::go::{self, Leftovers};
use crate::host::{Host, deletions};
use crate::host_end::{HOOKS, HostEnd};
use crate::plan::Plan;

/// Makes everything as planned, in place of the Go plugin's, or leaves what was there. The IFBs are
/// returned with egress's last.
pub(crate) fn add(
    host: &mut Host,
    end: HostEnd,
    plan: &Plan,
    go: &Leftovers,
) -> Result<Vec<Link>, CniError> {
    require_replaceable_root(&end, plan)?;
    let hooks = clsact::prepare(&end, plan, go)?;
    let before = Before::look(host, end, &plan.tag)?;
    build(host, &before, plan, &hooks, go)
        .map_err(|error| before.put_back(host, &plan.tag, hooks.class_minor, error))
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
        QdiscKind::FqCodel(_) => "fq_codel",
        QdiscKind::Ingress => "ingress",
        QdiscKind::Clsact => "clsact",
        QdiscKind::Other(name) => name,
    };
    format!("{name} qdisc with handle {:x}:", qdisc.handle)
}

fn build(
    host: &mut Host,
    before: &Before,
    plan: &Plan,
    hooks: &Hooks,
    go: &Leftovers,
) -> Result<Vec<Link>, CniError> {
    let end = &before.end;
    let link = &end.link;
    let ifbs = redirect_all(host, end, before, plan, hooks)?;
    if let Some(limiter) = root(plan) {
        // With an IFB, that one names the owner, and its redirect leads here. The name comes first: GC
        // does not see a TBF without.
        if ifbs.is_empty() && (link.alias.is_none() || end.names(&plan.tag)) {
            host.set_alias(link, plan.tag.as_str())?;
        }
        limit::set(host, link, &before.held, limiter)?;
    } else {
        removal::delete_tbf(host, end, go)?;
        removal::clear_alias(host, end, &plan.tag)?;
    }
    host.change_hooks(link, &go.redirect_deletions(end))?;
    go.delete_ifb(host)?;
    if ifbs.is_empty() {
        clsact::remove_idle(host, link, hooks.class_minor)?;
    }
    // Nothing leads to them any more, perhaps since an ADD that was killed.
    let idle = HOOKS.into_iter().filter(|hook| redirect(plan, *hook).is_none());
    for ifb in idle.filter_map(|hook| before.ifb(hook)) {
        host.delete_link(ifb)?;
    }
    Ok(ifbs)
}

/// Makes the IFBs with their TBFs, and then, in one datagram, the filters that lead to them.
fn redirect_all(
    host: &mut Host,
    end: &HostEnd,
    before: &Before,
    plan: &Plan,
    hooks: &Hooks,
) -> Result<Vec<Link>, CniError> {
    let mut ifbs = Vec::new();
    let mut changes = hooks.first.clone();
    for hook in [Hook::Egress, Hook::Ingress] {
        let mut ours: Vec<&InstalledFilter> = our_filters(end, hook).collect();
        if let Some(wanted) = redirect(plan, hook) {
            let ifb = ifb::ensure(host, end, &plan.tag, hook)?;
            let held = before.held_by_ifb(hook).filter(|(found, _)| found.index == ifb.index);
            limit::set(
                host,
                &ifb,
                held.map_or(&Held::default(), |(_, held)| held),
                wanted.limiter,
            )?;
            if hooks.lose_filters() {
                ours.clear();
            }
            let wanted = wanted.filters(ifb.index, hooks.class_minor);
            changes.extend(replacements(hook, &ours, &wanted));
            ifbs.push(ifb);
        } else if !ours.is_empty() {
            changes.extend(deletions(hook, ours.into_iter()));
        }
    }
    let made = host.change_hooks(&end.link, &changes)?;
    if changes.contains(&HookChange::AddClsact) && !made {
        // Somebody else was faster: the filters must not say that it is ours.
        let found = HostEnd::look(host, end.link.clone())?;
        let class_minor = CLSACT_IS_FOREIGN;
        let hooks = Hooks { class_minor, first: Vec::new() };
        return redirect_all(host, &found, before, plan, &hooks);
    }
    Ok(ifbs)
}

/// What makes these filters those that are wanted; nothing if they are.
fn replacements(hook: Hook, ours: &[&InstalledFilter], wanted: &[Filter]) -> Vec<HookChange> {
    let is_there = |filter: &Filter| {
        ours.iter().any(|found| found.is(filter) && found.class_minor == filter.class_minor)
    };
    if ours.len() == wanted.len() && wanted.iter().all(is_there) {
        return Vec::new();
    }
    let add = |filter: &Filter| HookChange::AddFilter(hook, filter.into());
    deletions(hook, ours.iter().copied()).into_iter().chain(wanted.iter().map(add)).collect()
}
