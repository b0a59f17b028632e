//! Reading what is in the kernel with the operator's tools, independent of how it got there.

use crate::TestBox;
use crate::readers::nft::{self, Element};
use crate::tool::{feed, run, tool};

/// The table of our nftables backend.
pub const PORTMAP_TABLE: &str = "cni_portmap";
impl TestBox {
    /// Everything netfilter holds, without counters and handles, for byte-wise comparison.
    pub fn ruleset(&self) -> String {
        let mut nft = run(tool("nft").args(["list", "ruleset"]));
        if self.implementation.backend() == Some("iptables") {
            // The same rules as below, in an order that depends on which chain came first.
            nft.clear();
        }
        let v4 = run(&mut tool("iptables-save"));
        let v6 = run(&mut tool("ip6tables-save"));
        let saved = [v4, v6].map(|text| by_chain(&text));
        let lines = nft.lines().map(str::to_owned).chain(saved.into_iter().flatten());
        lines.filter_map(|line| without_counters(&line)).collect()
    }

    /// Every mapping in our table.
    pub fn portmap_elements(&self) -> Vec<Element> {
        nft::elements(PORTMAP_TABLE)
    }

    /// Runs nft commands.
    #[track_caller]
    pub fn nft(&self, commands: &str) -> String {
        feed(tool("nft").args(["-f", "-"]), commands)
    }

    /// Everything in nftables, iptables-nft's tables among it.
    pub fn nft_list_all(&self) -> String {
        run(tool("nft").args(["list", "ruleset"]))
    }

    /// A table as nft lists it.
    pub fn nft_list(&self, table: &str) -> String {
        let words = table.split(' ');
        run(tool("nft").args(["list", "table"]).args(words))
    }

    /// Makes the host forget link-layer addresses, when an address moves to another container.
    pub fn forget_neighbours(&self) {
        run(tool("ip").args(["neigh", "flush", "all"]));
    }

    /// `conntrack -L` of a protocol and family: one line per flow.
    pub fn flows(&self, family: &str, protocol: &str) -> Vec<String> {
        let text = run(tool("conntrack").args(["-L", "-f", family, "-p", protocol]));
        text.lines().map(str::to_owned).collect()
    }
}

/// The lines of `iptables-save` ordered by table and chain; rules keep their order in a chain.
fn by_chain(text: &str) -> Vec<String> {
    let mut table = String::new();
    let mut lines: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if line.starts_with('*') {
            line.clone_into(&mut table);
        }
        let chain = line.trim_start_matches("-A ").trim_start_matches(':').split(' ').next();
        lines.push((format!("{table} {}", chain.unwrap_or_default()), line.to_owned()));
    }
    lines.sort_by(|(left, _), (right, _)| left.cmp(right));
    lines.into_iter().map(|(_, line)| line).collect()
}

/// A line without what changes by itself; `None` for the time stamps of `iptables-save`.
pub(crate) fn without_counters(line: &str) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut words = line.split(' ').peekable();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if word.trim_start() == "counter" && words.peek() == Some(&"packets") {
            kept.push(word);
            // "packets N bytes N"
            words.by_ref().take(4).for_each(drop);
        } else if !word.starts_with('[') || !line.starts_with(':') {
            kept.push(word);
        }
    }
    Some(kept.join(" ") + "\n")
}
