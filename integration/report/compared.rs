//! What a floor is, and what is told by ratios.

use crate::record::{GO, OURS, Of, Record, native};
use crate::spread::{Spread, ratio, sum};

/// ADD and DEL of a scene, together.
pub(crate) const BOTH: &str = "ADD+DEL";

/// The values of a command, or of ADD and DEL of the same round together.
pub(crate) fn values(record: &Record, of: Of<'_>, quantity: &str) -> Vec<f64> {
    if of.command == BOTH {
        let [add, del] = ["ADD", "DEL"].map(|command| record.values(of.command(command), quantity));
        return sum(&[add, del]);
    }
    record.values(of, quantity).to_vec()
}

/// What a command cannot take less than: the kernel's work on its messages, and starting an empty program.
pub(crate) fn floor(record: &Record, of: Of<'_>, quantity: &str) -> Vec<f64> {
    let kernel = kernel(record, of, quantity);
    let start = if of.scene == "chain" {
        // Four of them, as the bench added them up.
        values(record, of.by("start", ""), quantity)
    } else {
        let start = record.values(of.by("start", "").command(""), quantity);
        if of.command == BOTH { sum(&[start, start]) } else { start.to_vec() }
    };
    sum(&[&kernel, &start])
}

/// The kernel's work on a command's messages, without a process.
pub(crate) fn kernel(record: &Record, of: Of<'_>, quantity: &str) -> Vec<f64> {
    values(record, of.by("kernel", ""), quantity)
}

/// Ours, where it runs no program.
pub(crate) fn ours<'a>(scene: &'a str, plugin: &'a str) -> Of<'a> {
    let backend = if scene == "chain" { "" } else { native(plugin) };
    Of::scene(scene).plugin(plugin).by(OURS, backend)
}

/// Debian's, on the backend that it has.
pub(crate) fn go<'a>(scene: &'a str, plugin: &'a str) -> Of<'a> {
    let backend = match (scene, native(plugin)) {
        ("chain", _) => "",
        (_, "nftables") => "iptables",
        (_, other) => other,
    };
    Of::scene(scene).plugin(plugin).by(GO, backend)
}

/// How many times as much another one takes.
pub(crate) fn times(
    record: &Record,
    above: Of<'_>,
    below: Of<'_>,
    quantity: &str,
) -> Option<Spread> {
    ratio(&values(record, above, quantity), &values(record, below, quantity))
}

/// How many times its floor ours takes.
pub(crate) fn above_floor(record: &Record, of: Of<'_>, quantity: &str) -> Option<Spread> {
    ratio(&values(record, of, quantity), &floor(record, of, quantity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::line;

    #[test]
    fn a_floor_is_starts_and_messages_of_the_same_rounds() {
        let of = ours("calls", "tuning");
        let kernel = of.by("kernel", "");
        let text = [
            line(of.by("start", ""), "cpu", &[100.0, 200.0]),
            line(kernel.command("ADD"), "cpu", &[10.0, 20.0]),
            line(kernel.command("DEL"), "cpu", &[1.0, 2.0]),
            line(of.command("ADD"), "cpu", &[220.0, 440.0]),
            line(of.command("DEL"), "cpu", &[202.0, 404.0]),
        ];
        let record = Record::read(&text.concat()).expect("lines");
        assert_eq!(floor(&record, of.command("ADD"), "cpu"), [110.0, 220.0]);
        assert_eq!(floor(&record, of.command(BOTH), "cpu"), [211.0, 422.0]);
        let above = above_floor(&record, of.command("ADD"), "cpu").expect("measured");
        assert!((above.middle - 2.0).abs() < 1e-9, "{above}");
        assert_eq!(above_floor(&record, of.command("CHECK"), "cpu"), None);
    }
}
