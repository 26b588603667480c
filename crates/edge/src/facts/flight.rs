//! One request on its way, and what it adds to the numbers: the same few calls on the fast path and through
//! hyper.

use std::cell::Cell;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{Ordering, Ordering::Relaxed, fence};
use std::time::{Duration, Instant};

use domain::route::{Reason, Verb};

use super::counters::{Counters, add, take_one};
use super::{BUDGET_FULL, Service, now_ms};
use crate::access_log::Line;
use crate::live::Route;

/// One request, from its head to the end of its answer. Dropping it ends it.
///
/// `begin` → `routed` → `asked` → (`received`, `connected`)* → `answered` or `failed` → `sent`* → `count`.
/// One that is dropped between `answered` and `count` is one whose client left.
pub struct Flight {
    route: Arc<Route>,
    worker: usize,
    started: Instant,
    phase: Phase,
    method: Verb,
    status: u16,
    reason: Option<Reason>,
    cell: Option<u8>,
    stream: bool,
    sent: u64,
    received: u64,
    meter: Option<Meter>,
    line: Option<Box<Line>>,
    /// The numbers have one writer: a flight stays on its worker's thread.
    _stays: PhantomData<Rc<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Marked,
    Routed,
    Answered,
    Counted,
}

fn micros(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000) + u64::from(duration.subsec_micros())
}

impl Flight {
    /// Marks a request as in flight; [`Flight::routed`] confirms it, dropping takes it back. After this the
    /// caller must read the table again: see [`crate::live::acquire`].
    pub fn begin(route: Arc<Route>, worker: usize) -> Self {
        add(&route.series.counters(worker).in_flight, 1);
        // Either the publisher of a new table sees the mark, or what follows sees the new table.
        fence(Ordering::SeqCst);
        Self {
            route,
            worker,
            started: Instant::now(),
            phase: Phase::Marked,
            method: Verb::Other,
            status: 0,
            reason: None,
            cell: None,
            stream: false,
            sent: 0,
            received: 0,
            meter: None,
            line: None,
            _stays: PhantomData,
        }
    }

    /// The table still was the current one after the mark: the request goes to this slot.
    pub fn routed(&mut self) {
        self.phase = Phase::Routed;
        let now = now_ms();
        let marks = self.route.service.marks(self.worker);
        marks.last_request_ms.store(now, Relaxed);
        let budget = marks.budget.load(Relaxed);
        if budget < BUDGET_FULL {
            marks.budget.store(budget + 1, Relaxed);
        }
        let free = marks.begun.iter().position(|cell| cell.load(Relaxed) == 0);
        if let Some(free) = free {
            marks.begun[free].store(now, Relaxed);
        }
        self.cell = free.map(|free| free as u8);
    }

    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    pub fn service(&self) -> &Arc<Service> {
        &self.route.service
    }

    pub fn worker(&self) -> usize {
        self.worker
    }

    fn counters(&self) -> &Counters {
        self.route.series.counters(self.worker)
    }

    /// The request's method.
    pub fn asked(&mut self, method: Verb) {
        self.method = method;
    }

    /// Has the request written to the access log when it ends.
    pub fn logged(&mut self, line: Line) {
        self.line = Some(Box::new(line));
    }

    /// Bytes of the request's body came.
    pub fn received(&mut self, bytes: u64) {
        self.received += bytes;
        add(&self.counters().bytes_in, bytes);
    }

    /// Bytes of the answer's body go to the client.
    pub fn sent(&mut self, bytes: u64) {
        self.sent += bytes;
        add(&self.counters().bytes_out, bytes);
    }

    /// Counts a request's body where the flight itself is not at hand.
    pub fn meter(&mut self) -> Meter {
        let fresh =
            || Meter { route: self.route.clone(), worker: self.worker, bytes: Rc::default() };
        self.meter.get_or_insert_with(fresh).clone()
    }

    /// It goes to this replica; `took` if a connection had to be opened first.
    pub fn connected(&mut self, replica: SocketAddr, took: Option<Duration>) {
        if let Some(took) = took {
            self.counters().connect.record(micros(took));
        }
        if let Some(line) = &mut self.line {
            line.upstream = Some(replica);
            line.connect = took;
        }
    }

    /// The answer's head is known; it is counted when its body ends.
    pub fn answered(&mut self, status: u16) {
        self.status = status;
        if self.phase == Phase::Routed {
            self.counters().first_byte.record(micros(self.started.elapsed()));
        }
        self.phase = Phase::Answered;
    }

    /// The whole answer is known at once: [`Flight::answered`] and [`Flight::count`] for one look at the clock.
    pub fn answered_whole(&mut self, status: u16) {
        if self.phase != Phase::Routed {
            return;
        }
        self.status = status;
        let took = micros(self.started.elapsed());
        self.counters().first_byte.record(took);
        self.finish(took, status);
    }

    /// The edge answers itself, with the reason's own status.
    pub fn failed(&mut self, reason: Reason) {
        self.failed_as(reason, reason.status());
    }

    /// The edge answers itself, with another status than the reason's usual one.
    pub fn failed_as(&mut self, reason: Reason, status: u16) {
        self.because(reason);
        self.answered(status);
    }

    /// The edge answers itself with `status`, because no replica could: for the reason noted before, or
    /// what the status says.
    pub fn unreachable(&mut self, status: u16) {
        let reason = match status {
            504 => Reason::Timeout,
            502 => Reason::Closed,
            _ => Reason::Connect,
        };
        self.failed_as(reason, status);
    }

    /// The answer broke off: the client did not get what the head promised, and it counts as a 5xx.
    pub fn broken(&mut self, reason: Reason) {
        self.because(reason);
        if self.phase == Phase::Answered {
            self.finish(micros(self.started.elapsed()), reason.status());
        }
    }

    /// Notes why, once: the first reason is the cause of those that follow.
    pub fn because(&mut self, reason: Reason) {
        if self.reason.is_none() {
            self.reason = Some(reason);
            self.counters().reason(reason);
        }
    }

    /// It waited for a replica that is back. That alone is no reason for how it will end.
    pub fn waited(&mut self) {
        self.counters().reason(Reason::Waited);
    }

    /// The answer is an event stream: counted now, as its end says nothing about how long it took.
    pub fn streaming(&mut self) {
        if !std::mem::replace(&mut self.stream, true) {
            add(&self.counters().streams, 1);
        }
        self.count();
    }

    /// The answer is complete: count it now, once.
    pub fn count(&mut self) {
        if self.phase == Phase::Answered {
            self.finish(micros(self.started.elapsed()), self.status);
        }
    }

    fn finish(&mut self, took: u64, status: u16) {
        self.phase = Phase::Counted;
        let counters = self.counters();
        add(&counters.classes[usize::from(status / 100).clamp(1, 5) - 1], 1);
        add(&counters.methods[self.method as usize], 1);
        counters.latency.record(took);
    }

    /// The connection left HTTP: no request in flight any more, an upgraded connection instead.
    pub fn upgrade(mut self) -> Upgraded {
        self.count();
        add(&self.counters().upgraded, 1);
        Upgraded {
            route: self.route.clone(),
            worker: self.worker,
            started: self.started,
            status: self.status,
            bytes: Cell::default(),
            line: self.line.take(),
            _stays: PhantomData,
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if matches!(self.phase, Phase::Routed | Phase::Answered) {
            self.because(Reason::ClientLeft);
            self.count();
        }
        let counters = self.counters();
        if self.stream {
            take_one(&counters.streams);
        }
        if let Some(cell) = self.cell {
            self.route.service.marks(self.worker).begun[usize::from(cell)].store(0, Relaxed);
        }
        take_one(&counters.in_flight);
        if let Some(line) = self.line.take() {
            let metered = self.meter.as_ref().map_or(0, |meter| meter.bytes.get());
            let status = if self.status == 0 { Reason::ClientLeft.status() } else { self.status };
            let bytes = (self.received + metered, self.sent);
            line.end(Some(&self.route), status, self.reason, bytes, self.started.elapsed());
        }
    }
}

/// Counts the bytes of one request's body.
#[derive(Clone)]
pub struct Meter {
    route: Arc<Route>,
    worker: usize,
    bytes: Rc<Cell<u64>>,
}

impl Meter {
    pub fn received(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
        add(&self.route.series.counters(self.worker).bytes_in, bytes);
    }
}

/// One upgraded connection. Dropping it ends it.
pub struct Upgraded {
    route: Arc<Route>,
    worker: usize,
    started: Instant,
    status: u16,
    bytes: Cell<(u64, u64)>,
    line: Option<Box<Line>>,
    _stays: PhantomData<Rc<()>>,
}

impl Upgraded {
    pub fn service(&self) -> &Arc<Service> {
        &self.route.service
    }

    /// Bytes came from the client.
    pub fn received(&self, bytes: u64) {
        let (received, sent) = self.bytes.get();
        self.bytes.set((received + bytes, sent));
        add(&self.route.series.counters(self.worker).bytes_in, bytes);
    }

    /// Bytes went to the client.
    pub fn sent(&self, bytes: u64) {
        let (received, sent) = self.bytes.get();
        self.bytes.set((received, sent + bytes));
        add(&self.route.series.counters(self.worker).bytes_out, bytes);
    }

    /// Notes why it ended.
    pub fn because(&self, reason: Reason) {
        self.route.series.counters(self.worker).reason(reason);
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        take_one(&self.route.series.counters(self.worker).upgraded);
        if let Some(line) = self.line.take() {
            let took = self.started.elapsed();
            line.end(Some(&self.route), self.status, None, self.bytes.get(), took);
        }
    }
}
