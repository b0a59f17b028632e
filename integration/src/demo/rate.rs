//! How fast the way out of the container is, for a short while.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::plan::LIMIT;
use super::server::FLOOD;

/// Long enough for the average to mean something, short enough to wait for.
const WATCHED: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is measured until a busy machine gets as much through as the limit allows.
const TRIES: usize = 3;

/// What arrived in how much time, from the first byte on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    bytes: u64,
    took: Duration,
}

impl Rate {
    /// Fetches the flood at `from`, in the namespace of the calling thread; again if it was so little that
    /// the machine may have been busy.
    pub(super) fn measure(from: SocketAddr) -> io::Result<Self> {
        let mut rate = Self::measure_once(from)?;
        for _ in 1..TRIES {
            if rate.bits() >= LIMIT / 2 {
                break;
            }
            rate = Self::measure_once(from)?;
        }
        Ok(rate)
    }

    fn measure_once(from: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&from, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {FLOOD} HTTP/1.0\r\nHost: {from}\r\n\r\n")?;
        let mut block = vec![0; 64 * 1024];
        let mut bytes = stream.read(&mut block)? as u64;
        let start = Instant::now();
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

    /// Whether this is the limit: not a tenth more, and not so little that something else must
    /// be in the way. A virtual machine that is emulated, on a busy host, gets a quarter through.
    pub(super) fn is_the_limit(self) -> bool {
        (LIMIT / 10..=LIMIT + LIMIT / 10).contains(&self.bits())
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
    fn the_limit_has_a_tolerance() {
        assert!(rate(19_100_000).is_the_limit());
        assert!(!rate(22_100_000).is_the_limit());
        assert!(rate(5_000_000).is_the_limit());
        assert!(!rate(1_900_000).is_the_limit());
        assert_eq!(rate(19_160_000).to_string(), "19.1 Mbit/s");
    }
}
