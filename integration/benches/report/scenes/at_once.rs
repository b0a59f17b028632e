//! Many calls at once, beside as many in a row.

use std::path::Path;
use std::process::{Child, Stdio};

use cni_testbox::Call;
use cni_testbox::bench::{Cost, cost_of};

use super::{Series, Setup, number};
use crate::subject::{PLUGINS, Subject};

const SCENE: &str = "at once";
const MANY: usize = 64;
/// Of calls that ask to be called again.
const TURNS: usize = 20;

pub(super) fn run(setup: &Setup) -> Result<(), String> {
    let levels: &[usize] = if setup.quick { &[1, 8] } else { &[1, 8, MANY] };
    for plugin in PLUGINS {
        for subject in Subject::all(setup, SCENE, plugin, MANY) {
            for level in levels {
                of_subject(setup, &subject, *level)?;
            }
        }
    }
    Ok(())
}

fn of_subject(setup: &Setup, subject: &Subject, level: usize) -> Result<(), String> {
    let of = subject.of(SCENE).at(level);
    let calls: Vec<Call> = (1..=level)
        .map(|number| subject.attachment(number).call(subject.plugin, subject.backend))
        .collect();
    let rounds = if subject.by.is_ours() { setup.rounds(10, 2) } else { setup.rounds(3, 1) };
    let mut series: [Series; 4] = Default::default();
    let mut again = [0; 2];
    for round in 0..=rounds {
        let mut costs = Vec::new();
        for command in ["ADD", "DEL"] {
            costs.push(in_a_row(subject, &calls, command)?);
        }
        clean(subject);
        for (command, again) in ["ADD", "DEL"].iter().zip(&mut again) {
            let (cost, more) = at_once(subject, &calls, command)?;
            costs.push(cost);
            *again += more;
        }
        clean(subject);
        if round > 0 {
            series.iter_mut().zip(costs).for_each(|(series, cost)| series.push(cost));
        }
    }
    let names = ["ADD in a row", "DEL in a row", "ADD at once", "DEL at once"];
    for (name, series) in names.iter().zip(&series) {
        series.tell(&of.command(name));
    }
    for (name, again) in names[2..].iter().zip(again) {
        of.command(name).tell("again", &[number(again) / number(rounds + 1)]);
    }
    Ok(())
}

fn clean(subject: &Subject) {
    subject.clean();
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
