//! What became of each attachment, in words.

use std::fmt;

use super::part::Part;
use crate::runner::ExecError;
use crate::runner::faults::Faults;

/// What became of one attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// `network/containerID/ifname`, or the cache file if it does not say.
    pub name: String,
    /// The outcome.
    pub outcome: Outcome,
}

/// An attachment's outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has nothing that is to be restored.
    NotConcerned,
    /// The cache file is not of libcni's present kind, and does not say what ADD was given.
    Foreign,
    /// The container is gone; this is nothing to restore.
    Gone {
        /// How one can tell.
        why: String,
        /// The command that removes what it left.
        remedy: String,
    },
    /// The cache file or the namespace cannot be used. Counts as failed.
    Unusable(String),
    /// Its parts were looked at.
    Looked {
        /// The outcome of each part, in the chain's order.
        steps: Vec<(Part, Step)>,
        /// What else there is to say.
        notes: Vec<String>,
    },
    /// It was deleted while it was restored, and what was restored was removed again.
    TakenBack {
        /// What had been restored.
        parts: Vec<Part>,
        /// What could not be removed, and why.
        failed: Vec<(Part, String)>,
    },
}

/// What became of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing was missing.
    Sound,
    /// Something was missing, and is not any more.
    Restored,
    /// This is missing, one thing a line, and was left so (dry run).
    Missing(Vec<String>),
    /// This differs from what was set, and is only restored if that is asked for (dry run).
    Drifted(Vec<String>),
    /// It was left alone.
    Skipped(String),
    /// It cannot be restored.
    Failed(String),
}

impl Report {
    /// Whether it says anything but that all is well.
    #[must_use]
    pub fn is_news(&self) -> bool {
        self.has_failed()
            || match &self.outcome {
                Outcome::Looked { steps, .. } => {
                    steps.iter().any(|(_, step)| matches!(step, Step::Restored | Step::Missing(_)))
                }
                Outcome::TakenBack { .. } => true,
                _ => false,
            }
    }

    /// Whether something is missing that could not be restored.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        match &self.outcome {
            Outcome::Unusable(_) => true,
            Outcome::Looked { steps, .. } => {
                steps.iter().any(|(_, step)| matches!(step, Step::Failed(_)))
            }
            Outcome::TakenBack { failed, .. } => !failed.is_empty(),
            _ => false,
        }
    }
}

/// One line, and indented ones for what is missing.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        match &self.outcome {
            Outcome::NotConcerned => f.write_str("none of the plugins to restore"),
            Outcome::Foreign => f.write_str(
                "skipped: it is no attachment in libcni's present format; recreate its container",
            ),
            Outcome::Gone { why, remedy } => {
                write!(f, "gone: {why}; unless its runtime cleans up, `{remedy}` does")
            }
            Outcome::Unusable(why) => write!(f, "failed: {why}"),
            Outcome::Looked { steps, notes } => f.write_str(&words(steps, notes)),
            Outcome::TakenBack { parts, failed } => {
                write!(f, "deleted meanwhile; removed again: {}", names(parts))?;
                failed.iter().try_for_each(|(part, why)| write!(f, "; {part} failed: {why}"))
            }
        }
    }
}

fn words(steps: &[(Part, Step)], notes: &[String]) -> String {
    let all = |wanted: fn(&Step) -> bool| -> Vec<Part> {
        steps.iter().filter(|(_, step)| wanted(step)).map(|(plugin, _)| *plugin).collect()
    };
    let mut parts = Vec::new();
    for (word, plugins) in [
        ("restored", all(|step| *step == Step::Restored)),
        ("would restore", all(|step| matches!(step, Step::Missing(_)))),
    ] {
        if !plugins.is_empty() {
            parts.push(format!("{word} {}", names(&plugins)));
        }
    }
    let mut found = Vec::new();
    for (plugin, step) in steps {
        match step {
            Step::Failed(why) => parts.push(format!("{plugin} failed: {why}")),
            Step::Skipped(why) => parts.push(format!("{plugin} skipped: {why}")),
            Step::Missing(what) => found.push(indented(*plugin, what)),
            Step::Drifted(what) => found.push(format!(
                "{}\n        left alone; `cni-chain restore --plugin {plugin}` sets it again",
                indented(*plugin, what)
            )),
            Step::Sound | Step::Restored => {}
        }
    }
    if parts.is_empty() {
        parts.push("nothing missing".to_owned());
    }
    parts.extend_from_slice(notes);
    parts.join("; ") + &found.concat()
}

/// A plugin's answer to CHECK without its remedy, which is either running or a report's to name.
pub(super) fn what_check_found(error: &ExecError) -> Vec<String> {
    let Some(error) = error.cni_error() else { return vec![error.to_string()] };
    let Faults { claim, groups, .. } = Faults::of(error);
    std::iter::once(claim).chain(groups).collect()
}

fn indented(part: Part, what: &[String]) -> String {
    let deeper = what.iter().skip(1).map(|line| format!("\n        {line}"));
    let first = what.first().map_or("", String::as_str);
    format!("\n    {part}: {first}{}", deeper.collect::<String>())
}

fn names(parts: &[Part]) -> String {
    parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// All attachments together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    sound: usize,
    restored: usize,
    missing: usize,
    skipped: usize,
    gone: usize,
    failed: usize,
    not_concerned: usize,
    taken_back: usize,
    changed: bool,
}

impl Summary {
    pub(super) fn count(&mut self, report: &Report) {
        let has = |wanted: fn(&Step) -> bool| match &report.outcome {
            Outcome::Looked { steps, .. } => steps.iter().any(|(_, step)| wanted(step)),
            _ => false,
        };
        let counter = match &report.outcome {
            _ if report.has_failed() => &mut self.failed,
            Outcome::NotConcerned => &mut self.not_concerned,
            Outcome::Foreign => &mut self.skipped,
            Outcome::Gone { .. } => &mut self.gone,
            Outcome::TakenBack { .. } => &mut self.taken_back,
            _ if has(|step| matches!(step, Step::Missing(_))) => &mut self.missing,
            _ if has(|step| *step == Step::Restored) => &mut self.restored,
            _ if has(|step| matches!(step, Step::Skipped(_))) => &mut self.skipped,
            _ => &mut self.sound,
        };
        *counter += 1;
        // One that failed may have been restored in part.
        self.changed |= has(|step| *step == Step::Restored);
    }

    /// How many attachments lack something that could not be restored.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// Whether something was restored.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.changed
    }

    /// Whether there is more to tell than that all is well.
    #[must_use]
    pub fn is_news(&self) -> bool {
        self.failed + self.restored + self.missing + self.taken_back > 0
    }
}

/// A line.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.restored, "restored"),
            (self.missing, "to restore"),
            (self.failed, "failed"),
            (self.skipped, "skipped"),
            (self.gone, "gone"),
            (self.taken_back, "deleted meanwhile"),
            (self.sound, "with nothing missing"),
            (self.not_concerned, "with none of the plugins"),
        ];
        let parts: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if parts.is_empty() {
            return f.write_str("no attachments");
        }
        write!(f, "attachments: {}", parts.join(", "))
    }
}
