//! Which limits hold on this host, and for whom. Reads only.

use cni_common::cni::protocol::CniError;
use cni_common::kernel::tc::QdiscKind;
use cni_common::kernel::veth::VETH;

use crate::backend::tc;
use crate::host::Host;

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
}

/// Every limit with an owner's name on it.
///
/// # Errors
/// The interfaces or their qdiscs cannot be read.
pub fn installed() -> Result<Vec<Installed>, CniError> {
    let mut host = Host::open()?;
    let mut all = Vec::new();
    for link in host.all_links()? {
        let (Some(kind), Some(alias)) = (link.kind.as_deref(), link.alias.as_deref()) else {
            continue;
        };
        let is_ingress = match kind {
            tc::IFB => tc::limits_ingress(&link.name),
            VETH => true,
            _ => continue,
        };
        // An alias may be anybody's; an owner's has three parts.
        if alias.matches('/').count() != 2 {
            continue;
        }
        let Some(root) = host.root_qdisc(&link)? else { continue };
        let QdiscKind::Tbf(tbf) = root.kind else { continue };
        all.push(Installed {
            owner: alias.to_owned(),
            is_ingress,
            rate: tbf.rate.0.saturating_mul(8),
            interface: link.name,
        });
    }
    Ok(all)
}
