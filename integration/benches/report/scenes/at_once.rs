//! Many calls at once, beside as many in a row.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

use cni_testbox::Call;
use cni_testbox::bench::{Cost, cost_of};

use super::{Series, Setup, each_plugin, number};
use crate::subject::{PLUGINS, Subject};

const SCENE: &str = "at once";
const MANY: usize = 64;
/// Of calls that ask to be called again.
const TURNS: usize = 20;

pub(super) fn run(setup: &Setup) -> Result<(), String> {
    let levels: &[usize] = if setup.quick { &[1, 8] } else { &[1, 8, MANY] };
    each_plugin(SCENE, &PLUGINS, |plugin| {
        let subjects = Subject::all(setup, SCENE, plugin, MANY);
        for level in levels {
            of_level(setup, &subjects, *level)?;
        }
        Ok(())
    })
}

fn of_level(setup: &Setup, subjects: &[Subject], level: usize) -> Result<(), String> {
    let mut all: Vec<Batch<'_>> =
        subjects.iter().map(|subject| Batch::new(subject, level)).collect();
    let rounds = setup.rounds(6, 1);
    let start = Instant::now();
    for round in 0..=rounds {
        for batch in &mut all {
            // The first warms up, and the Go plugins' take minutes.
            if round <= 1 || start.elapsed() < setup.patience() || batch.subject.by.is_ours() {
                batch.round(round > 0)?;
            }
        }
    }
    for batch in &all {
        batch.tell(level);
    }
    Ok(())
}

struct Batch<'a> {
    subject: &'a Subject,
    calls: Vec<Call>,
    /// In the order of [`NAMES`].
    series: [Series; NAMES.len()],
    /// Of those at once, how many were called again, and in how many rounds.
    again: [usize; 2],
    rounds: usize,
}

const NAMES: [&str; 4] = ["ADD in a row", "DEL in a row", "ADD at once", "DEL at once"];

impl<'a> Batch<'a> {
    fn new(subject: &'a Subject, level: usize) -> Self {
        let call = |number| subject.attachment(number).call(subject.plugin, subject.backend);
        let calls = (1..=level).map(call).collect();
        Self { subject, calls, series: Default::default(), again: [0; 2], rounds: 0 }
    }

    fn round(&mut self, counts: bool) -> Result<(), String> {
        let Self { subject, calls, .. } = self;
        let mut costs = Vec::new();
        for command in ["ADD", "DEL"] {
            costs.push(in_a_row(subject, calls, command)?);
        }
        subject.clean();
        for (command, again) in ["ADD", "DEL"].iter().zip(&mut self.again) {
            let (cost, more) = at_once(subject, calls, command)?;
            costs.push(cost);
            *again += more;
        }
        subject.clean();
        self.rounds += 1;
        if counts {
            self.series.iter_mut().zip(costs).for_each(|(series, cost)| series.push(cost));
        }
        Ok(())
    }

    fn tell(&self, level: usize) {
        let of = self.subject.of(SCENE).at(level);
        for (name, series) in NAMES.iter().zip(&self.series) {
            series.tell(&of.command(name));
        }
        for (name, again) in NAMES[2..].iter().zip(self.again) {
            of.command(name).tell("again", &[number(again) / number(self.rounds)]);
        }
    }
}

fn in_a_row(subject: &Subject, calls: &[Call], command: &str) -> Result<Cost, String> {
    subject.host.inside(|| {
        calls.iter().try_fold(Cost::default(), |sum, call| {
            Ok(sum + call.cost(&subject.program, command)?.0)
        })
    })
}

/// What all took, with those that had to be called again: how many.
fn at_once(subject: &Subject, calls: &[Call], command: &str) -> Result<(Cost, usize), String> {
    subject.host.inside(|| {
        let (cost, again) = cost_of(|| {
            let mut left: Vec<&Call> = calls.iter().collect();
            let mut again = 0;
            for _ in 0..TURNS {
                let started: Vec<(&Call, Child)> = left
                    .into_iter()
                    .map(|call| (call, start(call, &subject.program, command)))
                    .collect();
                let ended = started
                    .into_iter()
                    .map(|(call, mut child)| (call, child.wait().expect("wait")));
                left =
                    ended.filter(|(_, status)| !status.success()).map(|(call, _)| call).collect();
                again += left.len();
                if left.is_empty() {
                    return Ok(again);
                }
            }
            Err(format!("{} of {command} fail at once", left.len()))
        });
        Ok((cost, again?))
    })
}

fn start(call: &Call, program: &Path, command: &str) -> Child {
    let mut process = call.clone().command(command).process(program);
    process.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    call.feed(process.spawn().expect("the plugin starts"))
}
