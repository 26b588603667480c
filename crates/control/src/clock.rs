//! The only place that reads the clock for events. Time never goes back, whatever the machine's clock does.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use domain::Timestamp;

/// Rising wall-clock time.
#[derive(Debug, Default)]
pub struct Clock {
    last: AtomicI64,
}

impl Clock {
    /// A clock that goes on from the last event of the log.
    pub fn after(last: Timestamp) -> Self {
        Self { last: AtomicI64::new(last.as_millis()) }
    }

    /// Now, or the last answer if the machine's clock went back since.
    pub fn now(&self) -> Timestamp {
        let now = wall().as_millis();
        Timestamp::from_millis(self.last.fetch_max(now, Ordering::Relaxed).max(now))
    }
}

/// What the machine's clock says.
pub fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
