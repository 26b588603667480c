//! What is counted about requests. Each worker writes numbers of its own, without locks; they are summed when
//! the control socket is asked, and are never older than the last finished request.
//!
//! ```text
//!   Service (FactsKey)  what a drain and the retry budget need
//!    └ Series (prefix)  a route's numbers, per worker, made at the worker's first request there
//!   Away                requests that reached no route
//! ```
//!
//! There is one series per route of the table and one `Away` per environment: nothing that a client chooses
//! makes a new one.

mod away;
mod counters;
mod flight;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering, Ordering::Relaxed, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use domain::route::{Facts, FactsKey, RouteFacts};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio::time::Instant;

pub use away::Away;
use counters::Counters;
pub use flight::{Flight, Meter, Upgraded};

/// One service of one slot of one release, as long as anybody may still ask about it.
pub struct Service {
    pub key: FactsKey,
    marks: Box<[OnceLock<Box<Marks>>]>,
    /// By prefix. Only the control thread takes this lock.
    series: Mutex<BTreeMap<String, Arc<Series>>>,
    /// When its slot lost the traffic: the moment from which long-lived connections are closed.
    pub retired: watch::Sender<Option<Instant>>,
}

/// The numbers of one route.
pub struct Series {
    pub prefix: String,
    counters: Box<[OnceLock<Box<Counters>>]>,
}

/// What one worker notes about one service. Only that worker writes.
#[repr(align(128))]
struct Marks {
    last_request_ms: AtomicI64,
    /// Tokens for retries, refilled by requests.
    budget: AtomicI64,
    /// When some of the requests in flight began; 0 is a free cell.
    begun: [AtomicI64; BEGUN],
}

const BEGUN: usize = 16;
const BUDGET_FULL: i64 = 1000;
const RETRY_COST: i64 = 5;

impl Default for Marks {
    fn default() -> Self {
        Self {
            last_request_ms: AtomicI64::new(0),
            budget: AtomicI64::new(BUDGET_FULL / 2),
            begun: Default::default(),
        }
    }
}

/// Milliseconds since the Unix epoch, by the kernel's coarse clock: some milliseconds late, and cheap.
pub fn now_ms() -> i64 {
    let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE);
    now.map_or(0, |now| now.tv_sec() * 1000 + now.tv_nsec() / 1_000_000)
}

fn empty<T>(count: usize) -> Box<[OnceLock<T>]> {
    (0..count).map(|_| OnceLock::new()).collect()
}

impl Service {
    pub fn new(key: FactsKey, workers: usize) -> Self {
        let (marks, retired) = (empty(workers), watch::Sender::new(None));
        Self { key, marks, series: Mutex::default(), retired }
    }

    fn all(&self) -> Vec<Arc<Series>> {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.values().cloned().collect()
    }

    /// The numbers of its route at `prefix`.
    pub fn series(&self, prefix: &str) -> Arc<Series> {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = series.get(prefix) {
            return known.clone();
        }
        let (prefix, counters) = (prefix.to_owned(), empty(self.marks.len()));
        let fresh = Arc::new(Series { prefix: prefix.clone(), counters });
        series.insert(prefix, fresh.clone());
        fresh
    }

    fn marks(&self, worker: usize) -> &Marks {
        self.marks[worker].get_or_init(Box::default)
    }

    fn sum(&self, of: impl Fn(&Counters) -> u64) -> u64 {
        // Pairs with the fence in `Flight::begin`.
        fence(Ordering::SeqCst);
        self.all().iter().flat_map(|series| series.used()).map(of).fold(0, u64::wrapping_add)
    }

    /// Requests being answered now. Together with the recheck in [`crate::live::acquire`], zero after a switch
    /// means that none will come any more.
    pub fn in_flight(&self) -> u64 {
        self.sum(|counters| counters.in_flight.load(Ordering::Acquire))
    }

    /// Upgraded connections open now.
    pub fn upgraded(&self) -> u64 {
        self.sum(|counters| counters.upgraded.load(Ordering::Acquire))
    }

    /// Those of the requests being answered now that are event streams.
    pub fn streams(&self) -> u64 {
        self.sum(|counters| counters.streams.load(Ordering::Acquire))
    }

    /// When the oldest known request in flight began.
    pub fn oldest_ms(&self) -> Option<i64> {
        let marks = self.marks.iter().filter_map(OnceLock::get);
        let begun = marks.flat_map(|marks| marks.begun.iter()).map(|cell| cell.load(Relaxed));
        begun.filter(|ms| *ms > 0).min()
    }

    fn last_request_ms(&self) -> i64 {
        let marks = self.marks.iter().filter_map(OnceLock::get);
        marks.map(|marks| marks.last_request_ms.load(Relaxed)).max().unwrap_or(0)
    }

    /// Whether it ever had a request.
    pub fn is_used(&self) -> bool {
        self.marks.iter().any(|marks| marks.get().is_some())
    }

    /// The sum over all workers and routes.
    pub fn facts(&self) -> Facts {
        let mut sum = Facts { last_request_ms: self.last_request_ms(), ..Facts::default() };
        self.all().iter().for_each(|series| sum.merge(&series.facts()));
        sum
    }

    /// Each route that ever had a request, summed over all workers.
    pub fn routes(&self) -> impl Iterator<Item = RouteFacts> + '_ {
        let used = self.all().into_iter().filter(|series| series.used().next().is_some());
        used.map(|series| RouteFacts {
            key: self.key.clone(),
            prefix: series.prefix.clone(),
            facts: series.facts(),
        })
    }

    /// Takes the price of one retry, if the budget allows it: a fifth of the requests may be retried.
    pub fn may_retry(&self, worker: usize) -> bool {
        let budget = &self.marks(worker).budget;
        let left = budget.load(Relaxed);
        if left < RETRY_COST {
            return false;
        }
        budget.store(left - RETRY_COST, Relaxed);
        true
    }
}

impl Series {
    fn counters(&self, worker: usize) -> &Counters {
        self.counters[worker].get_or_init(Box::default)
    }

    fn used(&self) -> impl Iterator<Item = &Counters> {
        self.counters.iter().filter_map(OnceLock::get).map(Box::as_ref)
    }

    fn facts(&self) -> Facts {
        let mut sum = Facts::default();
        self.used().for_each(|counters| sum.merge(&counters.facts()));
        sum
    }
}
