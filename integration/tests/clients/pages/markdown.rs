//! A page as what it has its reader do, and what it says in passing. Pure.
//!
//! Blocks `sh` are run and must succeed; blocks `console` are commands behind `$`, which `\` continues as in a
//! shell, each with what it prints, where `…` stands for anything, on a line of its own for any lines. A block `usage` is a synopsis. What readers
//! need not see is in comments: `<!-- run: SCRIPT -->`, `<!-- file: NAME -->` before the block that is its
//! content, `<!-- file: NAME = PAGE -->` for the first JSON of another page, and `<!-- not run: REASON -->`
//! before a block `sh` whose commands are only looked up. Any other block is an error: nothing would try it.

/// What a page has its reader do.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    File {
        name: String,
        content: String,
    },
    FileOfPage {
        name: String,
        page: String,
    },
    Script(String),
    Console {
        command: String,
        printed: Vec<String>,
    },
    /// Commands that cannot be run here, and why.
    LookedUp {
        script: String,
    },
    Usage(String),
    /// JSON: other cases judge what it configures.
    Json(String),
}

/// The steps of a page, in its order.
pub(super) fn steps(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let (mut file, mut not_run) = (None, false);
    let mut lines = text.lines();
    let mut before = "";
    while let Some(line) = lines.next() {
        if let Some(begun) = line.strip_prefix("<!-- ") {
            let comment = comment(begun, &mut lines);
            if let Some(script) = comment.strip_prefix("run: ") {
                steps.push(Step::Script(script.to_owned()));
            } else if let Some(name) = comment.strip_prefix("file: ") {
                match name.split_once(" = ") {
                    Some((name, page)) => {
                        steps.push(Step::FileOfPage { name: name.into(), page: page.into() });
                    }
                    None => file = Some(name.to_owned()),
                }
            } else if comment.starts_with("not run: ") {
                not_run = true;
            }
        } else if let Some(language) = line.strip_prefix("```") {
            let lines: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            let content = lines.join("\n");
            match (language, file.take(), std::mem::take(&mut not_run)) {
                (_, Some(name), false) => steps.push(Step::File { name, content }),
                ("sh", None, true) => steps.push(Step::LookedUp { script: content }),
                ("sh", None, false) => steps.push(Step::Script(content)),
                ("console", None, false) => console(&lines, &mut steps)?,
                ("usage", None, false) => steps.push(Step::Usage(content)),
                ("json", None, false) => steps.push(Step::Json(content)),
                _ => return Err(format!("nothing tries a block {language:?}: {content}")),
            }
        } else if line.starts_with("    ") && before.is_empty() {
            return Err(format!("say in which language this block is, with a fence: {line}"));
        }
        before = line;
    }
    Ok(steps)
}

/// A comment that may go on for some lines.
fn comment<'a>(begun: &str, lines: &mut impl Iterator<Item = &'a str>) -> String {
    let mut text = begun.to_owned();
    while !text.ends_with("-->") {
        let Some(line) = lines.next() else { break };
        text += "\n";
        text += line;
    }
    text.trim_end_matches("-->").trim_end().to_owned()
}

fn console(lines: &[&str], steps: &mut Vec<Step>) -> Result<(), String> {
    let first = steps.len();
    for line in lines {
        match (line.strip_prefix("$ "), steps[first..].last_mut()) {
            (Some(command), _) => {
                steps.push(Step::Console { command: command.to_owned(), printed: Vec::new() });
            }
            (None, Some(Step::Console { command, printed })) => {
                if command.ends_with('\\') && printed.is_empty() {
                    *command += "\n";
                    *command += line;
                } else {
                    printed.push((*line).to_owned());
                }
            }
            (None, _) => return Err(format!("no command before {line:?}")),
        }
    }
    Ok(())
}

/// The first JSON of a page.
pub(super) fn json(text: &str) -> Option<String> {
    let lines = text.lines().skip_while(|line| *line != "```json").skip(1);
    let block: Vec<&str> = lines.take_while(|line| *line != "```").collect();
    (!block.is_empty()).then(|| block.join("\n"))
}

/// What stands between backticks in the text, in table cells, too, with blanks as one.
pub(super) fn spans(text: &str) -> Vec<String> {
    let mut in_block = false;
    let prose = text.lines().map(|line| {
        let fence = line.starts_with("```");
        in_block ^= fence;
        if in_block || fence { "" } else { line }
    });
    let mut spans = Vec::new();
    // A span ends with its paragraph, so that a lone backtick spoils no more than that.
    for paragraph in prose.collect::<Vec<_>>().join("\n").split("\n\n") {
        let inside = paragraph.split('`').skip(1).step_by(2);
        spans.extend(
            inside.map(|span| {
                span.replace("\\|", "|").split_whitespace().collect::<Vec<_>>().join(" ")
            }),
        );
    }
    spans
}

/// The commands of a script, without what is said beside them.
pub(super) fn commands(script: &str) -> impl Iterator<Item = &str> {
    let code = script.lines().map(|line| line.split(" #").next().unwrap_or_default().trim());
    code.filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Whether lines are as expected, where a line of `…` stands for any number of them.
pub(super) fn are_like(lines: &[&str], expected: &[&str]) -> bool {
    let Some((first, more)) = expected.split_first() else { return lines.is_empty() };
    if *first == "…" {
        return (0..=lines.len()).any(|skipped| are_like(&lines[skipped..], more));
    }
    lines.split_first().is_some_and(|(line, rest)| is_like(line, first) && are_like(rest, more))
}

/// Blanks count as one: columns are as wide as what is in them.
fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_like(line: &str, expected: &str) -> bool {
    let (line, expected) = (words(line), words(expected));
    let mut parts = expected.split('…');
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    rest.is_empty() || last.is_some_and(|last| last.is_empty() || line.ends_with(last))
}

#[test]
fn a_page_is_its_steps() {
    let page = "<!-- file: a -->\n```json\n{}\n```\ntext\n<!-- run: one\ntwo -->\n```console\n$ x \\\n  y\nz\n```\n\
                <!-- not run: no systemd -->\n```sh\nsystemctl\n```\n";
    let expected = vec![
        Step::File { name: "a".into(), content: "{}".into() },
        Step::Script("one\ntwo".into()),
        Step::Console { command: "x \\\n  y".into(), printed: vec!["z".into()] },
        Step::LookedUp { script: "systemctl".into() },
    ];
    assert_eq!(steps(page), Ok(expected));
}

#[test]
fn what_nothing_tries_is_an_error() {
    for page in ["```\nx\n```\n", "```python\nx\n```\n", "text\n\n    x\n", "```console\nx\n```\n"]
    {
        assert!(steps(page).is_err(), "{page}");
    }
}

#[test]
fn spans_end_with_their_paragraph() {
    let text = "a `b\nc` | `d \\| e` `\n\n`f`\n```\n`g`\n```\n";
    assert_eq!(spans(text), ["b c", "d | e", "", "f"]);
}

#[test]
fn three_dots_stand_for_anything() {
    assert!(are_like(&["a  b", "x", "y", "c d e"], &["a b", "…", "c … e"]));
    assert!(!are_like(&["a b", "c"], &["a b"]));
    assert!(!are_like(&["a b c"], &["a … d"]));
}
