//! What an ADD found, and the way back to it: an ADD that fails leaves the limits that were there.

use cni_common::cni::OwnerTag;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::link::Link;
use cni_common::kernel::tc::{Action, Hook, HookChange, InstalledFilter};

use super::layout::{is_our_tbf, our_filters};
use super::limit::{self, Held};
use super::{clsact, ifb, removal};
use crate::go::Leftovers;
use crate::host::{Host, deletions};
use crate::host_end::{HOOKS, HostEnd};

/// The host's end and the IFBs of an attachment before ADD.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) end: HostEnd,
    /// What limits the host's end.
    pub(super) held: Held,
    /// In the order of [`HOOKS`]; with what limits them.
    ifbs: [Option<(Link, Held)>; 2],
    /// Whether anything of the attachment was there.
    live: bool,
}

impl Before {
    /// Looks at what an ADD over these limits changes. Usually there are none.
    pub(super) fn look(host: &mut Host, end: HostEnd, tag: &OwnerTag) -> Result<Self, CniError> {
        let has_filters = HOOKS.into_iter().any(|hook| our_filters(&end, hook).next().is_some());
        let live = has_filters || end.root.as_ref().is_some_and(is_our_tbf);
        let (mut held, mut ifbs) = (Held::default(), [None, None]);
        if live {
            held = Held::look(host, &end.link, end.root.clone())?;
            for (hook, found) in HOOKS.into_iter().zip(&mut ifbs) {
                if let Some(ifb) = ifb::find(host, Some(&end), tag, hook)? {
                    let root = host.root_qdisc(&ifb)?;
                    let held = Held::look(host, &ifb, root)?;
                    *found = Some((ifb, held));
                }
            }
        }
        Ok(Self { end, held, ifbs, live })
    }

    /// The IFB behind a hook.
    pub(super) fn ifb(&self, hook: Hook) -> Option<&Link> {
        self.held_by_ifb(hook).map(|(ifb, _)| ifb)
    }

    /// The same, with what limits it.
    pub(super) fn held_by_ifb(&self, hook: Hook) -> Option<&(Link, Held)> {
        let [ingress, egress] = &self.ifbs;
        let found = if hook == Hook::Ingress { ingress } else { egress };
        found.as_ref()
    }

    /// Takes back what an ADD did before its error, which is returned.
    pub(super) fn put_back(
        &self,
        host: &mut Host,
        tag: &OwnerTag,
        class_minor: u16,
        error: CniError,
    ) -> CniError {
        let outcome = if self.live {
            self.restore(host, tag)
        } else {
            HostEnd::look(host, self.end.link.clone())
                .and_then(|end| removal::remove(host, Some(&end), tag, &Leftovers::default()))
        };
        let idle = clsact::remove_idle(host, &self.end.link, class_minor);
        match [outcome, idle].into_iter().find_map(Result::err) {
            None => error,
            Some(left) => {
                let details = format!("{}; and some of it stays: {left}", error.details);
                error.with_details(details)
            }
        }
    }

    fn restore(&self, host: &mut Host, tag: &OwnerTag) -> Result<(), CniError> {
        let Some(link) = host.link_by_index(self.end.link.index)? else { return Ok(()) };
        let now = HostEnd::look(host, link)?;
        // What they lead to first.
        let mut moved = Vec::new();
        for (hook, before) in HOOKS.into_iter().zip(&self.ifbs) {
            if let Some((before, held)) = before {
                let ifb = ifb::ensure(host, &now, tag, hook)?;
                limit::restore(host, &ifb, held)?;
                moved.push((before.index, ifb.index));
            }
        }
        host.change_hooks(&now.link, &self.way_back(&now, &moved))?;
        for (hook, before) in HOOKS.into_iter().zip(&self.ifbs) {
            if before.is_none()
                && let Some(ifb) = ifb::find(host, Some(&now), tag, hook)?
            {
                host.delete_link(&ifb)?;
            }
        }
        if self.end.root.as_ref().is_some_and(is_our_tbf) {
            limit::restore(host, &now.link, &self.held)?;
        } else {
            removal::delete_tbf(host, &now, &Leftovers::default())?;
        }
        if now.link.alias != self.end.link.alias {
            host.set_alias(&now.link, self.end.link.alias.as_deref().unwrap_or_default())?;
        }
        Ok(())
    }

    /// From our filters of now to those of before, which lead to the IFBs' indexes of now.
    fn way_back(&self, now: &HostEnd, moved: &[(u32, u32)]) -> Vec<HookChange> {
        let target =
            |to| moved.iter().find(|(before, _)| *before == to).map_or(to, |(_, now)| *now);
        let lead_there = |filter: &InstalledFilter| {
            let action = match filter.action {
                Some(Action::Redirect(to)) => Some(Action::Redirect(target(to))),
                other => other,
            };
            InstalledFilter { action, ..filter.clone() }
        };
        let mut changes = Vec::new();
        if self.end.clsact.is_some() && now.clsact.is_none() {
            changes.push(HookChange::AddClsact);
        }
        for hook in HOOKS {
            let before: Vec<_> = our_filters(&self.end, hook).map(lead_there).collect();
            let now: Vec<_> = our_filters(now, hook).cloned().collect();
            if before != now {
                changes.extend(deletions(hook, now.iter()));
                let add = |filter| HookChange::AddFilter(hook, filter);
                changes.extend(before.into_iter().map(add));
            }
        }
        changes
    }
}
