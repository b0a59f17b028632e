//! How fast the way out of the container is, for a short while.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::plan::LIMIT;
use super::server::FLOOD;

/// Long enough for the average to mean something, short enough to wait for.
const WATCHED: Duration = Duration::from_millis(1500);
/// How long nothing may come. A guest of an emulator on a busy machine stands still for seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is measured until a busy machine gets as much through as the limit allows.
const TRIES: usize = 3;

/// What arrived in how much time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    bytes: u64,
    took: Duration,
}

impl Rate {
    /// Fetches the flood at `from`, in the namespace of the calling thread; again while it is so slow that the
    /// machine may be busy. The fastest counts.
    pub(super) fn measure(from: SocketAddr) -> io::Result<Self> {
        let mut rate = Self::measure_once(from)?;
        for _ in 1..TRIES {
            if !rate.is_slow() {
                break;
            }
            let another = Self::measure_once(from)?;
            if another.bits() > rate.bits() {
                rate = another;
            }
        }
        Ok(rate)
    }

    /// The clock starts before the first byte can: what waits in the socket while this thread does not run is not
    /// taken for speed.
    pub(super) fn measure_once(from: SocketAddr) -> io::Result<Self> {
        let start = Instant::now();
        let mut stream = TcpStream::connect_timeout(&from, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {FLOOD} HTTP/1.0\r\nHost: {from}\r\n\r\n")?;
        let mut block = vec![0; 64 * 1024];
        let mut bytes = 0;
        while start.elapsed() < WATCHED {
            match stream.read(&mut block)? {
                0 => return Err(io::Error::other("the flood ended early")),
                more => bytes += more as u64,
            }
        }
        Ok(Self { bytes, took: start.elapsed() })
    }

    /// In bits per second.
    fn bits(self) -> u64 {
        let micros = self.took.as_micros().max(1);
        u64::try_from(u128::from(self.bytes) * 8 * 1_000_000 / micros).unwrap_or(u64::MAX)
    }

    /// Whether something else than the limit was in the way, which may be the machine.
    pub(super) fn is_slow(self) -> bool {
        self.bits() < LIMIT / 2
    }

    /// Whether this is the limit: not more, as headers count against it, and not so little that something else must
    /// be in the way. That may be the machine; `unlimited` is what it gets through where there is no limit. One that
    /// is not fast stands still for longer than the bucket lasts, and any part of the limit may go by unused.
    pub(super) fn is_the_limit(self, unlimited: Option<Self>) -> bool {
        let is_fast = unlimited.is_none_or(|rate| rate.bits() >= LIMIT * 10);
        let least = if is_fast { LIMIT / 10 } else { 1 };
        (least..=LIMIT).contains(&self.bits())
    }
}

/// As in `19.1 Mbit/s`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.bits() / 100_000;
        write!(f, "{}.{} Mbit/s", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(bits: u64) -> Rate {
        Rate { bytes: bits / 8, took: Duration::from_secs(1) }
    }

    #[test]
    fn a_limit_lets_no_more_through() {
        assert!(rate(19_100_000).is_the_limit(None));
        assert!(!rate(20_100_000).is_the_limit(None));
        assert!(!rate(20_100_000).is_the_limit(Some(rate(900_000_000))));
        assert_eq!(rate(19_160_000).to_string(), "19.1 Mbit/s");
    }

    #[test]
    fn what_is_slow_is_a_fault_unless_the_machine_is() {
        assert!(rate(10_000_000).is_the_limit(None) && !rate(10_000_000).is_slow());
        assert!(rate(9_900_000).is_slow());
        let (fast, slow) = (Some(rate(900_000_000)), Some(rate(30_000_000)));
        assert!(rate(5_000_000).is_the_limit(fast));
        assert!(!rate(1_900_000).is_the_limit(fast));
        assert!(rate(1_900_000).is_the_limit(slow));
        assert!(!rate(0).is_the_limit(slow));
        assert!(!rate(20_100_000).is_the_limit(slow));
    }
}
