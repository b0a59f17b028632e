//! Network namespaces: open handles, identity, work inside one.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::errno::Errno;

use super::{file, nstype};

/// The namespace this thread runs in, where it cannot be asked for otherwise. `/proc/self` would be
/// the main thread's.
const OWN: &str = "/proc/thread-self/ns/net";
/// A random number that the kernel chooses at each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// An open handle on a network namespace, compared by device and inode: while it is open, no
/// other namespace has these.
#[derive(Debug)]
pub struct Netns {
    file: File,
    device: u64,
    inode: u64,
    /// When the inode was made, in nanoseconds since 1970.
    made: u64,
}

/// What tells a namespace from all others, also from those that come after it. An inode number
/// does not: the kernel gives it to another namespace as soon as its own is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Everything else may come again after a boot. Empty where the kernel does not tell, or nobody asked it.
    pub boot_id: String,
    /// Device of the namespace's file.
    pub device: u64,
    /// Inode of the namespace's file.
    pub inode: u64,
    /// The number that no other namespace of this boot has; `None` before Linux 5.14.
    pub cookie: Option<u64>,
    /// Where there is no cookie and a mount keeps the inode: when it was made, in nanoseconds
    /// since 1970.
    pub made: Option<u64>,
}

impl Identity {
    /// Whether both are one namespace, as far as the kernel tells.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let same_if_known =
            |one: Option<u64>, two: Option<u64>| one.zip(two).is_none_or(|(one, two)| one == two);
        let same_boot =
            self.boot_id == other.boot_id || self.boot_id.is_empty() || other.boot_id.is_empty();
        same_boot
            && (self.device, self.inode) == (other.device, other.inode)
            && same_if_known(self.cookie, other.cookie)
            && same_if_known(self.made, other.made)
    }
}

impl Netns {
    /// Opens the namespace at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = file::open(path)?;
        if !nstype::is_network_namespace(&file)? {
            let text = "it is a namespace of another kind";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Self::from_file(file)
    }

    /// The same, or `None` on proof that no network namespace can be reached by that path: nothing
    /// is there, or something else. An error proves nothing.
    pub fn open_if_there(path: &Path) -> io::Result<Option<Self>> {
        match Self::open(path) {
            Ok(netns) => Ok(Some(netns)),
            Err(error) if leads_to_no_namespace(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The namespace of the calling thread.
    pub fn own() -> io::Result<Self> {
        let of_new_socket = || nstype::of_socket(&UnixDatagram::unbound()?);
        of_new_socket().and_then(Self::from_file).or_else(|_| Self::open(Path::new(OWN)))
    }

    fn from_file(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let (seconds, nanoseconds) = (metadata.ctime(), metadata.ctime_nsec());
        Ok(Self {
            file,
            device: metadata.dev(),
            inode: metadata.ino(),
            made: seconds.unsigned_abs() * 1_000_000_000 + nanoseconds.unsigned_abs(),
        })
    }

    /// Whether both handles mean the same namespace.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Who this namespace is, which has this cookie and was opened at `path`.
    pub fn identity(&self, cookie: Option<u64>, path: &Path) -> io::Result<Identity> {
        Ok(Identity {
            boot_id: boot_id()?,
            device: self.device,
            inode: self.inode,
            cookie,
            made: if cookie.is_none() { self.made_if_kept(path)? } else { None },
        })
    }

    /// When the inode was made, if it lives as long as the namespace. A link in `/proc/PID/ns` does
    /// not keep it: whoever opens that may get a new inode with the old number.
    fn made_if_kept(&self, path: &Path) -> io::Result<Option<u64>> {
        let is_mount = !path.symlink_metadata()?.is_symlink();
        Ok(is_mount.then_some(self.made))
    }

    /// The descriptor as netlink attributes carry it.
    pub(crate) fn descriptor(&self) -> u32 {
        // An open descriptor is never negative.
        self.file.as_raw_fd().unsigned_abs()
    }

    /// Moves the calling thread inside the namespace, for good.
    pub fn enter(&self) -> io::Result<()> {
        Ok(nix::sched::setns(&self.file, nix::sched::CloneFlags::CLONE_NEWNET)?)
    }

    /// Runs `work` on a thread of its own inside the namespace, so that no thread of the caller
    /// ever has to find its way back.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                self.enter()?;
                Ok(work())
            })?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the namespace thread panicked")))
        })
    }
}

fn boot_id() -> io::Result<String> {
    // A UUID and a line's end.
    let mut text = [0; 64];
    match File::open(BOOT_ID).and_then(|file| file.read_at(&mut text, 0)) {
        Ok(length) => Ok(String::from_utf8_lossy(&text[..length]).trim_end().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

fn leads_to_no_namespace(error: &io::Error) -> bool {
    // Of `Netns::open`, for a namespace of another kind.
    if error.kind() == io::ErrorKind::InvalidInput && error.raw_os_error().is_none() {
        return true;
    }
    let errno = error.raw_os_error().map(Errno::from_raw);
    // No such path; a path too long or in a circle; no namespace; a socket.
    matches!(
        errno,
        Some(
            Errno::ENOENT
                | Errno::ENOTDIR
                | Errno::ENAMETOOLONG
                | Errno::ELOOP
                | Errno::ENOTTY
                | Errno::ENXIO
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::link::Links;

    #[test]
    fn own_namespace_is_recognised_by_any_path() {
        let own = Netns::own().expect("own");
        assert!(own.is(&Netns::open(Path::new("/proc/self/ns/net")).expect("self")));
        assert!(own.is(&Netns::open(Path::new(OWN)).expect("the thread's")));
    }

    #[test]
    fn what_is_no_namespace() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        let (fifo, long) = (fifo.display().to_string(), "x/".repeat(4000));
        for path in [
            "/",
            "/etc/passwd",
            "/does/not/exist",
            "",
            "relative",
            "/proc/self/ns/uts",
            &fifo,
            &long,
        ] {
            assert!(Netns::open(Path::new(path)).is_err(), "{path}");
            let outcome = Netns::open_if_there(Path::new(path)).expect("a proof");
            assert!(outcome.is_none(), "{path}");
        }
    }

    #[test]
    fn an_identity_is_of_one_namespace_of_one_boot() {
        let first =
            Identity { boot_id: "a".into(), device: 4, inode: 7, cookie: Some(1), made: None };
        let old = |made| Identity { cookie: None, made, ..first.clone() };
        assert!(first.is(&first.clone()) && old(Some(5)).is(&old(Some(5))));
        for other in [
            Identity { boot_id: "b".into(), ..first.clone() },
            Identity { inode: 8, ..first.clone() },
            Identity { cookie: Some(2), ..first.clone() },
        ] {
            assert!(!first.is(&other) && !other.is(&first), "{other:?}");
        }
        assert!(!old(Some(5)).is(&old(Some(6))));
        // Where one of them does not know, the other cannot be told from it.
        assert!(old(None).is(&old(Some(6))));
    }

    #[test]
    fn the_own_identity_stays() {
        let path = Path::new("/proc/self/ns/net");
        let ask = || {
            let own = Netns::open(path).expect("own");
            let links = Links::open().expect("rtnetlink");
            own.identity(links.netns_cookie().expect("cookie"), path).expect("identity")
        };
        let identity = ask();
        assert!(identity.is(&ask()) && identity.boot_id.len() == 36);
    }

    #[test]
    fn work_runs_inside_and_the_caller_stays() {
        let own = Netns::own().expect("own");
        let inside = own.run(|| Netns::own().expect("inside").inode).expect("run");
        assert_eq!(inside, own.inode);
    }
}
