//! The table of the networks that projects ship: one line for each list and caller, because each has one version, and
//! some name the only backend that they can have.

use std::collections::{BTreeMap, BTreeSet};

use crate::line::Line;
use crate::table::{anchor, place, row};

const HEADING: &str = "Networks of projects";
const WHAT: &str = "\
Their lists, with the keys, versions and capabilities that they ship, called as their runtime calls them. containerd and
podman have tables of their own above. kubelet, CRI-O, nerdctl, Nomad and buildkit were not run themselves, and no
project's own plugin, because Debian 12 has no package of them: a plugin of the tests makes the interfaces.

";
const HEAD: &str = "\
| of | list, and what was done | plugins of ours | CNI | portmap and firewall on |
|---|---|---|---|---|
";
/// What their lines have in the place of a runtime.
const OF: &str = "conflist of ";

/// By project, version, plugins and what was run: the backends.
pub(crate) struct Networks<'a>(BTreeMap<[&'a str; 4], BTreeSet<(usize, &'a str)>>);

/// The lines of networks, and the others.
pub(crate) fn apart(lines: &[Line]) -> (Networks<'_>, Vec<&Line>) {
    let mut networks = Networks(BTreeMap::new());
    let mut others = Vec::new();
    for line in lines {
        if let Some(project) = line.runtime.strip_prefix(OF) {
            let key = [project, &line.version, &line.plugin, &line.what];
            let backends = networks.0.entry(key).or_default();
            backends.insert((place(&line.backend), &line.backend));
        } else {
            others.push(line);
        }
    }
    (networks, others)
}

impl Networks<'_> {
    /// All of them in the table of runtimes.
    pub(crate) fn summary(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let of_all = |part: fn(&[&'_ str; 4]) -> String| {
            let parts: BTreeSet<String> = self.0.keys().map(part).collect();
            parts.into_iter().collect::<Vec<_>>().join(", ")
        };
        let projects = of_all(|[project, ..]| (*project).to_owned());
        let versions = of_all(|[_, version, ..]| version.replace("CNI ", ""));
        row(&[
            format!("[{HEADING}](#{}): {projects}", anchor(HEADING)),
            format!("CNI {versions}"),
            names(&self.0.values().flatten().copied().collect()),
            self.0.values().map(BTreeSet::len).sum::<usize>().to_string(),
        ])
    }

    pub(crate) fn text(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let of_row = |([project, version, plugins, what], backends): (&[&str; 4], _)| {
            let cells = [*project, *what, *plugins, version.trim_start_matches("CNI ")];
            let mut cells = cells.map(str::to_owned).to_vec();
            cells.push(names(backends));
            row(&cells)
        };
        let rows: String = self.0.iter().map(of_row).collect();
        format!("\n## {HEADING}\n\n{WHAT}{HEAD}{rows}")
    }
}

fn names(backends: &BTreeSet<(usize, &str)>) -> String {
    backends.iter().map(|(_, backend)| *backend).collect::<Vec<_>>().join(", ")
}
