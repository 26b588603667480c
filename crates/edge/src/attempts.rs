//! Where one request went so far, and whether it may go out once more: the same on every way to a replica.
//!
//! Whether it is safe to send it again is known to who sends it. This is about how often: within a number of its own
//! and the budget of its service, and once more after a moment if all replicas may be on their way back.

use std::sync::Arc;

use crate::comeback::Waits;
use crate::facts::Flight;
use crate::pick::pick;
use crate::replica::{Fault, Replica};
use crate::worker::Worker;

/// How many replicas or fresh connections one request may reach for.
const TRIES: u32 = 2;

#[derive(Debug, Default)]
pub struct Attempts {
    tried: Option<u64>,
    /// Only a new connection will do: a kept one broke.
    fresh: bool,
    failed: u32,
    waits: Waits,
}

impl Attempts {
    /// The replica for the next attempt.
    pub fn pick<'a>(
        &self,
        replicas: &'a [Arc<Replica>],
        random: impl FnMut() -> u64,
    ) -> Option<&'a Arc<Replica>> {
        pick(replicas, self.tried, random)
    }

    pub fn fresh(&self) -> bool {
        self.fresh
    }

    /// A kept connection had died before the request: as good as not having been there, but no other one is taken.
    pub fn renew(&mut self) {
        self.fresh = true;
    }

    /// `replica` took no connection: whether to try once more. Where all are away, one of `replicas` is waited for.
    pub async fn missed(
        &mut self,
        worker: &Worker,
        replicas: &[Arc<Replica>],
        replica: &Replica,
        fault: Fault,
        flight: &mut Flight,
    ) -> bool {
        worker.missed(replica, fault);
        self.waits.outwait(worker, replicas, flight).await
            || self.again(replica, flight, self.fresh)
            || self.outlive(worker, flight).await
    }

    /// `replica` hangs, or broke the connection without a byte of an answer: whether to try once more.
    pub async fn broke(&mut self, worker: &Worker, replica: &Replica, flight: &Flight) -> bool {
        self.again(replica, flight, true) || self.outlive(worker, flight).await
    }

    fn again(&mut self, replica: &Replica, flight: &Flight, fresh: bool) -> bool {
        if self.failed + 1 >= TRIES || !flight.service().may_retry(flight.worker()) {
            return false;
        }
        self.failed += 1;
        (self.tried, self.fresh) = (Some(replica.id), fresh);
        true
    }

    /// From the beginning, over new connections: those who broke one may be gone in a moment.
    async fn outlive(&mut self, worker: &Worker, flight: &Flight) -> bool {
        if !self.waits.outlive(worker, flight).await {
            return false;
        }
        (self.tried, self.fresh, self.failed) = (None, true, 0);
        true
    }
}
