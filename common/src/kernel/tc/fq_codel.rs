//! `fq_codel`: a queue for each flow, none of which is left to stand. What is sent, what comes back, and
//! whether both are the same.

use netlink_packet_core::DefaultNla;

use super::Bytes;
use crate::kernel::attributes::Attributes;

const TCA_FQ_CODEL_TARGET: u16 = 1;
const TCA_FQ_CODEL_INTERVAL: u16 = 3;
const TCA_FQ_CODEL_ECN: u16 = 4;
const TCA_FQ_CODEL_MEMORY_LIMIT: u16 = 9;

/// A time as the kernel is told it here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Microseconds(pub u32);

/// An `fq_codel` that marks packets of senders that know ECN (RFC 8290, 8289). What is not said here is the
/// kernel's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FqCodel {
    /// How long packets may wait for all of an interval before one is dropped or marked.
    pub target: Microseconds,
    /// The time that a sender has to answer that.
    pub interval: Microseconds,
    /// The memory that all flows may use together, counted as the kernel does (`skb->truesize`); the kernel
    /// takes 2 GiB for more.
    pub memory_limit: Bytes,
}

/// An `fq_codel` as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstalledFqCodel {
    target: Microseconds,
    interval: Microseconds,
    memory_limit: Bytes,
    marks: bool,
}

impl FqCodel {
    /// Whether an installed one is this.
    #[must_use]
    pub fn is(self, installed: InstalledFqCodel) -> bool {
        let told = |time: Microseconds| told(units(time));
        installed.marks
            && told(self.target) == installed.target
            && told(self.interval) == installed.interval
            && self.memory_limit.0.min(MOST_MEMORY) == installed.memory_limit.0
    }

    /// As the kernel takes it, in the order that `tc` has.
    pub(super) fn options(self) -> Vec<DefaultNla> {
        let option = |kind, value: u32| DefaultNla::new(kind, value.to_ne_bytes().to_vec());
        vec![
            option(TCA_FQ_CODEL_INTERVAL, self.interval.0),
            option(TCA_FQ_CODEL_TARGET, self.target.0),
            option(TCA_FQ_CODEL_ECN, 1),
            option(TCA_FQ_CODEL_MEMORY_LIMIT, self.memory_limit.0),
        ]
    }
}

impl InstalledFqCodel {
    /// One that the kernel would report so, but for whether it marks: it does.
    #[must_use]
    pub fn made_by(self) -> FqCodel {
        // What the kernel rounded down twice: a microsecond more is the same number of its units.
        let again = |time: Microseconds| Microseconds(time.0.saturating_add(1));
        let (target, interval) = (again(self.target), again(self.interval));
        FqCodel { target, interval, memory_limit: self.memory_limit }
    }

    pub(super) fn parse(options: &Attributes<'_>) -> Option<Self> {
        Some(Self {
            target: Microseconds(options.word(TCA_FQ_CODEL_TARGET)?),
            interval: Microseconds(options.word(TCA_FQ_CODEL_INTERVAL)?),
            memory_limit: Bytes(options.word(TCA_FQ_CODEL_MEMORY_LIMIT)?),
            marks: options.word(TCA_FQ_CODEL_ECN)? != 0,
        })
    }
}

const MOST_MEMORY: u32 = 1 << 31;

/// `CoDel` counts in 1024 nanoseconds (`CODEL_SHIFT` in `include/net/codel.h`).
fn units(time: Microseconds) -> u32 {
    u32::try_from((u64::from(time.0) * 1000) >> 10).unwrap_or(u32::MAX)
}

/// What the kernel says of a number of these (`codel_time_to_us`).
fn told(units: u32) -> Microseconds {
    Microseconds(u32::try_from((u64::from(units) << 10) / 1000).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reported(queue: FqCodel) -> InstalledFqCodel {
        InstalledFqCodel {
            target: told(units(queue.target)),
            interval: told(units(queue.interval)),
            memory_limit: Bytes(queue.memory_limit.0.min(MOST_MEMORY)),
            marks: true,
        }
    }

    /// As the kernel (6.1) reports what tc calls 5 ms and 100 ms.
    #[test]
    fn times_are_rounded_as_the_kernel_does() {
        let times = [5000, 100_000].map(|time| told(units(Microseconds(time))).0);
        assert_eq!(times, [4999, 99_999]);
    }

    proptest! {
        #[test]
        fn it_can_be_made_again(target: u32, interval: u32, memory: u32) {
            let queue = FqCodel {
                target: Microseconds(target),
                interval: Microseconds(interval),
                memory_limit: Bytes(memory),
            };
            let installed = reported(queue);
            prop_assert!(queue.is(installed));
            prop_assert!(installed.made_by().is(installed));
            let unmarking = InstalledFqCodel { marks: false, ..installed };
            prop_assert!(!queue.is(unmarking));
            let longer = FqCodel { target: Microseconds(target ^ 4), ..queue };
            prop_assert!(!longer.is(installed));
        }
    }
}
