//! What each call takes: a table for each plugin, and the ratios.

use std::fmt::Write as _;

use crate::compared::{BOTH, above_floor, floor, kernel, ours, times, values};
use crate::record::{OURS, Of, Record};
use crate::spread::{Spread, short};
use crate::table::{Table, cell};

const SCENE: &str = "calls";
pub(crate) const COMMANDS: [&str; 6] = ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"];
pub(crate) const MS: f64 = 1e-3;

/// What is called, in the order of the page.
pub(crate) const CASES: [(&str, &str); 5] = [
    ("portmap", "A dual-stack container's TCP port."),
    (
        "portmap+udp",
        "The same port over UDP, too: an ADD and a DEL then look for flows that are stale.",
    ),
    ("firewall", "A dual-stack container's two addresses."),
    ("bandwidth", "A limit for each direction."),
    ("tuning", "Two sysctls, MAC address, MTU and promiscuous mode."),
];

pub(crate) fn text(record: &Record) -> String {
    let mut text = String::new();
    for (case, what) in CASES {
        let table = of_case(record, case);
        if !table.is_empty() {
            let _ = write!(text, "### {}\n\n{what}\n\n{table}", name(case));
        }
    }
    let ratios = ratios(record);
    if !ratios.is_empty() {
        let _ = write!(text, "### Ratios\n\n{RATIOS}{ratios}");
    }
    text
}

pub(crate) fn name(case: &str) -> String {
    case.replace("+udp", " with UDP")
}

fn of_case(record: &Record, case: &str) -> String {
    let mut table = Table::new(&[
        "command",
        "by",
        "backend",
        ">CPU, ms",
        ">wall, ms",
        ">system calls",
        ">programs",
        ">messages",
        ">memory, MiB",
    ]);
    for command in COMMANDS {
        for (by, backend) in record.measured(SCENE, case) {
            let of = Of::scene(SCENE).plugin(case).by(by, backend).command(command);
            let ms =
                |quantity| Spread::of(record.values(of, quantity)).map(|spread| spread.times(MS));
            let once = |quantity| cell(record.values(of, quantity).first());
            if let Some(cpu) = ms("cpu") {
                let memory = record.values(of, "memory").first().map(|kib| short(kib / 1024.0));
                table.row(&[
                    command.into(),
                    record.label(by),
                    backend.into(),
                    cpu.to_string(),
                    cell(ms("wall")),
                    once("system calls"),
                    once("programs"),
                    once("messages"),
                    cell(memory),
                ]);
            }
        }
        let of = Of::scene(SCENE).plugin(case).command(command);
        let ms = |quantity| Spread::of(&floor(record, of, quantity)).map(|spread| spread.times(MS));
        if let Some(cpu) = ms("cpu") {
            let words = [
                command.into(),
                "*the floor*".into(),
                String::new(),
                cpu.to_string(),
                cell(ms("wall")),
            ];
            table.row(&[&words[..], &[const { String::new() }; 4]].concat());
        }
    }
    table.text()
}

const RATIOS: &str = "\
Each is the median of the ratios of rounds, in which one was called right after the other. *Go / ours*: how many times
as much the other one takes as ours where it runs no program. *ours / floor*: the floor is an empty program's start and
the kernel's work on our messages. *ours / kernel*: without the start.

";

fn ratios(record: &Record) -> String {
    let mut table = Table::new(&["", "command", "ratio", ">CPU", ">wall"]);
    for (case, _) in CASES {
        for command in ["ADD", "DEL", BOTH] {
            let mine = ours(SCENE, case).command(command);
            for (by, backend) in
                record.measured(SCENE, case).into_iter().filter(|(by, _)| *by != OURS)
            {
                let other = mine.by(by, backend);
                let ratio = |quantity: &str| times(record, other, mine, quantity);
                let name = format!("{} on {backend} / ours", record.label(by));
                add(&mut table, case, command, &name, ratio);
            }
            add(&mut table, case, command, "ours / floor", |quantity| {
                above_floor(record, mine, quantity)
            });
            add(&mut table, case, command, "ours / kernel", |quantity| {
                crate::spread::ratio(
                    &values(record, mine, quantity),
                    &kernel(record, mine, quantity),
                )
            });
        }
    }
    table.text()
}

fn add(
    table: &mut Table,
    case: &str,
    command: &str,
    ratio: &str,
    of: impl Fn(&str) -> Option<Spread>,
) {
    let (cpu, wall) = (of("cpu"), of("wall"));
    if cpu.is_some() || wall.is_some() {
        table.row(&[name(case), command.into(), ratio.into(), cell(cpu), cell(wall)]);
    }
}
