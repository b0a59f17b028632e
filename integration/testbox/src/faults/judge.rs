//! Whether what a fault left behind is in order.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use super::programs::{self, Misdeed};
use super::snapshot::{Difference, Snapshot};
use super::stage::{Stage, State};
use super::stepper::{Fault, Hit, step};
use super::{Case, Sweep, Wish};
use crate::{Outcome, TestBox};

/// The code of an error that may be gone when the runtime tries again.
const TRY_AGAIN: u64 = 11;
/// The code of a CHECK that found something else than ADD makes.
const CHECK_FAILED: u64 = 100;

/// Faults of one kind that are known and not mended yet.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The plugin.
    pub plugin: &'static str,
    /// Its backend.
    pub backend: &'static str,
    /// The case.
    pub case: Case,
    /// Words of the report.
    pub words: &'static str,
    /// There may be no more of them, where [`Sweep::every`] tells which calls are tried.
    pub at_most: usize,
    /// Why they are there still.
    pub reason: &'static str,
}

/// A fault of the plugin.
#[derive(Debug)]
struct Found {
    /// Which of the plugin's calls it was.
    number: usize,
    hit: Hit,
    problem: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hit { what, name, about, .. } = &self.hit;
        write!(f, "{what} at call {} {name}({about}): {}", self.number, self.problem)
    }
}

/// One case of a sweep under way.
pub(super) struct Judge<'a> {
    sweep: &'a Sweep,
    b: &'a TestBox,
    case: Case,
    stage: Stage<'a>,
    stages: u8,
    begun: Instant,
    kills: usize,
    errors: usize,
    /// Errors after which the plugin succeeded all the same.
    overcome: usize,
    /// Errors of DEL and GC that had done a part.
    halfway: usize,
    found: Vec<Found>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(sweep: &'a Sweep, b: &'a TestBox, case: Case) -> Self {
        let stage = Stage::build(sweep, b, case, 1);
        Self {
            sweep,
            b,
            case,
            stage,
            stages: 1,
            begun: Instant::now(),
            kills: 0,
            errors: 0,
            overcome: 0,
            halfway: 0,
            found: Vec::new(),
        }
    }

    fn binary(&self) -> PathBuf {
        self.b.implementation.plugin(self.sweep.plugin)
    }

    /// What has to be there before the call.
    fn start(&self) -> State {
        match self.case {
            Case::First | Case::Add => State::Absent,
            Case::Again | Case::Changed | Case::Check | Case::Del | Case::Gc => {
                State::Present(Wish::Usual)
            }
        }
    }

    /// What a clean run leaves.
    fn end(&self) -> State {
        match self.case {
            Case::First | Case::Add | Case::Again | Case::Changed => {
                State::Present(self.case.wish())
            }
            Case::Check => State::Present(Wish::Usual),
            Case::Del | Case::Gc => State::Absent,
        }
    }

    /// The system calls of a run without a fault.
    #[track_caller]
    pub(super) fn clean_run(&mut self) -> Vec<String> {
        self.ready();
        let call = self.stage.call(self.case.command(), self.case.wish());
        let run = step(&call, &self.binary(), None);
        assert!(run.outcome.succeeded(), "{}", run.outcome);
        self.tidy_after(self.case.command());
        let found = self.stage.snapshot();
        let wanted = self.stage.look_of(self.end());
        assert!(found == *wanted, "under the stepper:\n{}", found.difference_from(wanted));
        self.stage.at = Some(self.end());
        self.begun = Instant::now();
        run.calls
    }

    /// After GC, or what follows when GC was tried.
    fn tidy_after(&self, command: &str) {
        if command == "GC" || (command == "DEL" && self.case == Case::Gc) {
            (self.sweep.after_gc)(&self.stage.subject);
        }
    }

    /// Makes the start state, on a new stage if the old one cannot be led there.
    fn ready(&mut self) {
        let start = self.start();
        if !self.stage.lead_to(start) {
            self.rebuild();
            assert!(self.stage.lead_to(start), "a new stage leads to {start:?}");
        }
    }

    fn rebuild(&mut self) {
        self.stages = self.stages % 200 + 1;
        self.stage = Stage::build(self.sweep, self.b, self.case, self.stages);
    }

    /// One fault at a system call.
    pub(super) fn try_fault(&mut self, at: usize, fault: Fault, turn: usize) {
        self.settle(|judge| judge.attempt(at, fault, turn));
        match fault {
            Fault::Kill => self.kills += 1,
            Fault::Fail(_) => self.errors += 1,
        }
    }

    /// One misdeed of a program that the plugin runs.
    pub(super) fn try_misdeed(&mut self, at: usize, program: &str, misdeed: &Misdeed) {
        self.settle(|judge| judge.attempt_misdeed(at, program, misdeed));
        self.errors += 1;
    }

    /// What goes wrong on a stage of which not all was seen is tried on a new one.
    fn settle(&mut self, attempt: impl Fn(&mut Self) -> Result<(), Found>) {
        self.ready();
        let seen = self.stage.seen;
        let mut verdict = attempt(self);
        if verdict.is_err() {
            self.rebuild();
            if !seen {
                self.ready();
                verdict = attempt(self);
                if verdict.is_err() {
                    self.rebuild();
                }
            }
        }
        if let Err(found) = verdict {
            println!("{found}");
            self.found.push(found);
        }
    }

    /// The programs of a run without a fault.
    pub(super) fn programs(&mut self) -> Vec<String> {
        self.ready();
        let call = self.stage.call(self.case.command(), self.case.wish());
        let outcome = self.stage.plain(&call.env("PATH", programs::prepare_to_count()));
        assert!(outcome.succeeded(), "{outcome}");
        self.stage.at = Some(self.end());
        self.stage.seen = false;
        programs::runs()
    }

    fn attempt_misdeed(
        &mut self,
        at: usize,
        program: &str,
        misdeed: &Misdeed,
    ) -> Result<(), Found> {
        let call = self.stage.call(self.case.command(), self.case.wish());
        let path = programs::prepare(at, program, misdeed);
        self.stage.at = None;
        let outcome = self.stage.plain(&call.env("PATH", path));
        let [what, name] = [misdeed.what, program].map(str::to_owned);
        let hit = Hit { what, name, about: String::new(), passes: misdeed.passes };
        self.judge_error(&outcome, &hit).map_err(|problem| found(at, hit, &problem, &outcome))
    }

    fn attempt(&mut self, at: usize, fault: Fault, turn: usize) -> Result<(), Found> {
        let call = self.stage.call(self.case.command(), self.case.wish());
        let run = step(&call, &self.binary(), Some((at, fault)));
        self.stage.at = None;
        let Some(hit) = run.hit else {
            // Not all runs make all calls: the end is a clean one.
            self.tidy_after(self.case.command());
            return self.expect(self.end(), "no fault").map_err(|problem| {
                let [what, name, about] = ["nothing", "", ""].map(str::to_owned);
                found(at, Hit { what, name, about, passes: None }, &problem, &run.outcome)
            });
        };
        let verdict = match fault {
            _ if run.hung => Err("it hangs\n".to_owned()),
            Fault::Kill => self.recover(turn),
            Fault::Fail(_) => self.judge_error(&run.outcome, &hit),
        };
        verdict.map_err(|problem| found(at, hit, &problem, &run.outcome))
    }

    /// After a kill.
    fn recover(&mut self, turn: usize) -> Result<(), String> {
        if self.case == Case::Check {
            return self.expect(State::Present(Wish::Usual), "a killed CHECK");
        }
        // A container that GC was told is gone is not added to as it was left.
        self.tidy_after(self.case.command());
        let ways = if self.sweep.collects { 3 } else { 2 };
        let (command, state) = match turn % ways {
            0 => ("DEL", State::Absent),
            1 => ("ADD", State::Present(self.case.wish())),
            _ => ("GC", State::Absent),
        };
        self.carry_out(command, state, &format!("{command} after the kill"))
    }

    /// A call without a fault that has to lead to a state.
    fn carry_out(&mut self, command: &str, state: State, what: &str) -> Result<(), String> {
        let outcome = self.stage.plain(&self.stage.call(command, self.case.wish()));
        if !outcome.succeeded() {
            return Err(format!("{what} fails: {}\n", outcome.said()));
        }
        self.tidy_after(command);
        if self.case == Case::First && command == "DEL" {
            // What stays until GC may be there, or not.
            let found = self.stage.snapshot();
            if !found.is_between(&self.stage.looks.absent, &self.stage.looks.deleted) {
                return Err(wrong(what, &found, &self.stage.looks.deleted));
            }
            return self.carry_out("GC", State::Absent, &format!("{what}, and GC"));
        }
        self.expect(state, what)
    }

    fn expect(&mut self, state: State, what: &str) -> Result<(), String> {
        let found = self.stage.snapshot();
        let wanted = self.stage.look_of(state);
        if found != *wanted {
            return Err(wrong(what, &found, wanted));
        }
        (self.stage.at, self.stage.seen) = (Some(state), true);
        Ok(())
    }

    fn judge_error(&mut self, outcome: &Outcome, hit: &Hit) -> Result<(), String> {
        let told = outcome.tells_how_it_ended(self.case.command());
        if outcome.succeeded() {
            told?;
            self.overcome += 1;
            self.tidy_after(self.case.command());
            return self.expect(self.end(), "success that is told");
        }
        if hit.about.ends_with("/stdout") {
            // Nobody can be told: the runtime takes it for a failure, and calls DEL.
            if outcome.status != Some(1) {
                return Err("it does not exit with 1\n".into());
            }
            return match self.case {
                Case::Check => self.expect(self.end(), "CHECK"),
                _ => self.carry_out("DEL", State::Absent, "DEL after the failure"),
            };
        }
        let code = told?;
        if let Some(passes) = hit.passes
            && passes != (code == Some(TRY_AGAIN))
        {
            let wanted = if passes { "is not 11, though" } else { "is 11, though no" };
            return Err(format!("the code {wanted} trying again helps\n"));
        }
        if self.case == Case::Check && code == Some(CHECK_FAILED) {
            return Err("CHECK claims that something is not as ADD made it\n".into());
        }
        let found = self.stage.snapshot();
        let start = self.start();
        if found == *self.stage.look_of(start) {
            (self.stage.at, self.stage.seen) = (Some(start), true);
            return Ok(());
        }
        match self.case {
            // Something of what all share may have been made already.
            Case::First
                if found.is_between(&self.stage.looks.absent, &self.stage.looks.deleted) =>
            {
                self.carry_out("GC", State::Absent, "GC after the failure")
            }
            Case::Del | Case::Gc => {
                let end = self.stage.look_of(State::Absent);
                if !found.is_between(self.stage.look_of(start), end) {
                    return Err(wrong("after a failure", &found, self.stage.look_of(start)));
                }
                self.halfway += 1;
                self.carry_out(self.case.command(), State::Absent, "once more after the failure")
            }
            _ => Err(wrong("after a failure", &found, self.stage.look_of(start))),
        }
    }

    /// Prints the numbers and what was found, and fails for what is not known.
    #[track_caller]
    pub(super) fn conclude(self, known: &[Known], tried_all: bool) {
        let Sweep { plugin, backend, every, .. } = *self.sweep;
        let is_of_this = |known: &&Known| {
            (known.plugin, known.backend, known.case) == (plugin, backend, self.case)
        };
        let (mut unknown, mut outdated): (Vec<&Found>, Vec<&Known>) =
            (self.found.iter().collect(), Vec::new());
        for known in known.iter().filter(is_of_this) {
            let (like_it, others): (Vec<&Found>, Vec<&Found>) =
                unknown.iter().partition(|found| found.problem.contains(known.words));
            // Where not all calls are tried, none may have been among them by chance.
            if like_it.is_empty() && tried_all {
                outdated.push(known);
            }
            if like_it.len() <= known.at_most * if tried_all { every } else { 1 } {
                unknown = others;
            }
        }
        for found in &unknown {
            println!("NEW {found}");
        }
        let new = unknown.len();
        self.tell(self.found.len() - new);
        assert!(outdated.is_empty(), "no more there, take it off the list: {outdated:#?}");
        assert_eq!(new, 0, "new faults of {plugin} {backend} {}", self.case);
    }

    /// Prints the numbers.
    pub(super) fn tell(&self, known: usize) {
        let Sweep { plugin, backend, .. } = self.sweep;
        let tried = self.kills + self.errors;
        let each =
            self.begun.elapsed().as_millis() / u128::try_from(tried.max(1)).expect("a count");
        println!(
            "\nfaults| {plugin} | {backend} | {} | {} | {} | {} | {} | {} | {known} | {each} ms",
            self.case,
            self.kills,
            self.errors,
            self.overcome,
            self.halfway,
            self.found.len(),
        );
    }
}

fn found(number: usize, hit: Hit, problem: &str, outcome: &Outcome) -> Found {
    let problem = format!("{problem}      it said: {}", outcome.said());
    Found { number, hit, problem }
}

fn wrong(what: &str, found: &Snapshot, wanted: &Snapshot) -> String {
    let difference: Difference = found.difference_from(wanted);
    format!("{what}, this is not as it should be:\n{difference}")
}
