//! Judges what was measured or found, and gives its reasons: scans of a release, load tests before a switch, the bake
//! after it.
//!
//! Measurements are noisy, and a gate that cries wolf is switched off. So every judgement here knows three answers:
//! good, bad, and "this was not measured", which is never taken for good.

pub mod bake;
pub mod performance;
pub mod scan;

use std::time::Duration;

/// A share as people write it: `0.35%`.
fn percent(part: u64, whole: u64) -> String {
    let share = if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 };
    match share {
        s if s == 0.0 || s >= 10.0 => format!("{s:.0}%"),
        s if s >= 0.1 => format!("{s:.1}%"),
        s => format!("{s:.3}%"),
    }
}

/// A time as people write it: `3.2 ms`.
fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    if millis >= 100.0 { format!("{millis:.0} ms") } else { format!("{millis:.1} ms") }
}
