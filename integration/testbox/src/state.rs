//! Everything that a plugin could leave, as text: two of these are equal where nothing has changed.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::readers::{links, tc};
use crate::ruleset::without_counters;
use crate::tool::{listed, run, tool};
use crate::{Namespace, TestBox};

/// Settings of a namespace that plugins write.
const SYSCTLS: [&str; 4] = [
    "core/somaxconn",
    "ipv4/ip_forward",
    "ipv4/conf/all/route_localnet",
    "ipv6/conf/all/forwarding",
];
/// What a link says of itself that does not change by itself.
const ATTRIBUTES: [&str; 6] = ["ifindex", "mtu", "address", "txqlen", "ifalias", "master"];
/// Flags that somebody sets.
pub(crate) const FLAGS: [&str; 4] = ["UP", "PROMISC", "ALLMULTI", "NOARP"];

impl TestBox {
    /// Rules, links, qdiscs, filters, settings and files, of the host and of each container.
    #[track_caller]
    pub fn state(&self) -> String {
        let mut text = String::new();
        let nft = run(tool("nft").args(["list", "ruleset"]));
        text.extend(nft.lines().filter_map(without_counters));
        // Legacy iptables has rules of its own, which nft does not see.
        let legacy = fs::read_to_string("/proc/net/ip_tables_names").unwrap_or_default();
        if !legacy.is_empty() {
            let saved = run(&mut tool("iptables-legacy-save"));
            text.extend(saved.lines().filter_map(without_counters));
        }
        describe_namespace(&self.host, "", &mut text);
        let mut containers: Vec<String> = fs::read_dir("/run/netns")
            .expect("the box has a directory of namespaces")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        containers.sort();
        for name in containers {
            describe_namespace(&Namespace::named(&name), &name, &mut text);
        }
        for qdisc in listed("tc -j qdisc show") {
            let _ = writeln!(text, "qdisc {qdisc}");
            let (Some(link), Some(kind)) = (qdisc["dev"].as_str(), qdisc["kind"].as_str()) else {
                continue;
            };
            for hook in tc::hooks(kind) {
                for filter in tc::filters(link, hook) {
                    let _ = writeln!(text, "{hook} of {link}: {filter}");
                }
            }
        }
        describe_files(Path::new("/run/cni"), &mut text);
        text
    }
}

fn describe_namespace(namespace: &Namespace, name: &str, text: &mut String) {
    for link in links(name) {
        let _ = write!(text, "link {name} {}", link["ifname"]);
        for key in ATTRIBUTES {
            let _ = write!(text, " {key} {}", link[key]);
        }
        let flags = link["flags"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let set: Vec<&str> = flags.filter(|flag| FLAGS.contains(flag)).collect();
        let _ = writeln!(text, " flags {set:?}");
    }
    for sysctl in SYSCTLS {
        let _ = writeln!(text, "sysctl {name} {sysctl} = {}", namespace.read_sysctl(sysctl));
    }
}

fn describe_files(directory: &Path, text: &mut String) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            describe_files(&path, text);
        } else {
            let content = fs::read(&path).unwrap_or_default();
            let _ = writeln!(text, "{}: {}", path.display(), String::from_utf8_lossy(&content));
        }
    }
}
