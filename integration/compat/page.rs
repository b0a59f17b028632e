//! The page.

use crate::holes::{Hole, Holes};
use crate::line::{Line, Run};
use crate::networks::apart;
use crate::table::{Table, anchor, row, tables};

pub(crate) struct Page<'a> {
    pub(crate) lines: &'a [Line],
    pub(crate) elsewhere: &'a [Run],
    pub(crate) holes: &'a Holes,
    /// When and on which kernel: the line that is not compared.
    pub(crate) written: &'a str,
}

/// The heading of what is not there.
pub(crate) const HOLES: &str = "What does not work, and why";
const ELSEWHERE: &str = "Runs on request";

const HEAD: &str = "# Compatibility

What these plugins work with, as tests have seen it with real programs and real packets. CI runs them all, but
for what is marked as run on request, and fails where this page says something else.

";
const SUMMARY: &str = "| with | versions | portmap and firewall on | cases |\n|---|---|---|--:|\n";

impl Page<'_> {
    pub(crate) fn text(&self) -> Result<String, String> {
        let (networks, lines) = apart(self.lines);
        let tables = tables(&lines);
        let mut text = format!("{HEAD}{SUMMARY}");
        text.extend(tables.iter().map(Table::summary));
        text += &networks.summary();
        text += &self.below_the_summary();
        let mut unexplained = Vec::new();
        for table in &tables {
            match table.text(self.holes) {
                Ok(table) => text.extend(["\n", &table]),
                Err(missing) => unexplained.push(missing),
            }
        }
        if !unexplained.is_empty() {
            return Err(format!(
                "neither seen in this run, nor a hole with a reason in integration/compat/holes.toml:\n{}",
                unexplained.join("\n")
            ));
        }
        text += &networks.text();
        text += &self.elsewhere();
        text += &self.holes();
        Ok(text)
    }

    fn below_the_summary(&self) -> String {
        format!(
            "\nIn the tables below, a cell has the versions with which a case was seen to work. Programs are those of \
             Debian 12 and\nof Debian sid, and the kernel is the builder's, but for the table of Linux. A version's \
             third number is left out: patch\nreleases come without our doing. What cannot be there, for a reason that \
             is not ours, has the number of a line\n[at the end](#{}).\n\nWritten by `./dev compat --write` {}.\n",
            anchor(HOLES),
            self.written
        )
    }

    fn elsewhere(&self) -> String {
        if self.elsewhere.is_empty() {
            return String::new();
        }
        let of_run = |Run { date, command, lines }: &Run| {
            let of_line = |Line { runtime, version, backend, plugin, what, result }: &Line| {
                let result = if result == "works" { String::new() } else { format!(": {result}") };
                row(&[
                    format!("{runtime} {version}"),
                    plugin.clone(),
                    format!("{what}{result}"),
                    backend.clone(),
                    format!("`{command}`"),
                    date.clone(),
                ])
            };
            lines.iter().map(of_line).collect::<String>()
        };
        format!(
            "\n## {ELSEWHERE}\n\nCI does not run these, because emulated machines take long for them.\n\n\
             | on | plugin | what | backends | command | last run |\n|---|---|---|---|---|---|\n{}",
            self.elsewhere.iter().map(of_run).collect::<String>()
        )
    }

    fn holes(&self) -> String {
        let of_hole = |(number, Hole { with, what, why, .. }): (usize, &Hole)| {
            row(&[number.to_string(), with.clone(), what.clone(), why.clone()])
        };
        format!(
            "\n## {HOLES}\n\n| | with | what | why |\n|--:|---|---|---|\n{}",
            (1..).zip(self.holes.iter()).map(of_hole).collect::<String>()
        )
    }
}

/// README.md with the page's first table in the place of its own.
pub(crate) fn in_readme(readme: &str, page: &str) -> Result<String, String> {
    let shown = first_table(page).ok_or("no table on the page")?;
    let own = readme
        .find(SUMMARY)
        .and_then(|at| first_table(&readme[at..]))
        .ok_or("README.md shows no table of compatibility")?;
    Ok(readme.replace(own, &shown.replace("](#", "](docs/compatibility.md#")))
}

/// From its head to the first line that is none of it.
fn first_table(text: &str) -> Option<&str> {
    let text = &text[text.find(SUMMARY)?..];
    Some(text.find("\n\n").map_or(text, |end| &text[..=end]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::all;

    const HOLE: &str = "[[hole]]\nwith='a 2'\nwhat='no STATUS'\nwhy='[it](https://a/b#L1)'\n\
                        cells=[{runtime='a',version='2.0',what='y'}]\n";

    fn page(log: &str) -> Result<String, String> {
        let holes = Holes::read(HOLE).expect("TOML");
        let lines = all(log).expect("lines");
        Page { lines: &lines, elsewhere: &[], holes: &holes, written: "today" }.text()
    }

    const LOG: &str = "compat| a | 1.0.1 | 6 | nftables | all | x | works\n\
                       compat| a | 2.0.9 | 6 | nftables | all | x | works\n\
                       compat| a | 1.0.1 | 6 | nftables | all | y | works\n\
                       compat| b |  | 6 | iptables-nft | all | z | works\n\
                       compat| conflist of n | CNI 1.0.0 | 6 | iptables-nft | portmap | n/1.conflist | works\n\
                       compat| conflist of n | CNI 1.0.0 | 6 | nftables | portmap | n/1.conflist | works\n";

    #[test]
    fn cells_have_versions_or_a_reason() {
        let page = page(LOG).expect("nothing is missing");
        for line in [
            "| [a](#a) | 1.0, 2.0 | nftables | 3 |",
            "| all | x | 1.0, 2.0 |",
            "| all | y | 1.0, 2.0: [no (1)](#what-does-not-work-and-why) |",
            "| all | z | works |",
            "| n | n/1.conflist | portmap | 1.0 | nftables, iptables-nft |",
            "| 1 | a 2 | no STATUS | [it](https://a/b#L1) |",
        ] {
            assert!(page.lines().any(|one| one == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn a_case_that_says_nothing_is_an_error() {
        let without = LOG.replace("compat| a | 2.0.9 | 6 | nftables | all | x | works\n", "")
            + "compat| a | 2.0.9 | 6 | nftables | all | v | works\n";
        let error = page(&without).expect_err("x was not seen with 2.0");
        assert!(error.contains("a, 2.0, nftables: x: not seen"), "{error}");
    }

    #[test]
    fn readme_has_the_pages_first_table() {
        let page = page(LOG).expect("a page");
        let readme = format!("before\n\n{SUMMARY}| old |\n\nafter\n");
        let shown = in_readme(&readme, &page).expect("a table");
        assert!(shown.contains("| [a](docs/compatibility.md#a) |"), "{shown}");
        assert!(!shown.contains("old") && shown.ends_with("\n\nafter\n"), "{shown}");
        assert_eq!(in_readme(&shown, &page).as_ref(), Ok(&shown));
    }
}
