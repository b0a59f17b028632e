//! STATUS: whether this kernel can do all that ADD needs, tried in a namespace that nobody else sees.

use std::thread;

use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::link::LinkChange;
use cni_common::kernel::tc::{Action, Bytes, BytesPerSecond, Filter, Hook, HookChange, Match, Tbf};
use nix::sched::{CloneFlags, unshare};

use crate::host::Host;

const IFB: &str = "probe";

/// Makes an IFB with a TBF and a redirect. All of it ends with the thread.
pub(crate) fn run() -> Result<(), CniError> {
    let work = || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| {
            unavailable("make a network namespace to try things in", "run it as root", &error)
        })?;
        attempt()
    };
    thread::spawn(work).join().unwrap_or_else(|_| {
        Err(CniError::new(ErrorCode::Internal, "the probe panicked; please report it"))
    })
}

fn attempt() -> Result<(), CniError> {
    let Host { mut links, mut tc } = Host::open()?;
    let module = |name: &str| format!("load the module {name} (modprobe {name})");
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    links
        .create_ifb(IFB, &up, IFB)
        .map_err(|error| unavailable("create an IFB", &module("ifb"), &error))?;
    let ifb = links.by_name(IFB).ok().flatten().ok_or_else(|| {
        CniError::new(ErrorCode::NotAvailable, "an IFB that was just made cannot be found")
    })?;
    let tbf = Tbf { rate: BytesPerSecond(1 << 33), burst: Bytes(u32::MAX), limit: Bytes(u32::MAX) };
    tc.set_tbf(ifb.index, 1, tbf)
        .map_err(|error| unavailable("limit a rate", &module("sch_tbf"), &error))?;
    tc.change_hook(ifb.index, HookChange::AddClsact)
        .map_err(|error| unavailable("add a clsact qdisc", &module("sch_ingress"), &error))?;
    for (action, modules) in
        [(Action::Pass, "cls_u32"), (Action::Redirect(ifb.index), "act_mirred")]
    {
        let priority = if action == Action::Pass { 1 } else { 2 };
        let filter = Filter { priority, matches: Match::Everything, action, class_minor: 1 };
        tc.change_hook(ifb.index, HookChange::AddFilter(Hook::Ingress, (&filter).into()))
            .map_err(|error| unavailable("redirect packets", &module(modules), &error))?;
    }
    Ok(())
}

fn unavailable(task: &str, remedy: &str, error: &dyn std::fmt::Display) -> CniError {
    CniError::new(ErrorCode::NotAvailable, format!("bandwidth cannot {task}: {remedy}"))
        .with_details(error.to_string())
}
