//! What the project wants to keep, and whether this run has seen it.

use crate::compared::{BOTH, above_floor, go, ours, times};
use crate::many::at_once_ratio;
use crate::record::{Of, PLUGINS, Record};
use crate::spread::Spread;
use crate::table::{Table, cell};

/// How many times as much CPU time Debian's Go plugin shall take for ADD and DEL.
const TIMES: [(&str, f64); 4] =
    [("portmap", 60.0), ("firewall", 32.0), ("bandwidth", 4.0), ("tuning", 4.5)];
/// Or how far above its floor ours may be.
const ABOVE_FLOOR: f64 = 1.25;
/// A chain's ADD, in microseconds.
const CHAIN: f64 = 6_000.0;
const CHAIN_DEL: f64 = 1.2;
const DEL: f64 = 2.0;
pub(crate) const AT_ONCE: f64 = 1.3;
pub(crate) const MOST_AT_ONCE: u64 = 64;

pub(crate) fn table(record: &Record) -> String {
    let mut table = Table::new(&["what", ">wanted", ">seen", ""]);
    for (plugin, wanted) in TIMES {
        let mine = ours("calls", plugin).command(BOTH);
        let other = times(record, go("calls", plugin).command(BOTH), mine, "cpu");
        let above = above_floor(record, mine, "cpu");
        if other.is_some() || above.is_some() {
            let at_floor = above.is_some_and(|above| above.middle <= ABOVE_FLOOR);
            let enough = other.is_some_and(|other| other.middle >= wanted);
            table.row(&[
                format!("{plugin}: CPU of ADD and DEL, Go / ours, or ours / floor"),
                format!("≥ {wanted}, or ≤ {ABOVE_FLOOR}"),
                format!("{}; {}", cell(other), cell(above)),
                verdict(enough || at_floor),
            ]);
        }
    }
    let mut line = |what: String, wanted: String, seen: Option<Spread>, kept: bool| {
        if let Some(seen) = seen {
            table.row(&[what, wanted, seen.to_string(), verdict(kept)]);
        }
    };
    let add = ours("chain", "").command("ADD");
    let wall = Spread::of(record.values(add, "wall"));
    let kept = wall.is_some_and(|wall| wall.middle < CHAIN);
    let what = "a pod's chain of four: wall time of ADD, ms".into();
    line(what, format!("< {}", CHAIN * 1e-3), wall.map(|wall| wall.times(1e-3)), kept);
    let mut against_floor = |what: String, of: Of<'_>, most: f64| {
        let seen = above_floor(record, of, "wall");
        line(what, format!("≤ {most}"), seen, seen.is_some_and(|seen| seen.middle <= most));
    };
    let del = ours("chain", "").command("DEL");
    against_floor("a pod's chain of four: wall time of DEL, ours / floor".into(), del, CHAIN_DEL);
    for plugin in PLUGINS {
        let of = ours("calls", plugin).command("DEL");
        against_floor(format!("{plugin}: wall time of DEL, ours / floor"), of, DEL);
    }
    for plugin in PLUGINS {
        let seen = at_once_ratio(record, ours("at once", plugin).at(MOST_AT_ONCE), "ADD", "cpu");
        let kept = seen.is_some_and(|seen| seen.middle <= AT_ONCE);
        let what = format!("{plugin}: CPU of {MOST_AT_ONCE} ADDs, at once / in a row");
        line(what, format!("≤ {AT_ONCE}"), seen, kept);
    }
    table.text()
}

fn verdict(kept: bool) -> String {
    if kept { "kept".into() } else { "**missed**".into() }
}
