//! Counters of one service in one slot: written by the workers, each its own set, summed when asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use domain::route::{Facts, FactsKey};
use tokio::sync::watch;
use tokio::time::Instant;

/// One service of one slot of one release, as long as anybody may still ask about it.
pub struct Service {
    pub key: FactsKey,
    counters: Box<[Counters]>,
    /// When its slot lost the traffic: the moment from which long-lived connections are closed.
    pub retired: watch::Sender<Option<Instant>>,
}

/// One worker's part. Only that worker writes, so relaxed additions never contend.
#[repr(align(128))]
struct Counters {
    classes: [AtomicU64; 5],
    unreachable: AtomicU64,
    in_flight: AtomicI64,
    upgraded: AtomicI64,
    last_request_ms: AtomicI64,
    /// Tokens for retries, refilled by requests.
    budget: AtomicI64,
    /// When some of the requests in flight began; 0 is a free cell.
    begun: [AtomicI64; BEGUN],
    latency: [AtomicU64; BUCKETS],
}

const BEGUN: usize = 16;
const SUB: u64 = 4;
const OCTAVES: u64 = 19;
const FIRST: u64 = 128;
const BUCKETS: usize = (1 + OCTAVES * SUB + 1) as usize;
const BUDGET_FULL: i64 = 1000;
const RETRY_COST: i64 = 5;

/// The bucket of `micros`: up to 128 µs, then four per doubling up to 67 s, then everything slower.
fn bucket(micros: u64) -> usize {
    if micros <= FIRST {
        return 0;
    }
    let below = micros - 1;
    let octave = u64::from((below / FIRST).ilog2());
    if octave >= OCTAVES {
        return BUCKETS - 1;
    }
    let base = FIRST << octave;
    let sub = (below - base) * SUB / base;
    (1 + octave * SUB + sub) as usize
}

/// The upper bound of a bucket, in microseconds.
fn bound(bucket: usize) -> u64 {
    if bucket == 0 {
        return FIRST;
    }
    if bucket == BUCKETS - 1 {
        return 3_600_000_000;
    }
    let (octave, sub) = ((bucket as u64 - 1) / SUB, (bucket as u64 - 1) % SUB);
    let base = FIRST << octave;
    base + base * (sub + 1) / SUB
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Counters {
    fn new() -> Self {
        Self {
            classes: Default::default(),
            unreachable: AtomicU64::new(0),
            in_flight: AtomicI64::new(0),
            upgraded: AtomicI64::new(0),
            last_request_ms: AtomicI64::new(0),
            budget: AtomicI64::new(BUDGET_FULL / 2),
            begun: Default::default(),
            latency: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Service {
    pub fn new(key: FactsKey, workers: usize) -> Self {
        let counters = (0..workers).map(|_| Counters::new()).collect();
        Self { key, counters, retired: watch::Sender::new(None) }
    }

    fn sum(&self, of: impl Fn(&Counters) -> i64) -> u64 {
        let total: i64 = self.counters.iter().map(of).sum();
        u64::try_from(total).unwrap_or(0)
    }

    /// Requests being answered now. Together with the recheck in [`crate::live::acquire`], zero after a switch
    /// means that none will come any more.
    pub fn in_flight(&self) -> u64 {
        self.sum(|c| c.in_flight.load(Ordering::SeqCst))
    }

    pub fn upgraded(&self) -> u64 {
        self.sum(|c| c.upgraded.load(Ordering::SeqCst))
    }

    /// When the oldest known request in flight began.
    pub fn oldest_ms(&self) -> Option<i64> {
        let begun = self.counters.iter().flat_map(|c| c.begun.iter());
        begun.map(|cell| cell.load(Relaxed)).filter(|ms| *ms > 0).min()
    }

    /// The sum over all workers.
    pub fn facts(&self) -> Facts {
        let class = |i: usize| self.counters.iter().map(|c| c.classes[i].load(Relaxed)).sum();
        let slot = |i: usize| self.counters.iter().map(|c| c.latency[i].load(Relaxed)).sum::<u64>();
        let latency = (0..BUCKETS).map(|i| (bound(i), slot(i))).filter(|(_, count)| *count > 0);
        let last = self.counters.iter().map(|c| c.last_request_ms.load(Relaxed)).max();
        Facts {
            classes: std::array::from_fn(class),
            reasons: [(
                domain::route::Reason::Connect,
                self.counters.iter().map(|c| c.unreachable.load(Relaxed)).sum(),
            )]
            .into(),
            in_flight: self.in_flight(),
            upgraded: self.upgraded(),
            latency: domain::sketch::Sketch::of(latency),
            last_request_ms: last.unwrap_or(0),
            ..Facts::default()
        }
    }

    /// Takes the price of one retry, if the budget allows it: a fifth of the requests may be retried.
    pub fn may_retry(&self, worker: usize) -> bool {
        let budget = &self.counters[worker].budget;
        if budget.load(Relaxed) < RETRY_COST {
            return false;
        }
        budget.fetch_sub(RETRY_COST, Relaxed);
        true
    }
}

/// One request, from its head to the end of its answer. Dropping it ends it.
pub struct Flight {
    service: Arc<Service>,
    worker: usize,
    started: Instant,
    cell: Option<usize>,
    status: u16,
    counted: bool,
}

impl Flight {
    /// Marks a request as in flight; [`Flight::routed`] confirms it, dropping takes it back.
    pub fn begin(service: Arc<Service>, worker: usize) -> Self {
        service.counters[worker].in_flight.fetch_add(1, Ordering::SeqCst);
        Self { service, worker, started: Instant::now(), cell: None, status: 0, counted: true }
    }

    /// The table still was the current one after the mark: the request goes to this slot.
    pub fn routed(&mut self) {
        let now = now_ms();
        let counters = &self.service.counters[self.worker];
        counters.last_request_ms.store(now, Relaxed);
        if counters.budget.load(Relaxed) < BUDGET_FULL {
            counters.budget.fetch_add(1, Relaxed);
        }
        self.cell = counters.begun.iter().position(|cell| cell.load(Relaxed) == 0);
        if let Some(cell) = self.cell {
            counters.begun[cell].store(now, Relaxed);
        }
    }

    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    pub fn worker(&self) -> usize {
        self.worker
    }

    /// The answer's head is known; it is counted when its body ends.
    pub fn answered(&mut self, status: u16) {
        self.status = status;
        self.counted = false;
    }

    /// The edge answered itself, because no replica could.
    pub fn unreachable(&mut self, status: u16) {
        self.answered(status);
        self.service.counters[self.worker].unreachable.fetch_add(1, Relaxed);
    }

    /// The body broke off: the client did not get what the head promised.
    pub fn broken(&mut self) {
        if !self.counted {
            self.status = 502;
            self.count();
        }
    }

    /// The answer is complete, or is a stream whose end says nothing: count it now, once.
    pub fn count(&mut self) {
        if std::mem::replace(&mut self.counted, true) {
            return;
        }
        let counters = &self.service.counters[self.worker];
        let class = usize::from(self.status / 100).clamp(1, 5) - 1;
        counters.classes[class].fetch_add(1, Relaxed);
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        counters.latency[bucket(micros)].fetch_add(1, Relaxed);
    }

    /// The connection left HTTP: no request in flight any more, an upgraded connection instead.
    pub fn upgrade(self) -> Upgraded {
        let (service, worker) = (self.service.clone(), self.worker);
        service.counters[worker].upgraded.fetch_add(1, Ordering::SeqCst);
        Upgraded { service, worker }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.count();
        let counters = &self.service.counters[self.worker];
        if let Some(cell) = self.cell {
            counters.begun[cell].store(0, Relaxed);
        }
        counters.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One upgraded connection. Dropping it ends it.
pub struct Upgraded {
    service: Arc<Service>,
    worker: usize,
}

impl Upgraded {
    pub fn service(&self) -> &Service {
        &self.service
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        self.service.counters[self.worker].upgraded.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Resolves when the connections of `service` should end: some time after its slot lost the traffic, or
/// when the edge stops; spread, so that not every client comes back in the same moment.
pub async fn ended(
    mut retired: watch::Receiver<Option<Instant>>,
    mut stop: watch::Receiver<bool>,
    delay: Duration,
) {
    loop {
        let due = *retired.borrow_and_update();
        let wait = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = retired.changed() => if changed.is_err() { break },
            _ = stop.wait_for(|stop| *stop) => break,
            () = wait => break,
        }
    }
    tokio::time::sleep(delay).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_falls_into_the_bucket_whose_bounds_enclose_it() {
        for micros in (0..2_000_000).step_by(37).chain([127, 128, 129, 160, 161, 60_000_000]) {
            let at = bucket(micros);
            assert!(micros <= bound(at), "{micros} is over {}", bound(at));
            assert!(at == 0 || micros > bound(at - 1), "{micros} is under bucket {at}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}
