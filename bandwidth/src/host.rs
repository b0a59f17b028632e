//! The host's end of the veth as a command finds it: what it sends by, its hooks, their filters.

use cni_common::cni::OwnerTag;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::link::Link;
use cni_common::kernel::tc::{Hook, InstalledFilter, Qdisc, QdiscKind};

use crate::backend::{Backend, refused};
use crate::plan::{HANDLE, is_our_priority};

/// Written into our filters: whether the hooks they hang on were made for them.
pub(crate) const HOOKS_ARE_OURS: u16 = 1;
/// They were there before.
pub(crate) const HOOKS_ARE_FOREIGN: u16 = 2;

/// Both, in the order of [`HostEnd::filters`].
pub(crate) const HOOKS: [Hook; 2] = [Hook::Ingress, Hook::Egress];

/// What was found. One look serves the whole command.
#[derive(Clone, Debug)]
pub struct HostEnd {
    /// The interface.
    pub link: Link,
    /// The discipline of what it sends.
    pub root: Option<Qdisc>,
    /// The discipline that its hooks belong to.
    pub hooks: Option<Qdisc>,
    filters: [Vec<InstalledFilter>; 2],
}

impl HostEnd {
    /// Looks at an interface.
    pub fn look(backend: &mut Backend, link: Link) -> Result<Self, CniError> {
        let name = &link.name;
        let failed = |what| refused(move || format!("look at the {what} of {name}"));
        let root = backend.tc.root(link.index).map_err(failed("queueing discipline"))?;
        let hooks = backend.tc.hooks(link.index).map_err(failed("hooks"))?;
        let mut filters = [Vec::new(), Vec::new()];
        for (hook, filters) in HOOKS.into_iter().zip(&mut filters) {
            if has_hook(hooks.as_ref(), hook) {
                *filters = backend.filters(&link, hook)?;
            }
        }
        Ok(Self { link, root, hooks, filters })
    }

    /// The filters at a hook, in the order they run.
    #[must_use]
    pub fn filters(&self, hook: Hook) -> &[InstalledFilter] {
        let [ingress, egress] = &self.filters;
        if hook == Hook::Ingress { ingress } else { egress }
    }

    /// Those that are this plugin's: a veth end has one attachment, so they are the attachment's.
    pub fn our_filters(&self, hook: Hook) -> impl Iterator<Item = &InstalledFilter> {
        self.filters(hook).iter().filter(move |filter| is_ours(hook, filter))
    }

    /// What our filters say about the hooks.
    #[must_use]
    pub fn note(&self) -> Option<u16> {
        HOOKS.into_iter().find_map(|hook| self.our_filters(hook).next()).map(|filter| filter.note)
    }

    /// Forgets filters that went with their hooks.
    pub fn lose_hooks(&mut self) {
        self.hooks = None;
        self.filters = [Vec::new(), Vec::new()];
    }

    /// Whether the bucket that limits what it sends is ours.
    #[must_use]
    pub fn has_our_bucket(&self) -> bool {
        self.root.as_ref().is_some_and(is_our_bucket)
    }

    /// Whether it names this attachment as its owner.
    #[must_use]
    pub fn is_marked(&self, tag: &OwnerTag) -> bool {
        self.link.alias.as_deref() == Some(tag.as_str())
    }
}

fn has_hook(hooks: Option<&Qdisc>, hook: Hook) -> bool {
    match hooks.map(|hooks| &hooks.kind) {
        None => false,
        Some(QdiscKind::Ingress) => hook == Hook::Ingress,
        Some(_) => true,
    }
}

/// Whether a filter at a hook is one of this plugin's.
pub(crate) fn is_ours(hook: Hook, filter: &InstalledFilter) -> bool {
    filter.kind == "u32" && is_our_priority(hook, filter.priority) && filter.verdict.is_some()
}

/// Whether a discipline is one of this plugin's buckets.
pub(crate) fn is_our_bucket(root: &Qdisc) -> bool {
    root.handle == HANDLE && matches!(root.kind, QdiscKind::Tbf(_))
}
