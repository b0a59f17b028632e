//! The table of one runtime: what was run, with which backend, on which versions.

use std::collections::{BTreeMap, BTreeSet};

use crate::holes::Holes;
use crate::line::Line;
use crate::page::HOLES;

/// Those that are usual come first, in this order.
const BACKENDS: [&str; 3] = ["nftables", "iptables-nft", "iptables-legacy"];

pub(crate) struct Table<'a> {
    runtime: &'a str,
    versions: BTreeSet<Version<'a>>,
    backends: BTreeSet<(usize, &'a str)>,
    /// By plugin and what was run.
    rows: BTreeMap<(&'a str, &'a str), Results<'a>>,
}

/// What came out, by backend and version.
type Results<'a> = BTreeMap<(&'a str, Version<'a>), &'a str>;

/// In the order of its numbers.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Version<'a>((u32, u32), &'a str);

impl<'a> Version<'a> {
    fn of(text: &'a str) -> Self {
        let numbers = text.trim_start_matches(|c: char| !c.is_ascii_digit()).split('.');
        let mut numbers = numbers.map(|number| number.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Self((next(), next()), text)
    }
}

pub(crate) fn place(backend: &str) -> usize {
    BACKENDS.iter().position(|known| *known == backend).unwrap_or(BACKENDS.len())
}

/// A table for each runtime: first that with which most was run.
pub(crate) fn tables<'a>(lines: &[&'a Line]) -> Vec<Table<'a>> {
    let mut tables: BTreeMap<&str, Table<'a>> = BTreeMap::new();
    for line in lines {
        let table = tables.entry(&line.runtime).or_insert_with(|| Table::of(&line.runtime));
        table.add(line);
    }
    let mut tables: Vec<_> = tables.into_values().collect();
    tables.sort_by_key(|table| std::cmp::Reverse(table.cases()));
    tables
}

impl<'a> Table<'a> {
    fn of(runtime: &'a str) -> Self {
        let (versions, backends) = (BTreeSet::new(), BTreeSet::new());
        Self { runtime, versions, backends, rows: BTreeMap::new() }
    }

    fn add(&mut self, line: &'a Line) {
        let version = Version::of(&line.version);
        self.versions.insert(version);
        self.backends.insert((place(&line.backend), &line.backend));
        let row = self.rows.entry((&line.plugin, &line.what)).or_default();
        row.insert((&line.backend, version), &line.result);
    }

    fn cases(&self) -> usize {
        self.rows.values().map(BTreeMap::len).sum()
    }

    fn backends(&self) -> impl Iterator<Item = &'a str> {
        self.backends.iter().map(|(_, backend)| *backend)
    }

    /// The runtime in a table of all.
    pub(crate) fn summary(&self) -> String {
        let versions = self.versions.iter().map(|version| version.1);
        let versions: Vec<&str> = versions.filter(|number| !number.is_empty()).collect();
        let backends: Vec<&str> = self.backends().collect();
        row(&[
            format!("[{}](#{})", self.runtime, anchor(self.runtime)),
            versions.join(", "),
            backends.join(", "),
            self.cases().to_string(),
        ])
    }

    /// The whole table, or the cells that are empty and should not be.
    pub(crate) fn text(&self, holes: &Holes) -> Result<String, String> {
        let mut head = vec!["plugin".to_owned(), "what".to_owned()];
        head.extend(self.backends().map(str::to_owned));
        let mut text =
            format!("## {}\n\n{}|{}\n", self.runtime, row(&head), "---|".repeat(head.len()));
        let mut unexplained = Vec::new();
        for ((plugin, what), results) in &self.rows {
            let mut cells = vec![(*plugin).to_owned(), (*what).to_owned()];
            for backend in self.backends() {
                match self.cell(what, backend, results, holes) {
                    Ok(cell) => cells.push(cell),
                    Err(missing) => unexplained.push(missing),
                }
            }
            text += &row(&cells);
        }
        if unexplained.is_empty() { Ok(text) } else { Err(unexplained.join("\n")) }
    }

    fn cell(
        &self,
        what: &str,
        backend: &'a str,
        results: &Results<'a>,
        holes: &Holes,
    ) -> Result<String, String> {
        let mut parts = Vec::new();
        for version in &self.versions {
            let Version(_, number) = version;
            parts.push(match results.get(&(backend, *version)) {
                Some(&"works") if number.is_empty() => "works".to_owned(),
                Some(&"works") => (*number).to_owned(),
                Some(result) => format!("{number}: {result}"),
                None => {
                    let hole = holes.of(self.runtime, number, backend, what);
                    let hole = hole.ok_or_else(|| {
                        format!("{}, {number}, {backend}: {what}: not seen", self.runtime)
                    })?;
                    format!("{number}: [no ({hole})](#{})", anchor(HOLES))
                }
            });
        }
        Ok(parts.join(", "))
    }
}

/// A line of a table.
pub(crate) fn row(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// What a heading is called in a link.
pub(crate) fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
