//! `compat [--write] LOG…`: docs/compatibility.md as the logs of a run show it; printed, or written together with the
//! lines of it that README.md shows.
//!
//! Tests of real runtimes print lines `compat| runtime | version | kernel | backend | plugin | what | result` for what
//! they have seen. `elsewhere.txt` keeps such lines of runs that are made on request, `holes.toml` why something is
//! not there. A hole without a reason is an error.

mod holes;
mod line;
mod networks;
mod page;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use holes::Holes;
use page::{Page, in_readme};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.split_first() {
        Some((first, logs)) if first == "--write" => made(logs).and_then(|page| write(&page)),
        _ => made(&words).map(|page| print!("{page}")),
    };
    if let Err(error) = done {
        eprintln!("compat: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn made(logs: &[String]) -> Result<String, String> {
    let mut lines = Vec::new();
    for log in logs {
        let seen = line::all(&text_of(Path::new(log))?);
        let seen = seen.map_err(|error| format!("{log}: {error}"))?;
        if seen.is_empty() {
            return Err(format!(
                "{log} has no line of what was seen; of tests, cargo-nextest shows it"
            ));
        }
        lines.extend(seen);
    }
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("compat");
    let elsewhere = line::runs(&text_of(&data.join("elsewhere.txt"))?);
    let elsewhere = elsewhere.map_err(|error| format!("elsewhere.txt: {error}"))?;
    let holes = Holes::read(&text_of(&data.join("holes.toml"))?);
    let holes = holes.map_err(|error| format!("holes.toml: {error}"))?;
    Page { lines: &lines, elsewhere: &elsewhere, holes: &holes, written: &when_and_where() }.text()
}

/// The page, and what README.md shows of it.
fn write(page: &str) -> Result<(), String> {
    let readme = top().join("README.md");
    let shown = in_readme(&text_of(&readme)?, page)?;
    for (path, text) in [(top().join("docs/compatibility.md"), page), (readme, &shown)] {
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn text_of(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn when_and_where() -> String {
    let said = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().expect("a program of every host");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    format!("on {}, on Linux {}", said("date", "+%F"), line::number(&said("uname", "-r")))
}
