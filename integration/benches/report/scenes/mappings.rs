//! One call with many mappings.

use std::time::{Duration, Instant};

use super::{Series, Setup, number};
use crate::memory;
use crate::subject::Subject;

const SCENE: &str = "mappings";
const LEVELS: [usize; 4] = [1, 100, 1_000, 10_000];
const COMMANDS: [&str; 3] = ["ADD", "CHECK", "DEL"];

pub(super) fn run(setup: &Setup) -> Result<(), String> {
    for subject in Subject::all(setup, SCENE, "portmap", 0) {
        let mut slowest = Duration::ZERO;
        for level in LEVELS {
            let of = subject.of(SCENE).at(level);
            // Ten times as many take the Go plugin more than ten times as long.
            if slowest * 20 > setup.patience() {
                of.note(&format!("not measured: {} s for a tenth of them", slowest.as_secs()));
                break;
            }
            let call = subject.attachment(0).with_mappings(subject.backend, level);
            let mut series: [Series; COMMANDS.len()] = Default::default();
            let start = Instant::now();
            for _ in 0..setup.rounds(10, 2) {
                for (command, series) in COMMANDS.iter().zip(&mut series) {
                    match subject.host.inside(|| call.cost(&subject.program, command)) {
                        Ok((cost, _)) => {
                            slowest = slowest.max(cost.wall);
                            series.push(cost);
                        }
                        // The scene of all calls tells why.
                        Err(_) if *command == "CHECK" => {}
                        Err(why) => return Err(why),
                    }
                }
                // One round has to do where it takes long.
                if start.elapsed() > setup.patience() / 4 {
                    break;
                }
            }
            for (command, series) in
                COMMANDS.iter().zip(&series).filter(|(_, all)| !all.0.is_empty())
            {
                series.tell(&of.command(command));
            }
            for command in ["ADD", "DEL"] {
                let peak = subject.host.inside(|| memory::peak(&call, &subject.program, command));
                of.command(command).tell("memory", &[number(usize::try_from(peak).expect("KiB"))]);
            }
        }
    }
    Ok(())
}
