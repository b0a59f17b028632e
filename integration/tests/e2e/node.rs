//! What a node's containers ask the plugins for, and what the node has of it, as the tools print it.

use serde_json::{Value, json};

use cni_testbox::{Attachment, Mapping, run, tool};

/// One plugin's entry, with what the runtime adds to it, but for what ADD of the plugins before returned.
pub(crate) fn entry(plugin: &str, mappings: &[Mapping], web: &Attachment) -> Value {
    let mut config = match plugin {
        "portmap" => json!({ "runtimeConfig": { "portMappings": Mapping::list(mappings) } }),
        "firewall" => json!({ "ingressPolicy": "same-bridge" }),
        "bandwidth" => json!({ "runtimeConfig": { "bandwidth": {
            "ingressRate": 400_000_000, "ingressBurst": 4_294_967_295u64,
            "egressRate": 300_000_000, "egressBurst": 4_294_967_295u64 } } }),
        _ => json!({ "mtu": 1400, "sysctl": { "net.core.somaxconn": "512" } }),
    };
    config["type"] = json!(plugin);
    config["cniVersion"] = json!("1.0.0");
    config["name"] = json!(web.network.name);
    config
}

/// Rules, interfaces and qdiscs. All of it is compared as the tools print it, but for packet
/// counters and the dates that `iptables-save` writes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) nftables: String,
    pub(crate) iptables: Vec<String>,
    pub(crate) links: String,
    pub(crate) disciplines: String,
}

impl Node {
    /// iptables-nft makes its tables with their built-in chains when they are first needed, and
    /// keeps them: a node where iptables was used once has these, and nothing else.
    pub(crate) fn use_iptables_once() {
        const BUILT_IN: [(&str, &[&str]); 3] = [
            ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
            ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
            ("raw", &["PREROUTING", "OUTPUT"]),
        ];
        for program in ["iptables", "ip6tables"] {
            for (table, chains) in BUILT_IN {
                for chain in chains {
                    run(tool(program).args(["-t", table, "-P", chain, "ACCEPT"]));
                }
            }
        }
    }

    pub(crate) fn look() -> Self {
        let programs =
            ["iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save"];
        let saved = |program: &&str| -> Vec<String> {
            let text = run(&mut tool(program));
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            let without_counters =
                |line: &str| line.split(" [").next().unwrap_or_default().to_owned();
            let mut lines: Vec<String> = lines.map(without_counters).collect();
            // Tables come in the order in which they were made.
            lines.sort();
            lines
        };
        Self {
            nftables: tables_in_order(&run(tool("nft").args(["list", "ruleset"]))),
            iptables: programs.iter().flat_map(saved).collect(),
            links: run(tool("ip").args(["-o", "link"])),
            disciplines: run(tool("tc").args(["qdisc", "show"])),
        }
    }
}

/// The tables of a ruleset ordered by name; each as it is.
fn tables_in_order(ruleset: &str) -> String {
    let mut tables: Vec<String> = ruleset.split("\n}\n").map(str::to_owned).collect();
    tables.sort();
    tables.join("\n}\n")
}

/// Files that plugins keep about containers.
pub(crate) fn files() -> Vec<String> {
    let entries = std::fs::read_dir("/run/cni/tuning").into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let others = std::fs::read_dir("/run/cni").into_iter().flatten().flatten();
    let others = others.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.extend(others.filter(|name| name != "tuning"));
    sorted(names)
}

pub(crate) fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}
