//! One more attachment beside many.

use std::time::Instant;

use super::{Series, Setup};
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
    let empty = Empty::build();
    for plugin in PLUGINS {
        for subject in Subject::all(setup, SCENE, plugin, 0) {
            of_subject(setup, &subject, &empty)?;
        }
    }
    Ok(())
}

fn of_subject(setup: &Setup, subject: &Subject, empty: &Empty) -> Result<(), String> {
    let needs_interfaces = ["bandwidth", "tuning"].contains(&subject.plugin);
    let mut there = 0;
    for level in LEVELS {
        let of = subject.of(SCENE).at(level);
        if needs_interfaces && level > MOST_INTERFACES {
            of.note("not measured: it would need as many interfaces");
            return Ok(());
        }
        if needs_interfaces {
            subject.host.add_pairs(there + 1, level);
        }
        let start = Instant::now();
        while there < level {
            there += 1;
            let call = subject.attachment(there).call(subject.plugin, subject.backend);
            subject.host.inside(|| call.cost(&subject.program, "ADD"))?;
            let spent = start.elapsed();
            if spent > setup.patience() {
                of.note(&format!("not measured: making {there} took {} s", spent.as_secs()));
                return Ok(());
            }
        }
        one_more(setup, subject, level, &of, empty)?;
    }
    Ok(())
}

fn one_more(
    setup: &Setup,
    subject: &Subject,
    level: usize,
    of: &Of,
    empty: &Empty,
) -> Result<(), String> {
    let first = subject.attachment(0);
    let (plugin, backend) = (subject.plugin, subject.backend);
    let add = first.call(plugin, backend);
    let (mut after, mut gc) = (add.clone(), None);
    let mut series: [Series; COMMANDS.len()] = Default::default();
    let mut start = Series::default();
    let rounds = setup.rounds(30, 3);
    for round in 0..=rounds {
        for (command, series) in COMMANDS.iter().zip(&mut series) {
            let call = match *command {
                "ADD" => &add,
                "GC" => gc.get_or_insert_with(|| Attachment::of_network(&add, level)),
                _ => &after,
            };
            match subject.host.inside(|| call.cost(&subject.program, command)) {
                Ok((cost, said)) => {
                    if *command == "ADD" {
                        after = first.call_after(plugin, backend, &said);
                    }
                    // The first warms up.
                    if round > 0 {
                        series.push(cost);
                    }
                }
                // The scene of all commands says which of them it does not serve.
                Err(why) if ["ADD", "DEL"].contains(command) => return Err(why),
                Err(_) => {}
            }
        }
        // Of the one attachment only: the host's bucket is at `v0`.
        if plugin == "bandwidth" && !subject.by.is_ours() {
            subject.host.shell("tc qdisc del dev v0 root; tc qdisc del dev v0 ingress");
        }
        start.push(empty.cost()?);
    }
    for (command, series) in COMMANDS.iter().zip(&series).filter(|(_, series)| !series.0.is_empty())
    {
        series.tell(&of.command(command));
    }
    start.tell(&of.by("start"));
    Ok(())
}
