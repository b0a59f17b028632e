//! A kernel that does nothing but write down what it is told: a host with the end of one veth.

use std::cell::RefCell;
use std::rc::Rc;

use cni_common::kernel::iproute;
use cni_common::kernel::link::{Link, LinkChange};
use cni_common::kernel::netns::Netns;
use cni_common::kernel::rtnetlink::RtnetlinkError;
use cni_common::kernel::tc::{FqCodel, Hook, HookChange, InstalledFilter, Qdisc, Tbf};
use cni_common::kernel::veth::VethError;

use crate::kernel::Kernel;

/// The interfaces there are, and the lines for `ip` and `tc` so far.
#[derive(Debug)]
pub(crate) struct Recorder {
    links: Vec<Link>,
    lines: Lines,
}

/// What was written down, shared with whoever reads it.
pub(crate) type Lines = Rc<RefCell<Vec<String>>>;

impl Recorder {
    pub(crate) fn new(end: Link, lines: Lines) -> Self {
        Self { links: vec![end], lines }
    }

    fn write(&self, line: String) {
        self.lines.borrow_mut().push(line);
    }

    fn name(&self, index: u32) -> String {
        let found = self.links.iter().find(|link| link.index == index);
        found.map(|link| link.name.clone()).unwrap_or_default()
    }
}

impl Kernel for Recorder {
    fn all_links(&mut self) -> Result<Vec<Link>, RtnetlinkError> {
        Ok(self.links.clone())
    }

    fn link(&mut self, name: &str) -> Result<Option<Link>, RtnetlinkError> {
        Ok(self.links.iter().find(|link| link.name == name).cloned())
    }

    fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, RtnetlinkError> {
        Ok(self.links.iter().find(|link| link.index == index).cloned())
    }

    fn host_end(&mut self, _container: &Netns, _ifname: &str) -> Result<Link, VethError> {
        self.links.first().cloned().ok_or(VethError::NoInterface)
    }

    fn change_link(&mut self, link: u32, change: &LinkChange) -> Result<(), RtnetlinkError> {
        self.write(iproute::change_link(&self.name(link), change));
        Ok(())
    }

    fn create_ifb(
        &mut self,
        name: &str,
        change: &LinkChange,
        alias: &str,
    ) -> Result<(), RtnetlinkError> {
        for line in iproute::create_ifb(name, change, alias) {
            self.write(line);
        }
        let last = self.links.iter().map(|link| link.index).max().unwrap_or_default();
        self.links.push(Link {
            index: last + 1,
            name: name.to_owned(),
            kind: Some("ifb".to_owned()),
            mtu: change.mtu.unwrap_or_default(),
            up: change.up.unwrap_or_default(),
            alias: Some(alias.to_owned()),
            ..Link::default()
        });
        Ok(())
    }

    fn delete_link(&mut self, link: u32) -> Result<(), RtnetlinkError> {
        self.write(iproute::delete_link(&self.name(link)));
        self.links.retain(|found| found.index != link);
        Ok(())
    }

    fn root(&mut self, _link: u32) -> Result<Option<Qdisc>, RtnetlinkError> {
        Ok(None)
    }

    fn set_tbf(&mut self, link: u32, handle: u16, tbf: Tbf) -> Result<(), RtnetlinkError> {
        self.write(iproute::set_tbf(&self.name(link), handle, tbf));
        Ok(())
    }

    fn set_tbf_with(
        &mut self,
        link: u32,
        handle: u16,
        tbf: Tbf,
        (queue, fq_codel): (u16, FqCodel),
        otherwise: Option<Tbf>,
    ) -> Result<(), RtnetlinkError> {
        self.set_tbf(link, handle, tbf)?;
        let name = self.name(link);
        let command = iproute::set_fq_codel(&name, handle, queue, fq_codel);
        self.write(match otherwise {
            None => command,
            Some(tbf) => format!("{command} || {}", iproute::set_tbf(&name, handle, tbf)),
        });
        Ok(())
    }

    fn set_tbf_alone(&mut self, link: u32, handle: u16, tbf: Tbf) -> Result<(), RtnetlinkError> {
        self.set_tbf(link, handle, tbf)
    }

    fn queue(&mut self, _link: u32, _handle: u16) -> Result<Option<Qdisc>, RtnetlinkError> {
        Ok(None)
    }

    fn delete_root(&mut self, link: u32) -> Result<(), RtnetlinkError> {
        self.write(iproute::delete_root(&self.name(link)));
        Ok(())
    }

    fn clsact(&mut self, _link: u32) -> Result<Option<Qdisc>, RtnetlinkError> {
        Ok(None)
    }

    fn filters(&mut self, _link: u32, _hook: Hook) -> Result<Vec<InstalledFilter>, RtnetlinkError> {
        Ok(Vec::new())
    }

    fn change_hooks(
        &mut self,
        link: u32,
        changes: &[HookChange],
    ) -> Result<Vec<Result<(), RtnetlinkError>>, RtnetlinkError> {
        for change in changes {
            self.write(iproute::change_hook(&self.name(link), change, |index| self.name(index)));
        }
        Ok(changes.iter().map(|_| Ok(())).collect())
    }
}
