//! What `iptables-save` prints, and the words of its rules. Pure.

use std::borrow::Cow;
use std::collections::HashMap;

/// A table as `iptables-save` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableDump {
    /// Chains with their policy, `-` for those of users.
    pub chains: Vec<(String, String)>,
    /// Rules in order.
    pub rules: Vec<SavedRule>,
}

/// A rule as `iptables-save` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedRule {
    /// Its chain.
    pub chain: String,
    /// Everything behind `-A CHAIN `, ready to follow `-D CHAIN `.
    pub spec: String,
}

/// A rule as a set of words: two rules that differ in the order of their options are the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Form(Vec<String>);

impl Form {
    /// The form of what stands behind `-A CHAIN `.
    #[must_use]
    pub fn of(spec: &str) -> Self {
        let mut words: Vec<String> = words(spec).map(Cow::into_owned).collect();
        words.sort_unstable();
        Self(words)
    }
}

/// Reads what was saved, table by table. What is not whole is an error: taken for an empty table, it
/// would be written over other containers' rules.
pub(super) fn parse_tables(text: &str) -> Result<HashMap<String, Saved>, String> {
    let mut tables = HashMap::new();
    let mut open: Option<(String, TableDump)> = None;
    for line in text.lines() {
        if let Some(table) = incompatible_table(line) {
            tables.insert(table.to_owned(), Err(format!("it says {line:?}")));
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        open = match (open, line.strip_prefix('*')) {
            (None, Some(name)) => Some((name.to_owned(), TableDump::default())),
            (Some((name, dump)), None) if line == "COMMIT" => {
                tables.insert(name, Ok(dump));
                None
            }
            (Some((name, mut dump)), None) => {
                dump.read_line(line).ok_or_else(|| format!("it has the line {line:?}"))?;
                Some((name, dump))
            }
            (_, _) => return Err(format!("it has {line:?} where no such line can be")),
        };
    }
    match open {
        None => Ok(tables),
        Some((name, _)) => Err(format!("table {name} ends without COMMIT")),
    }
}

/// A table, or what iptables says instead.
pub(super) type Saved = Result<TableDump, String>;

/// The table with rules that iptables-nft cannot print. One that "contains incompatible base-chains" is
/// none: all that is iptables' is printed then.
fn incompatible_table(line: &str) -> Option<&str> {
    line.strip_prefix("# Table `")?.split_once("' is incompatible").map(|(table, _)| table)
}

impl TableDump {
    fn read_line(&mut self, line: &str) -> Option<()> {
        if let Some(rest) = line.strip_prefix(':') {
            let (name, rest) = rest.split_once(' ')?;
            let policy = rest.split(' ').next()?;
            self.chains.push((name.to_owned(), policy.to_owned()));
        } else {
            let rule = line.strip_prefix("-A ")?;
            // One that only counts has nothing behind its chain.
            let (chain, spec) = rule.split_once(' ').unwrap_or((rule, ""));
            self.rules.push(SavedRule { chain: chain.to_owned(), spec: spec.to_owned() });
        }
        Some(())
    }

    /// Whether there is such a chain.
    #[must_use]
    pub fn has_chain(&self, name: &str) -> bool {
        self.chains.iter().any(|(chain, _)| chain == name)
    }

    /// The highest number of a chain whose name is this prefix and a number: the layout of what a plugin has
    /// in the table. Nothing leads to such a chain, and layout 1 has none.
    #[must_use]
    pub fn layout(&self, prefix: &str) -> Option<u32> {
        let numbers = self.chains.iter().filter_map(|(chain, _)| chain.strip_prefix(prefix));
        numbers.filter_map(|number| number.parse().ok()).max()
    }

    /// The rules of a chain, in order.
    pub fn rules_of(&self, chain: &str) -> impl Iterator<Item = &SavedRule> {
        self.rules.iter().filter(move |rule| rule.chain == chain)
    }
}

impl SavedRule {
    /// The rule's words, quotes removed.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        words(&self.spec).map(Cow::into_owned).collect()
    }

    /// Whether this is the rule that a specification asks for, whatever the order of its options.
    #[must_use]
    pub fn is(&self, spec: &str) -> bool {
        let sorted = |spec| {
            let mut words: Vec<Cow<'_, str>> = words(spec).collect();
            words.sort_unstable();
            words
        };
        sorted(&self.spec) == sorted(spec)
    }

    /// The rule, for comparison with many.
    #[must_use]
    pub fn form(&self) -> Form {
        Form::of(&self.spec)
    }

    /// The value behind an option, for instance `-j`.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<String> {
        words(&self.spec).skip_while(|word| word != name).nth(1).map(Cow::into_owned)
    }
}

/// A word as `iptables-restore` reads it: in quotes, with quotes and backslashes escaped.
#[must_use]
pub fn quote(word: &str) -> String {
    let mut quoted = String::with_capacity(word.len() + 2);
    quoted.push('"');
    for c in word.chars() {
        if c == '"' || c == '\\' {
            quoted.push('\\');
        }
        // A line is a command; a newline in a name must not begin another.
        quoted.push(if c.is_control() { '?' } else { c });
    }
    quoted.push('"');
    quoted
}

/// The words between blanks outside quotes, as iptables' own parser reads them.
fn words(line: &str) -> Words<'_> {
    Words { rest: line }
}

struct Words<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Words<'a> {
    type Item = Cow<'a, str>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.rest.trim_start_matches(' ');
        if line.is_empty() {
            return None;
        }
        let end = line.find([' ', '"']).unwrap_or(line.len());
        let (word, rest) = line.split_at(end);
        if rest.starts_with('"') {
            let (word, rest) = quoted_word(line);
            self.rest = rest;
            return Some(Cow::Owned(word));
        }
        self.rest = rest;
        Some(Cow::Borrowed(word))
    }
}

/// The first word of a line, without its quotes, and what follows it.
fn quoted_word(line: &str) -> (String, &str) {
    let mut word = String::new();
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' if !quoted => return (word, &line[at..]),
            _ => word.push(c),
        }
    }
    (word, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = r#"# Generated by iptables-save
*nat
:PREROUTING ACCEPT [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"n\" id: \"c\"" -m multiport --dports 80,81 -j CNI-DN-x
COMMIT
"#;

    #[test]
    fn a_saved_table() {
        let mut tables = parse_tables(SAVED).expect("whole");
        assert!(tables.contains_key("nat") && !tables.contains_key("filter"));
        let dump = tables.remove("nat").expect("nat").expect("shown");
        assert!(dump.has_chain("CNI-HOSTPORT-DNAT") && !dump.has_chain("OUTPUT"));
        let rule = dump.rules_of("CNI-HOSTPORT-DNAT").next().expect("a rule");
        assert_eq!(rule.option("--comment").as_deref(), Some(r#"dnat name: "n" id: "c""#));
        assert_eq!(rule.option("-j").as_deref(), Some("CNI-DN-x"));
        assert_eq!(rule.option("--dports").as_deref(), Some("80,81"));
        assert_eq!(rule.option("-d"), None);
    }

    #[test]
    fn quoting_survives_the_parser() {
        for text in ["plain", "two words", r#"a "quoted" \ word"#, "", "é'$(x)"] {
            assert_eq!(words(&quote(text)).collect::<Vec<_>>(), [text], "{text}");
        }
        assert_eq!(quote("a\n-F"), "\"a?-F\"");
        let mixed = words(r#"  -i a" b"c  \x "" -j "y z"#);
        assert_eq!(mixed.collect::<Vec<_>>(), ["-i", "a bc", r"\x", "", "-j", "y z"]);
    }

    #[test]
    fn what_is_not_whole_is_no_table() {
        assert_eq!(parse_tables("").expect("nothing saved").len(), 0);
        for end in 1..SAVED.trim_end().len() {
            let cut = &SAVED[..end];
            let outcome = parse_tables(cut);
            assert!(outcome.is_err() || outcome.is_ok_and(|tables| tables.is_empty()), "{cut}");
        }
        for text in [
            "COMMIT\n",
            "-A PREROUTING -j X\n",
            "*nat\n*filter\nCOMMIT\n",
            "*nat\nSegmentation fault\nCOMMIT\n",
            "*nat\n:\nCOMMIT\n",
        ] {
            assert!(parse_tables(text).is_err(), "{text}");
        }
    }

    /// What other programs do in a table of iptables' is no reason to give up.
    #[test]
    fn rules_and_chains_of_others() {
        let text = "# Table `nat' contains incompatible base-chains, use 'nft' tool to list them.\n\
                    *nat\n:mine - [0:0]\n-A mine\n-A mine -j RETURN\nCOMMIT\n";
        let tables = parse_tables(text).expect("whole");
        let nat = tables["nat"].as_ref().expect("shown");
        let specs: Vec<&str> = nat.rules_of("mine").map(|rule| &*rule.spec).collect();
        assert_eq!(specs, ["", "-j RETURN"]);
        let text = "# Table `mangle' is incompatible, use 'nft' tool.\n*nat\nCOMMIT\n";
        let tables = parse_tables(text).expect("whole");
        assert!(tables["nat"].is_ok() && tables["mangle"].is_err());
    }

    #[test]
    fn forms_are_alike_whatever_the_order() {
        assert_eq!(Form::of("-d 1.2.3.4/32 -p tcp"), Form::of("-p tcp -d 1.2.3.4/32"));
        assert_ne!(Form::of("-d 1.2.3.4/32 -p tcp"), Form::of("-p udp -d 1.2.3.4/32"));
    }
}
