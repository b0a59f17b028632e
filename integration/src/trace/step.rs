//! One look on the way of a connection, and what it found.

use std::net::IpAddr;

use cni_common::kernel::nft::L4Protocol;

/// How a look ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// As it should be.
    Ok,
    /// This connection is not stopped; another may be.
    Note,
    /// It may stop here: one cannot tell from outside.
    Doubt,
    /// It stops here.
    Stop,
}

/// A look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// What was looked at.
    pub(crate) subject: &'static str,
    pub(crate) finding: Finding,
    pub(crate) text: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
}

/// The way of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) port: u16,
    pub(crate) protocol: L4Protocol,
    /// The host's address that it is made to.
    pub(crate) to: Option<IpAddr>,
    /// Who makes it; somebody outside, if it is not said.
    pub(crate) from: Option<IpAddr>,
    pub(crate) steps: Vec<Step>,
}

impl Step {
    pub(super) fn ok(subject: &'static str, text: impl Into<String>) -> Self {
        Self { subject, finding: Finding::Ok, text: text.into(), remedy: None }
    }

    pub(super) fn new(
        subject: &'static str,
        finding: Finding,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { subject, finding, text: text.into(), remedy: Some(remedy.into()) }
    }

    pub(super) fn stop(
        subject: &'static str,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(subject, Finding::Stop, text, remedy)
    }

    pub(super) fn note(
        subject: &'static str,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(subject, Finding::Note, text, remedy)
    }

    /// What could not be looked at.
    pub(super) fn unknown(subject: &'static str, error: &dyn std::fmt::Display) -> Self {
        Self::new(
            subject,
            Finding::Doubt,
            format!("it cannot be looked at: {error}"),
            "run it as root on the host itself",
        )
    }
}

impl Trace {
    /// Where the connection stops.
    pub(crate) fn end(&self) -> Option<&Step> {
        self.steps.iter().find(|step| step.finding == Finding::Stop)
    }
}
