//! When all replicas of a service are away: one that crashed is started again within a moment, and a request
//! that nobody has seen yet can wait for it. For a bounded time, in a bounded number, and only while the
//! absence is new: a service that is down for good refuses at once.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::facts::Flight;
use crate::replica::{Fault, Replica};
use crate::worker::{Shared, Worker};

/// How one request has waited.
#[derive(Debug, Default)]
pub struct Waits {
    times: u32,
    /// Of all its waits together.
    until: Option<Instant>,
}

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
        if back() {
            return false;
        }
        let Some(until) = self.until(Instant::now(), away, shared.limits.comeback) else {
            return false;
        };
        let Some(_one) = Awaiting::one(shared) else { return false };
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

    /// After all attempts have failed: whether it is worth some more, in a moment. Whoever broke a connection may be
    /// dying; then its port will refuse, and it is waited for.
    pub async fn outlive(&mut self, worker: &Worker, flight: &Flight) -> bool {
        if self.times > 0 || !flight.service().may_retry(worker.index) {
            return false;
        }
        self.times += 1;
        sleep(DYING).await;
        true
    }

    /// When to give up on replicas that went `away` so long ago; `None` if that is now.
    fn until(&mut self, now: Instant, away: Duration, comeback: Duration) -> Option<Instant> {
        self.times += 1;
        let until = now + comeback.saturating_sub(away);
        let until = self.until.map_or(until, |first| first.min(until));
        self.until = Some(until);
        (self.times <= MOST_WAITS && until > now).then_some(until)
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

#[cfg(test)]
mod tests {
    use super::*;

    const COMEBACK: Duration = Duration::from_secs(5);

    #[test]
    fn a_request_waits_once_more_but_no_longer_in_all() {
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let mut waits = Waits::default();
        assert_eq!(waits.until(begin, second, COMEBACK), Some(begin + 4 * second));
        // It was back for a moment, and has just gone again.
        let later = begin + 3 * second;
        assert_eq!(waits.until(later, Duration::ZERO, COMEBACK), Some(begin + 4 * second));
        assert_eq!(waits.until(later, Duration::ZERO, COMEBACK), None);
    }

    #[test]
    fn what_went_long_ago_is_not_waited_for() {
        assert_eq!(Waits::default().until(Instant::now(), COMEBACK, COMEBACK), None);
    }
}
