//! What the Go plugin left for the same attachment, so that a host can change over while its
//! containers run.
//!
//! The Go plugin leaves no owner on anything, and its IFB's name tells the network and the container
//! but not the interface. What is taken for this attachment's is therefore what hangs on its veth.

use std::fmt::Write as _;

use cni_common::Attachment;
use cni_common::link::Link;
use cni_common::protocol::CniError;
use cni_common::tc::{Hook, InstalledFilter, Match, Qdisc, QdiscKind, Verdict};
use sha2::{Digest, Sha512};

use crate::backend::{Backend, refused};
use crate::config::Config;

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
        host: Option<&Link>,
        attachment: &Attachment,
        config: Option<&Config>,
    ) -> Result<Self, CniError> {
        let name = ifb_name(attachment);
        let ifb = backend.links.by_name(&name).map_err(refused(&format!("look for {name}")))?;
        let ifb = ifb.filter(|ifb| ifb.kind.as_deref() == Some("ifb") && ifb.alias.is_none());
        let mut found = Self {
            // A filter whose IFB is gone leads to 0 and drops everything.
            targets: ifb.iter().map(|ifb| ifb.index).chain([0]).collect(),
            rate: config.and_then(|config| config.ingress).map(|limit| limit.rate.0 / 8),
            ..Self::default()
        };
        let used = match host {
            Some(host) => {
                let filters = backend.filters(host, Hook::Ingress)?;
                found.redirect = filters.iter().any(|filter| found.owns(filter));
                !found.redirect
            }
            None => ifb.is_some() && found.is_used_by_any(backend)?,
        };
        found.ifb = ifb.filter(|_| !used);
        Ok(found)
    }

    /// Whether a filter is theirs and leads to this attachment's IFB.
    #[must_use]
    pub fn owns(&self, filter: &InstalledFilter) -> bool {
        filter.priority == PRIORITY
            && filter.kind == "u32"
            && filter.protocol == Match::Everything.protocol()
            && filter.words == Match::Everything.words()
            && matches!(filter.verdict, Some(Verdict::Redirect(to)) if self.targets.contains(&to))
    }

    /// Whether the discipline of the host's end is theirs: by its form, and by a redirect beside
    /// it or a rate that is the configured one.
    #[must_use]
    pub fn owns_root(&self, root: &Qdisc) -> bool {
        let QdiscKind::Tbf(tbf) = root.kind else { return false };
        is_bucket_of_go(root) && (self.redirect || self.rate == Some(tbf.rate.0))
    }

    fn is_used_by_any(&self, backend: &mut Backend) -> Result<bool, CniError> {
        let all = backend.links.all().map_err(refused("list the interfaces"))?;
        for veth in all.iter().filter(|link| link.kind.as_deref() == Some("veth")) {
            let filters = backend.filters(veth, Hook::Ingress)?;
            let live = |filter: &&InstalledFilter| filter.verdict != Some(Verdict::Redirect(0));
            if filters.iter().filter(live).any(|filter| self.owns(filter)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Removes what was found but the bucket, which the caller may have replaced.
pub fn remove(
    backend: &mut Backend,
    host: Option<&Link>,
    old: &GoLeftovers,
) -> Result<(), CniError> {
    if let Some(host) = host.filter(|_| old.redirect) {
        let filters = backend.filters(host, Hook::Ingress)?;
        let theirs = filters.iter().filter(|filter| old.owns(filter));
        backend.delete_filters(host, Hook::Ingress, theirs)?;
    }
    match &old.ifb {
        Some(ifb) => backend.delete_link(ifb),
        None => Ok(()),
    }
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
