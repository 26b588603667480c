//! Counts what becomes of requests while they happen.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use domain::Timestamp;
use domain::units::Rate;
use hdrhistogram::Histogram;
use http::StatusCode;
use tokio::time::Instant;

use super::connection::Broken;
use super::{Counters, FailedRequest, FailureKind, Load, LoadReport, PathReport};

/// How many failures are remembered one by one.
const REMEMBERED: usize = 10_000;
/// How many of them a report shows.
const SHOWN: usize = 50;

/// The counts of one target.
pub(super) struct Tally {
    host: String,
    rate: Rate,
    clock: Clock,
    counts: Mutex<Counts>,
}

/// Wall-clock times that never go back: one reading of the clock, and the time since then.
pub(super) struct Clock {
    started: Instant,
    wall: Duration,
}

impl Clock {
    pub(super) fn start() -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), wall }
    }

    pub(super) fn at(&self, instant: Instant) -> Timestamp {
        let wall = self.wall + instant.saturating_duration_since(self.started);
        Timestamp::from_millis(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX))
    }
}

struct Counts {
    sent: u64,
    abandoned: u64,
    classes: [u64; 5],
    failures: BTreeMap<FailureKind, u64>,
    remembered: Vec<FailedRequest>,
    latency: Histogram<u64>,
    lag: Histogram<u64>,
    paths: Vec<PathCounts>,
    lasted: Option<Duration>,
}

struct PathCounts {
    path: String,
    sent: u64,
    failed: u64,
    refused: u64,
    latency: Histogram<u64>,
}

/// Microseconds from 1 to an hour: fixed bounds, so that recording never fails and never allocates.
fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, digits).expect("the bounds are right")
}

fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}

fn quantile(histogram: &Histogram<u64>, quantile: f64) -> Duration {
    Duration::from_micros(histogram.value_at_quantile(quantile))
}

impl Tally {
    pub(super) fn new(load: &Load) -> Self {
        let path = |path: &String| PathCounts {
            path: path.clone(),
            sent: 0,
            failed: 0,
            refused: 0,
            latency: histogram(2),
        };
        Self {
            host: load.target.host.clone(),
            rate: load.rate,
            clock: Clock::start(),
            counts: Mutex::new(Counts {
                sent: 0,
                abandoned: 0,
                classes: [0; 5],
                failures: BTreeMap::new(),
                remembered: Vec::new(),
                latency: histogram(3),
                lag: histogram(2),
                paths: load.paths.iter().map(path).collect(),
                lasted: None,
            }),
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request that was due at `due` is sent now, or would be if there were room.
    pub(super) fn sent(&self, path: usize, due: Instant) {
        let mut counts = self.counts();
        counts.sent += 1;
        counts.paths[path].sent += 1;
        record(&mut counts.lag, due.elapsed());
    }

    pub(super) fn answered(&self, path: usize, due: Instant, status: StatusCode) {
        let mut counts = self.counts();
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        counts.classes[class] += 1;
        counts.record(path, due.elapsed());
        if status.is_client_error() {
            counts.paths[path].refused += 1;
        }
        if status.is_server_error() {
            let why = format!("answered {status}");
            self.fail(&mut counts, path, due, FailureKind::Status, Some(status.as_u16()), why);
        }
    }

    pub(super) fn broken(&self, path: usize, due: Instant, broken: Broken) {
        let mut counts = self.counts();
        // It took at least so long; leaving it out would make a target look fast that does not answer.
        if broken.kind == FailureKind::Timeout {
            counts.record(path, due.elapsed());
        }
        self.fail(&mut counts, path, due, broken.kind, None, broken.why);
    }

    pub(super) fn abandoned(&self, path: usize) {
        let mut counts = self.counts();
        counts.abandoned += 1;
        counts.sent -= 1;
        counts.paths[path].sent -= 1;
    }

    /// No more requests will be sent; they were for so long.
    pub(super) fn ran_for(&self, lasted: Duration) {
        self.counts().lasted = Some(lasted);
    }

    fn fail(
        &self,
        counts: &mut Counts,
        path: usize,
        due: Instant,
        kind: FailureKind,
        status: Option<u16>,
        why: String,
    ) {
        *counts.failures.entry(kind).or_default() += 1;
        counts.paths[path].failed += 1;
        if counts.remembered.len() < REMEMBERED {
            let (due, ended) = (self.clock.at(due), self.clock.at(Instant::now()));
            let path = counts.paths[path].path.clone();
            counts.remembered.push(FailedRequest { due, ended, path, kind, status, why });
        }
    }

    pub(super) fn counters(&self) -> Counters {
        let counts = self.counts();
        let (answered, failed) = (counts.answered(), counts.failed());
        let done = answered + failed - counts.failures.get(&FailureKind::Status).unwrap_or(&0);
        Counters {
            sent: counts.sent,
            answered,
            failed,
            in_flight: counts.sent.saturating_sub(done),
        }
    }

    pub(super) fn failures(&self) -> Vec<FailedRequest> {
        self.counts().remembered.clone()
    }

    pub(super) fn report(&self) -> LoadReport {
        let counts = self.counts();
        let lasted = counts.lasted.unwrap_or_else(|| self.clock.started.elapsed());
        let path = |path: &PathCounts| PathReport {
            path: path.path.clone(),
            sent: path.sent,
            failed: path.failed,
            refused: path.refused,
            p99: quantile(&path.latency, 0.99),
        };
        let sent = (counts.sent + counts.abandoned) as f64;
        LoadReport {
            host: self.host.clone(),
            rate_wanted: self.rate,
            rate_reached: Rate(sent / lasted.as_secs_f64().max(f64::EPSILON)),
            lasted,
            sent: counts.sent,
            answered: counts.answered(),
            classes: counts.classes,
            failures: counts.failures.clone(),
            abandoned: counts.abandoned,
            p50: quantile(&counts.latency, 0.5),
            p95: quantile(&counts.latency, 0.95),
            p99: quantile(&counts.latency, 0.99),
            p999: quantile(&counts.latency, 0.999),
            max: Duration::from_micros(counts.latency.max()),
            lag_p99: quantile(&counts.lag, 0.99),
            by_path: counts.paths.iter().map(path).collect(),
            first_failures: counts.remembered.iter().take(SHOWN).cloned().collect(),
        }
    }
}

impl Counts {
    fn record(&mut self, path: usize, time: Duration) {
        record(&mut self.latency, time);
        record(&mut self.paths[path].latency, time);
    }

    fn answered(&self) -> u64 {
        self.classes.iter().sum()
    }

    fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}
