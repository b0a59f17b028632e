//! What may have taken rules away, and when to restore after it.

use std::time::Duration;

use tokio::time::Instant;

/// A stop is often the first half of a restart.
const AFTER_STOP: Duration = Duration::from_secs(3);
/// Tables are deleted in numbers, and often to be loaded anew at once.
const AFTER_DELETION: Duration = Duration::from_millis(300);

/// Something that may have taken rules away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Reloaded,
    Started,
    Stopped,
    Deleted(String),
    /// Rules of containers were deleted from this table.
    Emptied(String),
    Drops(String),
    Overrun,
}

impl Event {
    /// When to restore after it, where something else may have asked for that already.
    pub(super) fn due(&self, already: Option<Instant>, now: Instant) -> Instant {
        match self {
            Self::Reloaded | Self::Started => now,
            Self::Stopped => now + AFTER_STOP,
            // Never later than planned: somebody may delete tables all the time.
            Self::Deleted(_) | Self::Emptied(_) | Self::Drops(_) | Self::Overrun => {
                let due = now + AFTER_DELETION;
                already.map_or(due, |already| already.min(due))
            }
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Reloaded => "firewalld was reloaded".to_owned(),
            Self::Started => "firewalld was started".to_owned(),
            Self::Stopped => "firewalld was stopped".to_owned(),
            Self::Deleted(table) => format!("nftables table {table} was deleted"),
            Self::Emptied(table) => format!("rules were deleted from nftables table {table}"),
            Self::Drops(chain) => format!("chain {chain} has policy drop"),
            Self::Overrun => "notifications of the kernel were lost".to_owned(),
        }
    }
}
