//! Makes the kernel's state that of a plan. ADD, DEL and a change of limits are the same walk with
//! different plans; what is right already is left alone.

use std::fmt::Display;
use std::io;

use cni_common::OwnerTag;
use cni_common::link::{Link, LinkChange, Links};
use cni_common::protocol::{CniError, ErrorCode};
use cni_common::tc::{Hook, InstalledFilter, Qdisc, QdiscKind, Tbf, Tc, Verdict};

use crate::leftovers::{self, GoLeftovers};
use crate::plan::{Detour, HANDLE, Plan, ifb_name, is_our_priority};

/// Written into our filters: whether the hooks they hang on were made for them.
const HOOKS_ARE_OURS: u16 = 1;
/// They were there before.
const HOOKS_ARE_FOREIGN: u16 = 2;

const HOOKS: [Hook; 2] = [Hook::Ingress, Hook::Egress];
const IFB: &str = "ifb";

/// The sockets to the kernel, in the namespace of the calling thread.
#[derive(Debug)]
pub struct Backend {
    /// Interfaces.
    pub links: Links,
    /// Their queueing disciplines and filters.
    pub tc: Tc,
}

impl Backend {
    /// Opens the sockets.
    pub fn open() -> Result<Self, CniError> {
        let open = || Ok(Self { links: Links::open()?, tc: Tc::open()? });
        open()
            .map_err(|error: io::Error| refused("reach the kernel's network configuration")(error))
    }

    /// Makes everything as planned, or nothing. The IFBs are returned with egress's last.
    pub fn apply(
        &mut self,
        host: &Link,
        plan: &Plan,
        old: &GoLeftovers,
    ) -> Result<Vec<Link>, CniError> {
        let root = self.replaceable_root(host, plan)?;
        let note = self.prepare_hooks(host, plan, old)?;
        self.build(host, plan, root.as_ref(), note, old).map_err(|error| {
            let outcomes = [
                self.remove(Some(host), &plan.tag, &GoLeftovers::default()),
                self.remove_idle_hooks(host, note),
            ];
            match outcomes.into_iter().find_map(Result::err) {
                None => error,
                Some(left) => {
                    let details = format!("{}; and some of it stays: {left}", error.details);
                    error.with_details(details)
                }
            }
        })
    }

    fn build(
        &mut self,
        host: &Link,
        plan: &Plan,
        root: Option<&Qdisc>,
        note: u16,
        old: &GoLeftovers,
    ) -> Result<Vec<Link>, CniError> {
        let mut ifbs = Vec::new();
        for hook in [Hook::Egress, Hook::Ingress] {
            match plan.detour(hook) {
                Some(detour) => ifbs.push(self.install(host, &plan.tag, hook, detour, note)?),
                None => self.uninstall(Some(host), &plan.tag, hook)?,
            }
        }
        match plan.root {
            Some(tbf) => self
                .tc
                .set_tbf(host.index, HANDLE, tbf)
                .map_err(refused(&format!("limit what goes to {}", host.name)))?,
            None if root.is_some_and(|root| is_our_bucket(root) || old.owns_root(root)) => {
                self.delete_root(host)?;
            }
            None => {}
        }
        leftovers::remove(self, Some(host), old)?;
        if ifbs.is_empty() {
            self.remove_idle_hooks(host, note)?;
        }
        Ok(ifbs)
    }

    /// Removes everything that the attachment owns. An error on one object does not stop the
    /// rest; the first is returned.
    pub fn remove(
        &mut self,
        host: Option<&Link>,
        tag: &OwnerTag,
        old: &GoLeftovers,
    ) -> Result<(), CniError> {
        let mut outcomes = Vec::new();
        let note = host.and_then(|host| self.note(host).ok().flatten());
        for hook in HOOKS {
            outcomes.push(self.uninstall(host, tag, hook));
        }
        outcomes.push(leftovers::remove(self, host, old));
        if let Some(host) = host {
            match self.tc.root(host.index) {
                Ok(Some(root)) if is_our_bucket(&root) || old.owns_root(&root) => {
                    outcomes.push(self.delete_root(host));
                }
                _ => {}
            }
            let note = if old.redirect { Some(HOOKS_ARE_OURS) } else { note };
            outcomes.push(self.remove_idle_hooks(host, note.unwrap_or(HOOKS_ARE_FOREIGN)));
        }
        outcomes.into_iter().collect()
    }

    /// What the host's end sends with now, if a bucket may take its place.
    fn replaceable_root(&mut self, host: &Link, plan: &Plan) -> Result<Option<Qdisc>, CniError> {
        let root =
            self.tc.root(host.index).map_err(refused("look at the host's end of the veth"))?;
        match &root {
            Some(found) if plan.root.is_some() && !may_be_replaced(found) => {
                let name = &host.name;
                Err(CniError::new(
                    ErrorCode::Kernel,
                    format!(
                        "{name} has a {} that another program set up: remove it (tc qdisc del dev {name} \
                         root) or remove ingressRate",
                        describe(found)
                    ),
                ))
            }
            _ => Ok(root),
        }
    }

    /// Sees to it that the host's end has the hooks that the plan needs.
    fn prepare_hooks(
        &mut self,
        host: &Link,
        plan: &Plan,
        old: &GoLeftovers,
    ) -> Result<u16, CniError> {
        let name = &host.name;
        let needed = plan.ingress.is_some() || plan.egress.is_some();
        let found =
            self.tc.hooks(host.index).map_err(refused(&format!("look at the hooks of {name}")))?;
        if let Some(found) = found {
            if !needed || plan.ingress.is_none() || found.kind != QdiscKind::Ingress {
                let inherited = if old.redirect { HOOKS_ARE_OURS } else { HOOKS_ARE_FOREIGN };
                return Ok(self.note(host)?.unwrap_or(inherited));
            }
            // `ingress` has no hook for what goes out.
            if self
                .filters(host, Hook::Ingress)?
                .iter()
                .any(|f| !is_ours(Hook::Ingress, f) && !old.owns(f))
            {
                return Err(CniError::new(
                    ErrorCode::Kernel,
                    format!(
                        "{name} has an ingress qdisc with another program's filters, which leaves no hook for \
                         subnets of incoming traffic: let that program use clsact, or remove the subnets"
                    ),
                ));
            }
            self.tc
                .delete_hooks(host.index, &found.kind)
                .map_err(refused(&format!("replace the ingress qdisc of {name}")))?;
        }
        if !needed {
            return Ok(HOOKS_ARE_FOREIGN);
        }
        match self.tc.add_clsact(host.index) {
            // Somebody else was faster.
            Err(error) if error.is_exists() => Ok(HOOKS_ARE_FOREIGN),
            outcome => outcome
                .map_err(refused(&format!("add a clsact qdisc to {name}")))
                .map(|()| HOOKS_ARE_OURS),
        }
    }

    /// What our filters on the host's end say about its hooks.
    fn note(&mut self, host: &Link) -> Result<Option<u16>, CniError> {
        for hook in HOOKS {
            if let Some(ours) =
                self.filters(host, hook)?.iter().find(|filter| is_ours(hook, filter))
            {
                return Ok(Some(ours.note));
            }
        }
        Ok(None)
    }

    fn install(
        &mut self,
        host: &Link,
        tag: &OwnerTag,
        hook: Hook,
        detour: &Detour,
        note: u16,
    ) -> Result<Link, CniError> {
        let ifb = self.ensure_ifb(host, tag, hook)?;
        self.tc
            .set_tbf(ifb.index, HANDLE, detour.tbf)
            .map_err(refused(&format!("limit {}", ifb.name)))?;
        let installed = self.filters(host, hook)?;
        let ours: Vec<_> = installed.iter().filter(|filter| is_ours(hook, filter)).collect();
        let wanted = detour.filters(ifb.index, note);
        let same = ours.len() == wanted.len()
            && wanted.iter().all(|filter| ours.iter().any(|found| found.is(filter)));
        if !same {
            self.delete_filters(host, hook, ours.into_iter())?;
            for filter in &wanted {
                self.tc.add_filter(host.index, hook, filter).map_err(refused(&format!(
                    "redirect the traffic of {} to {}",
                    host.name, ifb.name
                )))?;
            }
        }
        Ok(ifb)
    }

    /// The IFB behind a hook, made if missing, up, and with the veth's MTU.
    fn ensure_ifb(&mut self, host: &Link, tag: &OwnerTag, hook: Hook) -> Result<Link, CniError> {
        let name = ifb_name(tag, hook);
        let look = refused(&format!("look for {name}"));
        match self.links.by_name(&name).map_err(&look)? {
            None => {
                // The bucket has a queue of its own.
                let bare = LinkChange { tx_queue_len: Some(0), ..LinkChange::default() };
                self.links
                    .create_ifb(&name, &bare)
                    .map_err(refused(&format!("create the IFB {name}")))?;
            }
            Some(found) if !is_ifb_of(&found, tag) => {
                let owner = found.alias.unwrap_or_else(|| "nobody that it names".to_owned());
                return Err(CniError::new(
                    ErrorCode::Kernel,
                    format!(
                        "an interface {name} exists and belongs to {owner}: remove it (ip link del {name})"
                    ),
                ));
            }
            Some(found) if found.mtu == host.mtu && found.up && found.alias.is_some() => {
                return Ok(found);
            }
            Some(_) => {}
        }
        let ifb = self.links.by_name(&name).map_err(&look)?.ok_or_else(|| {
            CniError::new(
                ErrorCode::Kernel,
                format!("{name} is gone: does another program remove it?"),
            )
        })?;
        // Linux takes no alias when it makes an interface.
        let change = LinkChange {
            mtu: Some(host.mtu),
            up: Some(true),
            alias: Some(tag.as_str().to_owned()),
            ..LinkChange::default()
        };
        self.links
            .change(ifb.index, &change)
            .map_err(refused(&format!("mark {name} and set it up")))?;
        Ok(ifb)
    }

    /// First the filters, then the IFB: a redirect to an interface that is gone drops everything.
    fn uninstall(
        &mut self,
        host: Option<&Link>,
        tag: &OwnerTag,
        hook: Hook,
    ) -> Result<(), CniError> {
        let name = ifb_name(tag, hook);
        if let Some(host) = host {
            let installed = self.filters(host, hook)?;
            self.delete_filters(
                host,
                hook,
                installed.iter().filter(|filter| is_ours(hook, filter)),
            )?;
        }
        let found = self.links.by_name(&name).map_err(refused(&format!("look for {name}")))?;
        let Some(ifb) = found.filter(|found| is_ifb_of(found, tag)) else { return Ok(()) };
        if host.is_none() {
            self.forget_redirects(&[ifb.index])?;
        }
        self.delete_link(&ifb)
    }

    pub(crate) fn delete_link(&mut self, link: &Link) -> Result<(), CniError> {
        self.links.delete(link.index).map_err(refused(&format!("delete {}", link.name)))
    }

    fn delete_root(&mut self, host: &Link) -> Result<(), CniError> {
        let task = format!("remove the limit of {}", host.name);
        self.tc.delete_root(host.index).map_err(refused(&task))
    }

    pub(crate) fn filters(
        &mut self,
        host: &Link,
        hook: Hook,
    ) -> Result<Vec<InstalledFilter>, CniError> {
        let task = format!("list the filters of {}", host.name);
        self.tc.filters(host.index, hook).map_err(refused(&task))
    }

    pub(crate) fn delete_filters<'a>(
        &mut self,
        host: &Link,
        hook: Hook,
        filters: impl Iterator<Item = &'a InstalledFilter>,
    ) -> Result<(), CniError> {
        let mut priorities: Vec<u16> = filters.map(|filter| filter.priority).collect();
        priorities.dedup();
        let task = format!("remove the redirect of {}", host.name);
        for priority in priorities {
            self.tc.delete_filters(host.index, hook, priority).map_err(refused(&task))?;
        }
        Ok(())
    }

    /// Removes hooks that were made for us and that nobody else came to use.
    fn remove_idle_hooks(&mut self, host: &Link, note: u16) -> Result<(), CniError> {
        if note != HOOKS_ARE_OURS {
            return Ok(());
        }
        for hook in HOOKS {
            if !self.filters(host, hook)?.is_empty() {
                return Ok(());
            }
        }
        let task = format!("remove the idle hooks of {}", host.name);
        match self.tc.hooks(host.index).map_err(refused(&task))? {
            Some(Qdisc { kind: kind @ (QdiscKind::Clsact | QdiscKind::Ingress), .. }) => {
                self.tc.delete_hooks(host.index, &kind).map_err(refused(&task))
            }
            _ => Ok(()),
        }
    }

    /// Removes our filters that lead to these links, wherever they are.
    pub(crate) fn forget_redirects(&mut self, targets: &[u32]) -> Result<(), CniError> {
        let all = self.links.all().map_err(refused("list the interfaces"))?;
        for host in all.iter().filter(|link| link.kind.as_deref() == Some("veth")) {
            for hook in HOOKS {
                let filters = self.filters(host, hook)?;
                let stale = filters.iter().any(|filter| {
                    is_ours(hook, filter)
                        && matches!(filter.verdict, Some(Verdict::Redirect(to)) if targets.contains(&to))
                });
                if stale {
                    let ours = filters.iter().filter(|filter| is_ours(hook, filter));
                    self.delete_filters(host, hook, ours)?;
                }
            }
        }
        Ok(())
    }

    /// What differs from the plan.
    pub fn faults(&mut self, host: &Link, plan: &Plan) -> Result<Vec<String>, CniError> {
        let mut faults = Vec::new();
        if let Some(tbf) = plan.root {
            faults.extend(self.bucket_fault(host, tbf)?);
        }
        for hook in HOOKS {
            if let Some(detour) = plan.detour(hook) {
                self.detour_faults(host, plan, hook, detour, &mut faults)?;
            }
        }
        Ok(faults)
    }

    fn detour_faults(
        &mut self,
        host: &Link,
        plan: &Plan,
        hook: Hook,
        detour: &Detour,
        faults: &mut Vec<String>,
    ) -> Result<(), CniError> {
        let name = ifb_name(&plan.tag, hook);
        let found = self.links.by_name(&name).map_err(refused(&format!("look for {name}")))?;
        let Some(ifb) = found.filter(|found| is_ifb_of(found, &plan.tag)) else {
            faults.push(format!("the IFB {name} is gone"));
            return Ok(());
        };
        if ifb.alias.is_none() {
            faults.push(format!("{name} does not name its owner"));
        }
        if !ifb.up {
            faults.push(format!("{name} is down"));
        }
        faults.extend(self.bucket_fault(&ifb, detour.tbf)?);
        let installed = self.filters(host, hook)?;
        let wanted = detour.filters(ifb.index, HOOKS_ARE_OURS);
        let missing =
            wanted.iter().filter(|filter| !installed.iter().any(|found| found.is(filter))).count();
        let ours = installed.iter().filter(|filter| is_ours(hook, filter)).count();
        if missing > 0 {
            faults.push(format!(
                "{missing} of the {} filters of {} that lead to {name} are gone or differ",
                wanted.len(),
                host.name
            ));
        } else if ours > wanted.len() {
            faults.push(format!("{} has {ours} filters instead of {}", host.name, wanted.len()));
        }
        Ok(())
    }

    fn bucket_fault(&mut self, link: &Link, wanted: Tbf) -> Result<Option<String>, CniError> {
        let name = &link.name;
        let root = self.tc.root(link.index).map_err(refused(&format!("look at {name}")))?;
        Ok(match root.map(|root| root.kind) {
            Some(QdiscKind::Tbf(found)) if wanted.is(found) => None,
            Some(QdiscKind::Tbf(found)) => {
                Some(format!("the limit of {name} differs: {found:?} instead of {wanted:?}"))
            }
            _ => Some(format!("{name} has no limit")),
        })
    }

    /// Deletes the IFBs of this network's attachments that are not among `valid`.
    pub fn collect_garbage(
        &mut self,
        network: &str,
        valid: &[OwnerTag],
    ) -> Result<Vec<String>, CniError> {
        let is_stale = |link: &Link| {
            link.kind.as_deref() == Some(IFB)
                && link.alias.as_deref().is_some_and(|alias| {
                    OwnerTag::belongs_to(alias, network)
                        && !valid.iter().any(|tag| tag.as_str() == alias)
                })
        };
        let mut stale = self.links.all().map_err(refused("list the interfaces"))?;
        stale.retain(is_stale);
        if stale.is_empty() {
            return Ok(Vec::new());
        }
        let indexes: Vec<u32> = stale.iter().map(|ifb| ifb.index).collect();
        let mut outcomes = vec![self.forget_redirects(&indexes)];
        outcomes.extend(stale.iter().map(|ifb| self.delete_link(ifb)));
        outcomes.into_iter().collect::<Result<(), _>>()?;
        Ok(stale.into_iter().map(|ifb| ifb.name).collect())
    }
}

/// Whether a filter is one of this plugin's: a veth end has one attachment, so all of them are
/// the attachment's.
fn is_ours(hook: Hook, filter: &InstalledFilter) -> bool {
    filter.kind == "u32" && is_our_priority(hook, filter.priority) && filter.verdict.is_some()
}

/// Whether an interface of the right name is the attachment's. One without an alias was left by
/// an ADD that was killed.
fn is_ifb_of(link: &Link, tag: &OwnerTag) -> bool {
    link.kind.as_deref() == Some(IFB)
        && link.alias.as_deref().is_none_or(|alias| alias == tag.as_str())
}

fn is_our_bucket(root: &Qdisc) -> bool {
    root.handle == HANDLE && matches!(root.kind, QdiscKind::Tbf(_))
}

/// The kernel's own choice, our bucket, or the Go plugin's.
fn may_be_replaced(root: &Qdisc) -> bool {
    root.handle == 0 || is_our_bucket(root) || leftovers::is_bucket_of_go(root)
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
pub(crate) fn refused<E: Display>(task: &str) -> impl Fn(E) -> CniError + use<E> {
    let task = task.to_owned();
    move |error| {
        CniError::new(
            ErrorCode::Kernel,
            format!(
                "the kernel refused to {task}: is bandwidth run as root, with the modules ifb, sch_tbf, \
                 sch_ingress, cls_u32 and act_mirred at hand?"
            ),
        )
        .with_details(error.to_string())
    }
}
