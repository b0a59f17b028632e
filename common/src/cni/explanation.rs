//! What ADD would do, told without doing it: plans carried out by backends that only write down.

use crate::cni::protocol::CniResult;
use crate::kernel::IpVersion;
use crate::kernel::nft::Transaction;

/// What an explanation takes for granted, beside the configuration: nothing of it need exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The bridge that the container is on, if it is on one.
    pub bridge: Option<String>,
    /// The host's end of the container's veth, if it has one.
    pub host_end: Option<String>,
    /// Whether the gateways that the result names are addresses of the host.
    pub host_is_gateway: bool,
}

impl Surroundings {
    /// The interface by which the host reaches the container.
    #[must_use]
    pub fn towards_container(&self) -> Option<&str> {
        self.bridge.as_deref().or(self.host_end.as_deref())
    }
}

/// One thing that ADD does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Commits a transaction to `nf_tables`.
    Nft(Transaction),
    /// Has `iptables-restore --noflush`, or `ip6tables-restore`, read this.
    Restore(IpVersion, String),
    /// Does on the host what these lines of a shell do.
    OnHost(Vec<String>),
    /// Does the same in the container's network namespace.
    InContainer(Vec<String>),
    /// What no other program can be told to do, in words.
    Note(String),
}

/// All that ADD does, in its order.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What is done.
    pub steps: Vec<Step>,
    /// What the next plugin gets as its prevResult.
    pub result: CniResult,
}

impl Explanation {
    /// That nothing is done, and why.
    #[must_use]
    pub fn nothing(why: &str, result: CniResult) -> Self {
        Self { steps: vec![Step::Note(format!("nothing is done: {why}"))], result }
    }
}
