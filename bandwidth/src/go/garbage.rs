//! GC of IFBs that the Go plugin left.

use cni_common::cni::protocol::CniError;
use cni_common::kernel::link::Link;

use super::form::{is_ifb_of_go, is_tbf_of_go};
use super::leftovers::targets_of_go;
use crate::host::Host;

/// Removes IFBs of the Go plugin that nothing leads to, and adds their names to `removed`. Which
/// network they were for cannot be told, nor does it matter: they limit nothing. One without a TBF
/// may belong to an ADD that is at work, which gives it one last.
pub(crate) fn collect_garbage(
    host: &mut Host,
    all: &[Link],
    removed: &mut Vec<String>,
) -> Result<(), CniError> {
    let mut idle = Vec::new();
    for ifb in all.iter().filter(|link| is_ifb_of_go(link)) {
        if host.root_qdisc(ifb)?.as_ref().is_some_and(is_tbf_of_go) {
            idle.push(ifb);
        }
    }
    if idle.is_empty() {
        return Ok(());
    }
    let targets = targets_of_go(host)?;
    idle.retain(|ifb| !targets.contains(&ifb.index));
    for ifb in idle {
        host.delete_link(ifb)?;
        removed.push(ifb.name.clone());
    }
    Ok(())
}
