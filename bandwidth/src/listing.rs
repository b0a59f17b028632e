//! Which limits hold on this host, and for whom. Reads only.

use std::collections::HashMap;

use cni_common::cni::protocol::CniError;
use cni_common::kernel::link::Link;
use cni_common::kernel::tc::{Qdisc, QdiscKind};
use cni_common::kernel::veth::VETH;

use crate::backend::tc;
use crate::host::Host;
use crate::host_end::HostEnd;
use crate::layout_number::{newer, refusal};

/// A limit that the kernel holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The tag of its owner, `network/containerID/ifname`.
    pub owner: String,
    /// Whether it is for what goes into the container, and not for what comes out.
    pub is_ingress: bool,
    /// Bits per second.
    pub rate: u64,
    /// The interface that the token bucket filter is on.
    pub interface: String,
    /// What packets wait in: `fq_codel`, `fifo`, or a word for what another program put there.
    pub queue: &'static str,
}

/// Every limit with an owner's name on it.
///
/// # Errors
/// The interfaces or their qdiscs cannot be read, or a newer version made a limit.
pub fn installed() -> Result<Vec<Installed>, CniError> {
    let mut host = Host::open()?;
    let links = host.all_links()?;
    let owner_of = |link: &Link| link.alias.clone().filter(|alias| is_tag(alias));
    let is = |link: &&Link, kind: &str| link.kind.as_deref() == Some(kind);
    if let Some((link, (_, number))) = links.iter().find_map(|link| Some((link, newer(link)?))) {
        return Err(refusal(link, number));
    }
    let mut all = Vec::new();
    let mut ifbs = HashMap::new();
    for link in links.iter().filter(|link| is(link, tc::IFB)) {
        let Some(owner) = owner_of(link) else { continue };
        ifbs.insert(link.index, owner.clone());
        let root = host.root_qdisc(link)?;
        all.extend(limit(&mut host, link, root.as_ref(), owner, tc::limits_ingress(&link.name))?);
    }
    for link in links.iter().filter(|link| is(link, VETH)) {
        let root = host.root_qdisc(link)?.filter(tc::is_our_tbf);
        if root.is_none() {
            continue;
        }
        // Only an end without a redirect has an alias; any other is told by its IFB.
        let owner = if let Some(owner) = owner_of(link) {
            Some(owner)
        } else {
            let end = HostEnd::look(&mut host, link.clone())?;
            tc::redirected_to(&end).into_iter().find_map(|ifb| ifbs.get(&ifb).cloned())
        };
        if let Some(owner) = owner {
            all.extend(limit(&mut host, link, root.as_ref(), owner, true)?);
        }
    }
    Ok(all)
}

fn limit(
    host: &mut Host,
    link: &Link,
    root: Option<&Qdisc>,
    owner: String,
    is_ingress: bool,
) -> Result<Option<Installed>, CniError> {
    let Some(Qdisc { kind: QdiscKind::Tbf(tbf), .. }) = root else { return Ok(None) };
    let rate = tbf.rate.0.saturating_mul(8);
    let queue = tc::queue_name(host, link)?;
    Ok(Some(Installed { owner, is_ingress, rate, interface: link.name.clone(), queue }))
}

/// An alias may be anybody's; an owner's has three parts.
fn is_tag(alias: &str) -> bool {
    alias.matches('/').count() == 2
}
