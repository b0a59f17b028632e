//! One more attachment beside many: all implementations make as many, and then take turns.

use std::time::Instant;

use cni_testbox::Call;

use super::calls::tell_counts;
use super::{Series, Setup, each_plugin};
use crate::attachment::Attachment;
use crate::floor::Empty;
use crate::record::Of;
use crate::subject::{PLUGINS, Subject};

const SCENE: &str = "attachments";
const LEVELS: [usize; 4] = [0, 100, 1_000, 10_000];
const COMMANDS: [&str; 4] = ["ADD", "CHECK", "GC", "DEL"];
/// Making this many pairs of veths, and IFBs, would take longer than all other measurements.
const MOST_INTERFACES: usize = 1_000;

pub(super) fn run(setup: &Setup) -> Result<(), String> {
    let empty = Empty::find();
    each_plugin(SCENE, &PLUGINS, |plugin| of_plugin(setup, plugin, &empty))
}

fn of_plugin(setup: &Setup, plugin: &'static str, empty: &Empty) -> Result<(), String> {
    let subjects = Subject::all(setup, SCENE, plugin, 0);
    let mut turns: Vec<Turn<'_>> =
        subjects.iter().map(|subject| Turn { subject, is_told: true }).collect();
    let mut there = 0;
    for level in LEVELS {
        for turn in turns.iter_mut().filter(|turn| turn.is_told) {
            if let Err(why) = fill(setup, turn.subject, there, level) {
                turn.subject.of(SCENE).at(level).note(&format!("not measured: {why}"));
                turn.is_told = false;
            }
        }
        there = level;
        if turns.iter().any(|turn| turn.is_told) {
            one_more(setup, &turns, level, empty)?;
        }
    }
    Ok(())
}

/// Who has not as many attachments as wanted goes on taking its turn, and is not told of: what runs between two calls
/// decides what is left in the processor's caches, and the levels are to differ in the number of attachments alone.
struct Turn<'a> {
    subject: &'a Subject,
    is_told: bool,
}

/// Makes attachments until there are so many.
fn fill(setup: &Setup, subject: &Subject, there: usize, level: usize) -> Result<(), String> {
    if ["bandwidth", "tuning"].contains(&subject.plugin) {
        if level > MOST_INTERFACES {
            return Err("it would need as many interfaces".into());
        }
        subject.host.add_pairs(there + 1, level);
    }
    let start = Instant::now();
    for number in there + 1..=level {
        let call = subject.attachment(number).call(subject.plugin, subject.backend);
        subject.host.inside(|| call.cost(&subject.program, "ADD"))?;
        let spent = start.elapsed();
        if spent > setup.patience() {
            let made = number - there;
            return Err(format!("making {made} of {} took {} s", level - there, spent.as_secs()));
        }
    }
    Ok(())
}

fn one_more(setup: &Setup, turns: &[Turn<'_>], level: usize, empty: &Empty) -> Result<(), String> {
    let mut all: Vec<Beside<'_>> =
        turns.iter().map(|turn| Beside::new(turn.subject, level)).collect();
    let mut start = Series::default();
    for round in 0..=setup.rounds(30, 3) {
        for beside in &mut all {
            // The first warms up.
            beside.round(round > 0)?;
        }
        start.push(empty.cost()?);
    }
    for (beside, _) in all.iter().zip(turns).filter(|(_, turn)| turn.is_told) {
        beside.tell(level)?;
    }
    if let Some(beside) = all.first() {
        let plugin = beside.subject.plugin.into();
        start.tell(&Of { scene: SCENE, plugin, at: level, by: "start".into(), ..Of::default() });
    }
    Ok(())
}

struct Beside<'a> {
    subject: &'a Subject,
    add: Call,
    /// With what ADD returned.
    after: Call,
    gc: Call,
    series: [Series; COMMANDS.len()],
}

impl<'a> Beside<'a> {
    fn new(subject: &'a Subject, level: usize) -> Self {
        let add = subject.attachment(0).call(subject.plugin, subject.backend);
        let gc = Attachment::of_network(&add, level);
        Self { subject, after: add.clone(), add, gc, series: Default::default() }
    }

    fn call(&self, command: &str) -> &Call {
        match command {
            "ADD" => &self.add,
            "GC" => &self.gc,
            _ => &self.after,
        }
    }

    fn round(&mut self, counts: bool) -> Result<(), String> {
        let subject = self.subject;
        for (index, command) in COMMANDS.into_iter().enumerate() {
            let call = self.call(command);
            match subject.host.inside(|| call.cost(&subject.program, command)) {
                Ok((cost, said)) => {
                    if command == "ADD" {
                        let first = subject.attachment(0);
                        self.after = first.call_after(subject.plugin, subject.backend, &said);
                    }
                    if counts {
                        self.series[index].push(cost);
                    }
                }
                // The scene of all commands says which of them it does not serve.
                Err(why) if ["ADD", "DEL"].contains(&command) => return Err(why),
                Err(_) => {}
            }
        }
        subject.clean_first();
        Ok(())
    }

    fn tell(&self, level: usize) -> Result<(), String> {
        let of = self.subject.of(SCENE).at(level);
        let mut calls = Vec::new();
        for (command, series) in COMMANDS.iter().zip(&self.series) {
            if !series.0.is_empty() {
                series.tell(&of.command(command));
                calls.push((*command, self.call(command)));
            }
        }
        tell_counts(self.subject, &of, &calls)
    }
}
