//! Whose rules go.

use cni_common::cni::{OwnerTag, Stale};

use crate::filter::FilterRule;
use crate::plan::Plan;

/// Whose rules go, besides the plan's own earlier ones.
pub(crate) enum Removal<'a> {
    /// Nobody's.
    Nothing,
    /// One attachment's.
    Attachment(&'a OwnerTag),
    /// Those of attachments that are not valid any more.
    Stale(&'a Stale),
}

impl Removal<'_> {
    /// Whether a rule goes.
    pub(super) fn takes(&self, rule: &FilterRule, plan: Option<&Plan>) -> bool {
        let own = |tag: &OwnerTag| rule.is_of(tag);
        if plan.is_some_and(|plan| own(&plan.tag)) {
            return true;
        }
        match self {
            Self::Nothing => false,
            Self::Attachment(tag) => own(tag),
            Self::Stale(stale) => rule.comment().is_some_and(|comment| stale.includes(comment)),
        }
    }
}
