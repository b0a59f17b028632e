//! Token bucket filters: what is sent, what comes back, and whether both are the same.

use netlink_packet_core::DefaultNla;

use crate::kernel::attributes::{Attributes, word};

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TCA_TBF_PBURST: u16 = 7;

/// Nanoseconds per tick of the packet scheduler: `PSCHED_SHIFT` is 6 in every kernel since 2.6.36.
const TICK_SHIFT: u32 = 6;

/// A rate as the kernel counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BytesPerSecond(pub u64);

/// An amount that the kernel keeps in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u32);

/// A token bucket filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tbf {
    /// How fast the bucket fills.
    pub rate: BytesPerSecond,
    /// The size of the bucket.
    pub burst: Bytes,
    /// The length of the queue in front of it.
    pub limit: Bytes,
    /// What a stack hands down in one piece is cut up if it is larger than this. Without, what is larger than the
    /// bucket is. The rate has to be below [`PEAK`].
    pub piece: Option<Bytes>,
}

/// The peak rate beside a [`Tbf::piece`], in bytes per second: the kernel cuts up what is larger than the bucket of
/// that. It is no limit, because who has a rate that comes near has no use for small pieces.
pub const PEAK: u32 = 1_000_000_000;

/// A token bucket filter as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstalledTbf {
    /// How fast the bucket fills.
    pub rate: BytesPerSecond,
    /// The time the bucket takes to fill, in scheduler ticks, modulo 2^32.
    pub burst_ticks: u32,
    /// The length of the queue.
    pub limit: Bytes,
    /// The peak rate, or 0, and the time that its bucket takes to fill.
    pub(super) peak: (u32, u32),
}

impl Tbf {
    /// The ticks that the kernel reports for this bucket, computed as it does
    /// (`psched_ratecfg_precompute`, `psched_l2t_ns`), without a wrap.
    #[must_use]
    pub fn burst_ticks(self) -> u128 {
        ticks(self.rate.0, self.burst)
    }

    /// Whether an installed bucket is this one. Ticks count modulo 2^32, and a kernel may round
    /// them in its own way by a millionth.
    #[must_use]
    pub fn is(self, installed: InstalledTbf) -> bool {
        let ticks = self.burst_ticks();
        #[expect(clippy::cast_possible_truncation, reason = "the kernel's own truncation")]
        let distance = (ticks as u32).wrapping_sub(installed.burst_ticks).cast_signed();
        let slack = 1 + ticks / 1_000_000;
        let (peak, piece) = self.peak();
        self.rate == installed.rate
            && self.limit == installed.limit
            && u128::from(distance.unsigned_abs()) <= slack
            && peak == installed.peak.0
            && piece.abs_diff(installed.peak.1) <= 1
    }

    /// As the kernel reports it.
    fn peak(self) -> (u32, u32) {
        self.piece.map_or((0, 0), |piece| {
            let ticks = ticks(u64::from(PEAK), piece);
            (PEAK, u32::try_from(ticks).unwrap_or(u32::MAX))
        })
    }

    /// As the kernel takes it.
    pub(super) fn options(self) -> Vec<DefaultNla> {
        let mut options = vec![
            DefaultNla::new(TCA_TBF_PARMS, tbf_parameters(self)),
            DefaultNla::new(TCA_TBF_BURST, self.burst.0.to_ne_bytes().to_vec()),
        ];
        if u32::try_from(self.rate.0).is_err() {
            options.push(DefaultNla::new(TCA_TBF_RATE64, self.rate.0.to_ne_bytes().to_vec()));
        }
        if let Some(piece) = self.piece {
            options.push(DefaultNla::new(TCA_TBF_PBURST, piece.0.to_ne_bytes().to_vec()));
        }
        options
    }
}

impl InstalledTbf {
    /// One that cuts up nothing that fits into the bucket.
    #[must_use]
    pub fn new(rate: BytesPerSecond, burst_ticks: u32, limit: Bytes) -> Self {
        Self { rate, burst_ticks, limit, peak: (0, 0) }
    }

    /// The smallest bucket that the kernel would report so.
    #[must_use]
    pub fn made_by(self) -> Tbf {
        let nanoseconds = u128::from(self.burst_ticks) << TICK_SHIFT;
        let about = nanoseconds * u128::from(self.rate.0) / 1_000_000_000;
        let (peak, ticks) = self.peak;
        // A byte takes a nanosecond; one tick more than what the kernel rounded down to.
        let piece =
            (peak == PEAK).then(|| Bytes(ticks.saturating_add(1).saturating_mul(1 << TICK_SHIFT)));
        let mut tbf = Tbf { rate: self.rate, burst: Bytes(0), limit: self.limit, piece };
        tbf.burst = Bytes(u32::try_from(about).unwrap_or(u32::MAX));
        while tbf.burst_ticks() < u128::from(self.burst_ticks) && tbf.burst.0 < u32::MAX {
            tbf.burst.0 += 1;
        }
        tbf
    }

    pub(super) fn parse(options: &Attributes<'_>) -> Option<Self> {
        let parameters = options.get(TCA_TBF_PARMS)?;
        let rate64 = options.get(TCA_TBF_RATE64).and_then(|bytes| bytes.try_into().ok());
        let rate = rate64.map(u64::from_ne_bytes).or(word(parameters, 8).map(u64::from))?;
        Some(Self {
            rate: BytesPerSecond(rate),
            limit: Bytes(word(parameters, 24)?),
            burst_ticks: word(parameters, 28)?,
            peak: (word(parameters, 20)?, word(parameters, 32)?),
        })
    }
}

/// How long a rate takes for these bytes.
fn ticks(rate: u64, bytes: Bytes) -> u128 {
    let (mult, shift) = reciprocal(rate.max(1));
    ((u128::from(bytes.0) * u128::from(mult)) >> shift) >> TICK_SHIFT
}

/// A rate as the multiplication and shift that turn bytes into nanoseconds.
fn reciprocal(rate: u64) -> (u64, u32) {
    let (mut factor, mut shift) = (1_000_000_000_u64, 0);
    loop {
        let mult = factor / rate;
        if mult & (1 << 31) != 0 || factor & (1 << 63) != 0 {
            return (mult, shift);
        }
        factor <<= 1;
        shift += 1;
    }
}

/// `struct tc_tbf_qopt`. The sizes of the buckets in ticks are for kernels that do not know `TCA_TBF_BURST`
/// (before 3.14).
fn tbf_parameters(tbf: Tbf) -> Vec<u8> {
    /// Log2 of the cell size, `LINKLAYER_ETHERNET`, overhead, cell alignment, minimal packet size.
    /// Ethernet keeps the kernel from guessing the link layer from a table of costs, so that none
    /// has to be sent.
    const SPECIFICATION: [u8; 8] = [3, 1, 0, 0, 0xff, 0xff, 0, 0];
    // As tc counts it: in whole microseconds of 32-bit rates.
    let ticks = |rate: u32, bytes: Bytes| {
        let micros = u64::from(bytes.0) * 1_000_000 / u64::from(rate.max(1));
        u32::try_from((micros * 1000) >> TICK_SHIFT).unwrap_or(u32::MAX)
    };
    let rate = u32::try_from(tbf.rate.0).unwrap_or(u32::MAX);
    let mut bytes = SPECIFICATION.to_vec();
    bytes.extend(rate.to_ne_bytes());
    match tbf.piece {
        Some(_) => {
            bytes.extend(SPECIFICATION);
            bytes.extend(PEAK.to_ne_bytes());
        }
        None => bytes.extend([0; 12]),
    }
    bytes.extend(tbf.limit.0.to_ne_bytes());
    bytes.extend(ticks(rate, tbf.burst).to_ne_bytes());
    bytes.extend(tbf.piece.map_or(0, |piece| ticks(PEAK, piece)).to_ne_bytes());
    bytes
}
