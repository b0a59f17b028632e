//! One call with many mappings: all implementations take turns, as long as they are quick enough.

use std::time::{Duration, Instant};

use cni_testbox::Call;

use super::{Series, Setup, number};
use crate::memory;
use crate::subject::Subject;

const SCENE: &str = "mappings";
const LEVELS: [usize; 4] = [1, 100, 1_000, 10_000];
const COMMANDS: [&str; 3] = ["ADD", "CHECK", "DEL"];
/// Ten times as many mappings take the Go plugin more than ten times as long.
const GROWTH: u32 = 20;

pub(super) fn run(setup: &Setup) -> Result<(), String> {
    let subjects = Subject::all(setup, SCENE, "portmap", 0);
    let mut left: Vec<&Subject> = subjects.iter().collect();
    for (place, level) in LEVELS.into_iter().enumerate() {
        let mut all: Vec<Many<'_>> = left.iter().map(|subject| Many::new(subject, level)).collect();
        let start = Instant::now();
        for _ in 0..setup.rounds(10, 2) {
            for many in &mut all {
                many.round()?;
            }
            // One round has to do where it takes long.
            if start.elapsed() > setup.patience() {
                break;
            }
        }
        left.clear();
        for many in &all {
            many.tell(level);
            if many.slowest * GROWTH < setup.patience() {
                left.push(many.subject);
            } else if let Some(next) = LEVELS.get(place + 1) {
                let seconds = many.slowest.as_secs_f64();
                let of = many.subject.of(SCENE).at(*next);
                of.note(&format!("not measured: a call with {level} took {seconds:.1} s"));
            }
        }
    }
    Ok(())
}

struct Many<'a> {
    subject: &'a Subject,
    call: Call,
    series: [Series; COMMANDS.len()],
    slowest: Duration,
}

impl<'a> Many<'a> {
    fn new(subject: &'a Subject, level: usize) -> Self {
        let call = subject.attachment(0).with_mappings(subject.backend, level);
        Self { subject, call, series: Default::default(), slowest: Duration::ZERO }
    }

    fn round(&mut self) -> Result<(), String> {
        let Self { subject, call, series, slowest } = self;
        for (command, series) in COMMANDS.iter().zip(series) {
            match subject.host.inside(|| call.cost(&subject.program, command)) {
                Ok((cost, _)) => {
                    *slowest = cost.wall.max(*slowest);
                    series.push(cost);
                }
                // The scene of all calls tells why.
                Err(_) if *command == "CHECK" => {}
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }

    fn tell(&self, level: usize) {
        let Self { subject, call, series, .. } = self;
        let of = subject.of(SCENE).at(level);
        for (command, series) in COMMANDS.iter().zip(series) {
            if !series.0.is_empty() {
                series.tell(&of.command(command));
            }
        }
        for command in ["ADD", "DEL"] {
            let peak = subject.host.inside(|| memory::peak(call, &subject.program, command));
            of.command(command).tell("memory", &[number(usize::try_from(peak).expect("KiB"))]);
        }
    }
}
