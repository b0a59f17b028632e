//! What is asked and changed of interfaces and traffic control: by the kernel's socket, or written
//! down by [`crate::recorder`].

use std::fmt::Debug;

use cni_common::kernel::link::{Link, LinkChange, Links};
use cni_common::kernel::netns::Netns;
use cni_common::kernel::rtnetlink::RtnetlinkError;
use cni_common::kernel::tc::{
    FqCodel, Hook, HookChange, InstalledFilter, Qdisc, SCH_FQ_CODEL, Tbf, Tc,
};
use cni_common::kernel::veth::{self, VethError};

/// The questions and the changes, as [`Links`] and [`Tc`] have them.
pub(crate) trait Kernel: Debug {
    fn all_links(&mut self) -> Result<Vec<Link>, RtnetlinkError>;
    fn link(&mut self, name: &str) -> Result<Option<Link>, RtnetlinkError>;
    fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, RtnetlinkError>;
    fn host_end(&mut self, container: &Netns, ifname: &str) -> Result<Link, VethError>;
    fn change_link(&mut self, link: u32, change: &LinkChange) -> Result<(), RtnetlinkError>;
    fn create_ifb(
        &mut self,
        name: &str,
        change: &LinkChange,
        alias: &str,
    ) -> Result<(), RtnetlinkError>;
    fn delete_link(&mut self, link: u32) -> Result<(), RtnetlinkError>;
    fn root(&mut self, link: u32) -> Result<Option<Qdisc>, RtnetlinkError>;
    fn set_tbf(&mut self, link: u32, handle: u16, tbf: Tbf) -> Result<(), RtnetlinkError>;
    /// With `otherwise`, that is the bucket where the kernel has no `fq_codel`, and no error.
    fn set_tbf_with(
        &mut self,
        link: u32,
        handle: u16,
        tbf: Tbf,
        queue: (u16, FqCodel),
        otherwise: Option<Tbf>,
    ) -> Result<(), RtnetlinkError>;
    fn set_tbf_alone(&mut self, link: u32, handle: u16, tbf: Tbf) -> Result<(), RtnetlinkError>;
    fn queue(&mut self, link: u32, handle: u16) -> Result<Option<Qdisc>, RtnetlinkError>;
    fn delete_root(&mut self, link: u32) -> Result<(), RtnetlinkError>;
    fn clsact(&mut self, link: u32) -> Result<Option<Qdisc>, RtnetlinkError>;
    fn filters(&mut self, link: u32, hook: Hook) -> Result<Vec<InstalledFilter>, RtnetlinkError>;
    fn change_hooks(
        &mut self,
        link: u32,
        changes: &[HookChange],
    ) -> Result<Vec<Result<(), RtnetlinkError>>, RtnetlinkError>;
}

/// One socket for all of it.
#[derive(Debug)]
pub(crate) struct Live {
    links: Links,
    tc: Tc,
    /// Told by the kernel: it need not be asked again.
    lacks_fq_codel: bool,
}

impl Live {
    pub(crate) fn open() -> std::io::Result<Self> {
        let links = Links::open()?;
        Ok(Self { tc: Tc::beside(&links), links, lacks_fq_codel: false })
    }
}

impl Kernel for Live {
    fn all_links(&mut self) -> Result<Vec<Link>, RtnetlinkError> {
        self.links.all()
    }

    fn link(&mut self, name: &str) -> Result<Option<Link>, RtnetlinkError> {
        self.links.by_name(name)
    }

    fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, RtnetlinkError> {
        self.links.by_index(index)
    }

    fn host_end(&mut self, container: &Netns, ifname: &str) -> Result<Link, VethError> {
        veth::host_end(&mut self.links, container, ifname)
    }

    fn change_link(&mut self, link: u32, change: &LinkChange) -> Result<(), RtnetlinkError> {
        self.links.change(link, change)
    }

    fn create_ifb(
        &mut self,
        name: &str,
        change: &LinkChange,
        alias: &str,
    ) -> Result<(), RtnetlinkError> {
        self.links.create_ifb(name, change, alias)
    }

    fn delete_link(&mut self, link: u32) -> Result<(), RtnetlinkError> {
        self.links.delete(link)
    }

    fn root(&mut self, link: u32) -> Result<Option<Qdisc>, RtnetlinkError> {
        self.tc.root(link)
    }

    fn set_tbf(&mut self, link: u32, handle: u16, tbf: Tbf) -> Result<(), RtnetlinkError> {
        self.tc.set_tbf(link, handle, tbf)
    }

    fn set_tbf_with(
        &mut self,
        link: u32,
        handle: u16,
        tbf: Tbf,
        queue: (u16, FqCodel),
        otherwise: Option<Tbf>,
    ) -> Result<(), RtnetlinkError> {
        if let Some(tbf) = otherwise.filter(|_| self.lacks_fq_codel) {
            return self.tc.set_tbf(link, handle, tbf);
        }
        match (self.tc.set_tbf_with(link, handle, tbf, queue), otherwise) {
            (Err(error), Some(tbf)) if error.module == Some(SCH_FQ_CODEL) => {
                self.lacks_fq_codel = true;
                self.tc.set_tbf(link, handle, tbf)
            }
            (outcome, _) => outcome,
        }
    }

    fn set_tbf_alone(&mut self, link: u32, handle: u16, tbf: Tbf) -> Result<(), RtnetlinkError> {
        self.tc.set_tbf_alone(link, handle, tbf)
    }

    fn queue(&mut self, link: u32, handle: u16) -> Result<Option<Qdisc>, RtnetlinkError> {
        self.tc.queue(link, handle)
    }

    fn delete_root(&mut self, link: u32) -> Result<(), RtnetlinkError> {
        self.tc.delete_root(link)
    }

    fn clsact(&mut self, link: u32) -> Result<Option<Qdisc>, RtnetlinkError> {
        self.tc.clsact(link)
    }

    fn filters(&mut self, link: u32, hook: Hook) -> Result<Vec<InstalledFilter>, RtnetlinkError> {
        self.tc.filters(link, hook)
    }

    fn change_hooks(
        &mut self,
        link: u32,
        changes: &[HookChange],
    ) -> Result<Vec<Result<(), RtnetlinkError>>, RtnetlinkError> {
        self.tc.change_hooks(link, changes)
    }
}
