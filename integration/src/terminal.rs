//! What a person sees: the width there is, colour where it can be shown, aligned tables.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

/// How text can be shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    /// Columns; `None` where nobody looks, which can take lines of any length.
    pub(crate) width: Option<usize>,
    pub(crate) colour: bool,
}

/// How a piece of text is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Heading,
    Good,
    Odd,
    Bad,
}

/// A row of a table and how it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) cells: Vec<Cell>,
    pub(crate) tone: Tone,
}

/// A cell, and what may stand for it where there is little room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    full: String,
    short: String,
}

impl Terminal {
    /// The process's standard output; colour only on a terminal whose user does not refuse it.
    /// `COLUMNS` says how wide, where it is set, else the terminal.
    pub(crate) fn stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_terminal = std::io::stdout().is_terminal();
        let asked_for = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let size = is_terminal.then(terminal_size::terminal_size).flatten();
        let size = size.map(|(terminal_size::Width(columns), _)| usize::from(columns));
        Self {
            width: asked_for.or(size).filter(|width| *width > 0),
            colour: is_terminal && !refused,
        }
    }

    pub(crate) fn paint(self, text: &str, tone: Tone) -> String {
        let code = match tone {
            Tone::Heading => "1",
            Tone::Good => "32",
            Tone::Odd => "33",
            Tone::Bad => "1;31",
            Tone::Plain => return text.to_owned(),
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Lines of text as far as they have room; what has none goes on below, indented.
    pub(crate) fn paragraph(self, text: &str) -> String {
        let Some(width) = self.width else { return text.to_owned() };
        text.lines().map(|line| folded(line, width)).collect::<Vec<_>>().join("\n")
    }

    /// Whether a table has room with all of its cells in full.
    pub(crate) fn has_room(self, rows: &[Row]) -> bool {
        let widths = widths_of(&column_texts(rows, |cell| &cell.full));
        self.width.is_none_or(|width| INDENT + total(&widths) <= width)
    }

    /// The lines of a table, indented. If it is too wide even with its cells shown short, the last
    /// column goes on below itself.
    pub(crate) fn table(self, rows: &[Row], short: bool) -> Vec<String> {
        const NARROWEST: usize = 12;
        let texts = column_texts(rows, |cell| if short { &cell.short } else { &cell.full });
        let mut widths = widths_of(&texts);
        let Some(last) = widths.len().checked_sub(1) else { return Vec::new() };
        if let Some(width) = self.width {
            let before = INDENT + total(&widths) - widths[last];
            widths[last] = widths[last].min(width.saturating_sub(before).max(NARROWEST));
        }
        let mut lines = Vec::new();
        for (row, texts) in rows.iter().zip(&texts) {
            let end = wrapped(texts.get(last).copied().unwrap_or_default(), widths[last]);
            for (index, piece) in end.iter().enumerate() {
                let mut line = " ".repeat(INDENT);
                for (text, width) in texts[..last.min(texts.len())].iter().zip(&widths) {
                    let text = if index == 0 { text } else { "" };
                    // Writing into a String cannot fail.
                    let _ = write!(line, "{text:<width$}{GAP}");
                }
                line += piece;
                lines.push(self.paint(line.trim_end(), row.tone));
            }
        }
        lines
    }
}

const INDENT: usize = 2;
const GAP: &str = "  ";

fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1)
}

fn column_texts<'a>(rows: &'a [Row], text: impl Fn(&'a Cell) -> &'a String) -> Vec<Vec<&'a str>> {
    rows.iter().map(|row| row.cells.iter().map(|cell| text(cell).as_str()).collect()).collect()
}

fn widths_of(rows: &[Vec<&str>]) -> Vec<usize> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    (0..columns).map(width).collect()
}

impl Row {
    /// A row whose cells cannot be shortened.
    pub(crate) fn of(cells: &[&str], tone: Tone) -> Self {
        Self { cells: cells.iter().map(|text| Cell::from((*text).to_owned())).collect(), tone }
    }
}

impl Cell {
    pub(crate) fn new(full: String, short: String) -> Self {
        Self { full, short }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { short: text.clone(), full: text }
    }
}

fn folded(line: &str, width: usize) -> String {
    const HANGING: usize = 4;
    if line.chars().count() <= width {
        return line.to_owned();
    }
    let text = line.trim_start();
    let indent = line.len() - text.len();
    let pieces = wrapped(text, width.saturating_sub(indent + HANGING));
    format!("{:indent$}{}", "", pieces.join(&format!("\n{:1$}", "", indent + HANGING)))
}

/// Breaks text at its spaces; a word that is too long stands alone. There is at least one line.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => word.clone_into(line),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let id = Cell::new("0123456789abcdef".to_owned(), "01234567…".to_owned());
        let row = |cells: Vec<Cell>| Row { cells, tone: Tone::Plain };
        vec![
            row(vec![
                "port".to_owned().into(),
                "owner".to_owned().into(),
                "state".to_owned().into(),
            ]),
            row(vec!["→80".to_owned().into(), id, "in force and well".to_owned().into()]),
        ]
    }

    fn lines(width: Option<usize>) -> Vec<String> {
        let terminal = Terminal { width, colour: false };
        terminal.table(&rows(), !terminal.has_room(&rows()))
    }

    #[test]
    fn a_table_takes_the_room_that_there_is() {
        let wide =
            ["  port  owner             state", "  →80   0123456789abcdef  in force and well"];
        assert_eq!(lines(None), wide);
        assert_eq!(lines(Some(80)), wide);
        assert_eq!(
            lines(Some(40)),
            ["  port  owner      state", "  →80   01234567…  in force and well"]
        );
        assert_eq!(
            lines(Some(35)),
            [
                "  port  owner      state",
                "  →80   01234567…  in force and",
                "                   well"
            ]
        );
        assert!(Terminal { width: Some(1), colour: false }.table(&[], true).is_empty());
    }

    #[test]
    fn what_has_no_room_in_a_line_goes_on_below() {
        let paragraph = |width| Terminal { width, colour: false }.paragraph("one two three four");
        assert_eq!(paragraph(None), "one two three four");
        assert_eq!(paragraph(Some(18)), "one two three four");
        assert_eq!(paragraph(Some(17)), "one two three\n    four");
        assert_eq!(paragraph(Some(3)), "one\n    two\n    three\n    four");
        let terminal = Terminal { width: Some(15), colour: false };
        assert_eq!(terminal.paragraph("one\n  two three four"), "one\n  two three\n      four");
    }

    #[test]
    fn colour_is_a_terminals() {
        let bad = |colour| Terminal { width: None, colour }.paint("x", Tone::Bad);
        assert_eq!(bad(false), "x");
        assert_eq!(bad(true), "\x1b[1;31mx\x1b[0m");
    }

    #[test]
    fn text_breaks_at_spaces() {
        assert_eq!(wrapped("aa bb ccc ddddddd e", 5), ["aa bb", "ccc", "ddddddd", "e"]);
        assert_eq!(wrapped("", 5), [""]);
    }
}
