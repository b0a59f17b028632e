//! A page, run from top to bottom: each command as it stands there, each answer compared.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use cni_testbox::Implementation;

use super::lookup;
use super::markdown::{Step, are_like, commands, json, steps};
use super::{text_of, top};

const DIRECTORY: &str = "/run/session";

/// The page's directory, whose programs are found before all others.
pub(super) fn open() -> &'static Path {
    fs::create_dir_all(DIRECTORY).expect("a directory");
    Path::new(DIRECTORY)
}

/// The directory of this workspace's plugins and of the command.
fn binaries() -> String {
    let portmap = Implementation::Ours.plugin("portmap");
    portmap.parent().expect("a directory").display().to_string()
}

/// A shell's command where the page's files are, with these plugins and this command in the PATH.
pub(super) fn bash(script: &str) -> Command {
    let directory = open();
    let binaries = binaries();
    let path = std::env::var("PATH").expect("a path");
    let mut command = Command::new("bash");
    command
        .args(["-euc", script])
        .current_dir(directory)
        .env("PATH", format!("{DIRECTORY}:{binaries}:{path}"))
        .env("CNI_PATH", format!("{binaries}:/usr/lib/cni"))
        .env("PLUGINS", binaries)
        .env("CHECKOUT", top())
        .env("BASH_ENV", format!("{DIRECTORY}/.environment"))
        .stdin(Stdio::null());
    command
}

/// Runs a script; whether it succeeded, and all that it printed. Into a file, which a server that stays does not
/// keep open as it would a pipe.
fn run(script: &str) -> (bool, String) {
    const PRINTED: &str = "/run/printed";
    let out = fs::File::create(PRINTED).expect("a file");
    let both = out.try_clone().expect("a descriptor");
    let status = bash(script).stdout(out).stderr(both).status().expect("bash");
    (status.success(), fs::read_to_string(PRINTED).expect("text"))
}

/// Does what the page has its reader do.
#[track_caller]
pub(super) fn follow(page: &str) {
    let steps = steps(&text_of(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    let mut differing = Vec::new();
    for step in steps {
        match step {
            Step::File { name, content } => write(&name, &content),
            Step::FileOfPage { name, page } => {
                write(&name, &json(&text_of(&page)).expect("the page has JSON"));
            }
            Step::Script(script) => {
                let (well, printed) = run(&script);
                println!("{script}\n{printed}");
                assert!(well, "{page}: {script}: {printed}");
            }
            Step::Console { command, printed } => {
                let (_, answer) = run(&command);
                println!("$ {command}\n{answer}");
                if !is_answer(&answer, &printed) {
                    let expected = printed.join("\n");
                    differing.push(format!("{command} printed\n{answer}\nand not\n{expected}"));
                }
            }
            Step::LookedUp { script } => commands(&script).for_each(|c| lookup::command(page, c)),
            Step::Usage(text) => lookup::usage(&text),
            Step::Json(_) => {}
        }
    }
    assert!(differing.is_empty(), "{page}: {}", differing.join("\n\n"));
}

fn write(name: &str, content: &str) {
    fs::write(open().join(name), content).expect("a file");
}

fn is_answer(answer: &str, printed: &[String]) -> bool {
    let lines: Vec<&str> = answer.lines().filter(|line| !line.is_empty()).collect();
    let expected: Vec<&str> =
        printed.iter().map(String::as_str).filter(|line| !line.is_empty()).collect();
    are_like(&lines, &expected)
}
