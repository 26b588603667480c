//! A distribution of durations in little space: merged by addition, subtracted, asked for quantiles.
//!
//! Log-linear buckets in integer arithmetic, as in HdrHistogram (Tene, hdrhistogram.org): each doubling is cut
//! into 32 equal parts. A bucket answers with its middle, as in DDSketch (Masson, Rim, Lee: "DDSketch: a fast
//! and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019, section 2.1), so that the
//! relative error is at most 1/64, which is 1.5625%.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Counts of durations, in microseconds up to 71 minutes; whatever is longer counts as that.
///
/// Written as pairs of a bucket and its count, rising, without the empty buckets: `[[96,12],[103,1]]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sketch(BTreeMap<u16, u64>);

/// Parts of one doubling.
const PARTS: u64 = 1 << PARTS_LOG2;
const PARTS_LOG2: u32 = 5;
/// The doublings of a 32-bit number beyond the values that have a bucket of their own.
const DOUBLINGS: usize = 32 - PARTS_LOG2 as usize;

/// How many buckets there are.
pub const BUCKETS: usize = PARTS as usize * (1 + DOUBLINGS);

/// The bucket of a duration in microseconds.
pub fn bucket(micros: u64) -> usize {
    let micros = micros.min(u64::from(u32::MAX));
    if micros < PARTS {
        return micros as usize;
    }
    let shift = micros.ilog2() - PARTS_LOG2;
    (u64::from(shift) * PARTS + (micros >> shift)) as usize
}

/// The middle of a bucket, in microseconds: within 1/64 of every duration that falls into it.
pub fn middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * PARTS {
        return bucket;
    }
    let shift = bucket / PARTS - 1;
    let lowest = (PARTS + bucket % PARTS) << shift;
    lowest + (1 << shift) / 2
}

impl Sketch {
    /// From counts per bucket. Pairs of the same bucket add up; buckets that do not exist are left out.
    pub fn from_buckets(pairs: impl IntoIterator<Item = (usize, u64)>) -> Self {
        let mut sketch = Self::default();
        for (bucket, count) in pairs.into_iter().filter(|(at, n)| *at < BUCKETS && *n > 0) {
            sketch.add(bucket as u16, count);
        }
        sketch
    }

    /// From durations in microseconds and how often each occurred.
    pub fn of(pairs: impl IntoIterator<Item = (u64, u64)>) -> Self {
        Self::from_buckets(pairs.into_iter().map(|(micros, count)| (bucket(micros), count)))
    }

    fn add(&mut self, bucket: u16, count: u64) {
        let known = self.0.entry(bucket).or_default();
        *known = known.saturating_add(count);
    }

    /// Adds what `other` counted. The order of merging makes no difference.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            self.add(*bucket, *count);
        }
    }

    /// What was counted since `earlier`, a value of the same sketch.
    pub fn since(&self, earlier: &Self) -> Self {
        let more = |(bucket, count): (&u16, &u64)| {
            let more = count.saturating_sub(earlier.0.get(bucket).copied().unwrap_or(0));
            (more > 0).then_some((*bucket, more))
        };
        Self(self.0.iter().filter_map(more).collect())
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// How many of them were longer than `limit`, within the error.
    pub fn longer_than(&self, limit: Duration) -> u64 {
        let longer = self.iter().filter(|(micros, _)| Duration::from_micros(*micros) > limit);
        longer.map(|(_, count)| count).sum()
    }

    /// The duration that a share of `quantile` (0 to 1) of all did not exceed, within 1.6%; `None` if there
    /// are none. Of `n` durations it is the one at rank `ceil(n * quantile)`.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = ((total as f64 * quantile).ceil() as u64).clamp(1, total);
        let mut seen = 0_u64;
        self.iter().find_map(|(micros, count)| {
            seen = seen.saturating_add(count);
            (seen >= rank).then(|| Duration::from_micros(micros))
        })
    }

    /// Durations in microseconds and how often each occurred, rising.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(bucket, count)| (middle(usize::from(*bucket)), *count))
    }
}

impl Serialize for Sketch {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(&self.0)
    }
}

impl<'de> Deserialize<'de> for Sketch {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self::from_buckets(Vec::<(usize, u64)>::deserialize(from)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[u32]) -> Sketch {
        Sketch::of(values.iter().map(|micros| (u64::from(*micros), 1)))
    }

    fn merged(one: &Sketch, other: &Sketch) -> Sketch {
        let mut sum = one.clone();
        sum.merge(other);
        sum
    }

    #[test]
    fn buckets_follow_one_another_without_a_gap() {
        let mut last = 0;
        for micros in 0..1_000_000 {
            let at = bucket(micros);
            assert!(at == last || at == last + 1, "{micros} falls into {at} after {last}");
            last = at;
        }
        assert_eq!((bucket(u64::from(u32::MAX)), bucket(u64::MAX)), (BUCKETS - 1, BUCKETS - 1));
    }

    #[test]
    fn a_sketch_is_written_as_the_pairs_that_are_not_empty() {
        let sketch = Sketch::of([(3, 2), (70, 1)]);
        let text = serde_json::to_string(&sketch).unwrap();
        assert_eq!(text, "[[3,2],[67,1]]");
        assert_eq!(serde_json::from_str::<Sketch>(&text).unwrap(), sketch);
        // Whoever wrote a bucket that does not exist is not answered with a panic.
        assert_eq!(serde_json::from_str::<Sketch>("[[99999,2],[3,0]]").unwrap(), Sketch::default());
        assert_eq!(Sketch::default().quantile(0.5), None);
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_its_error_of_the_true_one(
            mut values in prop::collection::vec(0..=u32::MAX, 1..200), quantile in 0.0..=1.0,
        ) {
            let found = of(&values).quantile(quantile).unwrap().as_micros() as f64;
            values.sort_unstable();
            let rank = (values.len() as f64 * quantile).ceil().clamp(1.0, values.len() as f64);
            let exact = f64::from(values[rank as usize - 1]);
            prop_assert!((found - exact).abs() <= exact / 64.0, "{found} for {exact}");
        }

        #[test]
        fn merging_is_associative_and_commutative(
            a in prop::collection::vec(any::<u32>(), 0..50), b in prop::collection::vec(any::<u32>(), 0..50),
            c in prop::collection::vec(any::<u32>(), 0..50),
        ) {
            let all = of(&[&*a, &*b, &*c].concat());
            let (a, b, c) = (of(&a), of(&b), of(&c));
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(merged(&merged(&a, &b), &c), all);
        }

        #[test]
        fn what_came_since_and_what_was_before_make_the_whole(
            a in prop::collection::vec(any::<u32>(), 0..50), b in prop::collection::vec(any::<u32>(), 0..50),
        ) {
            let (before, more) = (of(&a), of(&b));
            let whole = merged(&before, &more);
            prop_assert_eq!(whole.since(&before), more);
            let text = serde_json::to_string(&whole).unwrap();
            prop_assert_eq!(serde_json::from_str::<Sketch>(&text).unwrap(), whole);
        }
    }
}
