//! Makes the kernel's state that of a plan. ADD and a change of limits are the same walk with
//! different plans; what is right already is left alone.

use std::fmt::Display;

use cni_common::cni::OwnerTag;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::link::{Link, LinkChange, Links};
use cni_common::kernel::tc::{Hook, InstalledFilter, Qdisc, QdiscKind, Tc};

use crate::host::{HOOKS, HOOKS_ARE_FOREIGN, HOOKS_ARE_OURS, HostEnd, is_our_bucket, is_ours};
use crate::leftovers::{self, GoLeftovers};
use crate::plan::{Detour, HANDLE, Plan, ifb_name};

pub(crate) const IFB: &str = "ifb";

/// The way to the kernel, in the namespace of the calling thread: one socket.
#[derive(Debug)]
pub struct Backend {
    /// Interfaces.
    pub links: Links,
    /// Their queueing disciplines and filters.
    pub tc: Tc,
}

impl Backend {
    /// Opens the socket.
    pub fn open() -> Result<Self, CniError> {
        let task = || "reach the kernel's network configuration".to_owned();
        let links = Links::open().map_err(refused(task))?;
        Ok(Self { tc: Tc::beside(&links), links })
    }

    /// Makes everything as planned, or nothing. The IFBs are returned with egress's last.
    pub fn apply(
        &mut self,
        mut host: HostEnd,
        plan: &Plan,
        old: &GoLeftovers,
    ) -> Result<Vec<Link>, CniError> {
        require_replaceable_root(&host, plan)?;
        let note = self.prepare_hooks(&mut host, plan, old)?;
        self.build(&host, plan, note, old)
            .map_err(|error| self.roll_back(&host.link, &plan.tag, note, error))
    }

    fn roll_back(&mut self, link: &Link, tag: &OwnerTag, note: u16, error: CniError) -> CniError {
        let removed = HostEnd::look(self, link.clone())
            .and_then(|host| self.remove(Some(&host), tag, &GoLeftovers::default()));
        let outcomes = [removed, self.remove_idle_hooks(link, note)];
        match outcomes.into_iter().find_map(Result::err) {
            None => error,
            Some(left) => {
                let details = format!("{}; and some of it stays: {left}", error.details);
                error.with_details(details)
            }
        }
    }

    fn build(
        &mut self,
        host: &HostEnd,
        plan: &Plan,
        note: u16,
        old: &GoLeftovers,
    ) -> Result<Vec<Link>, CniError> {
        let mut ifbs = Vec::new();
        for hook in [Hook::Egress, Hook::Ingress] {
            match plan.detour(hook) {
                Some(detour) => ifbs.push(self.install(host, &plan.tag, hook, detour, note)?),
                // An IFB that nothing leads to waits for DEL.
                None if host.our_filters(hook).next().is_some() => {
                    self.delete_filters(&host.link, hook, host.our_filters(hook))?;
                    self.delete_ifb(true, &plan.tag, hook)?;
                }
                None => {}
            }
        }
        let link = &host.link;
        if let Some(tbf) = plan.root {
            self.tc
                .set_tbf(link.index, HANDLE, tbf)
                .map_err(refused(|| format!("limit what goes to {}", link.name)))?;
            // With an IFB, that one names the owner, and its redirect leads here.
            if ifbs.is_empty() && link.alias.is_none() {
                self.mark(link, plan.tag.as_str())?;
            }
        } else {
            self.delete_bucket(host, old)?;
            self.unmark(host, &plan.tag)?;
        }
        leftovers::remove(self, Some(host), old)?;
        if ifbs.is_empty() {
            self.remove_idle_hooks(link, note)?;
        }
        Ok(ifbs)
    }

    /// Removes everything that the attachment owns. An error on one object does not stop the
    /// rest; the first is returned.
    pub fn remove(
        &mut self,
        host: Option<&HostEnd>,
        tag: &OwnerTag,
        old: &GoLeftovers,
    ) -> Result<(), CniError> {
        let mut outcomes = Vec::new();
        // First the filters, then the IFB: a redirect to an interface that is gone drops
        // everything.
        match host.map_or(Ok(()), |host| self.remove_redirects(host, old)) {
            Ok(()) => {
                for hook in HOOKS {
                    outcomes.push(self.delete_ifb(host.is_some(), tag, hook));
                }
                outcomes.push(leftovers::remove(self, None, old));
            }
            failed => outcomes.push(failed),
        }
        if let Some(host) = host {
            outcomes.push(self.delete_bucket(host, old));
            outcomes.push(self.unmark(host, tag));
        }
        outcomes.into_iter().collect()
    }

    /// Removes our filters and the Go plugin's, with the hooks if they were made for them and
    /// carry nothing else.
    pub(crate) fn remove_redirects(
        &mut self,
        host: &HostEnd,
        old: &GoLeftovers,
    ) -> Result<(), CniError> {
        let Some(hooks) = &host.hooks else { return Ok(()) };
        let note = if old.redirect { Some(HOOKS_ARE_OURS) } else { host.note() };
        let foreign = HOOKS.into_iter().any(|hook| {
            host.filters(hook).iter().any(|filter| !is_ours(hook, filter) && !old.owns(filter))
        });
        if note == Some(HOOKS_ARE_OURS) && !foreign {
            let name = &host.link.name;
            return self
                .tc
                .delete_hooks(host.link.index, &hooks.kind)
                .map_err(refused(|| format!("remove the redirect of {name}")));
        }
        for hook in HOOKS {
            self.delete_filters(&host.link, hook, host.our_filters(hook))?;
        }
        leftovers::remove_redirect(self, host, old)
    }

    /// Sees to it that the host's end has the hooks that the plan needs.
    fn prepare_hooks(
        &mut self,
        host: &mut HostEnd,
        plan: &Plan,
        old: &GoLeftovers,
    ) -> Result<u16, CniError> {
        let (name, index) = (host.link.name.clone(), host.link.index);
        let needed = plan.ingress.is_some() || plan.egress.is_some();
        if let Some(found) = &host.hooks {
            if plan.ingress.is_none() || found.kind != QdiscKind::Ingress {
                let inherited = if old.redirect { HOOKS_ARE_OURS } else { HOOKS_ARE_FOREIGN };
                return Ok(host.note().unwrap_or(inherited));
            }
            // `ingress` has no hook for what goes out.
            let foreign =
                |filter: &InstalledFilter| !is_ours(Hook::Ingress, filter) && !old.owns(filter);
            if host.filters(Hook::Ingress).iter().any(foreign) {
                return Err(CniError::new(
                    ErrorCode::Kernel,
                    format!(
                        "{name} has an ingress qdisc with another program's filters, which leaves no hook for \
                         subnets of incoming traffic: let that program use clsact, or remove the subnets"
                    ),
                ));
            }
            self.tc
                .delete_hooks(index, &found.kind)
                .map_err(refused(|| format!("replace the ingress qdisc of {name}")))?;
            host.lose_hooks();
        }
        if !needed {
            return Ok(HOOKS_ARE_FOREIGN);
        }
        match self.tc.add_clsact(index) {
            // Somebody else was faster.
            Err(error) if error.is_exists() => Ok(HOOKS_ARE_FOREIGN),
            outcome => outcome
                .map_err(refused(|| format!("add a clsact qdisc to {name}")))
                .map(|()| HOOKS_ARE_OURS),
        }
    }

    fn install(
        &mut self,
        host: &HostEnd,
        tag: &OwnerTag,
        hook: Hook,
        detour: &Detour,
        note: u16,
    ) -> Result<Link, CniError> {
        let ifb = self.ensure_ifb(&host.link, tag, hook)?;
        self.tc
            .set_tbf(ifb.index, HANDLE, detour.tbf)
            .map_err(refused(|| format!("limit {}", ifb.name)))?;
        let ours: Vec<_> = host.our_filters(hook).collect();
        let wanted = detour.filters(ifb.index, note);
        let same = ours.len() == wanted.len()
            && wanted.iter().all(|filter| ours.iter().any(|found| found.is(filter)));
        if !same {
            let link = &host.link;
            self.delete_filters(link, hook, ours.into_iter())?;
            for filter in &wanted {
                self.tc.add_filter(link.index, hook, filter).map_err(refused(|| {
                    format!("redirect the traffic of {} to {}", link.name, ifb.name)
                }))?;
            }
        }
        Ok(ifb)
    }

    /// The IFB behind a hook, made if missing, up, and with the veth's MTU.
    fn ensure_ifb(&mut self, host: &Link, tag: &OwnerTag, hook: Hook) -> Result<Link, CniError> {
        let name = ifb_name(tag, hook);
        let wanted = LinkChange {
            mtu: Some(host.mtu),
            up: Some(true),
            // The bucket has a queue of its own.
            tx_queue_len: Some(0),
            ..LinkChange::default()
        };
        // Usually there is none yet, so the first look is the attempt to make it.
        match self.links.create_ifb(&name, &wanted) {
            Err(error) if !error.is_exists() => {
                return Err(refused(|| format!("create the IFB {name}"))(error));
            }
            _ => {}
        }
        let ifb = self.ifb(&name)?.ok_or_else(|| {
            CniError::new(
                ErrorCode::Kernel,
                format!("{name} is gone: does another program remove it?"),
            )
        })?;
        if !is_ifb_of(&ifb, tag) {
            let owner = ifb.alias.unwrap_or_else(|| "nobody that it names".to_owned());
            return Err(CniError::new(
                ErrorCode::Kernel,
                format!(
                    "an interface {name} exists and belongs to {owner}: remove it (ip link del {name})"
                ),
            ));
        }
        if ifb.mtu != host.mtu || !ifb.up {
            self.links.change(ifb.index, &wanted).map_err(refused(|| format!("set up {name}")))?;
        }
        if ifb.alias.is_none() {
            // Linux takes no alias when it makes an interface.
            self.mark(&ifb, tag.as_str())?;
        }
        Ok(ifb)
    }

    pub(crate) fn ifb(&mut self, name: &str) -> Result<Option<Link>, CniError> {
        self.links.by_name(name).map_err(refused(|| format!("look for {name}")))
    }

    /// Writes an owner to an interface; an empty one takes it away.
    pub(crate) fn mark(&mut self, link: &Link, owner: &str) -> Result<(), CniError> {
        let change = LinkChange { alias: Some(owner.to_owned()), ..LinkChange::default() };
        self.links
            .change(link.index, &change)
            .map_err(refused(|| format!("set the alias of {}", link.name)))
    }

    /// Deletes the attachment's IFB behind a hook. Unless redirects to it are gone for certain,
    /// they are looked for.
    fn delete_ifb(
        &mut self,
        without_redirects: bool,
        tag: &OwnerTag,
        hook: Hook,
    ) -> Result<(), CniError> {
        let found = self.ifb(&ifb_name(tag, hook))?;
        let Some(ifb) = found.filter(|found| is_ifb_of(found, tag)) else { return Ok(()) };
        if !without_redirects {
            self.forget_host_ends(&[ifb.index])?;
        }
        self.delete_link(&ifb)
    }

    pub(crate) fn delete_link(&mut self, link: &Link) -> Result<(), CniError> {
        self.links.delete(link.index).map_err(refused(|| format!("delete {}", link.name)))
    }

    /// Takes away our bucket or the Go plugin's.
    pub(crate) fn delete_bucket(
        &mut self,
        host: &HostEnd,
        old: &GoLeftovers,
    ) -> Result<(), CniError> {
        if host.root.as_ref().is_some_and(|root| is_our_bucket(root) || old.owns_root(root)) {
            self.tc
                .delete_root(host.link.index)
                .map_err(refused(|| format!("remove the limit of {}", host.link.name)))?;
        }
        Ok(())
    }

    /// Takes away the owner that we gave to the host's end.
    fn unmark(&mut self, host: &HostEnd, tag: &OwnerTag) -> Result<(), CniError> {
        if host.is_marked(tag) { self.mark(&host.link, "") } else { Ok(()) }
    }

    pub(crate) fn filters(
        &mut self,
        host: &Link,
        hook: Hook,
    ) -> Result<Vec<InstalledFilter>, CniError> {
        self.tc
            .filters(host.index, hook)
            .map_err(refused(|| format!("list the filters of {}", host.name)))
    }

    pub(crate) fn delete_filters<'a>(
        &mut self,
        host: &Link,
        hook: Hook,
        filters: impl Iterator<Item = &'a InstalledFilter>,
    ) -> Result<(), CniError> {
        let mut priorities: Vec<u16> = filters.map(|filter| filter.priority).collect();
        priorities.dedup();
        for priority in priorities {
            self.tc
                .delete_filters(host.index, hook, priority)
                .map_err(refused(|| format!("remove the redirect of {}", host.name)))?;
        }
        Ok(())
    }

    /// Removes hooks that were made for us and that nobody else came to use.
    fn remove_idle_hooks(&mut self, host: &Link, note: u16) -> Result<(), CniError> {
        if note != HOOKS_ARE_OURS {
            return Ok(());
        }
        let found = HostEnd::look(self, host.clone())?;
        if HOOKS.into_iter().any(|hook| !found.filters(hook).is_empty()) {
            return Ok(());
        }
        match found.hooks {
            Some(Qdisc { kind: kind @ (QdiscKind::Clsact | QdiscKind::Ingress), .. }) => self
                .tc
                .delete_hooks(host.index, &kind)
                .map_err(refused(|| format!("remove the idle hooks of {}", host.name))),
            _ => Ok(()),
        }
    }
}

/// Whether an interface of the right name is the attachment's. One without an alias was left by
/// an ADD that was killed.
pub(crate) fn is_ifb_of(link: &Link, tag: &OwnerTag) -> bool {
    link.kind.as_deref() == Some(IFB)
        && link.alias.as_deref().is_none_or(|alias| alias == tag.as_str())
}

/// A bucket may take the place of the kernel's own choice, of our bucket, or of the Go plugin's.
fn require_replaceable_root(host: &HostEnd, plan: &Plan) -> Result<(), CniError> {
    let replaceable =
        |root: &Qdisc| root.handle == 0 || is_our_bucket(root) || leftovers::is_bucket_of_go(root);
    match &host.root {
        Some(found) if plan.root.is_some() && !replaceable(found) => {
            let name = &host.link.name;
            Err(CniError::new(
                ErrorCode::Kernel,
                format!(
                    "{name} has a {} that another program set up: remove it (tc qdisc del dev {name} \
                     root) or remove ingressRate",
                    describe(found)
                ),
            ))
        }
        _ => Ok(()),
    }
}

fn describe(qdisc: &Qdisc) -> String {
    let name = match &qdisc.kind {
        QdiscKind::Tbf(_) => "tbf",
        QdiscKind::Ingress => "ingress",
        QdiscKind::Clsact => "clsact",
        QdiscKind::Other(name) => name,
    };
    format!("{name} qdisc with handle {:x}:", qdisc.handle)
}

/// An error of the kernel's, with what was to be done and what may help.
pub(crate) fn refused<E: Display>(task: impl Fn() -> String) -> impl Fn(E) -> CniError {
    move |error| {
        CniError::new(
            ErrorCode::Kernel,
            format!(
                "the kernel refused to {}: is bandwidth run as root, with the modules ifb, sch_tbf, \
                 sch_ingress, cls_u32 and act_mirred at hand?",
                task()
            ),
        )
        .with_details(error.to_string())
    }
}
