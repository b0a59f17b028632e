//! Many attachments, many mappings, many calls at once; a pod's chain.

use crate::calls::MS;
use crate::compared::{BOTH, above_floor, floor, ours, times, values};
use crate::record::{OURS, Of, PLUGINS, Record};
use crate::spread::{Spread, ratio, short};
use crate::table::{NONE, Table, cell, thousands};

pub(crate) const ATTACHMENTS: [u64; 4] = [0, 100, 1_000, 10_000];
pub(crate) const MAPPINGS: [u64; 4] = [1, 100, 1_000, 10_000];
const ATTACHMENT_COMMANDS: [&str; 4] = ["ADD", "DEL", "CHECK", "GC"];
const AT_ONCE: [u64; 3] = [1, 8, 64];

pub(crate) fn chain(record: &Record) -> String {
    let mut table = Table::new(&[
        "by",
        ">ADD: CPU, ms",
        ">ADD: wall, ms",
        ">DEL: CPU, ms",
        ">DEL: wall, ms",
        ">CPU of both / ours",
    ]);
    let mine = ours("chain", "");
    for (by, _) in record.measured("chain", "") {
        let of = mine.by(by, "");
        let ms = |command, quantity| {
            let spread = Spread::of(record.values(of.command(command), quantity));
            cell(spread.map(|spread| spread.times(MS)))
        };
        let to_ours = times(record, of.command(BOTH), mine.command(BOTH), "cpu");
        table.row(&[
            record.label(by),
            ms("ADD", "cpu"),
            ms("ADD", "wall"),
            ms("DEL", "cpu"),
            ms("DEL", "wall"),
            if by == OURS { NONE.into() } else { cell(to_ours) },
        ]);
    }
    let ms = |command, quantity| {
        let spread = Spread::of(&floor(record, mine.command(command), quantity));
        cell(spread.map(|spread| spread.times(MS)))
    };
    let to_ours = above_floor(record, mine.command(BOTH), "cpu");
    if let Some(above) = to_ours {
        table.row(&[
            "*the floor*".into(),
            ms("ADD", "cpu"),
            ms("ADD", "wall"),
            ms("DEL", "cpu"),
            ms("DEL", "wall"),
            short(1.0 / above.middle),
        ]);
    }
    table.text()
}

/// CPU of one more attachment beside others.
pub(crate) fn attachments(record: &Record) -> String {
    levels(record, "attachments", &PLUGINS, &ATTACHMENT_COMMANDS, ATTACHMENTS)
}

/// The rest of what was seen of them, for who wants to know.
pub(crate) fn attachments_in_detail(record: &Record) -> String {
    let mut table = Table::new(&[
        "",
        "command",
        "by",
        "backend",
        ">beside",
        ">wall, ms",
        ">system calls",
        ">programs",
        ">messages",
        ">memory, MiB",
    ]);
    for plugin in PLUGINS {
        for command in ATTACHMENT_COMMANDS {
            for (by, backend) in record.measured("attachments", plugin) {
                for level in ATTACHMENTS {
                    let of = Of::scene("attachments").plugin(plugin).by(by, backend);
                    let of = of.command(command).at(level);
                    let Some(wall) = Spread::of(record.values(of, "wall")) else { continue };
                    let once = |quantity| cell(record.values(of, quantity).first());
                    let memory = record.values(of, "memory").first().map(|kib| short(kib / 1024.0));
                    table.row(&[
                        plugin.into(),
                        command.into(),
                        record.label(by),
                        backend.into(),
                        thousands(level),
                        wall.times(MS).to_string(),
                        once("system calls"),
                        once("programs"),
                        once("messages"),
                        cell(memory),
                    ]);
                }
            }
        }
    }
    let table = table.text();
    if table.is_empty() {
        return table;
    }
    format!(
        "<details>\n<summary>Wall time, system calls, programs, messages, memory</summary>\n\n{table}</details>\n\n"
    )
}

/// CPU of one call with so many mappings.
pub(crate) fn mappings(record: &Record) -> String {
    levels(record, "mappings", &["portmap"], &["ADD", "DEL", "CHECK"], MAPPINGS)
}

fn levels(
    record: &Record,
    scene: &str,
    plugins: &[&str],
    commands: &[&str],
    all: [u64; 4],
) -> String {
    let heads: Vec<String> = all.iter().map(|level| format!(">{}", thousands(*level))).collect();
    let heads: Vec<&str> = ["", "command", "by", "backend"]
        .into_iter()
        .chain(heads.iter().map(String::as_str))
        .collect();
    let mut table = Table::new(&heads);
    for plugin in plugins {
        for command in commands {
            for (by, backend) in record.measured(scene, plugin) {
                let of = Of::scene(scene).plugin(plugin).by(by, backend).command(command);
                let at = |level: &u64| Spread::of(record.values(of.at(*level), "cpu"));
                let cells: Vec<Option<Spread>> = all.iter().map(at).collect();
                if cells.iter().all(Option::is_none) {
                    continue;
                }
                let words = [(*plugin).into(), (*command).into(), record.label(by), backend.into()];
                let cells =
                    cells.into_iter().map(|spread| cell(spread.map(|spread| spread.times(MS))));
                table.row(&words.into_iter().chain(cells).collect::<Vec<_>>());
            }
        }
    }
    table.text()
}

/// The most memory that a call with many mappings had, in MiB.
pub(crate) fn mappings_memory(record: &Record) -> String {
    let most = MAPPINGS[MAPPINGS.len() - 1];
    let of = ours("mappings", "portmap").at(most).command("ADD");
    record.values(of, "memory").first().map_or_else(String::new, |kib| {
        format!(
            "ADD of {} mappings has {} MiB of memory at most.\n\n",
            thousands(most),
            short(kib / 1024.0)
        )
    })
}

/// Calls at once against the same in a row, round by round.
pub(crate) fn at_once_ratio(
    record: &Record,
    of: Of<'_>,
    command: &str,
    quantity: &str,
) -> Option<Spread> {
    let [once, row] = ["at once", "in a row"].map(|how| format!("{command} {how}"));
    ratio(record.values(of.command(&once), quantity), record.values(of.command(&row), quantity))
}

pub(crate) fn at_once(record: &Record) -> String {
    let mut table = Table::new(&[
        "",
        "by",
        "backend",
        "command",
        ">calls",
        ">CPU in a row, ms",
        ">at once, ms",
        ">ratio",
        ">wall in a row, ms",
        ">at once, ms",
        ">called again",
    ]);
    for plugin in PLUGINS {
        for (by, backend) in record.measured("at once", plugin) {
            for command in ["ADD", "DEL"] {
                for level in AT_ONCE {
                    let of = Of::scene("at once").plugin(plugin).by(by, backend).at(level);
                    let [row, once] = ["in a row", "at once"].map(|how| format!("{command} {how}"));
                    let ms = |command: &str, quantity| {
                        let spread = Spread::of(record.values(of.command(command), quantity));
                        cell(spread.map(|spread| short(spread.middle * MS)))
                    };
                    let Some(ratio) = at_once_ratio(record, of, command, "cpu") else { continue };
                    table.row(&[
                        plugin.into(),
                        record.label(by),
                        backend.into(),
                        command.into(),
                        level.to_string(),
                        ms(&row, "cpu"),
                        ms(&once, "cpu"),
                        ratio.to_string(),
                        ms(&row, "wall"),
                        ms(&once, "wall"),
                        cell(
                            record
                                .values(of.command(&once), "again")
                                .first()
                                .map(|again| short(*again)),
                        ),
                    ]);
                }
            }
        }
    }
    table.text()
}

/// ADD and DEL together, at each level, in milliseconds: for a plot.
pub(crate) fn curve(record: &Record, of: Of<'_>, levels: &[u64]) -> Vec<(usize, f64)> {
    let at = |(place, level): (usize, &u64)| {
        let spread = Spread::of(&values(record, of.at(*level).command(BOTH), "cpu"))?;
        Some((place, spread.middle * MS))
    };
    levels.iter().enumerate().filter_map(at).collect()
}
