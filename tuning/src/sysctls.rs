//! The sysctls of the namespace that the calling thread is in, confined to `/proc/sys/net`.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

use cni_common::cni::failure::of_io;
use cni_common::cni::protocol::{CniError, ErrorCode};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::Mode;

use crate::key::{Key, Reading, SysctlPath};

/// What is beneath: the kernel shows each thread the sysctls of the namespace it is in.
const ROOT: &str = "/proc/sys/net";

/// A handle on `/proc/sys/net`, from which no path leads away.
#[derive(Debug)]
pub(crate) struct Sysctls {
    root: OwnedFd,
}

impl Sysctls {
    pub(crate) fn open() -> Result<Self, CniError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(ROOT, flags, Mode::empty()).map_err(|error| {
            let remedy = "mount /proc where the plugin runs";
            kernel_failure(&error.into(), &format!("cannot open {ROOT}"), remedy)
        })?;
        Ok(Self { root })
    }

    /// Finds the first meaning of a key that exists, and makes sure that it can be written.
    pub(crate) fn find_writable<'a>(&self, key: &'a Key) -> Result<&'a Reading, CniError> {
        self.find(key, OFlag::O_WRONLY).map_err(|error| {
            let remedy = match error {
                Errno::ENOENT => "there is no such sysctl in the container's namespace: check the spelling",
                Errno::EACCES | Errno::EPERM | Errno::EROFS => {
                    "it cannot be changed in the container's namespace: remove it, or make /proc/sys writable for the plugin"
                }
                Errno::EISDIR => "it is a directory of sysctls: name one of them",
                _ => "remove it from the configuration",
            };
            kernel_failure(&error.into(), &format!("cannot set sysctl {:?}", key.text()), remedy)
                .with_details(format!("open {}: {error}", key.first_reading().path()))
        })
    }

    /// Finds the first meaning of a key that exists.
    pub(crate) fn find_any<'a>(&self, key: &'a Key) -> io::Result<Option<&'a Reading>> {
        match self.find(key, OFlag::O_PATH) {
            Ok(reading) => Ok(Some(reading)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn find<'a>(&self, key: &'a Key, access: OFlag) -> Result<&'a Reading, Errno> {
        let mut outcome = Err(Errno::ENOENT);
        for reading in key.readings() {
            match self.open_beneath(reading.path(), access) {
                Ok(_) => return Ok(reading),
                // Another meaning may exist; the first one's error is the one to report.
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        outcome
    }

    /// The value without the newline at its end; `None` of a sysctl that can only be written, such
    /// as `net.ipv4.route.flush`.
    pub(crate) fn read(&self, path: &SysctlPath) -> io::Result<Option<String>> {
        let file = match self.open_beneath(path, OFlag::O_RDONLY) {
            Ok(file) => file,
            Err(Errno::EACCES) if self.is_write_only(path)? => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // A list of ports gives what there is room for and then no more, so it has to be asked with more room.
        let mut bytes = vec![0; 4 << 10];
        let length = loop {
            match file.read_at(&mut bytes, 0)? {
                length if length == bytes.len() => bytes.resize(16 * length, 0),
                length => break length,
            }
        };
        bytes.truncate(length);
        let text = String::from_utf8(bytes).map_err(io::Error::other)?;
        Ok(Some(text.strip_suffix('\n').unwrap_or(&text).to_owned()))
    }

    fn is_write_only(&self, path: &SysctlPath) -> io::Result<bool> {
        let metadata = self.open_beneath(path, OFlag::O_PATH)?.metadata()?;
        Ok(metadata.permissions().mode() & 0o444 == 0)
    }

    /// Writes a value, in one piece as the kernel wants it.
    pub(crate) fn write(&self, path: &SysctlPath, value: &str) -> io::Result<()> {
        let file = self.open_beneath(path, OFlag::O_WRONLY)?;
        // Nothing at all would be no write; a line end clears what can be cleared.
        let value = if value.is_empty() { "\n" } else { value };
        file.write_all_at(value.as_bytes(), 0)
    }

    fn open_beneath(&self, path: &SysctlPath, access: OFlag) -> Result<File, Errno> {
        let how = OpenHow::new().flags(access | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        match openat2(&self.root, path.below_net().as_str(), how) {
            // Before Linux 5.6, and where a seccomp profile does not know the call.
            Err(Errno::ENOSYS) => self.walk_beneath(path, access),
            outcome => outcome.map(File::from),
        }
    }

    /// The same, name by name: none of them is `..`, and no link is followed.
    fn walk_beneath(&self, path: &SysctlPath, access: OFlag) -> Result<File, Errno> {
        let mut directory = self.root.try_clone().map_err(|_| Errno::EMFILE)?;
        let (last, above) = path.names().split_last().ok_or(Errno::ENOENT)?;
        for name in above {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            directory = openat(&directory, name.as_str(), flags, Mode::empty())?;
        }
        let flags = access | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&directory, last.as_str(), flags, Mode::empty()).map(File::from)
    }
}

/// The error for something that the kernel did not do.
pub(crate) fn kernel_failure(error: &io::Error, what: &str, remedy: &str) -> CniError {
    of_io(error, ErrorCode::Kernel, what, remedy)
}
