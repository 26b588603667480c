//! When all replicas of a service are away: one that crashed is started again within a moment, and a request
//! that nobody has seen yet can wait for it. For a bounded time, in a bounded number, and only while the
//! absence is new: a service that is down for good refuses at once.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::facts::Flight;
use crate::pick::others;
use crate::replica::{Fault, Replica};
use crate::worker::{Shared, Worker};

/// How often one request has waited.
#[derive(Debug, Default)]
pub struct Waits(u32);

/// A replica that comes back only to go again is not waited for a third time.
const MOST_WAITS: u32 = 2;
/// A process that dies closes its connections a moment before or after its port.
const DYING: Duration = Duration::from_millis(20);
/// Requests that wait at one time, of all services and workers.
const MOST: usize = 1024;

/// One that waits.
struct Awaiting<'a>(&'a Shared);

impl Worker {
    /// `replica` took no connection: it is kept out, and looked at soon.
    pub fn missed(&self, replica: &Replica, fault: Fault) {
        replica.eject(fault);
        self.shared.recheck.notify_one();
    }
}

impl Waits {
    /// Waits until one of `replicas` is back, if all are away; false where none is, or that is not waited for.
    pub async fn outwait(
        &mut self,
        worker: &Worker,
        replicas: &[Arc<Replica>],
        flight: &mut Flight,
    ) -> bool {
        let shared = &worker.shared;
        let back = || replicas.iter().any(|replica| replica.healthy());
        let away = replicas.iter().map(|replica| replica.away()).min().unwrap_or_default();
        let left = shared.limits.comeback.saturating_sub(away);
        if self.0 >= MOST_WAITS || left.is_zero() || back() {
            return false;
        }
        self.0 += 1;
        let Some(_one) = Awaiting::one(shared) else { return false };
        let until = Instant::now() + left;
        shared.recheck.notify_one();
        loop {
            let mut recovered = pin!(shared.recovered.notified());
            // From here on no news is missed.
            recovered.as_mut().enable();
            if back() {
                flight.waited();
                return true;
            }
            if timeout_at(until, recovered).await.is_err() {
                return false;
            }
        }
    }

    /// After a new connection to `replica` has broken, too: whether it is worth one more, in a moment, as nobody
    /// else could answer and it may be dying. Then its port will refuse, and it is waited for.
    pub async fn outlive(
        &mut self,
        worker: &Worker,
        replicas: &[Arc<Replica>],
        replica: &Arc<Replica>,
        flight: &Flight,
    ) -> bool {
        if self.0 > 0 || others(replicas, replica) || !flight.service().may_retry(worker.index) {
            return false;
        }
        self.0 += 1;
        sleep(DYING).await;
        true
    }
}

impl<'a> Awaiting<'a> {
    fn one(shared: &'a Shared) -> Option<Self> {
        // Counted first, so that workers cannot exceed the number together.
        let one = Self(shared);
        (shared.awaiting.fetch_add(1, Relaxed) < MOST).then_some(one)
    }
}

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        self.0.awaiting.fetch_sub(1, Relaxed);
    }
}
