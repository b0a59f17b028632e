//! Rules in words, and whose tables they are in.

use std::collections::HashMap;
use std::process::{Command, Stdio};

use crate::show::{is_of_a_portmap, program};

/// What `nft` makes of rules, table by table: by handle.
#[derive(Default)]
pub(super) struct Words(HashMap<(String, String), HashMap<u64, String>>);

impl Words {
    /// The rule with this handle; without `nft` there are no words for it.
    pub(super) fn rule(&mut self, family: &str, table: &str, handle: u64) -> String {
        let key = (family.to_owned(), table.to_owned());
        let rules = self.0.entry(key).or_insert_with(|| rules_of(family, table));
        rules.get(&handle).cloned().unwrap_or_else(|| format!("the rule with handle {handle}"))
    }
}

fn rules_of(family: &str, table: &str) -> HashMap<u64, String> {
    let output = Command::new("nft")
        .args(["-a", "-n", "-s", "list", "table", family, table])
        .stdin(Stdio::null())
        .output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(rule).collect()
}

/// A line such as `tcp dport 80 drop # handle 5`.
fn rule(line: &str) -> Option<(u64, String)> {
    let (words, handle) = line.trim().rsplit_once(" # handle ")?;
    Some((handle.parse().ok()?, words.to_owned()))
}

/// Whose a chain is, as names tell.
pub(super) fn owner(table: &str, chain: &str) -> Option<&'static str> {
    const TABLES: [(&str, &str); 5] = [
        ("cni_portmap", "portmap"),
        ("cni_firewall", "firewall"),
        ("cni_hostport", "portmap of Go"),
        ("firewalld", "firewalld"),
        ("kube-proxy", "kube-proxy"),
    ];
    let of_table = TABLES.iter().find(|(name, _)| *name == table).map(|(_, owner)| *owner);
    of_table.or_else(|| program(chain)).or_else(|| is_of_a_portmap(chain).then_some("portmap"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_nft() {
        let line = "\t\ttcp dport 80 comment \"a # handle 1\" drop # handle 5";
        assert_eq!(rule(line), Some((5, "tcp dport 80 comment \"a # handle 1\" drop".to_owned())));
        assert_eq!(rule("table inet t { # handle x"), None);
    }

    #[test]
    fn owners() {
        assert_eq!(owner("cni_portmap", "prerouting"), Some("portmap"));
        assert_eq!(owner("nat", "DOCKER"), Some("docker"));
        assert_eq!(owner("nat", "CNI-HOSTPORT-DNAT"), Some("portmap"));
        assert_eq!(owner("site", "fwd"), None);
    }
}
