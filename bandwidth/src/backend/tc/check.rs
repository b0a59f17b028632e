//! CHECK: what does not match the plan.

use cni_common::cni::Finding;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::tc::Hook;

use super::ifb;
use super::layout::{
    CLSACT_IS_OURS, Redirect, clsact_is, ifb_name, is_our_tbf, our_filters, redirect, root,
};
use super::limit::{self, Held};
use crate::host::Host;
use crate::host_end::{HOOKS, HostEnd};
use crate::plan::Plan;

/// Compares what is there with the plan.
pub(crate) fn check(host: &mut Host, end: &HostEnd, plan: &Plan) -> Result<Finding, CniError> {
    if clsact_is(end).is_none() && !end.root.as_ref().is_some_and(is_our_tbf) {
        return Ok(Finding::Absent);
    }
    let mut mismatches = Vec::new();
    if let Some(limiter) = root(plan) {
        let held = Held::look(host, &end.link, end.root.clone())?;
        mismatches.extend(limit::mismatch(&end.link.name, &held, limiter));
    }
    for hook in HOOKS {
        if let Some(redirect) = redirect(plan, hook) {
            compare_redirect(host, end, plan, hook, &redirect, &mut mismatches)?;
        }
    }
    Ok(Finding::of(mismatches))
}

fn compare_redirect(
    host: &mut Host,
    end: &HostEnd,
    plan: &Plan,
    hook: Hook,
    redirect: &Redirect<'_>,
    mismatches: &mut Vec<String>,
) -> Result<(), CniError> {
    let name = ifb_name(&plan.tag, hook);
    let Some(ifb) = ifb::find(host, Some(end), &plan.tag, hook)? else {
        mismatches.push(format!("the IFB {name} is gone"));
        return Ok(());
    };
    if ifb.alias.is_none() {
        mismatches.push(format!("{name} does not name its owner"));
    }
    if !ifb.up {
        mismatches.push(format!("{name} is down"));
    }
    let root = host.root_qdisc(&ifb)?;
    let held = Held::look(host, &ifb, root)?;
    mismatches.extend(limit::mismatch(&name, &held, redirect.limiter));
    let wanted = redirect.filters(ifb.index, CLSACT_IS_OURS);
    let installed = end.filters(hook);
    let missing =
        wanted.iter().filter(|filter| !installed.iter().any(|found| found.is(filter))).count();
    let ours = our_filters(end, hook).count();
    let veth = &end.link.name;
    if missing > 0 {
        mismatches.push(format!(
            "{missing} of the {} filters of {veth} that lead to {name} are gone or differ",
            wanted.len(),
        ));
    } else if ours > wanted.len() {
        mismatches.push(format!("{veth} has {ours} filters instead of {}", wanted.len()));
    }
    Ok(())
}
