//! What README.md shows: one plot, and three numbers.

use crate::compared::{BOTH, go, ours, times};
use crate::many::ATTACHMENTS;
use crate::record::{GO, PLUGINS, Record};
use crate::spread::{Spread, ratio, short};
use crate::table::{thousands, wrapped};

/// Its section is replaced, up to the next one.
const HEADING: &str = "## What it costs\n";

pub(crate) fn with(readme: &str, record: &Record) -> Result<String, String> {
    let start = readme.find(HEADING).ok_or("README.md has no section \"What it costs\"")?;
    let body = start + HEADING.len();
    let end = readme[body..].find("\n## ").ok_or("README.md ends with what it costs")? + body;
    Ok(format!("{}\n{}{}", &readme[..body], section(record)?, &readme[end..]))
}

fn section(record: &Record) -> Result<String, String> {
    let numbers = [less(record), chain(record), beside(record)];
    let numbers: Option<Vec<String>> = numbers.into_iter().collect();
    let numbers = numbers.ok_or("this record has not all that README.md shows: run all scenes")?;
    let lines: String = numbers.iter().map(|line| wrapped(&format!("- {line}"))).collect();
    let last = wrapped(
        "[Performance](docs/performance.md) has every call on every backend, beside the least that it can cost here, \
         and what is measured how.",
    );
    Ok(format!(
        "![CPU time of ADD and DEL: the floor, ours, and Debian's Go plugins](docs/performance/costs.svg)\n\n{lines}\n{last}"
    ))
}

fn less(record: &Record) -> Option<String> {
    let parts: Option<Vec<String>> = PLUGINS
        .iter()
        .map(|plugin| {
            let mine = ours("calls", plugin).command(BOTH);
            let ratio = times(record, go("calls", plugin).command(BOTH), mine, "cpu")?;
            Some(format!("{plugin} {}", short(ratio.middle)))
        })
        .collect();
    let go = record.label(GO);
    Some(format!(
        "ADD and DEL of a dual-stack container: {go} takes so many times as much CPU time: {}.",
        parts?.join(", ")
    ))
}

fn chain(record: &Record) -> Option<String> {
    let wall = |by, command| {
        let of = ours("chain", "").by(by, "").command(command);
        Some(short(Spread::of(record.values(of, "wall"))?.middle * 1e-3))
    };
    Some(format!(
        "A pod's whole chain takes {} ms of wall time for ADD and {} ms for DEL, where {} takes {} and {} ms.",
        wall("ours", "ADD")?,
        wall("ours", "DEL")?,
        record.label(GO),
        wall(GO, "ADD")?,
        wall(GO, "DEL")?
    ))
}

fn beside(record: &Record) -> Option<String> {
    let of = |level| ours("attachments", "portmap").at(level).command("ADD");
    let at = |level| record.values(of(level), "cpu");
    // Where a machine did not get to the last.
    let most = ATTACHMENTS.into_iter().rfind(|level| *level > 0 && !at(*level).is_empty())?;
    let ratio = ratio(at(most), at(0))?;
    Some(format!(
        "portmap's ADD beside {} other attachments takes {} times the CPU time that it takes alone.",
        thousands(most),
        short(ratio.middle)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::line;

    #[test]
    fn the_section_is_replaced() {
        let mut text = String::new();
        for plugin in PLUGINS {
            for command in ["ADD", "DEL"] {
                text += &line(ours("calls", plugin).command(command), "cpu", &[1000.0]);
                text += &line(go("calls", plugin).command(command), "cpu", &[30_000.0]);
            }
        }
        for (command, wall) in [("ADD", 4000.0), ("DEL", 40_000.0)] {
            text += &line(ours("chain", "").command(command), "wall", &[wall]);
            text += &line(go("chain", "").command(command), "wall", &[wall * 10.0]);
        }
        for (level, cpu) in [(0, 1000.0), (1000, 1500.0)] {
            text += &line(ours("attachments", "portmap").at(level).command("ADD"), "cpu", &[cpu]);
        }
        let record = Record::read(&text).expect("lines");
        let readme = format!("before\n\n{HEADING}\nold\n\n## After\nend\n");
        let shown = with(&readme, &record).expect("all is there");
        for part in [
            "portmap 30.0, firewall 30.0",
            "takes 4.00 ms of wall time for ADD and 40.0 ms",
            "1,000 other attachments takes 1.50 times",
            "](docs/performance/costs.svg)",
        ] {
            assert!(
                shown.split_whitespace().collect::<Vec<_>>().join(" ").contains(part),
                "{part}: {shown}"
            );
        }
        assert!(!shown.contains("old") && shown.ends_with("\n\n## After\nend\n"), "{shown}");
        assert_eq!(with(&shown, &record).as_ref(), Ok(&shown));
        assert!(with(&readme, &Record::default()).is_err());
    }
}
