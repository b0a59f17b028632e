//! The places that can hold something of an attachment.

use cni_common::cni::{Backend, Holder};

use crate::backend::firewalld::Firewalld;
use crate::backend::iptables::Iptables;
use crate::backend::nftables::Nftables;
use crate::config::{BackendName, Config};
use crate::go::GoPlugin;
use crate::host::Host;
use crate::plan::Plan;

/// A place that can hold something of an attachment.
pub(crate) type AnyHolder<'h> = dyn Holder<Host<'h>, Plan>;

/// All of them.
pub(crate) struct Holders {
    nftables: Nftables,
    iptables: Iptables,
    firewalld: Firewalld,
    pub(crate) go: GoPlugin,
}

impl Holders {
    /// As the configuration has them.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            nftables: Nftables,
            iptables: Iptables,
            firewalld: Firewalld::of(config),
            go: GoPlugin::of(config),
        }
    }

    /// The backend of a name.
    pub(crate) fn backend<'h>(&self, name: BackendName) -> &dyn Backend<Host<'h>, Plan> {
        match name {
            BackendName::Nftables => &self.nftables,
            BackendName::Iptables => &self.iptables,
            BackendName::Firewalld => &self.firewalld,
        }
    }

    /// The places that a backend writes to.
    pub(crate) fn of_backend<'h>(&self, name: BackendName) -> Vec<&AnyHolder<'h>> {
        match name {
            BackendName::Nftables => vec![&self.nftables],
            BackendName::Iptables => vec![&self.iptables],
            BackendName::Firewalld => vec![&self.firewalld],
        }
    }

    /// Where the attachment may be if the host chose otherwise at its ADD. firewalld's would be in
    /// our table, which nftables' check looks at.
    pub(crate) fn before<'h>(&self, chosen: BackendName) -> Vec<&AnyHolder<'h>> {
        match chosen {
            BackendName::Nftables | BackendName::Firewalld => vec![&self.iptables],
            BackendName::Iptables => vec![&self.nftables],
        }
    }

    /// Where an earlier ADD may have put what a backend has made now. firewalld's is in our table,
    /// too, and iptables' own replaces the Go plugin's.
    pub(crate) fn besides<'h>(&self, name: BackendName) -> Vec<&AnyHolder<'h>> {
        match name {
            BackendName::Nftables | BackendName::Firewalld => vec![&self.go, &self.iptables],
            BackendName::Iptables => vec![&self.firewalld],
        }
    }

    /// All, for DEL. The Go plugin's sources in firewalld are told from ours by our table, which goes
    /// with ours.
    pub(crate) fn for_removal<'h>(&self) -> [&AnyHolder<'h>; 3] {
        [&self.go, &self.firewalld, &self.iptables]
    }

    /// All, for GC. The Go plugin's chains are ours, too: they go once they are empty.
    pub(crate) fn for_garbage<'h>(&self) -> [&AnyHolder<'h>; 3] {
        [&self.firewalld, &self.iptables, &self.go]
    }
}
