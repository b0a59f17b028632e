//! Which package of the host a file belongs to.
//!
//! dpkg's lists are read as they are, so that this works in an image without dpkg; rpm's database
//! can be read by rpm alone.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cni_common::kernel::program;

const DPKG_LISTS: &str = "/var/lib/dpkg/info";
const DPKG_DIVERSIONS: &str = "/var/lib/dpkg/diversions";
const RPM_DATABASES: [&str; 2] = ["/usr/lib/sysimage/rpm", "/var/lib/rpm"];
const DEADLINE: Duration = Duration::from_secs(30);

/// Packages of the host.
#[derive(Debug, Default)]
pub(crate) struct Packages {
    /// What packages own of the files that are asked about, each with its package's name.
    owned: Vec<(String, String)>,
    diversions: Vec<Diversion>,
    has_rpm: bool,
}

/// A file whose place another package has, or the administrator.
#[derive(Debug, PartialEq, Eq)]
struct Diversion {
    from: String,
    /// `:` for the administrator's own.
    by: String,
}

impl Packages {
    /// Reads what there is about files of these names.
    pub(crate) fn of_host(names: &[String]) -> Self {
        let entries = fs::read_dir(DPKG_LISTS).into_iter().flatten().flatten();
        let lists = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension() == Some(OsStr::new("list")));
        let mut owned = Vec::new();
        for list in lists {
            let Some(package) = package(&list) else { continue };
            let text = fs::read_to_string(&list).unwrap_or_default();
            owned.extend(owned_of(&package, &text, names));
        }
        let diversions = fs::read_to_string(DPKG_DIVERSIONS).unwrap_or_default();
        let has_files = |dir: &str| fs::read_dir(dir).is_ok_and(|mut dir| dir.next().is_some());
        Self {
            owned,
            diversions: parse_diversions(&diversions),
            has_rpm: RPM_DATABASES.iter().any(|dir| has_files(dir)),
        }
    }

    /// The package that a file belongs to. A path may lead through symbolic links, such as `/lib`.
    pub(crate) fn owner(&self, path: &Path) -> Option<String> {
        let real = path.parent().and_then(|dir| dir.canonicalize().ok());
        let real = real.zip(path.file_name()).map(|(dir, name)| dir.join(name));
        let mut names: Vec<PathBuf> = vec![path.to_owned()];
        names.extend(real.filter(|real| real != path));
        names.iter().find_map(|path| self.dpkg(path).or_else(|| self.rpm(path)))
    }

    fn dpkg(&self, path: &Path) -> Option<String> {
        let path = path.to_str()?;
        if let Some(diversion) = self.diversions.iter().find(|diversion| diversion.from == path) {
            // What is at this place now is not the diverted package's.
            return (diversion.by != ":").then(|| diversion.by.clone());
        }
        self.owned.iter().find(|(_, file)| file == path).map(|(package, _)| package.clone())
    }

    fn rpm(&self, path: &Path) -> Option<String> {
        if !self.has_rpm {
            return None;
        }
        let mut rpm = Command::new("rpm");
        rpm.args(["-qf", "--queryformat", "%{NAME}\\n", "--"]).arg(path).env("LC_ALL", "C");
        // A status other than 0 is the answer that no package has it.
        let output = program::run_within(rpm, b"", DEADLINE).ok()?.output;
        let names = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then(|| names.lines().next().map(str::to_owned))?
    }
}

/// `libc6:amd64` of `…/libc6:amd64.list`.
fn package(list: &Path) -> Option<String> {
    list.file_stem()?.to_str().map(str::to_owned)
}

/// The lines of a package's list that end in one of these names.
fn owned_of(package: &str, list: &str, names: &[String]) -> Vec<(String, String)> {
    let is_asked_for = |line: &&str| {
        let name = line.rsplit('/').next().unwrap_or_default();
        names.iter().any(|asked| asked == name)
    };
    list.lines().filter(is_asked_for).map(|line| (package.to_owned(), line.to_owned())).collect()
}

/// Three lines each: from, to, and by whom.
fn parse_diversions(text: &str) -> Vec<Diversion> {
    let lines: Vec<&str> = text.lines().collect();
    let diversion =
        |three: &[&str]| Diversion { from: three[0].to_owned(), by: three[2].to_owned() };
    lines.chunks_exact(3).map(diversion).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages() -> Packages {
        let names = ["portmap", "tuning"].map(str::to_owned);
        let list =
            "/.\n/usr/lib/cni\n/usr/lib/cni/bridge\n/usr/lib/cni/portmap\n/usr/lib/cni/tuning";
        let owned = owned_of("containernetworking-plugins", list, &names);
        assert_eq!(owned.len(), 2);
        Packages {
            owned,
            diversions: parse_diversions(
                "/usr/lib/cni/tuning\n/usr/lib/cni/tuning.go\n:\n/x\n/x.real\nother\n",
            ),
            has_rpm: false,
        }
    }

    #[test]
    fn whose_a_file_is() {
        let owner = |path: &str| packages().owner(Path::new(path));
        assert_eq!(owner("/usr/lib/cni/portmap").as_deref(), Some("containernetworking-plugins"));
        assert_eq!(owner("/usr/lib/cni/portma"), None);
        assert_eq!(owner("/opt/cni/bin/portmap"), None);
        assert_eq!(owner("/usr/lib/cni/tuning"), None, "the administrator diverted it");
        assert_eq!(owner("/x").as_deref(), Some("other"));
    }

    #[test]
    fn a_list_names_its_package() {
        assert_eq!(package(Path::new("/a/libc6:amd64.list")).as_deref(), Some("libc6:amd64"));
        assert!(parse_diversions("a\nb\n").is_empty());
    }
}
