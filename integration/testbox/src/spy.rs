//! Plugins that record how they were called: the program `cni-spy`, which is told what to do by a file
//! beside it (`integration/tests/runner/spy_plugin.rs`).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// One call that a spy recorded.
#[derive(Clone, Debug)]
pub struct Call {
    /// The name that the spy was called by.
    pub plugin: String,
    /// `CNI_COMMAND`.
    pub command: String,
    /// The variables of CNI, and those whose names begin with `SPY_`.
    pub env: BTreeMap<String, String>,
    /// What it was given.
    pub stdin_text: String,
    /// What the program answered that it stands before.
    pub stdout: String,
}

impl Call {
    /// What it was given.
    pub fn stdin(&self) -> Value {
        serde_json::from_str(&self.stdin_text).expect("stdin is JSON")
    }
}

/// Everything that the spies of a directory recorded so far, in order.
pub fn calls(directory: &Path) -> Vec<Call> {
    recorded(&fs::read_to_string(directory.join("calls")).unwrap_or_default())
}

/// The calls of a recording, in order.
pub fn recorded(text: &str) -> Vec<Call> {
    text.lines().map(call).collect()
}

fn call(line: &str) -> Call {
    let value: Value = serde_json::from_str(line).expect("a record is JSON");
    let text = |key: &str| value[key].as_str().expect(key).to_owned();
    Call {
        plugin: text("plugin"),
        command: text("command"),
        env: serde_json::from_value(value["env"].clone()).expect("a map of strings"),
        stdin_text: text("stdin"),
        stdout: value["answer"]["stdout"].as_str().unwrap_or_default().to_owned(),
    }
}

/// Puts a spy called `name` before a program; over what is there of that name.
pub fn stand_before(directory: &Path, name: &str, program: &Path) {
    let path = directory.join(name);
    let _ = fs::remove_file(&path);
    symlink(self::program(), &path).expect("a link to the spy");
    let instructions = json!({ "run": program });
    fs::write(directory.join(format!("{name}.json")), instructions.to_string()).expect("a file");
}

/// The spy's executable.
pub fn program() -> PathBuf {
    example("cni-spy")
}

/// A program that only tests run, which cargo puts beside them.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let path = test.ancestors().nth(2).expect("target/…/debug").join("examples").join(name);
    assert!(
        path.is_file(),
        "{} is missing: `cargo test --test` does not build it, `cargo build -p cni-chain \
         --examples` does",
        path.display()
    );
    path
}
