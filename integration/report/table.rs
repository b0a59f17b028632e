//! Tables and paragraphs of markdown.

/// Where nothing was measured.
pub(crate) const NONE: &str = "–";
const COLUMNS: usize = 118;

/// A table; columns whose heading begins with `>` are numbers.
pub(crate) struct Table {
    head: String,
    rows: Vec<String>,
}

impl Table {
    pub(crate) fn new(heads: &[&str]) -> Self {
        let names: Vec<String> =
            heads.iter().map(|head| head.trim_start_matches('>').into()).collect();
        let rules = heads.iter().map(|head| if head.starts_with('>') { "--:" } else { "---" });
        let rules: Vec<&str> = rules.collect();
        Self { head: format!("{}|{}|\n", row(&names), rules.join("|")), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: &[String]) {
        self.rows.push(row(cells));
    }

    /// Nothing, if there is no row.
    pub(crate) fn text(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        format!("{}{}\n", self.head, self.rows.concat())
    }
}

fn row(cells: &[String]) -> String {
    let cells = cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " "));
    format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
}

/// What there is, or that there is nothing.
pub(crate) fn cell(value: Option<impl ToString>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

/// A paragraph in lines that fit a window; a list's lines are indented behind its `- `.
pub(crate) fn wrapped(text: &str) -> String {
    let indent = if text.starts_with("- ") { "  " } else { "" };
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split_whitespace() {
        if !line.trim().is_empty() && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines += line.trim_end();
            lines.push('\n');
            indent.clone_into(&mut line);
        }
        if !line.trim().is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines + &line + "\n"
}

/// 10000 as `10,000`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_paragraphs() {
        let mut table = Table::new(&["a", ">b"]);
        assert_eq!(table.text(), "");
        table.row(&["x|y".into(), cell(None::<u8>)]);
        assert_eq!(table.text(), "| a | b |\n|---|--:|\n| x\\|y | – |\n\n");
        let text = wrapped(&format!("- {}", "word ".repeat(60)));
        assert!(
            text.lines().count() == 3 && text.lines().all(|line| line.len() <= COLUMNS),
            "{text}"
        );
        assert!(text.lines().nth(1).expect("a second line").starts_with("  word"), "{text}");
        assert_eq!(
            [999, 1000, 10_000, 1_000_000].map(thousands),
            ["999", "1,000", "10,000", "1,000,000"]
        );
    }
}
