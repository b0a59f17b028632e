//! iptables' table `filter` in words, as the Go plugin and ours write it. Pure.

use std::net::IpAddr;

use cni_common::cni::OwnerTag;
use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{SavedRule, TableDump, quote};

/// The table.
pub(crate) const TABLE: &str = "filter";

/// Admits containers.
pub(crate) const FORWARD: &str = "CNI-FORWARD";
/// What comes from or goes to an isolating bridge.
pub(crate) const STAGE_1: &str = "CNI-ISOLATION-STAGE-1";
/// From one isolating bridge to another.
pub(crate) const STAGE_2: &str = "CNI-ISOLATION-STAGE-2";
/// Drops what comes from a container. Ours: upstream lets open networks into isolating ones.
pub(crate) const SOURCES: &str = "CNI-ISOLATION-SOURCES";
/// Guards the host's addresses on isolating bridges. Ours.
pub(crate) const INPUT: &str = "CNI-ISOLATION-INPUT";
/// Who asks for which bridge's isolation. Nothing jumps to it: it is a list.
pub(crate) const MEMBERS: &str = "CNI-ISOLATION-MEMBERS";

/// The comment of the jump to [`FORWARD`].
pub(crate) const RULES: &str = "CNI firewall plugin rules";
/// The comment of the jump to the administrator's chain.
pub(crate) const ADMIN: &str = "CNI firewall plugin admin overrides";
/// The comment of rules that serve every policy.
pub(crate) const BOTH_POLICIES: &str =
    "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)";

/// One IP version's table.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    pub(crate) chains: Vec<String>,
    pub(crate) rules: Vec<FilterRule>,
}

/// A rule in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilterRule {
    pub(crate) chain: String,
    pub(crate) words: Vec<String>,
}

impl Filter {
    /// The table with the rules of the chains that either plugin writes to. Others may have many.
    pub(crate) fn of_plugins(dump: &TableDump) -> Self {
        Self::read(dump, |chain| chain.starts_with("CNI-") || ["FORWARD", "INPUT"].contains(&chain))
    }

    /// The table with the rules of all chains.
    pub(crate) fn whole(dump: &TableDump) -> Self {
        Self::read(dump, |_| true)
    }

    fn read(dump: &TableDump, wanted: impl Fn(&str) -> bool) -> Self {
        let rule = |rule: &SavedRule| FilterRule { chain: rule.chain.clone(), words: rule.words() };
        let rules = dump.rules.iter().filter(|rule| wanted(&rule.chain));
        Self {
            rules: rules.map(rule).collect(),
            chains: dump.chains.iter().map(|(name, _)| name.clone()).collect(),
        }
    }

    /// The table as it would be if the owner's network had always been called as the tag has it.
    pub(crate) fn named_by(mut self, tag: &OwnerTag) -> Self {
        for rule in &mut self.rules {
            let option = rule.words.iter().position(|word| word == "--comment");
            let comment = option.and_then(|at| rule.words.get_mut(at + 1));
            if let Some(comment) = comment.filter(|comment| tag.is_same_attachment(comment)) {
                tag.as_str().clone_into(comment);
            }
        }
        self
    }

    /// The rules, in any chain that is known, that lead to this one.
    pub(crate) fn leading_to<'a>(&'a self, chain: &'a str) -> impl Iterator<Item = &'a FilterRule> {
        self.rules.iter().filter(move |rule| rule.leads_to(chain))
    }

    pub(crate) fn has_chain(&self, name: &str) -> bool {
        self.chains.iter().any(|chain| chain == name)
    }

    pub(crate) fn rules_of<'a>(&'a self, chain: &'a str) -> impl Iterator<Item = &'a FilterRule> {
        self.rules.iter().filter(move |rule| rule.chain == chain)
    }

    /// The place of the first rule of `FORWARD` that leads to a chain.
    pub(crate) fn entrance_of(&self, chain: &str) -> Option<usize> {
        self.rules_of("FORWARD").position(|rule| rule.option("-j") == Some(chain))
    }
}

impl FilterRule {
    pub(crate) fn new(chain: &str, words: &[&str]) -> Self {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Self { chain: chain.to_owned(), words }
    }

    /// A rule with a comment before its target.
    pub(crate) fn commented(chain: &str, matches: &[&str], comment: &str, target: &str) -> Self {
        let tail = ["-m", "comment", "--comment", comment, "-j", target];
        Self::new(chain, &[matches, &tail].concat())
    }

    /// The word behind an option, for instance `-j`.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        let position = self.words.iter().position(|word| word == name)?;
        self.words.get(position + 1).map(String::as_str)
    }

    pub(crate) fn leads_to(&self, chain: &str) -> bool {
        ["-j", "-g"].iter().any(|option| self.option(option) == Some(chain))
    }

    pub(crate) fn comment(&self) -> Option<&str> {
        self.option("--comment")
    }

    /// Whether it carries the owner's tag.
    pub(crate) fn is_of(&self, tag: &OwnerTag) -> bool {
        self.comment().is_some_and(|comment| tag.is_same_attachment(comment))
    }

    /// The address, as a network, that the rule is about.
    pub(crate) fn host(&self) -> Option<&str> {
        self.option("-d").or_else(|| self.option("-s"))
    }

    /// Whether it is one that the Go plugin makes for an address; those name no owner.
    pub(crate) fn is_of_go(&self) -> bool {
        self.host().is_some_and(|host| go_rules(host).contains(self))
    }

    /// The restore line that does `action` (`-A`, `-D`, `-I`) with this rule.
    pub(crate) fn line(&self, action: &str) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:/!".contains(c);
        let word = |word: &String| {
            let is_plain = !word.is_empty() && word.chars().all(plain);
            if is_plain { word.clone() } else { quote(word) }
        };
        let words: Vec<_> = self.words.iter().map(word).collect();
        format!("{action} {} {}", self.chain, words.join(" "))
    }
}

/// The lines that leave exactly one such rule: at the chain's head if there is none yet.
pub(crate) fn keep_one(filter: &Filter, rule: &FilterRule, lines: &mut Vec<String>) {
    let count = filter.rules_of(&rule.chain).filter(|there| *there == rule).count();
    if count == 0 {
        lines.push(rule.line("-I"));
    }
    lines.extend((1..count).map(|_| rule.line("-D")));
}

/// What the Go plugin lets an address through with.
pub(crate) fn go_rules(host: &str) -> [FilterRule; 2] {
    let replies =
        ["-d", host, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"];
    [FilterRule::new(FORWARD, &replies), FilterRule::new(FORWARD, &["-s", host, "-j", "ACCEPT"])]
}

/// An address as iptables prints it.
pub(crate) fn host_network(address: IpAddr) -> String {
    format!("{address}/{}", IpVersion::of(address).host_prefix())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    impl Filter {
        /// A table of these rules, each behind its chain's name.
        pub(crate) fn of(text: &str) -> Self {
            let mut filter = Self::default();
            for line in text.trim().lines() {
                let rule = FilterRule::parse(&format!("-A {line}"));
                filter.add_chain(&rule.chain);
                filter.rules.push(rule);
            }
            filter
        }

        pub(crate) fn add_chain(&mut self, name: &str) {
            if !self.has_chain(name) {
                self.chains.push(name.to_owned());
            }
        }

        /// Takes restore lines as the tool does.
        pub(crate) fn apply(mut self, lines: &[String]) -> Self {
            for line in lines {
                let words = FilterRule::parse(line);
                match (line.as_bytes()[1], line.strip_prefix(':')) {
                    (_, Some(chain)) => {
                        let name = chain.split(' ').next().expect("a name").to_owned();
                        self.rules.retain(|rule| rule.chain != name);
                        self.add_chain(&name);
                    }
                    (b'N', _) => self.chains.push(words.chain),
                    (b'F', _) => self.rules.retain(|rule| rule.chain != words.chain),
                    (b'X', _) => {
                        assert_eq!(self.rules_of(&words.chain).count(), 0, "{line}");
                        self.chains.retain(|name| *name != words.chain);
                    }
                    (b'A', _) => self.rules.push(words),
                    (b'I', _) => self.rules.insert(0, words),
                    (b'D', _) => {
                        let position = self.rules.iter().position(|rule| *rule == words);
                        self.rules.remove(position.expect(line));
                    }
                    _ => panic!("{line}"),
                }
            }
            self
        }
    }

    impl FilterRule {
        /// Words of a restore line; comments here hold no quotes.
        fn parse(line: &str) -> Self {
            let mut words = Vec::new();
            for (index, part) in line.split('"').enumerate() {
                if index % 2 == 1 {
                    words.push(part.to_owned());
                } else {
                    words.extend(part.split_whitespace().map(str::to_owned));
                }
            }
            let chain = words.get(1).cloned().unwrap_or_default();
            Self { chain, words: words.split_off(2.min(words.len())) }
        }
    }
}
