//! Files that somebody else may have put there: opened without waiting for anybody.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::OFlag;

/// Opens a file for reading. A FIFO without a writer would hold `File::open` up for ever.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// The content of a regular file; anything else at that path is an error of the kind
/// `InvalidData`.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    open(path).and_then(read_regular)
}

/// The content of an open file, which must be a regular one.
pub fn read_regular(mut file: File) -> io::Result<Vec<u8>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file"));
    }
    let mut content = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default() + 1);
    file.read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (file, fifo) = (dir.path().join("file"), dir.path().join("fifo"));
        std::fs::write(&file, "text").expect("write");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        assert_eq!(read(&file).expect("a file"), b"text");
        for path in [&fifo, dir.path(), Path::new("/dev/null")] {
            let error = read(path).expect_err("no file");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{}", path.display());
        }
        let missing = read(&dir.path().join("none")).expect_err("nothing");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
