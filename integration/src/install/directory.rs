//! Which directory a node's runtimes take CNI plugins from.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use cni_common::kernel::file;

use super::runtime_config::{imports_of_containerd, of_containerd, of_crio};

/// containerd's own configuration, and those of distributions that bring a containerd.
const CONTAINERD: [&str; 4] = [
    "/etc/containerd/config.toml",
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
    "/var/snap/microk8s/current/args/containerd.toml",
];
const CRIO: &str = "/etc/crio/crio.conf";
/// Whose files are read in their order, each over the earlier ones.
const CRIO_PARTS: &str = "/etc/crio/crio.conf.d";

/// Where plugins are on a host whose runtimes say nothing: Kubernetes and nerdctl, Debian, Fedora,
/// k3s, microk8s, GKE.
const USUAL: [&str; 7] = [
    "/opt/cni/bin",
    "/usr/lib/cni",
    "/usr/libexec/cni",
    "/var/lib/rancher/k3s/data/cni",
    "/var/lib/rancher/k3s/data/current/bin",
    "/var/snap/microk8s/current/opt/cni/bin",
    "/home/kubernetes/bin",
];

/// What tells a directory of CNI plugins: they all bring it.
const TELLING: &str = "portmap";

/// A directory and why it is the one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) dir: PathBuf,
    pub(crate) because: String,
}

/// Directories that one configuration names, first come first searched.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Configured {
    file: PathBuf,
    dirs: Vec<PathBuf>,
}

/// The directory of this host.
pub(crate) fn find() -> anyhow::Result<Found> {
    choose(&configurations()?, |dir| dir.join(TELLING).symlink_metadata().is_ok())
}

/// What runtimes are told goes before what is usual. Of a runtime's directories the first counts
/// that has plugins, as the runtime itself would find them.
fn choose(configured: &[Configured], has_plugins: impl Fn(&Path) -> bool) -> anyhow::Result<Found> {
    let first = |dirs: &[PathBuf]| {
        let with_plugins = dirs.iter().find(|dir| has_plugins(dir));
        with_plugins.or(dirs.first()).cloned()
    };
    let told: Vec<(&Path, PathBuf)> = configured
        .iter()
        .filter_map(|runtime| Some((runtime.file.as_path(), first(&runtime.dirs)?)))
        .collect();
    if let Some((file, dir)) = told.first() {
        if let Some((other, another)) = told.iter().find(|(_, another)| another != dir) {
            bail!(
                "this host's runtimes differ: {} says {}, and {} says {}; choose one with --bin-dir",
                file.display(),
                dir.display(),
                other.display(),
                another.display()
            );
        }
        return Ok(Found { dir: dir.clone(), because: format!("{} says so", file.display()) });
    }
    let usual = USUAL.map(PathBuf::from);
    Ok(match usual.iter().find(|dir| has_plugins(dir)) {
        Some(dir) => Found { dir: dir.clone(), because: "there are CNI plugins".to_owned() },
        None => Found {
            dir: usual[0].clone(),
            because: "no runtime's configuration says another, and there are no plugins elsewhere"
                .to_owned(),
        },
    })
}

fn configurations() -> anyhow::Result<Vec<Configured>> {
    let mut found = Vec::new();
    for path in CONTAINERD.map(Path::new) {
        found.extend(containerd(path)?);
    }
    found.extend(crio()?);
    Ok(found)
}

fn containerd(path: &Path) -> anyhow::Result<Option<Configured>> {
    let Some(text) = text_of(path)? else { return Ok(None) };
    let mut found = configured(path, of_containerd(&text))?;
    // An import goes over the file that names it.
    for file in imports_of_containerd(&text).iter().flat_map(|pattern| matching(path, pattern)) {
        if let Some(text) = text_of(&file)? {
            found = configured(&file, of_containerd(&text))?.or(found);
        }
    }
    Ok(found)
}

fn crio() -> anyhow::Result<Option<Configured>> {
    let mut files = vec![PathBuf::from(CRIO)];
    files.extend(sorted(Path::new(CRIO_PARTS), ""));
    let mut found = None;
    for file in files {
        if let Some(text) = text_of(&file)? {
            found = configured(&file, of_crio(&text))?.or(found);
        }
    }
    Ok(found)
}

fn configured(
    file: &Path,
    dirs: Result<Vec<String>, toml::de::Error>,
) -> anyhow::Result<Option<Configured>> {
    let dirs = dirs.map_err(|error| {
        let reason = error.message();
        anyhow::anyhow!("{} is no TOML: {reason}; choose with --bin-dir", file.display())
    })?;
    // Without its last slash, by which two would differ.
    let dirs: Vec<PathBuf> = dirs.iter().map(|dir| Path::new(dir).components().collect()).collect();
    Ok((!dirs.is_empty()).then(|| Configured { file: file.to_owned(), dirs }))
}

/// `None` without a file.
fn text_of(path: &Path) -> anyhow::Result<Option<String>> {
    let bytes = match file::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error)
                .with_context(|| format!("cannot read {}; choose with --bin-dir", path.display()));
        }
    };
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The files that an import means: of patterns those with one star in the file's name.
fn matching(importing: &Path, pattern: &str) -> Vec<PathBuf> {
    let path = importing.parent().unwrap_or(Path::new("/")).join(pattern);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match (name.split_once('*'), path.parent()) {
        (Some((beginning, end)), Some(dir)) => {
            let begins = |file: &PathBuf| {
                file.file_name().is_some_and(|f| f.to_string_lossy().starts_with(beginning))
            };
            sorted(dir, end).into_iter().filter(begins).collect()
        }
        _ => vec![path],
    }
}

/// The files of a directory whose names end so.
fn sorted(dir: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file() && path.to_string_lossy().ends_with(end))
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(file: &str, dirs: &[&str]) -> Configured {
        Configured { file: file.into(), dirs: dirs.iter().map(PathBuf::from).collect() }
    }

    fn chosen(configured: &[Configured], with_plugins: &[&str]) -> String {
        let has = |dir: &Path| with_plugins.iter().any(|with| dir == Path::new(with));
        let found = choose(configured, has).expect("they agree");
        found.dir.display().to_string()
    }

    #[test]
    fn a_runtime_is_believed_before_what_is_usual() {
        assert_eq!(chosen(&[told("c", &["/x"])], &["/opt/cni/bin"]), "/x");
        assert_eq!(chosen(&[told("c", &["/x", "/y"])], &["/y"]), "/y");
        assert_eq!(chosen(&[told("c", &["/x", "/y"])], &[]), "/x");
        let both = [told("c", &["/x"]), told("o", &["/y"])];
        let error = choose(&both, |_| false).expect_err("they differ").to_string();
        assert!(error.contains("c says /x, and o says /y"), "{error}");
        assert_eq!(chosen(&[told("c", &["/x"]), told("o", &["/x"])], &[]), "/x");
    }

    #[test]
    fn the_usual_place_is_the_one_with_plugins() {
        for dir in USUAL {
            assert_eq!(chosen(&[], &[dir]), dir);
        }
        assert_eq!(chosen(&[], &["/usr/lib/cni", "/opt/cni/bin"]), "/opt/cni/bin");
        assert_eq!(chosen(&[], &[]), "/opt/cni/bin");
    }
}
