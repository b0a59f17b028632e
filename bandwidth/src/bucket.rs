//! From a configured limit to a token bucket and its queue: units, bounds, and the burst that nobody chose.
//!
//! Everything is computed in 128 bits and bounded once, at the end.

use cni_common::kernel::tc::{Bytes, BytesPerSecond, FqCodel, Microseconds, Tbf};

use crate::config::{Config, Limit, QueueKind};

/// What the link says about the packets that have to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packets {
    /// The MTU, without the link's header.
    pub(crate) mtu: u32,
    /// The most bytes that a stack hands down in one piece, to be cut up later.
    pub(crate) gso_max_size: u32,
}

/// A bucket and what had to be changed about the burst that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// The bucket and its queue.
    pub(crate) limiter: Limiter,
    /// The burst that was asked for, in bytes, if it was too small to let a frame pass.
    pub(crate) raised_from: Option<u64>,
}

/// A token bucket, and how packets wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limiter {
    /// The bucket with a queue of its own.
    pub(crate) tbf: Tbf,
    /// Which of the two queues is asked for.
    pub(crate) queue: QueueKind,
    fq_codel: FqCodel,
    /// What a stack hands down at once is cut up into these, so that no flow waits for a long piece of another's.
    piece: Option<Bytes>,
}

impl Limiter {
    /// The bucket with an `fq_codel` for its queue.
    ///
    /// The kernel keeps the length of the queue that the bucket would have by itself, and has no use for it.
    /// A byte less tells a bucket that lost its `fq_codel`, and so passes nothing, from one that never had it:
    /// the kernel names neither what is missing nor its own queue.
    pub(crate) fn with_fq_codel(self) -> (Tbf, FqCodel) {
        let limit = Bytes(self.tbf.limit.0.saturating_sub(1));
        (Tbf { limit, piece: self.piece, ..self.tbf }, self.fq_codel)
    }
}

/// The computed burst is what the rate moves in this time: long enough for timers and interrupts
/// to be late, short against any window that somebody would measure the rate in.
const BURST_MILLISECONDS: u128 = 10;
/// An Ethernet header and two VLAN tags.
const HEADERS: u128 = 14 + 2 * 4;
/// A bucket of one frame would be full before the next one is asked for.
const FRAMES_PER_BURST: u128 = 2;
/// TCP needs some packets on their way to notice a loss by what follows it: with four, a sender
/// that lost its first burst would wait for its timer, and a tenth of the rate went by unused.
const FRAMES_PER_QUEUE: u128 = 6;
/// What a small bucket does not take at once, the queue has to.
const FRAMES_IN_ALL: u128 = 9;
/// What a stack may hand down in one piece unless somebody enabled BIG TCP.
const LARGEST_SEGMENT: u128 = 65_536;

/// `CoDel`'s target and interval, in microseconds, as Linux and RFC 8289 have them for links of the internet.
const TARGET: u128 = 5_000;
const INTERVAL: u128 = 100_000;
/// Where frames take long, one that waits for a few others would have waited too long: a flow that sends a packet
/// now and then would lose them, because the kernel asks whether anything else waits, not whether anything of this
/// flow does (`codel_should_drop`). RFC 8289, section 4.4, wants more than one frame, for a link with one flow.
const FRAMES_PER_TARGET: u128 = 6;
const TARGETS_PER_INTERVAL: u128 = 10;
/// A byte per second, the lowest rate, would be past the kernel's signed 32 bits.
const LONGEST_TARGET: u128 = 60_000_000;
/// How long a piece may take.
const PIECE_MILLISECONDS: u128 = 1;
/// All that an interval moves may have to wait. The kernel counts a packet with all that it is kept in: a full
/// frame for half as much again, a small one for several times its size.
const MEMORY_PER_BYTE: u128 = 4;
/// A hundred full frames: with less, flows that begin at a low rate would lose their first packets.
const LEAST_MEMORY: u128 = 256 * 1024;

impl Bucket {
    /// The bucket for a limit.
    pub(crate) fn new(limit: Limit, config: &Config, packets: Packets) -> Self {
        let rate = limit.rate.0 / 8;
        let frame = u128::from(packets.mtu) + HEADERS;
        let asked = limit.burst.0 / 8;
        let unset = limit.burst.is_placeholder() && !config.honor_runtime_burst;
        let burst = if unset {
            (u128::from(rate) * BURST_MILLISECONDS / 1000).max(FRAMES_PER_BURST * frame)
        } else {
            u128::from(asked).max(frame)
        };
        let burst = bounded(burst);
        let limit = queue(rate, burst, config.latency, packets);
        Self {
            limiter: Limiter {
                tbf: Tbf { rate: BytesPerSecond(rate), burst, limit, piece: None },
                queue: config.queue,
                fq_codel: fq_codel(rate, frame),
                piece: piece(rate, burst, frame),
            },
            raised_from: (!unset && burst > bounded(asked.into())).then_some(asked),
        }
    }
}

/// The length of the queue: what the rate moves in the latency. TBF cuts up what is larger than
/// the bucket; what is not has to fit into the queue as it is, or it would never pass.
fn queue(rate: u64, burst: Bytes, latency: u32, packets: Packets) -> Bytes {
    let frame = u128::from(packets.mtu) + HEADERS;
    // Its length counts a header for each frame that it will become: up to 120 bytes for 512.
    let segment = u128::from(packets.gso_max_size).max(LARGEST_SEGMENT) * 5 / 4;
    let waiting = u128::from(rate) * u128::from(latency) / 1000;
    let burst = u128::from(burst.0);
    let least = (FRAMES_PER_QUEUE * frame).max((FRAMES_IN_ALL * frame).saturating_sub(burst));
    bounded(waiting.max(least).max(segment.min(burst)))
}

/// What a rate moves in a millisecond, but no less than a frame; none if that is no less than what the bucket takes
/// or a stack hands down.
fn piece(rate: u64, burst: Bytes, frame: u128) -> Option<Bytes> {
    let piece = frame.max(u128::from(rate) * PIECE_MILLISECONDS / 1000);
    (piece < LARGEST_SEGMENT.min(burst.0.into())).then(|| bounded(piece))
}

/// The queues for frames of this size at a rate in bytes per second.
fn fq_codel(rate: u64, frame: u128) -> FqCodel {
    let rate = u128::from(rate.max(1));
    let frames = FRAMES_PER_TARGET * frame * 1_000_000 / rate;
    let target = frames.clamp(TARGET, LONGEST_TARGET);
    let interval = INTERVAL.max(TARGETS_PER_INTERVAL * target);
    let microseconds = |time: u128| Microseconds(u32::try_from(time).unwrap_or(u32::MAX));
    FqCodel {
        target: microseconds(target),
        interval: microseconds(interval),
        memory_limit: bounded((MEMORY_PER_BYTE * rate * interval / 1_000_000).max(LEAST_MEMORY)),
    }
}

fn bounded(bytes: u128) -> Bytes {
    Bytes(u32::try_from(bytes).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Bits, BitsPerSecond, DEFAULT_LATENCY, Subnets};
    use proptest::prelude::*;

    const ETHERNET: Packets = Packets { mtu: 1500, gso_max_size: 65_536 };
    const FRAME: u32 = 1522;

    fn bucket(rate: u64, burst: u64, honor: bool) -> Bucket {
        let config = Config {
            ingress: None,
            egress: None,
            subnets: Subnets::All,
            queue: QueueKind::Best,
            latency: DEFAULT_LATENCY,
            honor_runtime_burst: honor,
        };
        let limit = Limit { rate: BitsPerSecond(rate), burst: Bits(burst) };
        Bucket::new(limit, &config, ETHERNET)
    }

    fn numbers(bucket: Bucket) -> (u64, u32, u32, Option<u64>) {
        let Tbf { rate, burst, limit, .. } = bucket.limiter.tbf;
        (rate.0, burst.0, limit.0, bucket.raised_from)
    }

    #[test]
    fn a_given_burst_is_taken_to_the_byte() {
        assert_eq!(numbers(bucket(8_000_000, 800_000, false)), (1_000_000, 100_000, 81_920, None));
        assert_eq!(
            numbers(bucket(1_000_000_000, 10_000_000, false)),
            (125_000_000, 1_250_000, 3_125_000, None)
        );
    }

    #[test]
    fn a_burst_below_a_frame_is_raised_to_one() {
        assert_eq!(numbers(bucket(8000, 80, false)), (1000, FRAME, 8 * FRAME, Some(10)));
        assert_eq!(numbers(bucket(8, 7, false)), (1, FRAME, 8 * FRAME, Some(0)));
        assert_eq!(numbers(bucket(8, u64::from(FRAME) * 8, false)), (1, FRAME, 8 * FRAME, None));
    }

    #[test]
    fn placeholders_give_way_to_a_computed_burst() {
        for burst in [2_147_483_647, 4_294_967_295, 34_359_738_359] {
            let computed = |rate| numbers(bucket(rate, burst, false));
            assert_eq!(computed(8_000), (1000, 2 * FRAME, 7 * FRAME, None));
            assert_eq!(computed(1_000_000), (125_000, 2 * FRAME, 7 * FRAME, None));
            assert_eq!(computed(10_000_000), (1_250_000, 12_500, 31_250, None));
            assert_eq!(computed(1_000_000_000), (125_000_000, 1_250_000, 3_125_000, None));
            assert_eq!(
                computed(400_000_000_000),
                (50_000_000_000, 500_000_000, 1_250_000_000, None)
            );
        }
    }

    #[test]
    fn unless_they_are_meant() {
        assert_eq!(
            numbers(bucket(10_000_000, 34_359_738_359, true)),
            (1_250_000, 4_294_967_294, 81_920, None)
        );
    }

    #[test]
    fn the_target_follows_the_rate() {
        for (rate, target, interval, memory, piece) in [
            (8, 60_000_000, 600_000_000, 262_144, Some(FRAME)),
            (100_000, 730_560, 7_305_600, 365_280, Some(FRAME)),
            (1_000_000, 73_056, 730_560, 365_280, Some(FRAME)),
            (10_000_000, 7305, 100_000, 500_000, Some(FRAME)),
            (100_000_000, 5000, 100_000, 5_000_000, Some(12_500)),
            (1_000_000_000, 5000, 100_000, 50_000_000, None),
            (400_000_000_000, 5000, 100_000, u32::MAX, None),
        ] {
            let (tbf, queue) = bucket(rate, 4_294_967_295, false).limiter.with_fq_codel();
            let numbers = (queue.target.0, queue.interval.0, queue.memory_limit.0);
            assert_eq!(numbers, (target, interval, memory), "{rate}");
            assert_eq!(tbf.piece.map(|piece| piece.0), piece, "{rate}");
            assert_eq!(tbf.limit.0 + 1, bucket(rate, 4_294_967_295, false).limiter.tbf.limit.0);
        }
    }

    proptest! {
        /// The kernel's 32 bits end the numbers; nothing wraps.
        #[test]
        fn no_number_wraps(rate in 8_u64.., burst in 1..34_359_738_360_u64, honor: bool) {
            let Bucket { limiter, raised_from } = bucket(rate, burst, honor);
            let tbf = limiter.tbf;
            prop_assert_eq!(u128::from(tbf.rate.0), u128::from(rate) / 8);
            let exact = u128::from(rate) / 8 * 25 / 1000;
            prop_assert!(u128::from(tbf.limit.0) >= exact.min(u32::MAX.into()));
            if raised_from.is_none() && (honor || !Bits(burst).is_placeholder()) {
                prop_assert_eq!(u64::from(tbf.burst.0), burst / 8);
            }
            prop_assert!(tbf.burst.0 >= FRAME);
            prop_assert!(tbf.limit.0 >= tbf.burst.0.min(81_920));
        }

        /// What passes in any two seconds is the rate and, at most once, the bucket: 5 % at most
        /// wherever 5 % of it is more than two frames.
        #[test]
        fn a_computed_burst_is_small(rate in 250_000..400_000_000_000_u64) {
            let tbf = bucket(rate, 4_294_967_295, false).limiter.tbf;
            prop_assert!(u128::from(tbf.burst.0) * 20 <= u128::from(rate / 8) * 2);
        }
    }
}
