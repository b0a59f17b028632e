//! `report --write RECORD`: docs/performance.md with its plots, and what README.md shows of it, as the bench `report`
//! has recorded it. `report --into DIRECTORY RECORD` writes page and plots somewhere else.

mod calls;
mod compared;
mod many;
mod page;
mod plot;
mod promises;
mod readme;
mod record;
mod spread;
mod table;
mod traffic;
mod worse;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use record::Record;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match &words[..] {
        [write, record] if write == "--write" => {
            let written = read(record).and_then(|record| {
                write_page(&record, &top().join("docs"))?;
                write_readme(&record)
            });
            written.map(|()| "docs/performance.md and README.md".to_owned())
        }
        [into, directory, record] if into == "--into" => {
            let written = read(record).and_then(|record| write_page(&record, Path::new(directory)));
            written.map(|()| format!("{directory}/performance.md"))
        }
        _ => Err("usage: report --write RECORD | --into DIRECTORY RECORD".into()),
    };
    match done {
        Ok(written) => println!("written: {written}"),
        Err(error) => {
            eprintln!("report: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn read(path: &str) -> Result<Record, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let record = Record::read(&text).map_err(|error| format!("{path}: {error}"))?;
    if record.is_empty() {
        return Err(format!("{path} has no measurement: what did the bench say?"));
    }
    Ok(record)
}

/// `performance.md`, and its plots in `performance`.
fn write_page(record: &Record, directory: &Path) -> Result<(), String> {
    let plots = directory.join("performance");
    fs::create_dir_all(&plots).map_err(|error| format!("{}: {error}", plots.display()))?;
    write(&directory.join("performance.md"), &page::text(record))?;
    plot::all(record).iter().try_for_each(|(name, text)| write(&plots.join(name), text))
}

fn write_readme(record: &Record) -> Result<(), String> {
    let path = top().join("README.md");
    let readme =
        fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    write(&path, &readme::with(&readme, record)?)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}
