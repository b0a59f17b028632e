//! The page.

use std::fmt::Write as _;

use crate::record::{GO, Record};
use crate::table::{Table, wrapped};
use crate::{calls, many, promises, traffic, worse};

pub(crate) fn text(record: &Record) -> String {
    let mut text = head(record);
    let mut section = |heading: &str, before: &str, plot: Option<(&str, &str)>, body: String| {
        if body.is_empty() {
            return;
        }
        let _ = write!(text, "## {heading}\n\n{before}");
        if let Some((file, what)) = plot {
            let _ = write!(text, "![{what}](performance/{file})\n\n");
        }
        text += &body;
    };
    section("What is wanted", WANTED, None, promises::table(record));
    section("Where it is worse", WORSE, None, worse_lines(record));
    let costs = ("costs.svg", "CPU time of ADD and DEL: the floor, ours, and Debian's Go plugins");
    section("Each call", CALLS, Some(costs), calls::text(record));
    section("A pod's chain of four", CHAIN, None, many::chain(record));
    let plot = ("attachments.svg", "CPU time of ADD and DEL beside other attachments");
    section(
        "Beside other attachments",
        ATTACHMENTS,
        Some(plot),
        many::attachments(record) + &many::attachments_in_detail(record),
    );
    let plot = ("mappings.svg", "CPU time of ADD and DEL with many mappings");
    let body = many::mappings(record) + &many::mappings_memory(record);
    section("Many mappings in one call", MAPPINGS, Some(plot), body);
    section("Calls at once", AT_ONCE, None, many::at_once(record));
    section("Packets through a mapped port", PACKETS, None, traffic::packets(record));
    section("Limits", LIMITS, None, traffic::limits(record));
    section("Not measured", MISSING, None, missing(record));
    text += HOW;
    text
}

fn head(record: &Record) -> String {
    let fact = |name| record.fact(name);
    let quick = if fact("rounds") == "full" {
        ""
    } else {
        "**A quick run, with too few rounds to tell anything: it shows that the report works.** "
    };
    let measured = format!(
        "{quick}Written by `./dev bench --report` on {} from commit {}, on {} with {}; {}, {}. *Go* is {}, Debian's.",
        fact("date"),
        fact("commit"),
        fact("machine"),
        fact("kernel"),
        fact("nft").split(" (").next().unwrap_or_default(),
        fact("iptables"),
        record.label(GO),
    );
    format!("# Performance\n\n{HEAD}\n{}\n", wrapped(&measured))
}

fn worse_lines(record: &Record) -> String {
    let lines = worse::lines(record);
    if lines.is_empty() {
        return "Nowhere in this run.\n\n".to_owned();
    }
    let lines: String = lines.iter().map(|line| wrapped(&format!("- {line}"))).collect();
    lines + "\n"
}

fn missing(record: &Record) -> String {
    let mut table = Table::new(&["scene", "what", "why"]);
    for [scene, what, why] in record.missing() {
        let why = why.split_whitespace().collect::<Vec<_>>().join(" ").replace('`', "'");
        let short: String = why.chars().take(LONG).collect();
        let dots = if short.len() < why.len() { "…" } else { "" };
        table.row(&[scene, what, format!("`{short}{dots}`")]);
    }
    table.text()
}

/// Of an error, that is enough to know it by.
const LONG: usize = 120;

const HEAD: &str = "\
What the plugins cost, beside the Go plugins of the same names, and beside the least that a plugin can cost here. All
of one run: the implementations take turns, each on a host of its own (namespaces), so that what moves the machine
moves them all. A number is the median of the rounds; in parentheses is what half of the rounds lie between. Ratios are
taken round by round, so they hold better than the numbers.
";

const WANTED: &str = "\
The floor is what starting an empty program and the kernel's own work take: see [Each call](#each-call).

";

const WORSE: &str = "\
Where a call of ours takes more than the Go plugin's, or more than 1.25 times its floor; where calls at once take more
than 1.3 times what they take in a row; where packets take longer.

";

const CALLS: &str = "\
CPU is user and system time of the plugin and of the programs that it runs; wall time is from before the process is
made until it has been waited for. System calls, programs run and netlink messages sent are those that strace sees,
children's included; memory is the most that one process had resident.

The floor is an empty static program, started the same way, and *the kernel*: the netlink messages of our call and the
sysctls that it writes, sent and written again without a process and without a thought. Sockets are opened and closed,
because no process can keep one; who closes one of nf_tables waits until what was deleted is gone. What is replayed
leaves behind what the plugin leaves; where it does not, [Not measured](#not-measured) says so. On iptables there is no
floor: the work is that of other programs.

";

const CHAIN: &str = "\
portmap with two TCP ports, bandwidth with a limit for each direction, firewall and tuning, for a dual-stack container,
one after the other as libcni calls them; DEL in the other order. The sum of the four calls, without what a runtime does
between them. What a UDP port adds, stands in the table of portmap.

";

const ATTACHMENTS: &str = "\
CPU in milliseconds of a call for one attachment more, where so many of the plugin's are there. GC is told that all of
them are valid.

";

const MAPPINGS: &str = "\
CPU in milliseconds of one call with so many TCP ports of a dual-stack container.

";

const AT_ONCE: &str = "\
As many calls for other containers of one host: in a row, and then all of them started at once. A call that asks to be
called again (error 11), or fails because of another, is called again, as a runtime does; how many were is in the last
column. The CPU time has these in it.

";

const PACKETS: &str = "\
From a client outside of the host. Client and server are one thread on one CPU, so that what is measured is the kernel's
work on the packets. A connect passes the rules; a datagram of a flow that is known passes connection tracking only.

";

const LIMITS: &str = "\
iperf3's TCP through limits of 10 and 100 Mbit/s: the least and the most that arrived in any two seconds, as a part of
the limit, and the mean ping of the same container meanwhile. *placeholder* is the burst that runtimes send when nobody
chose one. This machine's kernel may have no `fq_codel`: what a queue for each flow does to latency is in
[bandwidth](bandwidth.md).

";

const MISSING: &str = "\
What there is no number of: commands that a version does not know or fails at, and states that take too long to make.

";

const HOW: &str = "\
## Once more

<!-- not run: it measures for a quarter of an hour -->
```sh
./dev bench --report                                    # measures, and writes this page with its plots
./dev bench --report --quick                            # a few minutes, to see that it works; into target/report
./dev bench --report --plugins HEAD=/path/to/plugins    # another directory of plugins beside
```

The measurements are in `integration/benches/report`, the page is made of their record, `target/report.jsonl`, by
`integration/report`. A quiet machine matters more than a fast one.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compared::{go, ours};
    use crate::record::tests::line;

    #[test]
    fn a_page_of_what_was_measured() {
        let (mine, theirs) = (ours("calls", "tuning"), go("calls", "tuning"));
        let text: String = [
            line(mine.command("ADD"), "cpu", &[1000.0, 1000.0]),
            line(mine.command("DEL"), "cpu", &[1000.0, 1000.0]),
            line(theirs.command("ADD"), "cpu", &[4000.0, 6000.0]),
            line(theirs.command("DEL"), "cpu", &[4000.0, 6000.0]),
            line(theirs.command("CHECK"), "cpu", &[500.0]),
            line(mine.command("CHECK"), "cpu", &[1000.0]),
            "{\"failed\":\"limits\",\"why\":\"no\\niperf3\"}\n".to_owned(),
        ]
        .concat();
        let page = super::text(&Record::read(&text).expect("lines"));
        for part in [
            "| tuning: CPU of ADD and DEL, Go / ours, or ours / floor | ≥ 4.5, or ≤ 1.25 | 5.00 (4.50–5.50); – | kept |",
            "| ADD | ours | netns | 1.00 | – |",
            "- tuning CHECK: the Go plugin takes 0.500 of our CPU time.",
            "| limits | the rest of it | `it broke off: no iperf3` |",
            "**A quick run",
        ] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        assert!(!page.contains("## Calls at once"), "nothing was measured there:\n{page}");
        let long = page.lines().find(|line| !line.starts_with('|') && line.chars().count() > 120);
        assert_eq!(long, None);
    }
}
