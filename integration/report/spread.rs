//! A median, with the quarters around it; and what is compared round by round.

use std::fmt;

/// Three out of four rounds are above `low`, and three below `high`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) middle: f64,
    pub(crate) high: f64,
}

impl Spread {
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |quarter: usize| {
            // Between two values where it falls between them.
            let place = (sorted.len() - 1) * quarter;
            let (whole, part) = (place / 4, place % 4);
            let next = sorted[(whole + 1).min(sorted.len() - 1)];
            let part = [0.0, 0.25, 0.5, 0.75][part];
            sorted[whole] + (next - sorted[whole]) * part
        };
        (!sorted.is_empty()).then(|| Self { low: at(1), middle: at(2), high: at(3) })
    }

    pub(crate) fn times(self, factor: f64) -> Self {
        let Self { low, middle, high } = self;
        Self { low: low * factor, middle: middle * factor, high: high * factor }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [low, middle, high] = [self.low, self.middle, self.high].map(short);
        if low == high { write!(f, "{middle}") } else { write!(f, "{middle} ({low}–{high})") }
    }
}

/// Three digits of a number that has more: 0.873, 12.3, 1234.
pub(crate) fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Of what was measured in the same rounds, the ratio of each round.
pub(crate) fn ratio(above: &[f64], below: &[f64]) -> Option<Spread> {
    let ratios: Vec<f64> = above.iter().zip(below).map(|(above, below)| above / below).collect();
    Spread::of(&ratios)
}

/// Round by round; empty if one of them was not measured.
pub(crate) fn sum(all: &[&[f64]]) -> Vec<f64> {
    let rounds = all.iter().map(|values| values.len()).min().unwrap_or(0);
    (0..rounds).map(|round| all.iter().map(|values| values[round]).sum()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_has_quarters_around_it() {
        let of = |values: &[f64]| {
            Spread::of(values).map(|spread| [spread.low, spread.middle, spread.high])
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[7.0]), Some([7.0, 7.0, 7.0]));
        assert_eq!(of(&[5.0, 1.0, 3.0, 2.0, 4.0]), Some([2.0, 3.0, 4.0]));
        assert_eq!(of(&[1.0, 2.0]), Some([1.25, 1.5, 1.75]));
    }

    #[test]
    fn pairs_are_compared_one_by_one() {
        // Both rise: the ratio of the medians is not the median of the ratios.
        let ratio = ratio(&[10.0, 40.0, 90.0], &[1.0, 2.0, 3.0]).expect("three pairs");
        assert!((ratio.middle - 20.0).abs() < 1e-9, "{ratio:?}");
        assert_eq!(sum(&[&[1.0, 2.0], &[10.0, 20.0, 30.0]]), [11.0, 22.0]);
        assert!(sum(&[&[1.0], &[]]).is_empty());
    }

    #[test]
    fn numbers_are_short() {
        let written = [0.8734, 9.999, 12.34, 99.97, 1234.4].map(short);
        assert_eq!(written, ["0.873", "10.0", "12.3", "100", "1234"]);
        let spread = Spread { low: 0.9, middle: 1.0, high: 1.2 };
        assert_eq!(spread.to_string(), "1.00 (0.900–1.20)");
        assert_eq!(spread.times(0.0).to_string(), "0.000");
    }
}
