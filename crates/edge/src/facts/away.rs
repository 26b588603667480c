//! Requests that reached no route, counted by why: per environment where that is known, never per path or
//! host, which clients choose.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use domain::EnvironmentName;
use domain::route::{Reason, TurnedAway};

use super::counters::add;

/// Counters of one environment, or of the edge as a whole.
pub struct Away {
    environment: Option<EnvironmentName>,
    workers: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

/// What heads are refused with. Any other status counts as 0.
const STATUSES: [u16; 19] =
    [0, 200, 301, 308, 400, 404, 405, 408, 411, 413, 414, 417, 421, 429, 431, 500, 501, 503, 505];
/// In an environment a reason always has the same status.
const ONE: usize = 1;

impl Away {
    pub fn new(environment: Option<EnvironmentName>, workers: usize) -> Self {
        Self { environment, workers: (0..workers).map(|_| OnceLock::new()).collect() }
    }

    fn width(&self) -> usize {
        if self.environment.is_some() { ONE } else { STATUSES.len() }
    }

    /// Counts one request that `worker` answered with `status` for `reason`.
    pub fn count(&self, worker: usize, reason: Reason, status: u16) {
        let width = self.width();
        let fresh = || (0..Reason::COUNT * width).map(|_| AtomicU64::new(0)).collect();
        let counts = self.workers[worker].get_or_init(fresh);
        let known = || STATUSES.iter().position(|known| *known == status).unwrap_or(0);
        let at = if width == ONE { 0 } else { known() };
        add(&counts[reason as usize * width + at], 1);
    }

    /// What was counted, without the zeros.
    pub fn read(&self) -> impl Iterator<Item = TurnedAway> + '_ {
        let width = self.width();
        let all = Reason::ALL.iter().flat_map(move |reason| {
            (0..width).map(move |at| (*reason, at, *reason as usize * width + at))
        });
        all.filter_map(move |(reason, at, cell)| {
            let counts = self.workers.iter().filter_map(OnceLock::get);
            let count = counts.map(|counts| counts[cell].load(Relaxed)).sum();
            let status = match width {
                ONE => reason.status(),
                _ => STATUSES[at],
            };
            let environment = self.environment.clone();
            (count > 0).then_some(TurnedAway { environment, reason, status, count })
        })
    }

    /// Whether anything was ever counted.
    pub fn is_used(&self) -> bool {
        self.workers.iter().any(|counts| counts.get().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_turned_away_is_counted_by_reason_and_status_over_all_workers() {
        let edge = Away::new(None, 2);
        edge.count(0, Reason::Malformed, 400);
        edge.count(1, Reason::Malformed, 400);
        edge.count(1, Reason::Malformed, 505);
        edge.count(1, Reason::Malformed, 799);
        let seen: Vec<_> = edge.read().map(|away| (away.status, away.count)).collect();
        assert_eq!(seen, [(0, 1), (400, 2), (505, 1)]);
        let staging = Away::new(EnvironmentName::new("staging").ok(), 2);
        assert!(!staging.is_used());
        staging.count(0, Reason::NoRoute, 404);
        let seen: Vec<_> = staging.read().map(|away| (away.reason, away.status)).collect();
        assert_eq!(seen, [(Reason::NoRoute, 404)]);
    }
}
