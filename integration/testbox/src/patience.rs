//! How long one waits on a machine that is slower than others.

use std::time::Duration;

/// How many times as long everything takes here, as a whole number; 1 if it does not say.
const SLOWNESS: &str = "BOX_SLOWNESS";

/// A limit on what the machine does, and not on what a plugin promises.
pub fn stretched(limit: Duration) -> Duration {
    limit * slowness()
}

/// What at least is to be done in some time: less where everything takes longer.
pub fn lessened(amount: u64) -> u64 {
    amount / u64::from(slowness())
}

fn slowness() -> u32 {
    std::env::var(SLOWNESS).map_or(1, |text| {
        text.parse().unwrap_or_else(|_| panic!("{SLOWNESS} is {text:?}, which is no whole number"))
    })
}
