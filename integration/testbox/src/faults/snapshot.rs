//! What a plugin can leave, as lines that say where they are: two snapshots are equal where nothing has
//! changed. Read by programs that are not ours, as [`state`](crate::TestBox::state) is, but quickly.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::Namespace;
use crate::readers::tc;
use crate::ruleset::without_counters;
use crate::state::FLAGS;
use crate::tool::{run, tool};

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Rules, files, and settings of the host: for a plugin that does nothing else.
    Netfilter,
    /// Links, qdiscs, filters and files.
    Traffic,
    /// Links and settings of the containers, and files.
    Containers,
    /// All of it.
    Everything,
}

/// Lines in the order of their places. Rules of a chain of iptables have no order: whose ADD came first
/// is nobody's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot(Vec<String>);

/// Settings of a namespace that plugins write, apart from those of each interface.
const SYSCTLS: [&str; 3] = ["core/somaxconn", "ipv4/ip_forward", "ipv6/conf/all/forwarding"];
/// What a link says of itself that does not change by itself.
const ATTRIBUTES: [&str; 8] =
    ["ifindex", "mtu", "address", "txqlen", "ifalias", "master", "promiscuity", "link_index"];
/// Flags that somebody sets.
/// Of other programs in the box, or of the sweep itself; and locks, which mean nothing when nobody holds
/// them.
const FOREIGN_FILES: [&str; 7] = [
    "/run/netns",
    "/run/stepper",
    "/run/dbus",
    "/run/firewalld",
    "/run/stubs",
    "/run/cni-chain-iptables.lock",
    "/run/xtables.lock",
];

impl Snapshot {
    pub(super) fn take(scope: Scope) -> Self {
        let mut lines = Vec::new();
        let (all, mut containers) = (scope == Scope::Everything, Vec::new());
        if all || scope == Scope::Containers {
            containers = names_in("/run/netns");
            containers.retain(|name| name != "out" && !name.starts_with("cni"));
        }
        if all || scope == Scope::Netfilter {
            describe_rules(&mut lines);
            describe_host_settings(&mut lines);
        }
        if all || scope != Scope::Containers {
            describe_links("", &mut lines);
        }
        if all || scope == Scope::Traffic {
            describe_traffic_control(&mut lines);
        }
        for name in containers {
            describe_links(&name, &mut lines);
            let namespace = Namespace::named(&name);
            for sysctl in SYSCTLS {
                lines.push(format!("{name} {sysctl} = {}", namespace.read_sysctl(sysctl)));
            }
        }
        describe_files(Path::new("/run"), &mut lines);
        lines.sort();
        Self(lines)
    }

    /// Whether everything that both have is in this one, and nothing that neither has.
    pub(super) fn is_between(&self, one: &Self, other: &Self) -> bool {
        let [own, one, other] =
            [self, one, other].map(|snapshot| snapshot.0.iter().collect::<BTreeSet<_>>());
        one.intersection(&other).all(|line| own.contains(line))
            && own.iter().all(|line| one.contains(line) || other.contains(line))
    }

    /// What is missing (`-`) and what is there besides (`+`).
    pub(super) fn difference_from(&self, wanted: &Self) -> Difference {
        let count =
            |lines: &[String], line: &str| lines.iter().filter(|other| *other == line).count();
        let beyond = |some: &[String], others: &[String]| -> Vec<String> {
            let more = |line: &&String| count(some, line) > count(others, line);
            some.iter().filter(more).cloned().collect()
        };
        Difference { missing: beyond(&wanted.0, &self.0), besides: beyond(&self.0, &wanted.0) }
    }
}

/// Between what should be there and what is.
#[derive(Clone, Debug)]
pub(super) struct Difference {
    missing: Vec<String>,
    besides: Vec<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Enough to see what it is about.
        const SHOWN: usize = 8;
        let missing = self.missing.iter().map(|line| ('-', line));
        let besides = self.besides.iter().map(|line| ('+', line));
        for (sign, line) in missing.chain(besides).take(SHOWN) {
            let short: String = line.chars().take(300).collect();
            writeln!(f, "      {sign} {short}")?;
        }
        let more = (self.missing.len() + self.besides.len()).saturating_sub(SHOWN);
        if more > 0 { writeln!(f, "      and {more} more") } else { Ok(()) }
    }
}

fn describe_rules(lines: &mut Vec<String>) {
    let text = run(tool("nft").args(["list", "ruleset"]));
    describe_nft(&text, lines);
    // nft does not say all of a rule that iptables-nft made, and sees none of the legacy one's.
    let legacy = ["ip_tables_names", "ip6_tables_names"]
        .map(|names| fs::read_to_string(format!("/proc/net/{names}")).unwrap_or_default());
    for (names, program) in legacy.iter().zip(["iptables-legacy-save", "ip6tables-legacy-save"]) {
        if !names.is_empty() {
            describe_saved(program, lines);
        }
    }
    if text.contains("table ip nat") || text.contains("table ip filter") {
        describe_saved("iptables-nft-save", lines);
    }
    if text.contains("table ip6 nat") || text.contains("table ip6 filter") {
        describe_saved("ip6tables-nft-save", lines);
    }
}

fn describe_saved(program: &str, lines: &mut Vec<String>) {
    let text = run(&mut tool(program));
    let mut table = "";
    for line in text.lines() {
        if line.starts_with('*') {
            table = line;
        }
        let line = without_counters(line);
        lines.extend(line.map(|line| format!("{program} {table} {}", line.trim_end())));
    }
}

/// Splits `nft list ruleset` into places. Elements of a set have no order; rules have one in chains of
/// ours.
fn describe_nft(text: &str, lines: &mut Vec<String>) {
    let mut place: Vec<String> = Vec::new();
    let mut rule = 0;
    let mut rows = text.lines().filter_map(without_counters);
    while let Some(row) = rows.next() {
        let row = row.trim();
        if let Some(first) = row.strip_prefix("elements = {") {
            let mut elements = first.to_owned();
            while !elements.ends_with('}') {
                elements.push_str(rows.next().expect("the end of the elements").trim());
            }
            let place = place.join(" ");
            let elements = elements.trim_end_matches('}').split(',').map(str::trim);
            lines.extend(elements.map(|element| format!("{place} {{ {element} }}")));
        } else if row == "}" {
            place.pop();
        } else if let Some(head) = row.strip_suffix('{') {
            place.push(head.trim().to_owned());
            lines.push(place.join(" "));
            rule = 0;
        } else if !row.is_empty() {
            let is_ours = place.first().is_some_and(|table| table.contains(" cni_"));
            let is_rule = place.get(1).is_some_and(|chain| chain.starts_with("chain"));
            rule += 1;
            let number = if is_ours && is_rule { format!(" #{rule:02}") } else { String::new() };
            lines.push(format!("{}{number}: {row}", place.join(" ")));
        }
    }
}

fn describe_host_settings(lines: &mut Vec<String>) {
    for interface in names_in("/proc/sys/net/ipv4/conf") {
        let path = format!("/proc/sys/net/ipv4/conf/{interface}/route_localnet");
        let value = fs::read_to_string(path).unwrap_or_default();
        lines.push(format!("host {interface} route_localnet = {}", value.trim()));
    }
}

fn describe_links(namespace: &str, lines: &mut Vec<String>) {
    let mut command = tool("ip");
    if !namespace.is_empty() {
        command.args(["-n", namespace]);
    }
    let text = run(command.args(["-j", "-d", "link", "show"]));
    let found: Vec<Value> = serde_json::from_str(&text).expect("ip prints JSON");
    for link in found {
        let kind = link["linkinfo"]["info_kind"].as_str().unwrap_or_default();
        let mut line = format!("link {namespace} {} {kind}", link["ifname"]);
        for key in ATTRIBUTES {
            // An IFB gets a new one each time.
            let by_chance = kind == "ifb" && ["address", "ifindex"].contains(&key);
            if !by_chance && !link[key].is_null() {
                let _ = write!(line, " {key} {}", link[key]);
            }
        }
        let isolated = &link["linkinfo"]["info_slave_data"]["isolated"];
        let flags = link["flags"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let set: Vec<&str> = flags.filter(|flag| FLAGS.contains(flag)).collect();
        lines.push(format!("{line} isolated {isolated} flags {set:?}"));
    }
}

fn describe_traffic_control(lines: &mut Vec<String>) {
    let text = run(tool("tc").args(["-j", "qdisc", "show"]));
    let qdiscs: Vec<Value> = serde_json::from_str(&text).expect("tc prints JSON");
    for mut qdisc in qdiscs {
        let (Some(link), Some(kind)) = (qdisc["dev"].as_str(), qdisc["kind"].as_str()) else {
            continue;
        };
        for hook in tc::hooks(kind) {
            let text = run(tool("tc").args(["filter", "show", "dev", link, hook]));
            let rows = text.lines().map(str::trim);
            lines.extend(rows.enumerate().map(|(row, text)| {
                // Filters run in the order in which they are told.
                format!("filter {link} {hook} #{row:02} {}", without_counts(text))
            }));
        }
        // Given one after the other.
        if kind != "clsact"
            && let Some(qdisc) = qdisc.as_object_mut()
        {
            qdisc.remove("handle");
        }
        lines.push(format!("qdisc {qdisc}"));
    }
}

/// A line of a filter without what the kernel or bandwidth count up: numbers of actions, filters and hash
/// tables, the class that tells whose the qdisc is.
fn without_counts(text: &str) -> String {
    let mut words = text.split(' ');
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if ["index", "fh", "ht", "order", "*flowid", "flowid"].contains(&word) {
            words.next();
        } else {
            kept.push(word);
        }
    }
    kept.join(" ")
}

fn describe_files(directory: &Path, lines: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let text = path.display().to_string();
        if FOREIGN_FILES.iter().any(|foreign| text.starts_with(foreign)) {
            continue;
        }
        if path.is_dir() {
            lines.push(format!("directory {text}"));
            describe_files(&path, lines);
        } else {
            let content = fs::read(&path).unwrap_or_default();
            lines.push(format!("file {text}: {}", String::from_utf8_lossy(&content).trim_end()));
        }
    }
}

fn names_in(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_have_no_order_and_rules_of_ours_have() {
        let text = "table inet cni_portmap {\n\tmap m {\n\t\ttype a : b\n\t\telements = { b comment \"x\" : 1,\n\t\t\t     a : 2 }\n\t}\n\n\tchain c {\n\t\ttype filter hook input priority 0;\n\t\tcounter packets 1 bytes 2 accept\n\t}\n}\ntable ip nat {\n\tchain c {\n\t\taccept\n\t}\n}\n";
        let mut lines = Vec::new();
        describe_nft(text, &mut lines);
        assert!(lines.contains(&"table inet cni_portmap map m { a : 2 }".to_owned()), "{lines:#?}");
        assert!(lines.contains(&"table inet cni_portmap chain c #02: counter accept".to_owned()));
        assert!(lines.contains(&"table ip nat chain c: accept".to_owned()));
    }

    #[test]
    fn between_is_no_more_than_both_and_no_less() {
        let snapshot = |lines: &[&str]| Snapshot(lines.iter().map(|&l| l.to_owned()).collect());
        let (before, after) = (snapshot(&["a"]), snapshot(&["a", "b", "c"]));
        assert!(snapshot(&["a", "c"]).is_between(&before, &after));
        assert!(!snapshot(&["b", "c"]).is_between(&before, &after));
        assert!(!snapshot(&["a", "d"]).is_between(&before, &after));
        let difference = snapshot(&["a", "a", "d"]).difference_from(&after);
        assert_eq!(difference.missing, ["b", "c"]);
        assert_eq!(difference.besides, ["a", "a", "d"]);
    }
}
