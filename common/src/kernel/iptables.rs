//! iptables by its own tools: one `save` to read a table, one `restore` to change it.
//!
//! There is no stable interface to legacy iptables but its programs. A change is one
//! `iptables-restore --noflush`, which the kernel applies as a whole; reading and changing are
//! two steps, so whoever does both holds [`Lock`] meanwhile. Other programs may change other
//! chains at any time; ours are only ours.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::flock::lock_within;
use super::ip::IpVersion;
use super::retry::{Again, Retry};

/// How long `iptables-restore` waits for the xtables lock, in seconds.
const XTABLES_WAIT: &str = "5";
/// How long we wait for each other.
const OWN_WAIT: Duration = Duration::from_secs(20);
/// Where Debian, Fedora and Alpine keep the programs; runtimes may have a short `PATH`.
const USUAL_PLACES: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"];
/// Serialises our own read-modify-write. On tmpfs: it means nothing after a boot.
const LOCK: &str = "/run/cni-chain-iptables.lock";

/// Which of the two implementations of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Whatever `iptables` is on this host.
    Default,
    /// On top of `nf_tables`.
    Nft,
    /// On top of `ip_tables`.
    Legacy,
}

/// As people call it.
impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "iptables",
            Self::Nft => "iptables-nft",
            Self::Legacy => "legacy iptables",
        })
    }
}

/// The programs of one family and variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iptables {
    save: PathBuf,
    restore: PathBuf,
}

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

/// What can go wrong with iptables.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// The program is not installed.
    #[error("{0} is not installed")]
    Missing(&'static str),
    /// Another program held the xtables lock, or another of our processes ours, all the time.
    #[error("another program holds the lock of iptables: {0}")]
    Locked(String),
    /// The program refused.
    #[error("{program} failed ({status}): {message}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit status.
        status: String,
        /// What it said.
        message: String,
    },
    /// It could not be run.
    #[error("cannot run {0}: {1}")]
    Io(String, io::Error),
}

impl Retry for IptablesError {
    /// A program that fails does not say why: a rule that was saved may be gone by now, or a chain
    /// may have come.
    fn again(&self) -> Again {
        match self {
            Self::Failed { .. } => Again::Perhaps,
            Self::Missing(_) | Self::Locked(_) | Self::Io(..) => Again::Never,
        }
    }
}

impl Iptables {
    /// The programs of a family; nothing is run to find them.
    pub fn find(version: IpVersion, variant: Variant) -> Result<Self, IptablesError> {
        let (save, restore) = match (version, variant) {
            (IpVersion::V4, Variant::Default) => ("iptables-save", "iptables-restore"),
            (IpVersion::V4, Variant::Nft) => ("iptables-nft-save", "iptables-nft-restore"),
            (IpVersion::V4, Variant::Legacy) => ("iptables-legacy-save", "iptables-legacy-restore"),
            (IpVersion::V6, Variant::Default) => ("ip6tables-save", "ip6tables-restore"),
            (IpVersion::V6, Variant::Nft) => ("ip6tables-nft-save", "ip6tables-nft-restore"),
            (IpVersion::V6, Variant::Legacy) => {
                ("ip6tables-legacy-save", "ip6tables-legacy-restore")
            }
        };
        Ok(Self {
            save: which(save).ok_or(IptablesError::Missing(save))?,
            restore: which(restore).ok_or(IptablesError::Missing(restore))?,
        })
    }

    /// The programs that see what one variant made. A host with a single variant may have it under
    /// the plain names only.
    pub fn seeing(version: IpVersion, variant: Variant) -> Result<Self, IptablesError> {
        let named = Self::find(version, variant);
        match (&named, Self::find(version, Variant::Default)) {
            (Err(_), Ok(plain)) if plain.variant()? == variant => Ok(plain),
            _ => named,
        }
    }

    /// Which of the two the programs are, by their own words. Those from before there were two say
    /// nothing about it.
    pub fn variant(&self) -> Result<Variant, IptablesError> {
        let mut command = Command::new(&self.save);
        command.arg("--version").stdin(Stdio::null());
        let output = match run(command, &self.save, "") {
            Err(IptablesError::Failed { .. }) => return Ok(Variant::Legacy),
            outcome => outcome?,
        };
        let is_nft = String::from_utf8_lossy(&output.stdout).contains("nf_tables");
        Ok(if is_nft { Variant::Nft } else { Variant::Legacy })
    }

    /// Reads a table.
    pub fn save(&self, table: &str) -> Result<TableDump, IptablesError> {
        let mut command = Command::new(&self.save);
        command.args(["-t", table]).stdin(Stdio::null());
        let output = run(command, &self.save, "")?;
        let mut tables = parse_tables(&String::from_utf8_lossy(&output.stdout));
        Ok(tables.remove(table).unwrap_or_default())
    }

    /// Reads all tables in one go, by name.
    pub fn save_all(&self) -> Result<HashMap<String, TableDump>, IptablesError> {
        let mut command = Command::new(&self.save);
        command.stdin(Stdio::null());
        let output = run(command, &self.save, "")?;
        Ok(parse_tables(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Applies lines to tables: `:CHAIN - [0:0]` makes or empties a chain, `-A`, `-I`, `-D`, `-F`
    /// and `-X` do as in iptables. All or nothing in each table.
    pub fn restore(&self, changes: &[(&str, Vec<String>)]) -> Result<(), IptablesError> {
        let changes: Vec<_> = changes.iter().filter(|(_, lines)| !lines.is_empty()).collect();
        if changes.is_empty() {
            return Ok(());
        }
        let mut command = Command::new(&self.restore);
        command.args(["--noflush", "-w", XTABLES_WAIT]).stdin(Stdio::piped());
        let mut script = String::new();
        for (table, lines) in changes {
            script.extend(["*", table, "\n", &lines.join("\n"), "\nCOMMIT\n"]);
        }
        run(command, &self.restore, &script).map(|_| ())
    }
}

fn parse_tables(text: &str) -> HashMap<String, TableDump> {
    let mut tables = HashMap::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some(table) = line.strip_prefix('*') {
            table.clone_into(&mut name);
        }
        let dump: &mut TableDump = tables.entry(name.clone()).or_default();
        dump.read_line(line);
    }
    tables
}

impl TableDump {
    fn read_line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix(':') {
            let mut words = rest.split(' ');
            if let (Some(name), Some(policy)) = (words.next(), words.next()) {
                self.chains.push((name.to_owned(), policy.to_owned()));
            }
        } else if let Some((chain, spec)) = line.strip_prefix("-A ").and_then(|r| r.split_once(' '))
        {
            self.rules.push(SavedRule { chain: chain.to_owned(), spec: spec.to_owned() });
        }
    }

    /// Whether there is such a chain.
    #[must_use]
    pub fn has_chain(&self, name: &str) -> bool {
        self.chains.iter().any(|(chain, _)| chain == name)
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
        split_words(&self.spec)
    }

    /// Whether this is the rule that a specification asks for, whatever the order of its options.
    #[must_use]
    pub fn is(&self, spec: &str) -> bool {
        let sorted = |text: &str| {
            let mut words = split_words(text);
            words.sort();
            words
        };
        sorted(&self.spec) == sorted(spec)
    }

    /// The value behind an option, for instance `-j`.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<String> {
        let words = self.words();
        let position = words.iter().position(|word| word == name)?;
        words.get(position + 1).cloned()
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

/// Splits at blanks outside quotes, as iptables' own parser does.
fn split_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quoted, mut escaped, mut begun) = (false, false, false);
    for c in line.chars() {
        match c {
            _ if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => {
                quoted = !quoted;
                begun = true;
            }
            ' ' if !quoted => {
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            _ => word.push(c),
        }
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    words
}

/// Whether the legacy implementation has this table loaded; without it, it has no rules there.
#[must_use]
pub fn legacy_table_loaded(version: IpVersion, table: &str) -> bool {
    let path = match version {
        IpVersion::V4 => "/proc/net/ip_tables_names",
        IpVersion::V6 => "/proc/net/ip6_tables_names",
    };
    std::fs::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == table))
}

/// Held while a table is read and changed.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for our other processes, but not for ever.
    pub fn acquire() -> Result<Self, IptablesError> {
        let io = |error| IptablesError::Io(LOCK.to_owned(), error);
        let mut options = File::options();
        options.create(true).write(true).truncate(false).mode(0o600);
        let file = options.open(LOCK).map_err(io)?;
        match lock_within(&file, OWN_WAIT) {
            Ok(()) => Ok(Self { _file: file }),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(IptablesError::Locked(LOCK.to_owned()))
            }
            Err(error) => Err(io(error)),
        }
    }
}

fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(USUAL_PLACES.iter().map(PathBuf::from));
    places
        .filter(|place| place.is_absolute())
        .map(|place| place.join(program))
        .find(|file| file.is_file())
}

fn run(mut command: Command, program: &Path, stdin: &str) -> Result<Output, IptablesError> {
    /// Of iptables: the lock, or memory.
    const RESOURCE_PROBLEM: i32 = 4;
    let name = program.display().to_string();
    let io = |error| IptablesError::Io(name.clone(), error);
    // Nothing of the runtime's environment changes what iptables does, but for its plug-ins.
    command.env_remove("XTABLES_LIBDIR").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(io)?;
    if let Some(mut pipe) = child.stdin.take() {
        // One that dies early says why on stderr.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    let output = child.wait_with_output().map_err(io)?;
    if output.status.success() {
        return Ok(output);
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    // iptables-nft ends so for whatever the kernel refuses.
    let locked = ["xtables lock", "Resource temporarily unavailable"];
    if output.status.code() == Some(RESOURCE_PROBLEM)
        && locked.iter().any(|text| message.contains(text))
    {
        return Err(IptablesError::Locked(message));
    }
    Err(IptablesError::Failed { program: name, status: output.status.to_string(), message })
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
        let mut tables = parse_tables(SAVED);
        assert!(tables.contains_key("nat") && !tables.contains_key("filter"));
        let dump = tables.remove("nat").expect("nat");
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
            assert_eq!(split_words(&quote(text)), [text], "{text}");
        }
        assert_eq!(quote("a\n-F"), "\"a?-F\"");
    }
}
