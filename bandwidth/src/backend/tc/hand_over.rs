//! What is ours becomes the Go plugin's.

use cni_common::cni::Attachment;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::tc::{BytesPerSecond, Hook, HookChange};

use super::layout::{HANDLE, is_our_tbf, our_filters};
use super::{ifb, limit, removal};
use crate::config::Config;
use crate::go::{self, hand_over};
use crate::host::{Host, deletions, refused};
use crate::host_end::{HOOKS, HostEnd};

/// Changes limits in place to those of the Go plugin, which limits all addresses, and takes ours away.
pub(crate) fn give_to_go(
    host: &mut Host,
    end: &HostEnd,
    attachment: &Attachment,
    config: &Config,
) -> Result<(), CniError> {
    let tag = attachment.tag();
    if let Some(tbf) = hand_over::ingress(config) {
        let handle = if end.root.as_ref().is_some_and(is_our_tbf) { HANDLE } else { go::HANDLE };
        host.kernel
            .set_tbf(end.link.index, handle, tbf)
            .map_err(refused(|| format!("limit what goes to {}", end.link.name)))?;
    }
    let mut changes = Vec::new();
    if config.egress.is_some() && end.clsact.is_none() {
        changes.push(HookChange::AddClsact);
    }
    // Its filter runs before ours, which go in the same datagram.
    changes.extend(hand_over::make_egress(host, end, attachment, config)?);
    for hook in HOOKS {
        changes.extend(deletions(hook, our_filters(end, hook)));
    }
    host.change_hooks(&end.link, &changes)?;
    for (hook, asked) in [(Hook::Ingress, config.egress), (Hook::Egress, config.ingress)] {
        if let Some(ifb) = ifb::find(host, Some(end), &tag, hook)? {
            if let Some(asked) = asked {
                limit::drain(host, &ifb, BytesPerSecond(asked.rate.0 / 8))?;
            }
            host.delete_link(&ifb)?;
        }
    }
    removal::clear_alias(host, end, &tag)
}
