//! What the pages for users show works: each command and each JSON, in blocks and in the text.

mod configuration;
mod guides;
mod lookup;
mod markdown;
mod session;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cni_testbox::{TestBox, cases};

use session::follow;

cases! {
    the_readme, ours;
    the_guide, ours;
    troubleshooting, ours;
    the_command, ours;
    portmap, ours;
    bandwidth, ours;
    firewall, ours;
    tuning, ours;
    deployment, ours;
    reliability, ours;
    compatibility, ours;
    performance, ours;
    commands_in_the_text, ours;
    networks_and_entries, ours;
}

const PAGES: [&str; 17] = [
    "README.md",
    "deploy/README.md",
    "docs/bandwidth.md",
    "docs/cni-chain.md",
    "docs/compatibility.md",
    "docs/firewall.md",
    "docs/guide-back-to-go.md",
    "docs/guide-containerd.md",
    "docs/guide-from-go.md",
    "docs/guide-kubernetes.md",
    "docs/guide-podman.md",
    "docs/guide.md",
    "docs/performance.md",
    "docs/portmap.md",
    "docs/reliability.md",
    "docs/troubleshooting.md",
    "docs/tuning.md",
];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn text_of(page: &str) -> String {
    fs::read_to_string(top().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

fn the_readme(_: &TestBox) {
    follow("README.md");
}

fn the_guide(_: &TestBox) {
    follow("docs/guide.md");
}

fn troubleshooting(_: &TestBox) {
    follow("docs/troubleshooting.md");
}

fn the_command(_: &TestBox) {
    follow("docs/cni-chain.md");
}

fn portmap(_: &TestBox) {
    follow("docs/portmap.md");
}

fn bandwidth(_: &TestBox) {
    follow("docs/bandwidth.md");
}

fn firewall(_: &TestBox) {
    follow("docs/firewall.md");
}

fn tuning(_: &TestBox) {
    follow("docs/tuning.md");
}

fn deployment(_: &TestBox) {
    follow("deploy/README.md");
}

fn reliability(_: &TestBox) {
    follow("docs/reliability.md");
}

fn compatibility(_: &TestBox) {
    follow("docs/compatibility.md");
}

fn performance(_: &TestBox) {
    follow("docs/performance.md");
}

/// A command that is only named is one that its program knows; those of who changes the code, too.
fn commands_in_the_text(_: &TestBox) {
    let mut seen = BTreeSet::new();
    for page in PAGES.iter().chain(&["CONTRIBUTING.md", "SECURITY.md", "fuzz/README.md"]) {
        let text = text_of(page);
        let spans = markdown::spans(&text).into_iter();
        let spans = spans.filter(|span| lookup::is_command(page, span));
        let indented = text.lines().filter_map(|line| line.strip_prefix("    ")).map(str::trim);
        let tasks =
            indented.filter(|line| line.starts_with("./dev ") || line.starts_with("cargo "));
        for command in spans.chain(tasks.flat_map(markdown::commands).map(str::to_owned)) {
            if seen.insert(command.clone()) {
                println!("{page}: {command}");
                lookup::command(page, &command);
            }
        }
    }
    assert!(seen.len() > 50, "{seen:?}");
}

fn networks_and_entries(b: &TestBox) {
    configuration::has_no_error(b);
}

/// A page that no case follows would not be tried.
#[test]
fn there_are_no_other_pages() {
    let docs = fs::read_dir(top().join("docs")).expect("docs").flatten().map(|entry| entry.path());
    let pages = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let names = pages.filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    let pages = names.map(|name| format!("docs/{name}"));
    let found: BTreeSet<String> =
        pages.chain(["README.md".to_owned(), "deploy/README.md".to_owned()]).collect();
    assert_eq!(found, PAGES.map(str::to_owned).into());
}
