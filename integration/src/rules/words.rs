//! Rules in words.

use std::collections::HashMap;
use std::process::{Command, Stdio};

/// What `nft` makes of rules, table by table: by handle.
#[derive(Default)]
pub(crate) struct Words(HashMap<(String, String), HashMap<u64, String>>);

impl Words {
    /// The rule with this handle; without `nft` there are no words for it.
    pub(crate) fn rule(&mut self, family: &str, table: &str, handle: u64) -> String {
        let key = (family.to_owned(), table.to_owned());
        let rules = self.0.entry(key).or_insert_with(|| rules_of(family, table));
        rules.get(&handle).cloned().unwrap_or_else(|| format!("the rule with handle {handle}"))
    }
}

fn rules_of(family: &str, table: &str) -> HashMap<u64, String> {
    let output = Command::new("nft")
        .args(["-a", "-s", "list", "table", family, table])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_nft() {
        let line = "\t\ttcp dport 80 comment \"a # handle 1\" drop # handle 5";
        assert_eq!(rule(line), Some((5, "tcp dport 80 comment \"a # handle 1\" drop".to_owned())));
        assert_eq!(rule("table inet t { # handle x"), None);
    }
}
