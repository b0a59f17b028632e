//! The host's end of the container's veth pair as a command finds it: root qdisc, clsact qdisc and
//! filters.

use std::path::Path;

use cni_common::cni::OwnerTag;
use cni_common::cni::failure::code_of;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::link::Link;
use cni_common::kernel::netns::Netns;
use cni_common::kernel::tc::{Hook, InstalledFilter, Qdisc, QdiscKind};
use cni_common::kernel::veth::{VETH, VethError};

use crate::bucket::Packets;
use crate::host::{Host, refused};
use crate::layout_number;

/// Both, in the order of [`HostEnd::filters`].
pub(crate) const HOOKS: [Hook; 2] = [Hook::Ingress, Hook::Egress];

/// What was found. One look serves the whole command.
#[derive(Clone, Debug)]
pub(crate) struct HostEnd {
    pub(crate) link: Link,
    pub(crate) root: Option<Qdisc>,
    /// A clsact qdisc, or the ingress qdisc in its place.
    pub(crate) clsact: Option<Qdisc>,
    filters: [Vec<InstalledFilter>; 2],
}

impl HostEnd {
    /// Finds and looks at the host's end of `ifname` in the namespace at `netns`.
    pub(crate) fn find(host: &mut Host, netns: &str, ifname: &str) -> Result<Self, CniError> {
        let link = Netns::open(Path::new(netns))
            .map_err(VethError::Namespace)
            .and_then(|container| host.kernel.host_end(&container, ifname))
            .map_err(|error| no_host_end(error, netns, ifname))?;
        Self::look(host, link)
    }

    /// The end whose alias names this owner, if there is one.
    pub(crate) fn find_by_alias(
        host: &mut Host,
        owner: &OwnerTag,
    ) -> Result<Option<Self>, CniError> {
        let all = host.all_links()?;
        let found = all.into_iter().find(|link| {
            let named = layout_number::newer(link).map(|(tag, _)| tag).or(link.alias.as_deref());
            link.kind.as_deref() == Some(VETH)
                && named.is_some_and(|alias| owner.is_same_attachment(alias))
        });
        found.map(|link| Self::look(host, link)).transpose()
    }

    /// Looks at an interface.
    pub(crate) fn look(host: &mut Host, link: Link) -> Result<Self, CniError> {
        let root = host.root_qdisc(&link)?;
        let clsact = host.clsact_qdisc(&link)?;
        let mut filters = [Vec::new(), Vec::new()];
        for (hook, filters) in HOOKS.into_iter().zip(&mut filters) {
            if has_hook(clsact.as_ref(), hook) {
                *filters = host.filters(&link, hook)?;
            }
        }
        Ok(Self { link, root, clsact, filters })
    }

    /// The filters at a hook, in the order they run.
    pub(crate) fn filters(&self, hook: Hook) -> &[InstalledFilter] {
        let [ingress, egress] = &self.filters;
        if hook == Hook::Ingress { ingress } else { egress }
    }

    /// Whether its alias names this owner.
    pub(crate) fn names(&self, owner: &OwnerTag) -> bool {
        self.link.alias.as_deref().is_some_and(|alias| owner.is_same_attachment(alias))
    }

    /// What has to fit through a token bucket.
    pub(crate) fn packets(&self) -> Packets {
        Packets { mtu: self.link.mtu, gso_max_size: self.link.gso_max_size }
    }
}

fn has_hook(clsact: Option<&Qdisc>, hook: Hook) -> bool {
    match clsact.map(|qdisc| &qdisc.kind) {
        None => false,
        Some(QdiscKind::Ingress) => hook == Hook::Ingress,
        Some(_) => true,
    }
}

fn no_host_end(error: VethError, netns: &str, ifname: &str) -> CniError {
    match error {
        VethError::Namespace(error) => CniError::new(
            code_of(&error, ErrorCode::InvalidNetns),
            format!("cannot enter CNI_NETNS {netns:?}: is the container still running?"),
        )
        .with_details(error.to_string()),
        VethError::NoInterface => CniError::config(format!(
            "there is no interface {ifname:?} in {netns}: put bandwidth behind the plugin that makes it"
        )),
        VethError::NotVeth(kind) => CniError::config(format!(
            "{ifname:?} is a {}, not a veth, and so has no end on the host that could be shaped: remove \
             bandwidth from this network, or make the interface with bridge or ptp",
            kind.as_deref().unwrap_or("device of the host's")
        )),
        VethError::NoPeer => CniError::config(format!("{ifname:?} has no other end")),
        VethError::Elsewhere(index) => CniError::config(format!(
            "the other end of {ifname:?} (index {index}) is not in the namespace that bandwidth runs in: \
             limits can only be set where that end is"
        )),
        VethError::Rtnetlink(error) => {
            refused(|| "look for the host's end of the veth".to_owned())(error)
        }
    }
}
