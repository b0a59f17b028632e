//! CHECK: what does not match the plan.

use cni_common::cni::Finding;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::tc::{Hook, Qdisc, QdiscKind, Tbf};

use super::ifb;
use super::layout::{
    CLSACT_IS_OURS, Redirect, clsact_is, ifb_name, is_our_tbf, our_filters, redirect, root,
};
use crate::host::Host;
use crate::host_end::{HOOKS, HostEnd};
use crate::plan::Plan;

/// Compares what is there with the plan.
pub(crate) fn check(host: &mut Host, end: &HostEnd, plan: &Plan) -> Result<Finding, CniError> {
    if clsact_is(end).is_none() && !end.root.as_ref().is_some_and(is_our_tbf) {
        return Ok(Finding::Absent);
    }
    let mut mismatches = Vec::new();
    if let Some(tbf) = root(plan) {
        mismatches.extend(tbf_mismatch(&end.link.name, end.root.as_ref(), tbf));
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
    mismatches.extend(tbf_mismatch(&name, host.root_qdisc(&ifb)?.as_ref(), redirect.tbf));
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

fn tbf_mismatch(name: &str, root: Option<&Qdisc>, wanted: Tbf) -> Option<String> {
    match root.map(|root| &root.kind) {
        Some(QdiscKind::Tbf(found)) if wanted.is(*found) => None,
        Some(QdiscKind::Tbf(found)) => {
            Some(format!("the limit of {name} differs: {found:?} instead of {wanted:?}"))
        }
        _ => Some(format!("{name} has no limit")),
    }
}
