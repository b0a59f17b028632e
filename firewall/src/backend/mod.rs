//! Which backend a host uses, found by looking at it.

pub(crate) mod counts;
pub(crate) mod firewalld;
pub(crate) mod iptables;
pub(crate) mod nftables;

use std::fmt;

use cni_common::cni::Failure as _;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{Iptables, IptablesError, Variant};

use crate::config::{BackendName, Config, ForwardChain};
use crate::host::Host;
use nftables::foreign_drops;

/// A backend and why it was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The backend.
    pub(crate) name: BackendName,
    /// Why, for people.
    pub(crate) reason: String,
    /// Native chains that drop, where the host and not the configuration decides: containers' packets
    /// must get through them, too.
    pub(crate) native_drops: Vec<ForwardChain>,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backend {}: {}", self.name.as_str(), self.reason)
    }
}

impl Choice {
    fn new(name: BackendName, reason: impl Into<String>) -> Self {
        Self { name, reason: reason.into(), native_drops: Vec::new() }
    }

    /// Why an attachment elsewhere may be cut off: none if this is the choice for other reasons than
    /// that packets are dropped here.
    pub(crate) fn decides(&self, host: &mut Host<'_>) -> Option<String> {
        match self.name {
            BackendName::Nftables => None,
            BackendName::Firewalld => Some(self.reason.clone()),
            BackendName::Iptables => {
                let forwards = host.forwards().unwrap_or_default();
                let of_others = forwards.iter().find(|f| f.is_of_others(&mut host.filter));
                of_others.map(ToString::to_string)
            }
        }
    }
}

/// The configured backend, or the one whose rules decide on this host: firewalld where it runs,
/// else iptables where the FORWARD chain lives there, else nftables.
pub(crate) fn choose(config: &Config, host: &mut Host<'_>) -> Result<Choice, CniError> {
    if let Some(name) = config.backend {
        return Ok(Choice::new(name, "the configuration says so"));
    }
    if host.bus.has_firewalld()? {
        return Ok(Choice::new(BackendName::Firewalld, "firewalld runs on this host"));
    }
    look(host).map_err(|error| error.into_cni("cannot look which firewall this host uses"))
}

fn look(host: &mut Host<'_>) -> Result<Choice, IptablesError> {
    let forwards = host.forwards()?;
    // One that drops is the better reason.
    let first = forwards.iter().find(|forward| forward.drops).or(forwards.first());
    let has_iptables = || Iptables::find(IpVersion::V4, Variant::Default).is_ok();
    let mut choice = match first {
        Some(forward) if has_iptables() => Choice::new(BackendName::Iptables, forward.to_string()),
        Some(forward) => {
            Choice::new(BackendName::Nftables, format!("{forward}, but iptables is not installed"))
        }
        None => Choice::new(
            BackendName::Nftables,
            "neither firewalld nor iptables decides about forwarded packets here",
        ),
    };
    let log = host.log;
    if choice.name == BackendName::Nftables
        && let Some(nft) = host.nft_if_any()
    {
        choice.native_drops = foreign_drops::native(nft, log)?;
    }
    Ok(choice)
}
