//! The pages of the source tree as text: lines that fit a window, links that lead somewhere, files that exist.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

const COLUMNS: usize = 120;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every page, with its text.
fn pages() -> Vec<(PathBuf, String)> {
    let directories = ["", "docs", "docs/decisions", "deploy", "fuzz", "integration"];
    let entries = directories.iter().flat_map(|directory| {
        fs::read_dir(top().join(directory))
            .expect("a directory")
            .map(|entry| entry.expect("readable").path())
    });
    let pages = entries.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("text");
        (path, text)
    };
    pages.map(read).collect()
}

/// Lines that somebody chose the length of: no row of a table, no listing by nft.
fn long_lines(text: &str) -> Vec<(usize, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let chosen = numbered.filter(|(_, line)| !line.starts_with('|') && !line.starts_with('\t'));
    chosen.filter(|(_, line)| line.chars().count() > COLUMNS).collect()
}

/// The targets of a page's links that are files or headings of this tree.
fn links(text: &str) -> Vec<String> {
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let targets = joined.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://")).map(str::to_owned).collect()
}

/// What a heading is called in a link.
fn anchors(text: &str) -> HashSet<String> {
    let mut in_block = false;
    let headings = text.lines().filter(|line| {
        in_block ^= line.starts_with("```");
        !in_block && line.starts_with('#')
    });
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn lines_fit_a_window() {
    let long: Vec<String> = pages()
        .iter()
        .flat_map(|(path, text)| {
            let told =
                |(number, line): (usize, &str)| format!("{}:{number}: {line}", path.display());
            long_lines(text).into_iter().map(told).collect::<Vec<_>>()
        })
        .collect();
    assert!(long.is_empty(), "longer than {COLUMNS} columns:\n{}", long.join("\n"));
}

#[test]
fn links_lead_somewhere() {
    let (mut seen, mut dead) = (0, Vec::new());
    for (path, text) in pages() {
        for link in links(&text) {
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().expect("a directory").join(file),
            };
            let there = target.exists()
                && (heading.is_empty()
                    || anchors(&fs::read_to_string(&target).expect("text")).contains(heading));
            if !there {
                dead.push(format!("{}: {link}", path.display()));
            }
            seen += 1;
        }
    }
    assert!(seen > 80, "{seen} links");
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

/// Files and directories of this tree that a text names between backticks.
fn paths(text: &str) -> Vec<&str> {
    const TOP: [&str; 7] =
        ["common", "portmap", "bandwidth", "tuning", "firewall", "integration", "deploy"];
    let is_path = |span: &&str| {
        let is_here = span.split_once('/').is_some_and(|(first, _)| TOP.contains(&first));
        is_here && span.chars().all(|c| c.is_ascii_alphanumeric() || "/_-.".contains(c))
    };
    text.split('`').skip(1).step_by(2).filter(is_path).collect()
}

#[test]
fn named_files_exist() {
    let (mut seen, mut missing) = (0, Vec::new());
    // These tell what was at its time.
    let (decisions, changes) = (top().join("docs/decisions"), top().join("CHANGELOG.md"));
    let is_of_today =
        |(path, _): &(PathBuf, String)| !path.starts_with(&decisions) && *path != changes;
    for (page, text) in pages().into_iter().filter(is_of_today) {
        for path in paths(&text) {
            if !top().join(path).exists() {
                missing.push(format!("{}: {path}", page.display()));
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} paths");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// The first table of a text, with links as they are on the page of compatibility.
fn first_table(text: &str) -> Vec<String> {
    let rows = text.lines().skip_while(|line| !line.starts_with("| with | versions |"));
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.replace("(docs/compatibility.md#", "(#")).collect()
}

#[test]
fn the_readme_shows_what_works_with_what() {
    let text = |page: &str| fs::read_to_string(top().join(page)).expect("text");
    let table = first_table(&text("docs/compatibility.md"));
    assert!(table.len() > 5, "{table:?}");
    let remedy = "./dev compat --write writes both";
    assert_eq!(first_table(&text("README.md")), table, "{remedy}");
}

#[test]
fn what_is_long_and_what_a_link_is() {
    let long = "x".repeat(COLUMNS + 1);
    let text = format!("{long}\n|{long}\n\t{long}\n{}\n", "…".repeat(COLUMNS));
    assert_eq!(long_lines(&text), [(1, long.as_str())]);
    assert_eq!(links("[a](b.md) [c\nd](e.md#f) [g](https://h)"), ["b.md", "e.md#f"]);
    assert_eq!(
        paths("`common/x.rs` `a/b` `deploy/` `tuning` `portmap --x`"),
        ["common/x.rs", "deploy/"]
    );
    assert!(anchors("# A `b`, c\n```\n# d\n```\n").contains("a-b-c"));
    assert_eq!(anchors("```\n# d\n```\n"), HashSet::new());
}
