//! One worker's numbers about one route. Only that worker writes them, so that no addition ever contends and
//! none needs more than a plain load and store; everybody may read them at any time.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering, Ordering::Relaxed};

use domain::route::{Facts, Reason, Verb};
use domain::sketch::{self, BUCKETS, Sketch};

/// Kept apart from other workers' by a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
pub struct Counters {
    pub in_flight: AtomicU64,
    pub upgraded: AtomicU64,
    pub streams: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub classes: [AtomicU64; 5],
    pub methods: [AtomicU64; Verb::COUNT],
    pub latency: Durations,
    pub first_byte: Durations,
    pub connect: Durations,
    /// Most routes never need them.
    reasons: OnceLock<Box<[AtomicU64; Reason::COUNT]>>,
}

/// A sketch in the making: pages of two doublings each, made when a duration first falls into one.
#[derive(Default)]
pub struct Durations([OnceLock<Box<[AtomicU64; PAGE]>>; BUCKETS / PAGE]);

const PAGE: usize = 64;

/// Adds to a number that only this thread writes.
pub fn add(number: &AtomicU64, more: u64) {
    number.store(number.load(Relaxed).wrapping_add(more), Relaxed);
}

/// Takes one from a number that only this thread writes. Whoever reads the result sees all that was before.
pub fn take_one(number: &AtomicU64) {
    number.store(number.load(Relaxed).wrapping_sub(1), Ordering::Release);
}

fn zeros<const N: usize>() -> Box<[AtomicU64; N]> {
    Box::new([const { AtomicU64::new(0) }; N])
}

impl Durations {
    pub fn record(&self, micros: u64) {
        let at = sketch::bucket(micros);
        add(&self.0[at / PAGE].get_or_init(zeros)[at % PAGE], 1);
    }

    fn read(&self) -> Sketch {
        let pages =
            self.0.iter().enumerate().filter_map(|(page, counts)| Some((page, counts.get()?)));
        Sketch::from_buckets(pages.flat_map(|(page, counts)| {
            let of_page = counts.iter().enumerate();
            of_page.map(move |(at, count)| (page * PAGE + at, count.load(Relaxed)))
        }))
    }
}

impl Counters {
    pub fn reason(&self, reason: Reason) {
        add(&self.reasons.get_or_init(zeros)[reason as usize], 1);
    }

    pub fn facts(&self) -> Facts {
        let reasons = self.reasons.get().map(|counts| named(Reason::ALL, &counts[..]));
        Facts {
            classes: std::array::from_fn(|i| self.classes[i].load(Relaxed)),
            methods: named(Verb::ALL, &self.methods),
            reasons: reasons.unwrap_or_default(),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            in_flight: self.in_flight.load(Ordering::Acquire),
            upgraded: self.upgraded.load(Ordering::Acquire),
            streams: self.streams.load(Relaxed),
            latency: self.latency.read(),
            first_byte: self.first_byte.read(),
            connect: self.connect.read(),
            last_request_ms: 0,
        }
    }
}

fn named<K: Ord + Copy>(names: &[K], counts: &[AtomicU64]) -> BTreeMap<K, u64> {
    let counts = counts.iter().map(|count| count.load(Relaxed));
    names.iter().copied().zip(counts).filter(|(_, count)| *count > 0).collect()
}
