//! Waiting for a lock, but not for ever.

use std::fs::{File, TryLockError};
use std::io;
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Locks the file for this process (`flock(2)`). The error is of the kind `TimedOut` if another
/// process has held it all the time.
pub fn lock_within(file: &File, patience: Duration) -> io::Result<()> {
    // A process that asks for the time pays for the pages of the kernel's clock, three faults: only who waits does.
    let mut end = None;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock)
                if Instant::now() < *end.get_or_insert_with(|| Instant::now() + patience) =>
            {
                std::thread::sleep(PAUSE);
            }
            Err(TryLockError::WouldBlock) => {
                let seconds = patience.as_secs();
                let text = format!("another process has held its lock for {seconds} seconds");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends() {
        let dir = tempfile::tempdir().expect("tempdir");
        let open = || File::create(dir.path().join("lock")).expect("file");
        let (one, two) = (open(), open());
        lock_within(&one, Duration::ZERO).expect("nobody has it");
        let error = lock_within(&two, Duration::from_millis(20)).expect_err("held");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(one);
        lock_within(&two, Duration::ZERO).expect("released");
    }
}
