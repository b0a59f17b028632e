//! Small files that must outlive a plugin's process: what DEL needs to know of ADD.
//!
//! One file per owner, which is a container ID and an interface name. A reader sees the old
//! content or the new, never half of one: writes go to a draft that is renamed. Nothing is synced
//! to disk, because the files describe kernel state that a crash of the machine takes with it.
//!
//! No symbolic link is followed to the directory or in it, and what somebody else put there is
//! not believed: the directory may be in a place that others can write to.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use crate::cni::attachment::{Attachment, OwnerTag};
use crate::kernel::file::read_regular;
use crate::kernel::flock::lock_within;

/// Ends the name of a file.
const SUFFIX: &str = ".state";
/// Ends the name of a file that is being written.
const DRAFT_SUFFIX: &str = ".state.tmp";
/// Stands for the `/` of the owner. A container ID cannot hold it.
const SEPARATOR: &str = "@";
/// How long a call waits for others. Hundreds of containers may start at once, and each holds the
/// directory for some milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the state of the attachment's owner is, in any directory of such files. The network is
/// not part of it: it may have another name at DEL.
#[must_use]
pub fn file_name(attachment: &Attachment) -> String {
    file_name_of(&attachment.tag())
}

/// The same for the owner of a tag.
#[must_use]
pub fn file_name_of(tag: &OwnerTag) -> String {
    format!("{}{SUFFIX}", tag.owner().replacen('/', SEPARATOR, 1))
}

/// The name that a file of b302888 has, with the tag's network: a renamed one did not find it.
#[must_use]
pub fn older_file_name(attachment: &Attachment) -> String {
    format!("{}{SUFFIX}", attachment.tag().as_str().replace('/', SEPARATOR))
}

/// A directory of such files. Other processes are kept out of it until it is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    directory: File,
}

impl StateDir {
    /// Opens the directory when no other process has it any more; `None` if there is none.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory = match openat(AT_FDCWD, path, flags, Mode::empty()) {
            Ok(directory) => File::from(directory),
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !is_private(&directory.metadata()?) {
            let text = "it belongs to another user, or everybody can write to it";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        lock_within(&directory, PATIENCE)?;
        Ok(Some(Self { path: path.to_owned(), directory }))
    }

    /// The same, but makes the directory if there is none, and those above it as anybody else
    /// would make them.
    pub fn create(path: &Path) -> io::Result<Self> {
        if let Some(directory) = Self::open(path)? {
            return Ok(directory);
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Self::open(path)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content of a file; `None` if there is none of that name. What cannot be a file of
    /// ours is an error of the kind `InvalidData`.
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let foreign = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        let file = match openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            // No container's name is that long, or it would have no file either.
            Err(Errno::ENOENT | Errno::ENAMETOOLONG) => return Ok(None),
            Err(Errno::ELOOP) => return foreign("it is a symbolic link"),
            Err(Errno::ENXIO) => return foreign("it is no regular file"),
            Err(error) => return Err(error.into()),
        };
        let metadata = file.metadata()?;
        if metadata.is_file() && !is_private(&metadata) {
            return foreign("it belongs to another user, or everybody can write to it");
        }
        read_regular(file).map(Some)
    }

    /// Replaces the content of a file of [`StateDir::names`].
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let draft = draft_of(name);
        // What a killed process left; nobody else is writing.
        self.remove(&draft)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let write = || {
            let mode = Mode::S_IRUSR | Mode::S_IWUSR;
            File::from(openat(&self.directory, draft.as_str(), flags, mode)?).write_all(content)?;
            renameat(&self.directory, draft.as_str(), &self.directory, name)?;
            Ok(())
        };
        write().inspect_err(|_| {
            // What made the write fail matters more than what is left of it.
            let _ = self.remove(&draft);
        })
    }

    /// Gives a file another name; whether there was one.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<bool> {
        match renameat(&self.directory, from, &self.directory, to) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT | Errno::ENAMETOOLONG) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a file; there need not be one. A directory of that name is no file of ours, and stays.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(self.directory.as_fd(), name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::ENOENT | Errno::ENAMETOOLONG | Errno::EISDIR) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a file of [`StateDir::names`], and what a killed process wanted to put in its place.
    pub fn forget(&self, name: &str) -> io::Result<()> {
        self.remove(name).and(self.remove(&draft_of(name)))
    }

    /// The names of all owners' files.
    pub fn names(&self) -> io::Result<Vec<String>> {
        self.list(|name| name.ends_with(SUFFIX))
    }

    /// Removes what killed processes were writing. Nobody is, as long as this one has the directory.
    pub fn remove_drafts(&self) -> io::Result<()> {
        self.list(|name| name.ends_with(DRAFT_SUFFIX))?
            .iter()
            .try_for_each(|name| self.remove(name))
    }

    fn list(&self, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string().ok().filter(|name| wanted(name)));
        }
        Ok(names)
    }
}

fn draft_of(name: &str) -> String {
    format!("{}{DRAFT_SUFFIX}", name.strip_suffix(SUFFIX).unwrap_or(name))
}

/// Whether only this user can have put there what is there. In a directory with the sticky bit,
/// such as `/tmp`, everybody can add files, but not replace this user's.
fn is_private(metadata: &fs::Metadata) -> bool {
    let for_everybody = metadata.mode() & 0o002 != 0;
    let sticky = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
    metadata.uid() == geteuid().as_raw() && (!for_everybody || sticky)
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

    fn all(dir: &StateDir) -> Vec<String> {
        let mut names = dir.list(|_| true).expect("directory");
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("metadata").permissions().mode() & 0o777
    }

    #[test]
    fn content_comes_back_and_goes() {
        let root = tempfile::tempdir().expect("tempdir");
        let path = root.path().join("run/cni/tuning");
        assert!(StateDir::open(&path).expect("no directory").is_none());

        let dir = StateDir::create(&path).expect("create");
        let c1 = file_name(&attachment("net", "c1", "eth0"));
        assert_eq!(dir.read(&c1).expect("nothing"), None);
        dir.write(&c1, b"one").expect("write");
        dir.write(&c1, b"two").expect("overwrite");
        assert_eq!(dir.read(&c1).expect("read").as_deref(), Some(&b"two"[..]));
        assert_eq!(all(&dir), ["c1@eth0.state"]);
        assert_eq!(mode(&path.join(&c1)), 0o600);
        let older = older_file_name(&attachment("net", "c1", "eth0"));
        assert_eq!(older, "net@c1@eth0.state");
        assert!(dir.rename(&c1, &older).expect("rename"));
        assert!(!dir.rename(&c1, &older).expect("nothing"));
        assert!(dir.rename(&older, &c1).expect("back"));
        assert_eq!(dir.read(&c1).expect("read").as_deref(), Some(&b"two"[..]));
        dir.forget(&c1).expect("remove");
        dir.forget(&c1).expect("again");
        assert_eq!(all(&dir), [""; 0]);
    }

    #[test]
    fn directories_stay_open_to_others_but_for_the_last() {
        let root = tempfile::tempdir().expect("tempdir");
        let path = root.path().join("a/b/c");
        drop(StateDir::create(&path).expect("create"));
        drop(StateDir::create(&path).expect("again"));
        assert_eq!(mode(&root.path().join("a")) & 0o500, 0o500);
        assert_eq!(mode(&root.path().join("a/b")) & 0o500, 0o500);
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let root = tempfile::tempdir().expect("tempdir");
        let dir = StateDir::create(root.path()).expect("directory");
        // The rename cannot succeed.
        fs::create_dir(root.path().join("c1@eth0.state")).expect("a directory in the way");
        assert!(dir.write("c1@eth0.state", b"one").is_err());
        assert_eq!(all(&dir), ["c1@eth0.state"]);
    }

    #[test]
    fn what_a_killed_process_was_writing_is_no_obstacle_and_goes() {
        let root = tempfile::tempdir().expect("tempdir");
        let dir = StateDir::create(root.path()).expect("directory");
        let prey = root.path().join("prey");
        fs::write(&prey, "precious").expect("write");
        // Or what somebody put there on purpose.
        std::os::unix::fs::symlink(&prey, root.path().join("c1@eth0.state.tmp")).expect("symlink");
        dir.write("c1@eth0.state", b"one").expect("write");
        assert_eq!(fs::read(&prey).expect("prey"), b"precious");
        for id in ["c1", "c2"] {
            fs::write(root.path().join(format!("{id}@eth0.state.tmp")), "half").expect("write");
        }
        dir.forget("c1@eth0.state").expect("forget");
        assert_eq!(all(&dir), ["c2@eth0.state.tmp", "prey"]);
        dir.remove_drafts().expect("remove");
        assert_eq!(all(&dir), ["prey"]);
    }

    #[test]
    fn what_others_put_there_is_not_believed() {
        let root = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| root.path().join(name);
        let dir = StateDir::create(&at("dir")).expect("directory");
        fs::write(at("elsewhere"), "text").expect("write");
        fs::write(at("dir/open.state"), "text").expect("write");
        fs::set_permissions(at("dir/open.state"), fs::Permissions::from_mode(0o666)).expect("mode");
        std::os::unix::fs::symlink(at("elsewhere"), at("dir/link.state")).expect("symlink");
        nix::unistd::mkfifo(&at("dir/fifo.state"), Mode::S_IRWXU).expect("mkfifo");
        fs::create_dir(at("dir/dir.state")).expect("directory");
        for name in ["open.state", "link.state", "fifo.state", "dir.state"] {
            let error = dir.read(name).expect_err(name);
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}: {error}");
        }
        drop(dir);

        std::os::unix::fs::symlink(at("dir"), at("linked")).expect("symlink");
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU).expect("mkfifo");
        for name in ["linked", "fifo", "elsewhere"] {
            assert!(StateDir::open(&at(name)).is_err() && StateDir::create(&at(name)).is_err());
        }
        fs::set_permissions(at("dir"), fs::Permissions::from_mode(0o777)).expect("mode");
        assert!(StateDir::open(&at("dir")).is_err());
        fs::set_permissions(at("dir"), fs::Permissions::from_mode(0o1777)).expect("mode");
        assert!(StateDir::open(&at("dir")).is_ok());
    }

    #[test]
    fn a_renamed_network_has_the_same_files() {
        let name =
            |network: &str, id: &str, ifname: &str| file_name(&attachment(network, id, ifname));
        assert_eq!(name("old", "c1", "eth0"), name("new", "c1", "eth0"));
        assert_ne!(name("net", "c1", "eth0"), name("net", "c1", "eth1"));
        assert_ne!(name("net", "c1", "eth0"), name("net", "c2", "eth0"));
    }

    proptest! {
        #[test]
        fn names_are_single_components_and_of_one_owner(
            network in "[a-z0-9][a-zA-Z0-9_.-]{0,299}", id in "[a-z0-9][a-zA-Z0-9_.-]{0,299}",
            ifname in "[^/:\\s\0]{1,5}", other in "[a-z0-9][a-zA-Z0-9_.-]{0,299}",
        ) {
            let name = file_name(&attachment(&network, &id, &ifname));
            prop_assert!(!name.contains('/') && name.len() <= 255 - 4);
            let same = name == file_name(&attachment(&network, &other, &ifname));
            prop_assert_eq!(same, id == other);
        }
    }
}
