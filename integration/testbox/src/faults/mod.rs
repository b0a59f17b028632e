//! Faults at every system call: a plugin is killed there, or told that the call failed, and nothing may be
//! lost, left or claimed.
//!
//! A [`Sweep`] is a plugin with one backend, and what it is asked for; a [`Case`] is a command and what
//! is there before it. [`Sweep::run`] takes a clean run first, and then one run for each fault at each of
//! its calls:
//!
//! - After a kill, DEL leaves what was there before ADD, or ADD again leaves what one clean ADD leaves, or
//!   GC leaves nothing of the attachment; the three take turns.
//! - After an error, the plugin says so with one error object and has changed nothing, or it
//!   succeeds, and has done what a clean run does. The error's code is 11 if trying again helps, and
//!   only then. DEL and GC may have done a part of it, if they say
//!   so and the next one does the rest.
//! - A second attachment beside it is in every comparison, and never changes.
//!
//! What is compared are [snapshots](Scope) of rules, links, qdiscs, filters, settings and files. What
//! nobody owns and what stays by design, such as an empty table, is there before the comparison begins,
//! because the attachment was added and deleted once.

mod judge;
mod programs;
mod snapshot;
mod stage;
mod stepper;
mod system_calls;

use std::env;
use std::fmt;

use crate::{Attachment, Call, TestBox};

pub use judge::Known;
pub use snapshot::Scope;

use judge::Judge;
use stepper::Fault;

/// A plugin with one backend, and what it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// The plugin's name.
    pub plugin: &'static str,
    /// The backend's name in reports.
    pub backend: &'static str,
    /// What is compared after each fault.
    pub scope: Scope,
    /// Makes the attachment that the plugin is called for, and one beside it. The number tells those
    /// of a host that was built again.
    pub attachments: fn(&TestBox, u8) -> [Attachment; 2],
    /// A call for an attachment, other than GC. A runtime's DEL says what its ADD said.
    pub call: fn(&str, &Attachment, Wish) -> Call,
    /// Undoes what GC leaves by design in a container that is there still: GC is for those that are
    /// gone.
    pub after_gc: fn(&Attachment),
    /// Whether the plugin knows GC.
    pub collects: bool,
    /// Whether the plugin runs programs, which may outlive it.
    pub runs_programs: bool,
    /// Every n-th call only; `CNI_FAULTS=all` tries all of them.
    pub every: usize,
}

/// What ADD asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// What it asks for at first.
    Usual,
    /// Something else.
    Changed,
}

/// A command, and what is there before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// ADD on a host that has nothing of ours.
    First,
    /// ADD beside another attachment.
    Add,
    /// ADD of what is there.
    Again,
    /// ADD of something else than what is there.
    Changed,
    /// CHECK.
    Check,
    /// DEL.
    Del,
    /// GC that is told that only the other attachment is valid.
    Gc,
}

impl Case {
    /// The command of the call that has faults.
    fn command(self) -> &'static str {
        match self {
            Self::First | Self::Add | Self::Again | Self::Changed => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
        }
    }

    fn wish(self) -> Wish {
        if self == Self::Changed { Wish::Changed } else { Wish::Usual }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "ADD on a fresh host",
            Self::Add => "ADD",
            Self::Again => "ADD again",
            Self::Changed => "ADD changed",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
        })
    }
}

impl Sweep {
    /// Tries every fault at every call of a case, and fails if a fault is found that is not known, or
    /// one that is known is not found.
    pub fn run(&self, b: &TestBox, case: Case, known: &[Known]) {
        let all = env::var_os("CNI_FAULTS").is_some_and(|value| value == "all");
        let every = if all { 1 } else { self.every };
        self.try_all(b, case, every).conclude(known, all || self.every == 1);
    }

    /// The same with misdeeds of the programs that the plugin runs, at each of their runs: they fail,
    /// hang, are killed, do not read, or print something else.
    pub fn run_programs(&self, b: &TestBox, case: Case, known: &[Known]) {
        let all = env::var_os("CNI_FAULTS").is_some_and(|value| value == "all");
        let mut judge = Judge::new(self, b, case);
        for (at, name) in judge.programs().iter().enumerate() {
            for misdeed in programs::misdeeds(name) {
                judge.try_misdeed(at, name, &misdeed);
            }
            if all {
                judge.try_misdeed(at, name, &programs::HANGS);
            }
        }
        judge.conclude(known, true);
    }

    /// The same for another's plugin: tells the numbers only.
    pub fn tell(&self, b: &TestBox, case: Case) {
        self.try_all(b, case, self.every).tell(0);
    }

    fn try_all<'a>(&'a self, b: &'a TestBox, case: Case, every: usize) -> Judge<'a> {
        let mut judge = Judge::new(self, b, case);
        let calls = judge.clean_run();
        for (at, name) in calls.iter().enumerate().filter(|(at, _)| at % every == 0) {
            // The recoveries take turns, also where only some calls are tried.
            let turn = at / every;
            judge.try_fault(at, Fault::Kill, turn);
            for error in 0..system_calls::errors(name).len() {
                judge.try_fault(at, Fault::Fail(error), turn);
            }
        }
        judge
    }
}
