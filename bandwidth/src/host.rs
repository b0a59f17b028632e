//! What one call opens: a socket for interfaces and traffic control, in the namespace of the
//! calling thread.

use std::fmt::Display;

use cni_common::cni::failure::{MayPass, code_of};
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::link::{Link, LinkChange};
use cni_common::kernel::tc::{Hook, HookChange, InstalledFilter, Qdisc};

use crate::kernel::{Kernel, Live};

/// The socket. Its methods name the object in the error of a refused request.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) kernel: Box<dyn Kernel>,
}

impl Host {
    pub(crate) fn open() -> Result<Self, CniError> {
        let task = || "reach the kernel's network configuration".to_owned();
        Live::open().map(Self::on).map_err(refused(task))
    }

    pub(crate) fn on(kernel: impl Kernel + 'static) -> Self {
        Self { kernel: Box::new(kernel) }
    }

    pub(crate) fn all_links(&mut self) -> Result<Vec<Link>, CniError> {
        self.kernel.all_links().map_err(refused(|| "list the interfaces".to_owned()))
    }

    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>, CniError> {
        self.kernel.link(name).map_err(refused(|| format!("look for {name}")))
    }

    pub(crate) fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, CniError> {
        self.kernel
            .link_by_index(index)
            .map_err(refused(|| format!("look for the interface {index}")))
    }

    /// Writes an owner to an interface; an empty one takes it away.
    pub(crate) fn set_alias(&mut self, link: &Link, owner: &str) -> Result<(), CniError> {
        let change = LinkChange { alias: Some(owner.to_owned()), ..LinkChange::default() };
        self.kernel
            .change_link(link.index, &change)
            .map_err(refused(|| format!("set the alias of {}", link.name)))
    }

    pub(crate) fn delete_link(&mut self, link: &Link) -> Result<(), CniError> {
        self.kernel.delete_link(link.index).map_err(refused(|| format!("delete {}", link.name)))
    }

    pub(crate) fn root_qdisc(&mut self, link: &Link) -> Result<Option<Qdisc>, CniError> {
        self.kernel
            .root(link.index)
            .map_err(refused(|| format!("look at the root qdisc of {}", link.name)))
    }

    /// What a token bucket that is the root qdisc was given for a queue.
    pub(crate) fn queue(&mut self, link: &Link, handle: u16) -> Result<Option<Qdisc>, CniError> {
        self.kernel
            .queue(link.index, handle)
            .map_err(refused(|| format!("look at the queue of {}", link.name)))
    }

    pub(crate) fn clsact_qdisc(&mut self, link: &Link) -> Result<Option<Qdisc>, CniError> {
        self.kernel
            .clsact(link.index)
            .map_err(refused(|| format!("look at the clsact qdisc of {}", link.name)))
    }

    /// The filters at a hook, in the order they run.
    pub(crate) fn filters(
        &mut self,
        link: &Link,
        hook: Hook,
    ) -> Result<Vec<InstalledFilter>, CniError> {
        self.kernel
            .filters(link.index, hook)
            .map_err(refused(|| format!("list the filters of {}", link.name)))
    }

    /// Changes what is at the hooks of a link at once. A clsact qdisc that somebody else has made
    /// meanwhile is no error; whether ours was made is returned.
    pub(crate) fn change_hooks(
        &mut self,
        link: &Link,
        changes: &[HookChange],
    ) -> Result<bool, CniError> {
        let name = &link.name;
        let outcomes = self
            .kernel
            .change_hooks(link.index, changes)
            .map_err(refused(|| format!("change the redirect of {name}")))?;
        let mut made = false;
        for (outcome, change) in outcomes.into_iter().zip(changes) {
            match (change, outcome) {
                (HookChange::AddClsact, Err(error)) if error.is_exists() => {}
                (HookChange::AddClsact, outcome) => {
                    outcome.map_err(refused(|| format!("add a clsact qdisc to {name}")))?;
                    made = true;
                }
                (HookChange::AddFilter(..), outcome) => {
                    outcome.map_err(refused(|| format!("redirect the traffic of {name}")))?;
                }
                (HookChange::DeleteClsact(_) | HookChange::DeleteFilters(..), outcome) => {
                    outcome.map_err(refused(|| format!("remove the redirect of {name}")))?;
                }
            }
        }
        Ok(made)
    }
}

/// What removes filters of a hook: all of a priority at once.
pub(crate) fn deletions<'a>(
    hook: Hook,
    filters: impl Iterator<Item = &'a InstalledFilter>,
) -> Vec<HookChange> {
    let mut priorities: Vec<u16> = filters.map(|filter| filter.priority).collect();
    priorities.dedup();
    priorities.into_iter().map(|priority| HookChange::DeleteFilters(hook, priority)).collect()
}

/// An error of the kernel's, with what was to be done and what may help.
pub(crate) fn refused<E: Display + MayPass>(task: impl Fn() -> String) -> impl Fn(E) -> CniError {
    move |error| {
        let code = code_of(&error, ErrorCode::Kernel);
        let remedy = match error.missing_module() {
            Some(module) => format!("load the module {module} (modprobe {module})"),
            None if code == ErrorCode::TryAgainLater => "try again later".to_owned(),
            None => {
                "is bandwidth run as root, with the modules ifb, sch_tbf, sch_ingress, cls_u32 and \
                     act_mirred at hand?"
                    .to_owned()
            }
        };
        CniError::new(code, format!("the kernel refused to {}: {remedy}", task()))
            .with_details(error.to_string())
    }
}
