//! What the Go plugin left for the same attachment, so that a host can change over while its
//! containers run.
//!
//! The Go plugin leaves no owner on anything, and its IFB's name tells the network and the container
//! but not the interface. What is taken for this attachment's is therefore what hangs on its veth.

use std::fmt::Write as _;

use cni_common::cni::Attachment;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::link::Link;
use cni_common::kernel::tc::{Hook, InstalledFilter, Match, Qdisc, QdiscKind, Verdict};
use sha2::{Digest, Sha512};

use crate::backend::{Backend, refused};
use crate::config::Config;
use crate::host::HostEnd;

/// The Go plugin's handle of every bucket.
const HANDLE: u16 = 1;
/// The Go plugin's priority of its only filter.
const PRIORITY: u16 = 1;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct GoLeftovers {
    /// The IFB, if nothing else uses it.
    ifb: Option<Link>,
    /// The IFB's index, or that of an IFB that is gone.
    targets: Vec<u32>,
    /// Whether the host's end redirects to it.
    pub redirect: bool,
    /// The rate that a bucket of theirs would have, in bytes per second.
    rate: Option<u64>,
}

impl GoLeftovers {
    /// Looks for them.
    pub fn find(
        backend: &mut Backend,
        host: Option<&HostEnd>,
        attachment: &Attachment,
        config: Option<&Config>,
    ) -> Result<Self, CniError> {
        let ifb = backend.ifb(&ifb_name(attachment))?.filter(is_ifb_of_go);
        let mut found = Self {
            // A filter whose IFB is gone leads to 0 and drops everything.
            targets: ifb.iter().map(|ifb| ifb.index).chain([0]).collect(),
            rate: config.and_then(|config| config.ingress).map(|limit| limit.rate.0 / 8),
            ..Self::default()
        };
        let used = match host {
            Some(host) => {
                found.redirect =
                    host.filters(Hook::Ingress).iter().any(|filter| found.owns(filter));
                !found.redirect
            }
            None => match &ifb {
                Some(ifb) => targets_of_go(backend)?.contains(&ifb.index),
                None => false,
            },
        };
        found.ifb = ifb.filter(|_| !used);
        Ok(found)
    }

    /// Looks for those that could be in an ADD's way: none without hooks, since an IFB that
    /// nothing leads to does nothing, and waits for DEL.
    pub fn find_in_use(
        backend: &mut Backend,
        host: &HostEnd,
        attachment: &Attachment,
        config: &Config,
    ) -> Result<Self, CniError> {
        if host.filters(Hook::Ingress).iter().any(has_form_of_go) {
            return Self::find(backend, Some(host), attachment, Some(config));
        }
        Ok(Self { rate: config.ingress.map(|limit| limit.rate.0 / 8), ..Self::default() })
    }

    /// Whether a filter is theirs and leads to this attachment's IFB.
    #[must_use]
    pub fn owns(&self, filter: &InstalledFilter) -> bool {
        has_form_of_go(filter)
            && matches!(filter.verdict, Some(Verdict::Redirect(to)) if self.targets.contains(&to))
    }

    /// Whether the discipline of the host's end is theirs: by its form, and by a redirect beside
    /// it or a rate that is the configured one.
    #[must_use]
    pub fn owns_root(&self, root: &Qdisc) -> bool {
        let QdiscKind::Tbf(tbf) = root.kind else { return false };
        is_bucket_of_go(root) && (self.redirect || self.rate == Some(tbf.rate.0))
    }

    /// The IFB that the host's end redirects to.
    #[must_use]
    pub fn ifb(&self) -> Option<&Link> {
        self.ifb.as_ref()
    }
}

/// Removes what was found but the bucket, which the caller may have replaced. Without the host's
/// end, the redirect is known to be gone.
pub fn remove(
    backend: &mut Backend,
    host: Option<&HostEnd>,
    old: &GoLeftovers,
) -> Result<(), CniError> {
    if let Some(host) = host {
        remove_redirect(backend, host, old)?;
    }
    match &old.ifb {
        Some(ifb) => backend.delete_link(ifb),
        None => Ok(()),
    }
}

/// Removes the redirect alone.
pub fn remove_redirect(
    backend: &mut Backend,
    host: &HostEnd,
    old: &GoLeftovers,
) -> Result<(), CniError> {
    if !old.redirect {
        return Ok(());
    }
    let theirs = host.filters(Hook::Ingress).iter().filter(|filter| old.owns(filter));
    backend.delete_filters(&host.link, Hook::Ingress, theirs)
}

/// GC: removes IFBs of the Go plugin that nothing leads to, and returns their names. Which network
/// they were for cannot be told, nor does it matter: they limit nothing. One without a bucket may
/// belong to an ADD that is at work, which gives it one last.
pub fn collect_garbage(backend: &mut Backend, all: &[Link]) -> Result<Vec<String>, CniError> {
    let mut idle = Vec::new();
    for ifb in all.iter().filter(|link| is_ifb_of_go(link)) {
        let root = backend
            .tc
            .root(ifb.index)
            .map_err(refused(|| format!("look at the queueing discipline of {}", ifb.name)))?;
        if root.as_ref().is_some_and(is_bucket_of_go) {
            idle.push(ifb);
        }
    }
    if idle.is_empty() {
        return Ok(Vec::new());
    }
    let targets = targets_of_go(backend)?;
    idle.retain(|ifb| !targets.contains(&ifb.index));
    for ifb in &idle {
        backend.delete_link(ifb)?;
    }
    Ok(idle.into_iter().map(|ifb| ifb.name.clone()).collect())
}

/// The interfaces that filters of the Go plugin's form lead to.
fn targets_of_go(backend: &mut Backend) -> Result<Vec<u32>, CniError> {
    let all = backend.links.all().map_err(refused(|| "list the interfaces".to_owned()))?;
    let mut targets = Vec::new();
    for veth in all.iter().filter(|link| link.kind.as_deref() == Some("veth")) {
        let filters = backend.filters(veth, Hook::Ingress)?;
        targets.extend(filters.iter().filter(|filter| has_form_of_go(filter)).filter_map(
            |filter| match filter.verdict {
                Some(Verdict::Redirect(to)) => Some(to),
                _ => None,
            },
        ));
    }
    Ok(targets)
}

fn has_form_of_go(filter: &InstalledFilter) -> bool {
    filter.priority == PRIORITY
        && filter.kind == "u32"
        && filter.protocol == Match::Everything.protocol()
        && filter.words == Match::Everything.words()
}

fn is_ifb_of_go(link: &Link) -> bool {
    let digits = link.name.strip_prefix("bwp");
    link.kind.as_deref() == Some("ifb")
        && link.alias.is_none()
        && digits.is_some_and(|digits| {
            digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
}

/// Whether a discipline has the form of the Go plugin's.
#[must_use]
pub fn is_bucket_of_go(root: &Qdisc) -> bool {
    root.handle == HANDLE && matches!(root.kind, QdiscKind::Tbf(_))
}

fn ifb_name(attachment: &Attachment) -> String {
    let mut hash = Sha512::new();
    hash.update(&attachment.network);
    hash.update(&attachment.container_id);
    let digits = hash.finalize().iter().take(6).fold(String::new(), |mut digits, byte| {
        // Writing into a String cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    });
    format!("bwp{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_go_plugin_s() {
        for (network, id, expected) in [
            ("cni-plugin-bandwidth-test", "dummy", "bwpa8eda89404b7"),
            ("n", "c1", "bwp9b00b9b7c279"),
            ("h2chain", "cidA", "bwpcf1fd164c068"),
        ] {
            let attachment = Attachment {
                network: network.into(),
                container_id: id.into(),
                ifname: "eth0".into(),
            };
            assert_eq!(ifb_name(&attachment), expected);
        }
    }
}
