//! Network namespaces: open handles, identity, work inside one.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use super::nstype;

/// The namespace this thread runs in, where it cannot be asked for otherwise. `/proc/self` would be
/// the main thread's.
const OWN: &str = "/proc/thread-self/ns/net";

/// An open handle on a network namespace, compared by device and inode.
#[derive(Debug)]
pub struct Netns {
    file: File,
    identity: (u64, u64),
}

impl Netns {
    /// Opens the namespace at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if !nstype::is_network_namespace(&file)? {
            let text = "it is a namespace of another kind";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Self::from_file(file)
    }

    /// The namespace of the calling thread.
    pub fn own() -> io::Result<Self> {
        let of_new_socket = || nstype::of_socket(&UnixDatagram::unbound()?);
        of_new_socket().and_then(Self::from_file).or_else(|_| Self::open(Path::new(OWN)))
    }

    fn from_file(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { file, identity: (metadata.dev(), metadata.ino()) })
    }

    /// Whether both handles mean the same namespace.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// Device and inode, which no other namespace has as long as this one lives.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// The descriptor as netlink attributes carry it.
    pub(crate) fn descriptor(&self) -> u32 {
        // An open descriptor is never negative.
        self.file.as_raw_fd().unsigned_abs()
    }

    /// Runs `work` on a thread of its own inside the namespace, so that no thread of the caller
    /// ever has to find its way back.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::setns(&self.file, nix::sched::CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the namespace thread panicked")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_namespace_is_recognised_by_any_path() {
        let own = Netns::own().expect("own");
        assert!(own.is(&Netns::open(Path::new("/proc/self/ns/net")).expect("self")));
        assert!(own.is(&Netns::open(Path::new(OWN)).expect("the thread's")));
    }

    #[test]
    fn what_is_no_namespace() {
        for path in ["/", "/etc/passwd", "/does/not/exist", "", "relative", "/proc/self/ns/uts"] {
            assert!(Netns::open(Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn work_runs_inside_and_the_caller_stays() {
        let own = Netns::own().expect("own");
        let inside = own.run(|| Netns::own().expect("inside").identity).expect("run");
        assert_eq!(inside, own.identity);
    }
}
