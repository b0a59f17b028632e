//! STATUS: whether this kernel can do all that ADD needs, tried in a namespace that nobody else sees.

use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::link::LinkChange;
use cni_common::kernel::rtnetlink::RtnetlinkError;
use cni_common::kernel::tc::{
    Action, Bytes, BytesPerSecond, Filter, FqCodel, Hook, HookChange, Match, Microseconds,
    SCH_FQ_CODEL, Tbf,
};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use crate::config::QueueKind;
use crate::host::Host;

const IFB: &str = "probe";

/// No link has this index, which the kernel counts up to.
const NO_LINK: u32 = i32::MAX.cast_unsigned();

/// Makes an IFB with a TBF and a redirect. All of it ends with the process, which does nothing else
/// afterwards, and so needs no thread to come back from. The name of the queue that ADD would make is returned.
pub(crate) fn run(queue: QueueKind) -> Result<&'static str, CniError> {
    may_change_links_here()?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| {
        unavailable("make a network namespace to try things in", "run it as root", &error)
    })?;
    attempt(queue)
}

/// In a user namespace a process may have every privilege in a network namespace that it makes, and none
/// in the one that it is in. The kernel looks at the privilege first, and then for the link.
fn may_change_links_here() -> Result<(), CniError> {
    let outcome = Host::open()?.kernel.change_link(NO_LINK, &LinkChange::default());
    let errno = outcome.as_ref().err().map(|error| Errno::from_raw(error.errno));
    match outcome {
        Err(error) if matches!(errno, Some(Errno::EPERM | Errno::EACCES)) => Err(unavailable(
            "change interfaces in the host's network namespace",
            "run it as root, or rootless in a network namespace of the same user namespace",
            &error,
        )),
        _ => Ok(()),
    }
}

fn attempt(queue: QueueKind) -> Result<&'static str, CniError> {
    let kernel = &mut Host::open()?.kernel;
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    kernel.create_ifb(IFB, &up, IFB).map_err(refused("create an IFB", "ifb"))?;
    let ifb = kernel.link(IFB).ok().flatten().ok_or_else(|| {
        CniError::new(ErrorCode::NotAvailable, "an IFB that was just made cannot be found")
    })?;
    let tbf = Tbf {
        rate: BytesPerSecond(1 << 33),
        burst: Bytes(u32::MAX),
        limit: Bytes(u32::MAX),
        piece: None,
    };
    let time = Microseconds(1);
    let fq_codel = FqCodel { target: time, interval: time, memory_limit: Bytes(u32::MAX) };
    let queued = kernel.set_tbf_with(ifb.index, 1, tbf, (2, fq_codel), None);
    let is_missing = |error: &RtnetlinkError| error.module == Some(SCH_FQ_CODEL);
    let queue = match (queue, queued) {
        (_, Err(error)) if !is_missing(&error) => {
            return Err(refused("limit a rate", "sch_tbf")(error));
        }
        (QueueKind::FqCodel, Err(error)) => {
            return Err(refused("queue by fq_codel", SCH_FQ_CODEL)(error));
        }
        (QueueKind::Fifo, _) => "fifo",
        (QueueKind::Best, Err(_)) => "fifo, because the kernel has no fq_codel",
        (_, Ok(())) => "fq_codel",
    };
    let mut change = |change| -> Result<(), RtnetlinkError> {
        kernel.change_hooks(ifb.index, &[change])?.into_iter().collect()
    };
    change(HookChange::AddClsact).map_err(refused("add a clsact qdisc", "sch_ingress"))?;
    for (action, module) in [(Action::Pass, "cls_u32"), (Action::Redirect(ifb.index), "act_mirred")]
    {
        let priority = if action == Action::Pass { 1 } else { 2 };
        let filter = Filter { priority, matches: Match::Everything, action, class_minor: 1 };
        change(HookChange::AddFilter(Hook::Ingress, (&filter).into()))
            .map_err(refused("redirect packets", module))?;
    }
    Ok(queue)
}

fn refused(task: &str, module: &str) -> impl Fn(RtnetlinkError) -> CniError {
    move |error| {
        let remedy = match Errno::from_raw(error.errno) {
            Errno::EPERM | Errno::EACCES => "run it as root, with CAP_NET_ADMIN".to_owned(),
            _ => format!("load the module {module} (modprobe {module})"),
        };
        unavailable(task, &remedy, &error)
    }
}

fn unavailable(task: &str, remedy: &str, error: &dyn std::fmt::Display) -> CniError {
    CniError::new(ErrorCode::NotAvailable, format!("bandwidth cannot {task}: {remedy}"))
        .with_details(error.to_string())
}
