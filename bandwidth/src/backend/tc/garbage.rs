//! GC: what belongs to attachments of a network that are not valid any more.
//!
//! The owner is the alias of an IFB, whose redirect tells the host's end, or else that of the
//! host's end itself.

use cni_common::cni::Stale;
use cni_common::cni::holder::on_all;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::link::Link;
use cni_common::kernel::veth::VETH;

use super::layout::IFB;
use super::removal::{clear_end, clear_ends_that_lead_to};
use crate::host::Host;
use crate::host_end::HostEnd;
use crate::layout_number;

/// Removes the IFBs and the limits of stale attachments. What a newer version made of them stays, which is an
/// error. The interfaces' names are added to `removed`.
pub(crate) fn collect_garbage(
    host: &mut Host,
    stale: &Stale,
    all: &[Link],
    removed: &mut Vec<String>,
) -> Result<(), CniError> {
    let stale_links = |kind: &'static str| {
        all.iter().filter(move |link| {
            link.kind.as_deref() == Some(kind)
                && link.alias.as_deref().is_some_and(|alias| stale.includes(alias))
        })
    };
    let mut outcomes = Vec::new();
    let ifbs: Vec<&Link> = stale_links(IFB).collect();
    if !ifbs.is_empty() {
        let indexes: Vec<u32> = ifbs.iter().map(|ifb| ifb.index).collect();
        match clear_ends_that_lead_to(host, &indexes) {
            Ok(()) => {
                for ifb in ifbs {
                    outcomes.push(host.delete_link(ifb));
                    removed.push(ifb.name.clone());
                }
            }
            // The next GC needs them, and a redirect to one that is gone drops everything.
            failed => outcomes.push(failed),
        }
    }
    for end in stale_links(VETH) {
        outcomes.push(forget_end(host, end));
        removed.push(end.name.clone());
    }
    for link in all {
        if let Some((owner, number)) = layout_number::newer(link)
            && stale.includes(owner)
        {
            outcomes.push(Err(layout_number::refusal(link, number)));
        }
    }
    on_all(outcomes, |outcome| outcome)
}

fn forget_end(host: &mut Host, link: &Link) -> Result<(), CniError> {
    let end = HostEnd::look(host, link.clone())?;
    clear_end(host, &end)?;
    host.set_alias(link, "")
}
