//! What the cases have in common: a host with Debian's plugins in /opt/cni/bin, and the command.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cni_testbox::GO_PLUGINS;

pub(crate) const DIR: &str = "/opt/cni/bin";
pub(crate) const PLUGINS: [&str; 4] = ["portmap", "bandwidth", "tuning", "firewall"];

/// What tells a file from another one of the same path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    modified: i64,
    pub(crate) content: Vec<u8>,
}

/// Our programs as they were built.
pub(crate) fn built() -> PathBuf {
    let command = Path::new(env!("CARGO_BIN_EXE_cni-chain"));
    let dir = command.parent().expect("a directory").to_owned();
    for name in PLUGINS {
        assert!(dir.join(name).is_file(), "{name} is missing: run `cargo build --workspace` first");
    }
    dir
}

/// Puts Debian's plugins into /opt/cni/bin, which this box has for itself.
pub(crate) fn with_go_plugins() {
    assert!(!Path::new(DIR).exists(), "the box is not fresh: {DIR} is there");
    fs::create_dir_all(DIR).expect("a copy of /opt");
    for name in ["bridge", "host-local", "portmap", "bandwidth", "tuning", "firewall"] {
        fs::copy(Path::new(GO_PLUGINS).join(name), Path::new(DIR).join(name)).expect("Debian's");
    }
}

pub(crate) fn cni_chain(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cni-chain"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs it; what it printed, and what it said.
#[track_caller]
pub(crate) fn succeeds(arguments: &[&str]) -> String {
    let (succeeded, said) = told(cni_chain(arguments).output().expect("it starts"));
    assert!(succeeded, "{arguments:?}: {said}");
    said
}

/// Runs it, and it must fail; what it said.
#[track_caller]
pub(crate) fn fails(arguments: &[&str]) -> String {
    let (succeeded, said) = told(cni_chain(arguments).output().expect("it starts"));
    assert!(!succeeded, "{arguments:?}: {said}");
    said
}

fn told(output: Output) -> (bool, String) {
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).expect("UTF-8");
    println!("{said}");
    (output.status.success(), said)
}

/// Every file of a directory.
pub(crate) fn files(dir: &str) -> BTreeMap<String, Identity> {
    let entries = fs::read_dir(dir).expect(dir);
    entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            (path.file_name().expect("a name").to_string_lossy().into_owned(), identity(&path))
        })
        .collect()
}

pub(crate) fn identity(path: &Path) -> Identity {
    let metadata = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Identity {
        inode: metadata.ino(),
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        modified: metadata.mtime_nsec() + metadata.mtime() * 1_000_000_000,
        content: fs::read(path).unwrap_or_default(),
    }
}

/// Whose the plugin at a path is: the first line that it prints of itself; nothing where none is that
/// could be run.
pub(crate) fn banner(path: &str) -> String {
    let output = Command::new(path).env_remove("CNI_COMMAND").stdin(Stdio::null()).output();
    let Ok(output) = output else { return String::new() };
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Whether it is ours.
pub(crate) fn is_ours(name: &str) -> bool {
    banner(&format!("{DIR}/{name}")).starts_with(&format!("CNI {name} plugin v2."))
}
