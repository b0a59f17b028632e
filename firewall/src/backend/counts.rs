//! How many attachments ask a bridge for each policy: it isolates while anybody asks for it.

use crate::config::Policy;

/// How many attachments ask a bridge for each policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PolicyCounts {
    /// Those that ask for same-bridge.
    pub(crate) same_bridge: u32,
    /// Those that ask for isolated.
    pub(crate) isolated: u32,
}

impl PolicyCounts {
    /// With one attachment more.
    pub(crate) fn plus(self, policy: Policy) -> Self {
        self.changed(policy, |count| count.saturating_add(1))
    }

    /// With one attachment less.
    pub(crate) fn minus(self, policy: Policy) -> Self {
        self.changed(policy, |count| count.saturating_sub(1))
    }

    fn changed(mut self, policy: Policy, change: impl Fn(u32) -> u32) -> Self {
        let count = match policy {
            Policy::SameBridge => &mut self.same_bridge,
            Policy::Isolated => &mut self.isolated,
        };
        *count = change(*count);
        self
    }

    /// How many ask for this policy.
    pub(crate) fn count(self, policy: Policy) -> u32 {
        match policy {
            Policy::SameBridge => self.same_bridge,
            Policy::Isolated => self.isolated,
        }
    }

    /// Whether nobody asks for anything.
    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }
}
