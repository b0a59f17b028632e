//! GC: what belongs to attachments of a network that are not valid any more.
//!
//! The owner is the alias of an IFB, whose redirect tells the host's end, or else that of the
//! host's end itself.

use cni_common::cni::OwnerTag;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::link::Link;
use cni_common::kernel::tc::Verdict;

use crate::backend::{Backend, IFB, refused};
use crate::host::{HOOKS, HostEnd};
use crate::leftovers::{self, GoLeftovers};
use crate::veth::VETH;

impl Backend {
    /// Removes the IFBs and the buckets of this network's attachments that are not among `valid`,
    /// and IFBs of the Go plugin that nothing leads to. The names of the interfaces are returned.
    pub fn collect_garbage(
        &mut self,
        network: &str,
        valid: &[OwnerTag],
    ) -> Result<Vec<String>, CniError> {
        let is_stale = |link: &Link| {
            link.alias.as_deref().is_some_and(|alias| {
                OwnerTag::belongs_to(alias, network)
                    && !valid.iter().any(|tag| tag.as_str() == alias)
            })
        };
        let all = self.links.all().map_err(refused(|| "list the interfaces".to_owned()))?;
        let (ifbs, others): (Vec<&Link>, Vec<&Link>) =
            all.iter().partition(|link| link.kind.as_deref() == Some(IFB));
        let stale_ifbs: Vec<&Link> = ifbs.iter().copied().filter(|ifb| is_stale(ifb)).collect();
        let mut removed = Vec::new();
        let mut outcomes = Vec::new();
        if !stale_ifbs.is_empty() {
            let indexes: Vec<u32> = stale_ifbs.iter().map(|ifb| ifb.index).collect();
            outcomes.push(self.forget_host_ends(&indexes));
            for ifb in stale_ifbs {
                outcomes.push(self.delete_link(ifb));
                removed.push(ifb.name.clone());
            }
        }
        for host in
            others.into_iter().filter(|link| link.kind.as_deref() == Some(VETH) && is_stale(link))
        {
            outcomes.push(self.forget_host_end(host));
            removed.push(host.name.clone());
        }
        match leftovers::collect_garbage(self, &all) {
            Ok(ifbs) => removed.extend(ifbs),
            Err(error) => outcomes.push(Err(error)),
        }
        outcomes.into_iter().collect::<Result<(), _>>()?;
        Ok(removed)
    }

    /// Removes the redirects and buckets of ours wherever something is sent to these links.
    pub(crate) fn forget_host_ends(&mut self, ifbs: &[u32]) -> Result<(), CniError> {
        let all = self.links.all().map_err(refused(|| "list the interfaces".to_owned()))?;
        for link in all.iter().filter(|link| link.kind.as_deref() == Some(VETH)) {
            let host = HostEnd::look(self, link.clone())?;
            let leads_there = |verdict: Option<Verdict>| matches!(verdict, Some(Verdict::Redirect(to)) if ifbs.contains(&to));
            let stale = HOOKS
                .into_iter()
                .any(|hook| host.our_filters(hook).any(|filter| leads_there(filter.verdict)));
            if stale {
                self.remove_from(&host)?;
            }
        }
        Ok(())
    }

    fn forget_host_end(&mut self, link: &Link) -> Result<(), CniError> {
        let host = HostEnd::look(self, link.clone())?;
        self.remove_from(&host)?;
        self.mark(link, "")
    }

    fn remove_from(&mut self, host: &HostEnd) -> Result<(), CniError> {
        let nothing_old = GoLeftovers::default();
        self.remove_redirects(host, &nothing_old)?;
        self.delete_bucket(host, &nothing_old)
    }
}
