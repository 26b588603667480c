//! Counts what clients that stay see.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::tally::Clock;
use super::{ClientKind, End, Incident, LastingCounts, LastingReport};

/// How many incidents are remembered one by one.
const REMEMBERED: usize = 10_000;

pub(super) struct Tally {
    clock: Clock,
    report: Mutex<LastingReport>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self { clock: Clock::start(), report: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, LastingReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is open now, after `gap` without a connection.
    pub(super) fn opened(&self, kind: ClientKind, gap: Duration) {
        let mut report = self.lock();
        let counts = report.of(kind);
        counts.opened += 1;
        counts.open += 1;
        let gap = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
        counts.longest_gap_ms = counts.longest_gap_ms.max(gap);
    }

    pub(super) fn message(&self, kind: ClientKind) {
        self.lock().of(kind).messages += 1;
    }

    pub(super) fn silence(&self, kind: ClientKind) {
        self.lock().of(kind).silences += 1;
    }

    pub(super) fn ended(&self, kind: ClientKind, end: End) {
        let mut report = self.lock();
        let counts = report.of(kind);
        counts.open -= 1;
        match end {
            End::Polite(code) => *counts.polite.entry(code).or_default() += 1,
            End::Abnormal(why) => {
                counts.abnormal += 1;
                self.remember(&mut report, kind, false, why);
            }
        }
    }

    pub(super) fn failed_open(&self, kind: ClientKind, why: String) {
        let mut report = self.lock();
        report.of(kind).failed_opens += 1;
        self.remember(&mut report, kind, true, why);
    }

    fn remember(&self, report: &mut LastingReport, client: ClientKind, opening: bool, why: String) {
        if report.incidents.len() < REMEMBERED {
            let at = self.clock.at(Instant::now());
            report.incidents.push(Incident { at, client, opening, why });
        }
    }

    pub(super) fn report(&self) -> LastingReport {
        self.lock().clone()
    }
}

impl LastingReport {
    fn of(&mut self, kind: ClientKind) -> &mut LastingCounts {
        match kind {
            ClientKind::WebSocket => &mut self.websockets,
            ClientKind::EventStream => &mut self.event_streams,
        }
    }
}
