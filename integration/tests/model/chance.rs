//! Numbers that look random and come again with their seed.

use std::time::Duration;

/// `xorshift64*` of Marsaglia and Vigna.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        // Nothing comes of zero.
        Self(seed.max(1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).expect("64 bits");
        usize::try_from((self.next() >> 8) % end).expect("it is below a usize")
    }

    /// Once in so many times.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// At most so long.
    pub(crate) fn span(&mut self, most: Duration) -> Duration {
        let micros = usize::try_from(most.as_micros()).expect("short");
        Duration::from_micros(u64::try_from(self.below(micros)).expect("64 bits"))
    }
}
