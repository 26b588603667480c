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

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering, Ordering::Relaxed, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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
    /// Only the control thread takes this lock.
    series: Mutex<AllSeries>,
    /// When its slot lost the traffic: the moment from which long-lived connections are closed.
    pub retired: watch::Sender<Option<Instant>>,
}

/// The numbers of a service's routes.
#[derive(Default)]
struct AllSeries {
    by_prefix: BTreeMap<String, Arc<Series>>,
    /// Prefixes that are in no table any more, the oldest first.
    left: VecDeque<String>,
    /// The sum of those that were forgotten, so that no total of the service ever falls.
    forgotten: Facts,
}

/// How many prefixes that left the table are remembered for each service.
const REMEMBERED: usize = 64;

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

    fn known(&self) -> MutexGuard<'_, AllSeries> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<Series>> {
        self.known().by_prefix.values().cloned().collect()
    }

    /// Forgets routes that left the table long ago, though the service did not: a release's routes may change.
    pub fn forget(&self) {
        let known = &mut *self.known();
        // What no table and no request holds, nobody writes to any more.
        let unused = |series: &mut Arc<Series>| Arc::get_mut(series).is_some();
        let by_prefix = &mut known.by_prefix;
        known.left.retain(|prefix| by_prefix.get_mut(prefix).is_some_and(unused));
        let noted: HashSet<&String> = known.left.iter().collect();
        let new = by_prefix.iter_mut().filter(|(prefix, _)| !noted.contains(prefix));
        let new: Vec<_> = new.filter_map(|(p, series)| unused(series).then(|| p.clone())).collect();
        known.left.extend(new);
        while known.left.len() > REMEMBERED {
            let oldest = known.left.pop_front().and_then(|prefix| by_prefix.remove(&prefix));
            oldest.iter().for_each(|series| known.forgotten.merge(&series.facts()));
        }
    }

    /// The numbers of its route at `prefix`.
    pub fn series(&self, prefix: &str) -> Arc<Series> {
        let series = &mut self.known().by_prefix;
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
        let mut sum = self.known().forgotten.clone();
        sum.last_request_ms = self.last_request_ms();
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

#[cfg(test)]
mod tests {
    use domain::{Color, EnvironmentName, ReleaseId, ServiceName};

    use super::*;

    #[test]
    fn routes_that_left_are_forgotten_at_last_and_their_requests_still_count() {
        let key = FactsKey {
            environment: EnvironmentName::new("staging").unwrap(),
            slot: Color::Blue,
            release: ReleaseId::nth(1),
            service: ServiceName::new("shop").unwrap(),
        };
        let service = Service::new(key, 2);
        let held = service.series("/held");
        for n in 0..10 * REMEMBERED {
            let series = service.series(&format!("/{n}"));
            counters::add(&series.counters(n % 2).classes[1], 1);
            drop(series);
            service.forget();
            assert!(service.all().len() <= REMEMBERED + 1, "{} series", service.all().len());
        }
        assert_eq!(service.facts().total(), 10 * REMEMBERED as u64);
        assert!(Arc::ptr_eq(&held, &service.series("/held")), "what is in use is kept");
        // One that comes back begins anew, and is not forgotten while it is in use.
        let back = service.series("/0");
        (0..2 * REMEMBERED).for_each(|n| {
            service.series(&format!("/x{n}"));
            service.forget();
        });
        assert!(Arc::ptr_eq(&back, &service.series("/0")));
    }
}
