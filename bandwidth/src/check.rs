//! CHECK: what differs from the plan.

use cni_common::cni::protocol::CniError;
use cni_common::kernel::link::Link;
use cni_common::kernel::tc::{Hook, Qdisc, QdiscKind, Tbf};

use crate::backend::{Backend, is_ifb_of, refused};
use crate::config::{Config, Subnets};
use crate::host::{HOOKS, HOOKS_ARE_OURS, HostEnd};
use crate::leftovers::{GoLeftovers, is_bucket_of_go};
use crate::plan::{Detour, Plan, ifb_name};

impl Backend {
    /// What differs from the plan, in words; nothing if all is as ADD made it.
    pub fn faults(&mut self, host: &HostEnd, plan: &Plan) -> Result<Vec<String>, CniError> {
        let mut faults = Vec::new();
        if let Some(tbf) = plan.root {
            faults.extend(bucket_fault(&host.link.name, host.root.as_ref(), tbf));
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
        host: &HostEnd,
        plan: &Plan,
        hook: Hook,
        detour: &Detour,
        faults: &mut Vec<String>,
    ) -> Result<(), CniError> {
        let name = ifb_name(&plan.tag, hook);
        let Some(ifb) = self.ifb(&name)?.filter(|found| is_ifb_of(found, &plan.tag)) else {
            faults.push(format!("the IFB {name} is gone"));
            return Ok(());
        };
        if ifb.alias.is_none() {
            faults.push(format!("{name} does not name its owner"));
        }
        if !ifb.up {
            faults.push(format!("{name} is down"));
        }
        faults.extend(bucket_fault(&name, self.root(&ifb)?.as_ref(), detour.tbf));
        let wanted = detour.filters(ifb.index, HOOKS_ARE_OURS);
        let installed = host.filters(hook);
        let missing =
            wanted.iter().filter(|filter| !installed.iter().any(|found| found.is(filter))).count();
        let ours = host.our_filters(hook).count();
        let host = &host.link.name;
        if missing > 0 {
            faults.push(format!(
                "{missing} of the {} filters of {host} that lead to {name} are gone or differ",
                wanted.len(),
            ));
        } else if ours > wanted.len() {
            faults.push(format!("{host} has {ours} filters instead of {}", wanted.len()));
        }
        Ok(())
    }

    fn root(&mut self, link: &Link) -> Result<Option<Qdisc>, CniError> {
        self.tc.root(link.index).map_err(refused(|| format!("look at {}", link.name)))
    }

    /// Whether the limits are those that the Go plugin's ADD makes of this configuration, all of
    /// them, and nothing of ours is there: an attachment of before the change to this plugin.
    /// Bursts and queues are not compared, since what the Go plugin makes of them varies.
    pub fn is_limited_by_go(
        &mut self,
        host: &HostEnd,
        config: &Config,
        old: &GoLeftovers,
    ) -> Result<bool, CniError> {
        if config.subnets != Subnets::All || host.note().is_some() || host.has_our_bucket() {
            return Ok(false);
        }
        if let Some(limit) = config.ingress
            && !is_bucket_of_go_with(host.root.as_ref(), limit.rate.0 / 8)
        {
            return Ok(false);
        }
        match (config.egress, old.ifb()) {
            (None, _) => Ok(true),
            (Some(limit), Some(ifb)) => {
                let root = self.root(ifb)?;
                Ok(old.redirect && ifb.up && is_bucket_of_go_with(root.as_ref(), limit.rate.0 / 8))
            }
            (Some(_), None) => Ok(false),
        }
    }
}

fn bucket_fault(name: &str, root: Option<&Qdisc>, wanted: Tbf) -> Option<String> {
    match root.map(|root| &root.kind) {
        Some(QdiscKind::Tbf(found)) if wanted.is(*found) => None,
        Some(QdiscKind::Tbf(found)) => {
            Some(format!("the limit of {name} differs: {found:?} instead of {wanted:?}"))
        }
        _ => Some(format!("{name} has no limit")),
    }
}

fn is_bucket_of_go_with(root: Option<&Qdisc>, bytes_per_second: u64) -> bool {
    root.is_some_and(|root| {
        is_bucket_of_go(root)
            && matches!(root.kind, QdiscKind::Tbf(tbf) if tbf.rate.0 == bytes_per_second)
    })
}
