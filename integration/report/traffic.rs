//! What packets notice.

use crate::record::{Of, Record};
use crate::spread::{Spread, ratio, short};
use crate::table::{NONE, Table, cell, thousands};

const NO_MAPPING: &str = "no mapping";

pub(crate) fn packets(record: &Record) -> String {
    let mut table = Table::new(&[
        "through a port of",
        ">mappings",
        ">TCP connect, µs",
        ">without a mapping: times",
        ">UDP packets per second",
        ">without a mapping: times",
    ]);
    let none = Of::scene("packets").by(NO_MAPPING, "");
    for (by, at) in ways(record) {
        let of = Of::scene("packets").by(by, "").at(at);
        let to_none = |quantity| {
            let ratio = ratio(record.values(of, quantity), record.values(none, quantity));
            if by == NO_MAPPING { NONE.into() } else { cell(ratio) }
        };
        let spread = |quantity| Spread::of(record.values(of, quantity));
        let rate = spread("packets per second").map(|rate| {
            let [low, middle, high] = [rate.low, rate.middle, rate.high].map(whole);
            format!("{middle} ({low}–{high})")
        });
        table.row(&[
            record.label(by),
            thousands(at),
            cell(spread("connect")),
            to_none("connect"),
            cell(rate),
            to_none("packets per second"),
        ]);
    }
    table.text()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate of packets")]
fn whole(rate: f64) -> String {
    thousands(rate.round() as u64)
}

fn ways(record: &Record) -> Vec<(&str, u64)> {
    let mut ways = Vec::new();
    for (by, _) in record.measured("packets", "") {
        for at in [0, 1, 10_000] {
            if !record.values(Of::scene("packets").by(by, "").at(at), "connect").is_empty() {
                ways.push((by, at));
            }
        }
    }
    ways
}

pub(crate) fn limits(record: &Record) -> String {
    let mut table = Table::new(&[
        "flow",
        ">limit, Mbit/s",
        "burst",
        "by",
        ">least in 2 s",
        ">most in 2 s",
        ">ping meanwhile, ms",
    ]);
    for flow in ["TCP in", "TCP out"] {
        for at in [10, 100] {
            for burst in ["placeholder", "60 ms"] {
                for (by, _) in
                    record.measured("limits", flow).into_iter().filter(|(_, one)| *one == burst)
                {
                    let of = Of::scene("limits").plugin(flow).by(by, burst).at(at);
                    let one = |quantity| {
                        cell(record.values(of, quantity).first().map(|value| short(*value)))
                    };
                    if record.values(of, "most").is_empty() {
                        continue;
                    }
                    table.row(&[
                        flow.into(),
                        at.to_string(),
                        burst.into(),
                        record.label(by),
                        one("least"),
                        one("most"),
                        one("ping"),
                    ]);
                }
            }
        }
    }
    table.text()
}
