//! What a person sees of the demo: headings, remarks, tables with a verdict.

use std::io::{self, Write};

use crate::terminal::{Terminal, Tone, wrapped};

/// The longest line of a block: an old terminal has 80 columns, and blocks are indented.
const WIDTH: usize = 78;

/// Standard output.
pub(super) struct Screen {
    out: Box<dyn Write>,
    terminal: Terminal,
}

/// A row of a table and whether it is as it should be.
#[derive(Clone, Debug)]
pub(super) struct JudgedRow {
    pub(super) cells: Vec<String>,
    pub(super) ok: bool,
}

impl Screen {
    /// The process's standard output.
    pub(super) fn stdout() -> Self {
        Self { out: Box::new(io::stdout()), terminal: Terminal::stdout() }
    }

    /// A blank line and a heading.
    pub(super) fn heading(&mut self, text: &str) -> io::Result<()> {
        let text = self.terminal.paint(text, Tone::Heading);
        writeln!(self.out, "\n{text}")
    }

    /// A blank line, a heading, and a remark on it.
    pub(super) fn step(&mut self, text: &str, remark: &str) -> io::Result<()> {
        let text = self.terminal.paint(text, Tone::Heading);
        writeln!(self.out, "\n{text}  {remark}")
    }

    /// A line of its own.
    pub(super) fn line(&mut self, text: &str, tone: Tone) -> io::Result<()> {
        let text = self.terminal.paint(text, tone);
        writeln!(self.out, "{text}")
    }

    /// Indented lines.
    pub(super) fn block(&mut self, lines: &[String]) -> io::Result<()> {
        lines.iter().try_for_each(|line| writeln!(self.out, "{}", format!("  {line}").trim_end()))
    }

    /// Indented lines, those that are too long continued below.
    pub(super) fn flowing(&mut self, lines: &[String]) -> io::Result<()> {
        self.block(&lines.iter().flat_map(|line| continued(line)).collect::<Vec<_>>())
    }

    /// A blank line and what went wrong, in as many lines as it takes.
    pub(super) fn fault(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out)?;
        for line in wrapped(text, WIDTH) {
            self.line(&line, Tone::Bad)?;
        }
        Ok(())
    }

    /// A table with a verdict at the end of each row.
    pub(super) fn judged(&mut self, head: &[&str], rows: &[JudgedRow]) -> io::Result<()> {
        let head = head.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>();
        let cells: Vec<_> =
            std::iter::once(head).chain(rows.iter().map(|row| row.cells.clone())).collect();
        let mut lines = aligned(&cells).into_iter();
        self.block(lines.next().as_slice())?;
        for (line, row) in lines.zip(rows) {
            let (verdict, tone) = if row.ok { ("ok", Tone::Good) } else { ("FAILED", Tone::Bad) };
            let verdict = self.terminal.paint(verdict, tone);
            writeln!(self.out, "  {line}  {verdict}")?;
        }
        Ok(())
    }
}

/// A line with its indentation, in as many lines as it takes; those that follow stand deeper.
fn continued(line: &str) -> Vec<String> {
    const DEEPER: &str = "    ";
    let indentation = &line[..line.len() - line.trim_start().len()];
    let room = WIDTH - indentation.len() - DEEPER.len();
    if line.chars().count() <= WIDTH {
        return vec![line.to_owned()];
    }
    let parts = wrapped(line, room).into_iter().enumerate();
    parts
        .map(|(index, part)| {
            let deeper = if index == 0 { "" } else { DEEPER };
            format!("{indentation}{deeper}{part}")
        })
        .collect()
}

/// Pads every cell to its column's width.
pub(super) fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_go_on_below() {
        let line = format!("  {}", "word ".repeat(30).trim_end());
        let lines = continued(&line);
        assert!(lines.len() > 1 && lines.iter().all(|line| line.len() <= WIDTH), "{lines:#?}");
        assert!(lines[0].starts_with("  word") && lines[1].starts_with("      word"), "{lines:#?}");
        assert_eq!(continued("  short"), ["  short"]);
    }

    #[test]
    fn columns_line_up_by_characters() {
        let rows =
            [vec!["a".into(), "→→".into(), "x".into()], vec!["bbb".into(), "c".into(), "y".into()]];
        assert_eq!(aligned(&rows), ["a    →→  x", "bbb  c   y"]);
        assert!(aligned(&[]).is_empty());
    }
}
