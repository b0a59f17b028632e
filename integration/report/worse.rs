//! Where ours is worse than the Go plugins, or far above its floor: found, not chosen.

use crate::calls::{CASES, COMMANDS, name};
use crate::compared::{above_floor, go, ours, times};
use crate::many::at_once_ratio;
use crate::promises::{AT_ONCE, MOST_AT_ONCE};
use crate::record::{GO, OURS, Of, PLUGINS, Record};
use crate::spread::{Spread, ratio, short};

/// Above the floor, that is worth a line.
const ABOVE_FLOOR: f64 = 1.25;
/// What packets need differs by as much from run to run.
const NOISE: f64 = 1.06;
const QUANTITIES: [(&str, &str); 2] = [("cpu", "CPU time"), ("wall", "wall time")];

pub(crate) fn lines(record: &Record) -> Vec<String> {
    let mut lines = Vec::new();
    for (case, _) in CASES {
        for command in COMMANDS {
            calls(record, case, command, &mut lines);
        }
    }
    for command in ["ADD", "DEL"] {
        let mine = ours("chain", "").command(command);
        let theirs = go("chain", "").command(command);
        against(record, &format!("A pod's chain, {command}"), mine, theirs, &mut lines);
    }
    for plugin in PLUGINS {
        for command in ["ADD", "DEL"] {
            let of = ours("at once", plugin).at(MOST_AT_ONCE);
            if let Some(ratio) = at_once_ratio(record, of, command, "cpu").filter(above(AT_ONCE)) {
                let more = short(ratio.middle);
                lines.push(format!(
                    "{plugin}: {MOST_AT_ONCE} {command}s at once take {more} times the CPU time of as many in a row."
                ));
            }
        }
    }
    packets(record, &mut lines);
    lines
}

fn calls(record: &Record, case: &str, command: &str, lines: &mut Vec<String>) {
    let native = ours("calls", case).command(command);
    let theirs = go("calls", case).command(command);
    let what = format!("{} {command}", name(case));
    against(record, &what, native, theirs, lines);
    if native.backend != theirs.backend {
        let same = native.by(OURS, theirs.backend);
        against(record, &format!("{what} on {}", theirs.backend), same, theirs, lines);
    }
}

fn against(record: &Record, what: &str, mine: Of<'_>, theirs: Of<'_>, lines: &mut Vec<String>) {
    for (quantity, words) in QUANTITIES {
        let ratio = times(record, theirs, mine, quantity);
        if let Some(ratio) = ratio.filter(|ratio| ratio.middle < 1.0) {
            let part = short(ratio.middle);
            lines.push(format!("{what}: the Go plugin takes {part} of our {words}."));
        }
        // Where programs are run, there is none.
        if mine.backend != "iptables" {
            let ratio = above_floor(record, mine, quantity);
            if let Some(ratio) = ratio.filter(above(ABOVE_FLOOR)) {
                lines.push(format!("{what}: {} times its floor in {words}.", short(ratio.middle)));
            }
        }
    }
}

fn packets(record: &Record, lines: &mut Vec<String>) {
    let of = |by, at| Of::scene("packets").by(by, "").at(at);
    for (mine, beside) in [(of(OURS, 1), "one mapping"), (of(OURS, 10_000), "10,000 mappings")] {
        let against_go =
            |quantity| (record.values(mine, quantity), record.values(of(GO, 1), quantity));
        let (my_connects, their_connects) = against_go("connect");
        if let Some(ratio) = ratio(my_connects, their_connects).filter(above(NOISE)) {
            let more = short(ratio.middle);
            lines.push(format!(
                "A TCP connect with {beside}: {more} times the Go plugin's with one."
            ));
        }
        let (my_rate, their_rate) = against_go("packets per second");
        if let Some(ratio) = ratio(their_rate, my_rate).filter(above(NOISE)) {
            let more = short(ratio.middle);
            lines.push(format!(
                "UDP packets with {beside}: {more} times as many with the Go plugin's one."
            ));
        }
    }
}

fn above(limit: f64) -> impl Fn(&Spread) -> bool {
    move |ratio| ratio.middle > limit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::line;

    #[test]
    fn what_is_worse_is_found_and_nothing_else() {
        let mine = ours("calls", "portmap");
        let text: String = [
            line(mine.command("ADD"), "cpu", &[1000.0]),
            line(go("calls", "portmap").command("ADD"), "cpu", &[50_000.0]),
            line(mine.by(OURS, "iptables").command("DEL"), "wall", &[2000.0]),
            line(go("calls", "portmap").command("DEL"), "wall", &[1000.0]),
            line(mine.by("kernel", "").command("ADD"), "cpu", &[100.0]),
            line(mine.by("start", ""), "cpu", &[500.0]),
            line(Of::scene("packets").by(OURS, "").at(1), "connect", &[10.0]),
            line(Of::scene("packets").by(GO, "").at(1), "connect", &[9.9]),
            line(ours("at once", "tuning").at(64).command("ADD in a row"), "cpu", &[10.0]),
            line(ours("at once", "tuning").at(64).command("ADD at once"), "cpu", &[20.0]),
        ]
        .concat();
        let lines = lines(&Record::read(&text).expect("lines"));
        assert_eq!(
            lines,
            [
                "portmap ADD: 1.67 times its floor in CPU time.",
                "portmap DEL on iptables: the Go plugin takes 0.500 of our wall time.",
                "tuning: 64 ADDs at once take 2.00 times the CPU time of as many in a row.",
            ]
        );
    }
}
