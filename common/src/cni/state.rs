//! Small files that must outlive a plugin's process: what DEL needs to know of ADD.
//!
//! One file per attachment. A reader sees the old content or the new, never half of one: writes
//! go to a temporary name and are renamed. Nothing is synced to disk, because the files describe
//! kernel state that a crash of the machine takes with it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::cni::attachment::{Attachment, OwnerTag};

/// Ends the name of a file.
const SUFFIX: &str = ".state";
/// Ends the name of a file that is being written.
const TEMPORARY_SUFFIX: &str = ".state.tmp";
/// Stands for the `/` of the tag. Neither network names nor container IDs can hold it.
const SEPARATOR: &str = "@";

/// A directory of such files.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// Keeps other processes out of the directory until it is dropped.
#[derive(Debug)]
pub struct StateLock {
    _directory: File,
}

impl StateDir {
    /// The directory at `path`, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The attachment's file.
    #[must_use]
    pub fn file_of(&self, attachment: &Attachment) -> PathBuf {
        self.path.join(file_name(&attachment.tag()))
    }

    /// Makes the directory, and those above it as anybody else would make them.
    pub fn create(&self) -> io::Result<()> {
        if let Some(parent) = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        // `recursive` is content with a directory that is there already.
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)
    }

    /// Waits until no other process holds the directory; `None` if there is none.
    pub fn lock(&self) -> io::Result<Option<StateLock>> {
        match File::open(&self.path) {
            Ok(directory) => {
                directory.lock()?;
                Ok(Some(StateLock { _directory: directory }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The attachment's state, if there is any.
    pub fn read(&self, attachment: &Attachment) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.file_of(attachment)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the attachment's state. The directory must exist, and be locked.
    pub fn write(&self, attachment: &Attachment, content: &[u8]) -> io::Result<()> {
        let path = self.file_of(attachment);
        let temporary = path.with_extension("state.tmp");
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&temporary)?.write_all(content)?;
            fs::rename(&temporary, &path)
        };
        write().inspect_err(|_| {
            // What made the write fail matters more than what is left of it.
            let _ = fs::remove_file(&temporary);
        })
    }

    /// Removes the attachment's state; there need not be any.
    pub fn remove(&self, attachment: &Attachment) -> io::Result<()> {
        remove_if_there(&self.file_of(attachment))
    }

    /// Removes the files of the network's attachments that are not among `valid`; how many.
    ///
    /// The names alone decide, so that a file nobody can read goes, too.
    pub fn retain(&self, network: &str, valid: &[Attachment]) -> io::Result<usize> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let valid: Vec<OwnerTag> = valid.iter().map(Attachment::tag).collect();
        let (mut removed, mut failure) = (0, None);
        for entry in entries {
            let entry = entry?;
            let stale = entry.file_name().to_str().and_then(tag_of).is_some_and(|tag| {
                OwnerTag::belongs_to(&tag, network) && !valid.iter().any(|v| v.as_str() == tag)
            });
            if stale {
                match remove_if_there(&entry.path()) {
                    Ok(()) => removed += 1,
                    Err(error) => failure = Some(error),
                }
            }
        }
        failure.map_or(Ok(removed), Err)
    }
}

fn file_name(tag: &OwnerTag) -> String {
    format!("{}{SUFFIX}", tag.as_str().replace('/', SEPARATOR))
}

/// The tag in a file's name. An interface name may hold the separator, but comes last.
fn tag_of(file_name: &str) -> Option<String> {
    let stem =
        file_name.strip_suffix(SUFFIX).or_else(|| file_name.strip_suffix(TEMPORARY_SUFFIX))?;
    Some(stem.replacen(SEPARATOR, "/", 2))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn attachment(network: &str, container_id: &str, ifname: &str) -> Attachment {
        Attachment {
            network: network.into(),
            container_id: container_id.into(),
            ifname: ifname.into(),
        }
    }

    fn names(dir: &StateDir) -> Vec<String> {
        let entries = fs::read_dir(dir.path()).expect("directory");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("entry").file_name().to_str().expect("UTF-8").to_owned())
            .collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("metadata").permissions().mode() & 0o777
    }

    #[test]
    fn content_comes_back_and_goes() {
        let root = tempfile::tempdir().expect("tempdir");
        let dir = StateDir::new(root.path().join("run/cni/tuning"));
        let c1 = attachment("net", "c1", "eth0");
        assert!(dir.lock().expect("no directory").is_none());
        assert_eq!(dir.read(&c1).expect("no directory"), None);
        dir.remove(&c1).expect("no directory");

        dir.create().expect("create");
        let lock = dir.lock().expect("lock");
        assert!(lock.is_some());
        dir.write(&c1, b"one").expect("write");
        dir.write(&c1, b"two").expect("overwrite");
        assert_eq!(dir.read(&c1).expect("read").as_deref(), Some(&b"two"[..]));
        assert_eq!(names(&dir), ["net@c1@eth0.state"]);
        assert_eq!(mode(&dir.file_of(&c1)), 0o600);
        dir.remove(&c1).expect("remove");
        assert_eq!(names(&dir), [""; 0]);
    }

    #[test]
    fn directories_stay_open_to_others_but_for_the_last() {
        let root = tempfile::tempdir().expect("tempdir");
        let dir = StateDir::new(root.path().join("a/b/c"));
        dir.create().expect("create");
        dir.create().expect("again");
        assert_eq!(mode(&root.path().join("a")) & 0o500, 0o500);
        assert_eq!(mode(&root.path().join("a/b")) & 0o500, 0o500);
        assert_eq!(mode(dir.path()), 0o700);
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let root = tempfile::tempdir().expect("tempdir");
        let dir = StateDir::new(root.path());
        let c1 = attachment("net", "c1", "eth0");
        // The rename cannot succeed.
        fs::create_dir(dir.file_of(&c1)).expect("a directory in the way");
        assert!(dir.write(&c1, b"one").is_err());
        assert_eq!(names(&dir), ["net@c1@eth0.state"]);
    }

    #[test]
    fn stale_files_of_one_network_go() {
        let root = tempfile::tempdir().expect("tempdir");
        let dir = StateDir::new(root.path());
        let keep = attachment("net", "c1", "eth0");
        let long = attachment("net", &"l".repeat(200), "a@b");
        let other = attachment("net2", "c1", "eth0");
        for attachment in [&keep, &long, &other, &attachment("net", "c2", "eth0")] {
            dir.write(attachment, b"{").expect("write");
        }
        fs::write(root.path().join("net@c3@eth0.state.tmp"), "half").expect("a crash's trace");
        fs::write(root.path().join("net_eth0.json"), "{}").expect("the Go plugin's");
        let removed = dir.retain("net", &[keep.clone(), long.clone()]).expect("retain");
        assert_eq!(removed, 2);
        assert!(dir.read(&keep).expect("read").is_some());
        assert!(dir.read(&long).expect("read").is_some());
        assert!(dir.read(&other).expect("read").is_some());
        assert_eq!(names(&dir).len(), 4);
        assert_eq!(StateDir::new(root.path().join("none")).retain("net", &[]).expect("none"), 0);
    }

    proptest! {
        #[test]
        fn names_are_single_components_and_lead_back(
            network in "[a-z0-9][a-zA-Z0-9_.-]{0,299}", id in "[a-z0-9][a-zA-Z0-9_.-]{0,299}",
            ifname in "[^/:\\s\0]{1,5}",
        ) {
            let tag = attachment(&network, &id, &ifname).tag();
            let name = file_name(&tag);
            prop_assert!(!name.contains('/') && name.len() <= 255 - 4);
            let back = tag_of(&name);
            prop_assert_eq!(back.as_deref(), Some(tag.as_str()));
        }
    }
}
