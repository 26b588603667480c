//! Medians and spreads: what is left of a number on a machine that drifts.

use serde::Serialize;

/// Numbers of several rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// The 95% confidence interval of the median, by order statistics (Conover, Practical Nonparametric Statistics,
    /// section 3.2): it assumes nothing of how the numbers scatter. Fewer than 6 do not suffice for it; then `min` and `max`.
    pub low: f64,
    pub high: f64,
}

/// How likely the median may lie outside of `low` and `high`.
const DOUBT: f64 = 0.05;

impl Spread {
    /// Of the finite ones among `values`; `None` if there is none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let cut = outside(values.len());
        let (low, high) = (values[cut], values[values.len() - 1 - cut]);
        Some(Self { median: middle(&values), min, max, low, high })
    }
}

/// How many of `count` sorted numbers lie outside of the interval at each end: each is as likely above the median as
/// below it, so that the number of those below is binomial.
fn outside(count: usize) -> usize {
    let mut probability = 0.5_f64.powi(count as i32);
    let mut tail = probability;
    let mut outside = 0;
    loop {
        probability *= (count - outside) as f64 / (outside + 1) as f64;
        tail += probability;
        if 2.0 * tail > DOUBT {
            return outside;
        }
        outside += 1;
    }
}

/// The median of what is sorted already; of an even number the mean of the two in the middle.
fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[half - 1], sorted[half])
    } else {
        sorted[half]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_median_and_both_ends() {
        let spread = Spread::of([1.2, 0.8, 1.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (1.0, 0.8, 1.2));
        assert_eq!(Spread::of([1.0, 2.0]).unwrap().median, 1.5);
    }

    #[test]
    fn a_median_is_sure_within_what_few_numbers_lie_outside_of() {
        let of = |count: i32| Spread::of((1..=count).map(f64::from)).unwrap();
        assert_eq!((of(1).low, of(1).high), (1.0, 1.0));
        assert_eq!((of(5).low, of(5).high), (1.0, 5.0), "five do not suffice: both ends");
        assert_eq!((of(9).low, of(9).high), (2.0, 8.0));
        assert_eq!((of(20).low, of(20).high), (6.0, 15.0));
    }

    #[test]
    fn a_ratio_to_nothing_does_not_count() {
        assert_eq!(Spread::of([f64::NAN, f64::INFINITY]), None);
        assert_eq!(Spread::of([f64::NAN, 2.0]).unwrap().median, 2.0);
    }
}
