//! Places that can hold something of an attachment.
//!
//! A plugin with several such places asks all of them: a container's state may be in another one
//! than today's ADD would choose, because the host changed, the configuration did, or the Go
//! plugin of the same name was there before.

use super::attachment::{Attachment, Stale};
use super::protocol::CniError;

/// What CHECK finds in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing of the attachment is there.
    Absent,
    /// Everything is there, as ADD makes it.
    Sound,
    /// Something is there, but not as ADD makes it: in words, what is missing or different.
    Mismatches(Vec<String>),
}

impl Finding {
    /// The finding of a place that does hold something of the attachment.
    #[must_use]
    pub fn of(mismatches: Vec<String>) -> Self {
        if mismatches.is_empty() { Self::Sound } else { Self::Mismatches(mismatches) }
    }
}

/// A place that can hold something of an attachment. `Host` is what one call opens once (sockets,
/// log), `Plan` what must be.
pub trait Holder<Host, Plan> {
    /// The place, in words that follow "in".
    fn name(&self) -> &'static str;

    /// Compares what is there with the plan.
    fn check(&self, host: &mut Host, plan: &Plan) -> Result<Finding, CniError>;

    /// Removes what is there of the attachment. `known` is what the configuration and the previous
    /// result say, if they can be read: it makes the search short and is never needed. Nothing to
    /// remove is success.
    fn remove(
        &self,
        host: &mut Host,
        attachment: &Attachment,
        known: Option<&Plan>,
    ) -> Result<(), CniError>;

    /// Removes what is there of the network's attachments that are not valid any more.
    fn collect_garbage(&self, host: &mut Host, stale: &Stale) -> Result<(), CniError>;
}

/// A holder that ADD can choose.
pub trait Backend<Host, Plan>: Holder<Host, Plan> {
    /// Makes exactly what the plan asks for, in place of whatever the attachment had here before.
    /// An error leaves nothing changed.
    fn add(&self, host: &mut Host, plan: &Plan) -> Result<(), CniError>;

    /// Whether ADD could be served here; `plan` is a sample of what the configuration can ask for.
    fn status(&self, host: &mut Host, plan: &Plan) -> Result<(), CniError>;
}

/// Runs `work` on every one, also after an error. The outcome is the first error; the messages of
/// the others are in its details.
pub fn on_all<T>(
    all: impl IntoIterator<Item = T>,
    mut work: impl FnMut(T) -> Result<(), CniError>,
) -> Result<(), CniError> {
    let mut first: Option<CniError> = None;
    for one in all {
        let Err(error) = work(one) else { continue };
        match &mut first {
            None => first = Some(error),
            Some(first) => {
                let separator = if first.details.is_empty() { "" } else { "; " };
                first.details = format!("{}{separator}also: {error}", first.details);
            }
        }
    }
    first.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_stops_nothing_and_is_not_swallowed() {
        let mut asked = Vec::new();
        let outcome = on_all(["a", "b", "c"], |name| {
            asked.push(name);
            if name == "b" { Ok(()) } else { Err(CniError::config(name)) }
        });
        assert_eq!(asked, ["a", "b", "c"]);
        let error = outcome.expect_err("two failed");
        assert_eq!((error.msg.as_str(), error.details.as_str()), ("a", "also: c"));
        assert_eq!(on_all([1, 2], |_| Ok(())), Ok(()));
    }
}
