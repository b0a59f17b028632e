//! A plugin that records how it was called and does what the test told it.
//!
//! It is found under any name; `<its path>.json` beside it says, by command, what it does:
//! `stdout` and `stderr` (texts), `exit` (a status), `sleepMs`, `ignoreStdin`. Each call becomes
//! a line of `calls` in the same directory. Untold, it answers ADD with `{}` and VERSION with
//! every version.
//!
//! With `run` instead of commands, which names a program, it stands before that: it hands on what it
//! got and what the program answered, and records both.

#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use serde_json::{Map, Value, json};

const ALL_VERSIONS: &str = r#"{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#;

fn main() -> ExitCode {
    let program = PathBuf::from(std::env::args_os().next().expect("a program has a name"));
    let command = std::env::var("CNI_COMMAND").unwrap_or_default();
    let instructions = told(&program);
    if let Some(real) = instructions["run"].as_str() {
        return hand_on(&program, real, &command);
    }
    let action = &instructions[&command];
    let mut stdin = String::new();
    if action["ignoreStdin"] != true {
        std::io::stdin().read_to_string(&mut stdin).expect("stdin is text");
    }
    record(&program, &command, &stdin, &Value::Null);
    std::thread::sleep(Duration::from_millis(action["sleepMs"].as_u64().unwrap_or(0)));
    let untold = match command.as_str() {
        "ADD" => "{}",
        "VERSION" => ALL_VERSIONS,
        _ => "",
    };
    eprint!("{}", action["stderr"].as_str().unwrap_or_default());
    print!("{}", action["stdout"].as_str().unwrap_or(untold));
    let status = action["exit"].as_u64().unwrap_or(0);
    ExitCode::from(u8::try_from(status).expect("an exit status is a byte"))
}

/// What was told about all commands.
fn told(program: &Path) -> Value {
    let mut path = program.as_os_str().to_owned();
    path.push(".json");
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).expect("instructions are JSON"),
        Err(_) => Value::Null,
    }
}

fn hand_on(program: &Path, real: &str, command: &str) -> ExitCode {
    let mut process = Command::new(real);
    process.args(std::env::args_os().skip(1));
    if command.is_empty() {
        // What is asked without a command is no call of CNI.
        eprintln!("{real}: {}", process.exec());
        return ExitCode::FAILURE;
    }
    let mut stdin = String::new();
    std::io::stdin().read_to_string(&mut stdin).expect("stdin is text");
    let mut child =
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
    // It may leave without reading.
    let _ = child.stdin.take().expect("a pipe").write_all(stdin.as_bytes());
    let output = child.wait_with_output().expect("the program ends");
    let status = output.status.code().unwrap_or(255);
    let stdout = String::from_utf8(output.stdout).expect("the answer is text");
    record(program, command, &stdin, &json!({"stdout": stdout, "status": status}));
    print!("{stdout}");
    ExitCode::from(u8::try_from(status).expect("an exit status is a byte"))
}

fn record(program: &Path, command: &str, stdin: &str, answer: &Value) {
    let environment: Map<String, Value> = std::env::vars()
        .filter(|(name, _)| name.starts_with("CNI_") || name.starts_with("SPY_"))
        .map(|(name, value)| (name, value.into()))
        .collect();
    let name = program.file_name().map(|name| name.to_string_lossy());
    let call = json!({"plugin": name, "command": command, "env": environment, "stdin": stdin,
        "answer": answer});
    let mut calls = OpenOptions::new()
        .append(true)
        .create(true)
        .open(program.with_file_name("calls"))
        .expect("the record can be opened");
    calls.write_all(format!("{call}\n").as_bytes()).expect("the record can be written");
}
