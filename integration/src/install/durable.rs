//! Files that are there whole or not at all, also after a loss of power.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

/// How the names of drafts end.
const EXTENSION: &str = ".cni-chain-new";

/// A file's new content, beside it, until it takes its place. Dropped before that, it is gone.
#[derive(Debug)]
pub(super) struct Draft {
    /// Where it is until then.
    pub(super) path: PathBuf,
    target: PathBuf,
    is_placed: bool,
}

impl Draft {
    /// Writes it, down to the disk. What a killed call left in its place goes.
    pub(super) fn write(target: &Path, content: &[u8], mode: u32) -> io::Result<Self> {
        let draft = Self::empty(target)?;
        let mut file = draft.create()?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        Ok(draft)
    }

    /// The same, of another file's content.
    pub(super) fn copy(source: &Path, target: &Path, mode: u32) -> io::Result<Self> {
        let draft = Self::empty(target)?;
        let mut file = draft.create()?;
        file.set_permissions(Permissions::from_mode(mode))?;
        io::copy(&mut File::open(source)?, &mut file)?;
        file.sync_all()?;
        Ok(draft)
    }

    /// The same for a file that is there, whose mode and owner stay.
    pub(super) fn rewrite(target: &Path, content: &[u8]) -> io::Result<Self> {
        let old = fs::metadata(target)?;
        let draft = Self::empty(target)?;
        let mut file = draft.create()?;
        file.write_all(content)?;
        let own = file.metadata()?;
        // Which needs a capability that is not needed where the owner is the same.
        if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        // After the owner, whose change takes bits away.
        file.set_permissions(old.permissions())?;
        file.sync_all()?;
        Ok(draft)
    }

    /// Another name of a file that is there, or a copy where the file system has no hard links.
    pub(super) fn link(of: &Path, target: &Path) -> io::Result<Self> {
        let draft = Self::empty(target)?;
        if fs::hard_link(of, &draft.path).is_err() {
            fs::copy(of, &draft.path)?;
            File::open(&draft.path)?.sync_all()?;
        }
        Ok(draft)
    }

    /// Puts it in its place. [`sync_directory`] makes that last.
    pub(super) fn place(mut self) -> io::Result<()> {
        fs::rename(&self.path, &self.target)?;
        // Of two names of one file, rename(2) leaves both.
        self.is_placed = fs::symlink_metadata(&self.path).is_err();
        Ok(())
    }

    /// Whether a file of this name is one.
    pub(super) fn is_named(name: &OsStr) -> bool {
        name.as_encoded_bytes().ends_with(EXTENSION.as_bytes())
    }

    fn empty(target: &Path) -> io::Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        // No runtime takes it for a plugin or for a network.
        let path = target.with_file_name(format!(".{name}{EXTENSION}"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(Self { path, target: target.to_owned(), is_placed: false }),
        }
    }

    fn create(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_placed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes what was renamed in a directory last.
pub(super) fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_is_nothing_until_it_is_placed() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("portmap");
        fs::write(&target, "old").expect("written");
        drop(Draft::write(&target, b"new", 0o755).expect("written"));
        assert_eq!(fs::read(&target).expect("there"), b"old");
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1);
        // What a killed call left is no obstacle.
        fs::write(dir.path().join(".portmap.cni-chain-new"), "half").expect("written");
        Draft::write(&target, b"new", 0o755).expect("written").place().expect("placed");
        assert_eq!(fs::read(&target).expect("there"), b"new");
        assert_eq!(fs::metadata(&target).expect("there").mode() & 0o7777, 0o755);
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1);
    }

    #[test]
    fn mode_and_content_of_a_file_that_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("a.conflist");
        fs::write(&target, "old").expect("written");
        fs::set_permissions(&target, Permissions::from_mode(0o640)).expect("ours");
        Draft::rewrite(&target, b"new").expect("written").place().expect("placed");
        assert_eq!(fs::metadata(&target).expect("there").mode() & 0o7777, 0o640);
        assert_eq!(fs::read(&target).expect("there"), b"new");
    }
}
