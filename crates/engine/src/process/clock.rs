//! The time of day, and how long to sleep between two looks at a file.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use domain::Timestamp;

pub(super) const TICK: Duration = Duration::from_millis(2);

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(since.as_millis() as i64)
}
