//! The node's list of sysctls that networks may set.

use std::io;
use std::path::Path;

use cni_common::cni::failure::code_of;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::file;
use regex::bytes::{Regex, RegexBuilder};

use crate::key::{Key, Reading};
use crate::plan::Plan;

/// The Go plugin's file.
const PATH: &str = "/etc/cni/tuning/allowlist.conf";

/// What the node lets networks set.
#[derive(Debug)]
pub(crate) struct Allowlist {
    /// One of them must match a whole key. `None`: there is no list.
    patterns: Option<Vec<Regex>>,
    /// Whether a missing list allows nothing, rather than everything.
    strict: bool,
}

impl Allowlist {
    /// Reads the list that decides about a plan.
    pub(crate) fn for_plan(plan: &Plan<'_>, strict: bool) -> Result<Self, CniError> {
        // Patterns are worth their compilation only where there is something to match.
        if plan.sysctls.is_empty() {
            return Ok(Self { patterns: None, strict });
        }
        Self::read(strict)
    }

    /// Reads the node's list.
    pub(crate) fn read(strict: bool) -> Result<Self, CniError> {
        Ok(Self { patterns: read(Path::new(PATH))?, strict })
    }

    /// An error if the key may not be set.
    pub(crate) fn permit(&self, key: &Key, meaning: &Reading) -> Result<(), CniError> {
        match &self.patterns {
            Some(patterns) if allows(patterns, key, meaning) => Ok(()),
            Some(_) => Err(CniError::config(format!(
                "sysctl {:?} is not allowed: remove it, or add a line that matches all of it to {PATH}",
                key.text()
            ))),
            None => self.permit_without_list(key),
        }
    }

    /// An error if the key may not be set because there is no list.
    pub(crate) fn permit_without_list(&self, key: &Key) -> Result<(), CniError> {
        if !self.strict || self.patterns.is_some() {
            return Ok(());
        }
        Err(CniError::config(format!(
            "sysctl {:?} is not allowed: \"allowlistStrict\" is set and there is no {PATH}: create it",
            key.text()
        )))
    }
}

/// `None` if there is no file.
fn read(path: &Path) -> Result<Option<Vec<Regex>>, CniError> {
    let text = match file::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_dangling(path) => {
            return Ok(None);
        }
        Err(error) => Err(error),
    };
    let text = text.map_err(|error| {
        CniError::new(
            code_of(&error, ErrorCode::IoFailure),
            format!(
                "cannot read the sysctl allowlist {}: make it a text file that root can read, or remove it",
                path.display()
            ),
        )
        .with_details(error.to_string())
    })?;
    parse(&text).map(Some)
}

/// Whether a path that leads to nothing leads there by a symbolic link: somebody wants a list.
fn is_dangling(path: &Path) -> bool {
    let nearest = path.ancestors().find(|part| part.symlink_metadata().is_ok());
    // A link to a directory leads there: rootlesskit has one for everything in /etc.
    nearest.is_some_and(|nearest| nearest.is_symlink() && !nearest.exists())
}

fn parse(text: &str) -> Result<Vec<Regex>, CniError> {
    let mut patterns = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        patterns.push(compile(line).map_err(|error| {
            CniError::config(format!(
                "line {} of {PATH} is no regular expression: correct {line:?}",
                index + 1
            ))
            .with_details(error.to_string())
        })?);
    }
    Ok(patterns)
}

/// Whether a pattern matches the whole of the key, as it was written or in any spelling of what it
/// means.
fn allows(patterns: &[Regex], key: &Key, meaning: &Reading) -> bool {
    let spellings = meaning.spellings();
    let mut texts = std::iter::once(key.text()).chain(spellings.iter().map(String::as_str));
    texts.any(|text| patterns.iter().any(|pattern| pattern.is_match(text.as_bytes())))
}

/// Go's classes such as `\w` are ASCII; that of this crate are only without its Unicode mode.
fn compile(line: &str) -> Result<Regex, regex::Error> {
    // On its own first, lest an unbalanced bracket be balanced by what is put around it.
    RegexBuilder::new(line).unicode(false).build()?;
    RegexBuilder::new(&format!(r"\A(?:{line})\z")).unicode(false).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn allows(list: &str, key: &str) -> bool {
        let key = Key::parse(key, "eth0").expect("key");
        super::allows(&parse(list).expect("list"), &key, key.first_reading())
    }

    #[test]
    fn patterns_match_the_whole_key_in_either_spelling() {
        let exact = r"^net\.core\.somaxconn$";
        assert!(allows(exact, "net.core.somaxconn"));
        assert!(allows(exact, "net/core/somaxconn"));
        assert!(allows("net/core/somaxconn", "net.core.somaxconn"));
        assert!(allows(r"net\.core\.\w+", "net.core.somaxconn"));
        assert!(!allows("somax", "net.core.somaxconn"));
        assert!(!allows(r"net\.core\.somax", "net.core.somaxconn"));
        assert!(!allows(r"a|net\.core", "net.core.somaxconn"));
        assert!(!allows("", "net.core.somaxconn"));
    }

    #[test]
    fn lines_are_trimmed_and_any_may_match() {
        let list = "\r\n  net\\.core\\.a \r\n\r\n^net\\.core\\.b$\r\n";
        assert!(allows(list, "net.core.a") && allows(list, "net.core.b"));
        assert!(!allows(list, "net.core.c"));
    }

    #[test]
    fn the_interface_is_matched_by_its_token() {
        let list = r"^net\.ipv4\.conf\.IFNAME\.[a-z_]*$";
        assert!(allows(list, "net.ipv4.conf.IFNAME.log_martians"));
        assert!(!allows(list, "net.ipv4.conf.eth0.log_martians"));
    }

    #[test]
    fn a_dotted_interface_is_no_part_of_another() {
        let list = parse(r"net\.ipv4\.conf\.eth0\..*").expect("list");
        let key = Key::parse("net/ipv4/conf/eth0.100/x", "eth0").expect("key");
        assert!(!super::allows(&list, &key, &key.readings()[1]));
    }

    #[test]
    fn bad_patterns_name_their_line() {
        for bad in ["[a", "a)(b", "(?P<x", r"\p{Greek}"] {
            let error = parse(&format!("ok\n\n{bad}\n")).expect_err(bad);
            assert!(error.msg.starts_with("line 3 of /etc/cni/tuning/allowlist.conf"), "{error}");
            assert!(!error.details.is_empty());
        }
    }

    #[test]
    fn no_file_is_not_an_empty_file() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("list");
        assert!(read(&path).expect("missing").is_none());
        fs::write(&path, "").expect("write");
        assert!(read(&path).expect("empty").is_some());
        assert_eq!(read(dir.path()).expect_err("directory").code, ErrorCode::IoFailure);
    }

    #[test]
    fn a_link_to_nothing_is_no_missing_list() {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| dir.path().join(name);
        symlink("gone", at("list")).expect("symlink");
        assert_eq!(read(&at("list")).expect_err("dangling").code, ErrorCode::IoFailure);
        symlink("gone", at("tuning")).expect("symlink");
        let error = read(&at("tuning/allowlist.conf")).expect_err("dangling directory");
        assert_eq!(error.code, ErrorCode::IoFailure);
        assert!(read(&at("none/allowlist.conf")).expect("no list").is_none());
        // As rootlesskit has all of /etc.
        fs::create_dir(at("cni")).expect("mkdir");
        symlink("cni", at("linked")).expect("symlink");
        assert!(read(&at("linked/tuning/allowlist.conf")).expect("no list").is_none());
        // As Kubernetes mounts a ConfigMap.
        fs::write(at("gone"), "net\\..*").expect("write");
        assert!(read(&at("list")).expect("a list").is_some());
    }
}
