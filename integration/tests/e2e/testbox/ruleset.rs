//! Reading what is in the kernel with the operator's tools, independent of how it got there.

use serde_json::Value;

use super::TestBox;
use super::tool::{feed, run, tool};

impl TestBox {
    /// Everything netfilter holds, without counters and handles, for byte-wise comparison.
    pub(crate) fn ruleset(&self) -> String {
        let nft = run(tool("nft").args(["list", "ruleset"]));
        let v4 = run(&mut tool("iptables-save"));
        let v6 = run(&mut tool("ip6tables-save"));
        [nft, v4, v6].iter().flat_map(|text| text.lines()).filter_map(without_counters).collect()
    }

    /// `nft -j list ruleset`'s objects of one kind (`map`, `chain`, …) in a table.
    pub(crate) fn nft_objects(&self, kind: &str, table: &str) -> Vec<Value> {
        let text = run(tool("nft").args(["-j", "list", "ruleset"]));
        let all: Value = serde_json::from_str(&text).expect("nft prints JSON");
        let objects = all["nftables"].as_array().into_iter().flatten();
        objects
            .filter_map(|object| object.get(kind))
            .filter(|o| o["table"] == table || o["name"] == table && kind == "table")
            .cloned()
            .collect()
    }

    /// Runs nft commands.
    #[track_caller]
    pub(crate) fn nft(&self, commands: &str) -> String {
        feed(tool("nft").args(["-f", "-"]), commands)
    }

    /// `conntrack -L` of a protocol and family: one line per flow.
    pub(crate) fn flows(&self, family: &str, protocol: &str) -> Vec<String> {
        let text = run(tool("conntrack").args(["-L", "-f", family, "-p", protocol]));
        text.lines().map(str::to_owned).collect()
    }
}

/// A line without what changes by itself; `None` for the time stamps of `iptables-save`.
fn without_counters(line: &str) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut words = line.split(' ').peekable();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if word == "counter" && words.peek() == Some(&"packets") {
            kept.push(word);
            // "packets N bytes N"
            words.by_ref().take(4).for_each(drop);
        } else if !word.starts_with('[') || !line.starts_with(':') {
            kept.push(word);
        }
    }
    Some(kept.join(" ") + "\n")
}
