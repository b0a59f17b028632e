//! The guide and the troubleshooting page, run from top to bottom: each command as it stands there, each
//! answer compared.
//!
//! Blocks `sh` are run and must succeed; blocks `console` are commands behind `$`, each with what it prints,
//! where `…` stands for anything, on a line of its own for any lines. What readers need not see is in comments:
//! `<!-- run: SCRIPT -->`, and `<!-- file: NAME -->` before the block that is its content.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cni_testbox::{TestBox, cases};

use crate::readme::{binaries, top};

cases! {
    the_guide_works, ours;
    each_symptom_is_answered, ours;
}

/// What a page has its reader do.
enum Step {
    File(String, String),
    Script(String),
    Console(String, Vec<String>),
}

fn page(name: &str) -> String {
    fs::read_to_string(top().join("docs").join(name)).expect("a page")
}

/// A block from behind its first line, and the lines that follow it.
fn block<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    lines.take_while(|line| *line != "```").collect()
}

fn json_of(name: &str) -> String {
    let text = page(name);
    let mut lines = text.lines().skip_while(|line| *line != "```json").skip(1);
    block(&mut lines).join("\n")
}

fn steps(text: &str) -> Vec<Step> {
    let (mut steps, mut file) = (Vec::new(), None);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let comment = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
        if let Some(script) = comment.and_then(|comment| comment.strip_prefix("run: ")) {
            steps.push(Step::Script(script.to_owned()));
        } else if let Some(name) = comment.and_then(|comment| comment.strip_prefix("file: ")) {
            match name.split_once(" = ") {
                Some((name, page)) => steps.push(Step::File(name.to_owned(), json_of(page))),
                None => file = Some(name.to_owned()),
            }
        } else if let Some(language) = line.strip_prefix("```") {
            let lines = block(&mut lines);
            match (language, file.take()) {
                (_, Some(name)) => steps.push(Step::File(name, lines.join("\n"))),
                ("sh", None) => steps.push(Step::Script(lines.join("\n"))),
                ("console", None) => console(&lines, &mut steps),
                _ => {}
            }
        }
    }
    steps
}

fn console(lines: &[&str], steps: &mut Vec<Step>) {
    for line in lines {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step::Console(command.to_owned(), Vec::new())),
            (None, Some(Step::Console(_, expected))) => expected.push((*line).to_owned()),
            (None, _) => panic!("no command before {line:?}"),
        }
    }
}

/// Runs a script where the page's files are; whether it succeeded, and all that it printed. Into a file, which
/// a server that stays does not keep open as it would a pipe.
fn run(script: &str) -> (bool, String) {
    const PRINTED: &str = "/run/printed";
    let out = fs::File::create(PRINTED).expect("a file");
    let both = out.try_clone().expect("a descriptor");
    let binaries = binaries();
    let path = std::env::var("PATH").expect("a path");
    let status = Command::new("bash")
        .args(["-euc", script])
        .current_dir("/run/session")
        .env("PATH", format!("{binaries}:{path}"))
        .env("CNI_PATH", format!("{binaries}:/usr/lib/cni"))
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(both)
        .status()
        .expect("bash");
    (status.success(), fs::read_to_string(PRINTED).expect("text"))
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

/// Whether lines are as expected, where a line of `…` stands for any number of them.
fn are_like(lines: &[&str], expected: &[String]) -> bool {
    let Some((first, more)) = expected.split_first() else { return lines.is_empty() };
    if first == "…" {
        return (0..=lines.len()).any(|skipped| are_like(&lines[skipped..], more));
    }
    lines.split_first().is_some_and(|(line, rest)| is_like(line, first) && are_like(rest, more))
}

fn follow(name: &str) {
    fs::create_dir("/run/session").expect("a directory");
    let steps = steps(&page(name));
    let commands = steps.iter().filter(|step| matches!(step, Step::Console(..))).count();
    assert!(commands >= 10, "{name} has {commands} commands");
    for step in steps {
        match step {
            Step::File(file, content) => {
                let path: PathBuf = Path::new("/run/session").join(file);
                fs::write(path, content).expect("a file");
            }
            Step::Script(script) => {
                let (well, printed) = run(&script);
                println!("{script}\n{printed}");
                assert!(well, "{name}: {script}: {printed}");
            }
            Step::Console(command, expected) => {
                let (_, printed) = run(&command);
                println!("$ {command}\n{printed}");
                let lines: Vec<&str> = printed.lines().filter(|line| !line.is_empty()).collect();
                let expected: Vec<String> =
                    expected.into_iter().filter(|line| !line.is_empty()).collect();
                assert!(
                    are_like(&lines, &expected),
                    "{name}: {command} printed\n{printed}\nand not\n{}",
                    expected.join("\n")
                );
            }
        }
    }
}

fn the_guide_works(_: &TestBox) {
    follow("guide.md");
}

fn each_symptom_is_answered(_: &TestBox) {
    follow("troubleshooting.md");
}
