//! Whether a release that has just got the traffic may keep it.
//!
//! During the bake it is judged again and again, so a breach must be quick when it is clear and must not be
//! called by chance. The question asked each time is: if the release were just good enough, how likely would
//! so many bad answers be? Chernoff's bound answers it without tables (the tail of a binomial beyond a share `s` is at
//! most `exp(-n * KL(s || allowed))`); below one in ten thousand it is a breach. With 1% allowed, one error in twenty
//! answers waits for more, while 5% at 200/s is found in about a second. When the bake is over the plain share decides.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{millis, percent};
use crate::ServiceName;
use crate::config::Bake;
use crate::route::Facts;

/// Fewer answers than this breach nothing before the end.
const FEWEST: u64 = 20;
/// How unlikely it must be that a good release looks like this.
const CHANCE: f64 = 1e-4;
/// Fewer answers than this have no p99.
const FEWEST_FOR_P99: u64 = 100;
/// A difference in latency below this is the machine's, whatever the factor.
const FLOOR: Duration = Duration::from_millis(5);

/// The judgement on a bake so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BakeVerdict {
    /// Neither clear nor over: ask again.
    Continue,
    Passed {
        notes: Vec<String>,
    },
    /// Roll back.
    Breached {
        reason: String,
    },
    /// The bake is over and nobody asked anything: the release is not known to be bad, nor to be good.
    NoTraffic,
    /// The bake is over and the edge could not tell what happened in it.
    Unavailable {
        why: String,
    },
}

/// What is known of one service.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Since the switch.
    pub facts: Facts,
    /// The old slot's p99 before the switch.
    pub baseline_p99: Option<Duration>,
}

/// Judges all services of a release: one breach is enough, and who passes must have had traffic somewhere.
pub fn judge_services(
    bake: &Bake,
    services: &BTreeMap<ServiceName, Seen>,
    elapsed: Duration,
) -> BakeVerdict {
    let mut notes = Vec::new();
    let (mut waiting, mut idle) = (elapsed < bake.duration, 0);
    for (name, seen) in services {
        match judge(bake, &seen.facts, seen.baseline_p99, elapsed) {
            BakeVerdict::Breached { reason } => {
                return BakeVerdict::Breached { reason: format!("{name}: {reason}") };
            }
            BakeVerdict::Passed { notes: more } => {
                notes.extend(more.into_iter().map(|note| format!("{name}: {note}")));
            }
            BakeVerdict::NoTraffic => {
                idle += 1;
                notes.push(format!("{name}: no traffic, nothing was judged"));
            }
            BakeVerdict::Continue => waiting = true,
            BakeVerdict::Unavailable { why } => {
                return BakeVerdict::Unavailable { why: format!("{name}: {why}") };
            }
        }
    }
    match services.len() {
        _ if waiting => BakeVerdict::Continue,
        0 => BakeVerdict::Unavailable { why: "the edge told nothing about the new slot".into() },
        all if all == idle => BakeVerdict::NoTraffic,
        _ => BakeVerdict::Passed { notes },
    }
}

/// Judges one service from what the edge saw of it in the new slot since the switch, `elapsed` ago.
pub fn judge(
    bake: &Bake,
    seen: &Facts,
    baseline_p99: Option<Duration>,
    elapsed: Duration,
) -> BakeVerdict {
    let breach =
        errors(bake, seen, elapsed).or_else(|| slowness(bake, seen, baseline_p99, elapsed));
    if let Some(reason) = breach {
        return BakeVerdict::Breached { reason };
    }
    if elapsed < bake.duration {
        return BakeVerdict::Continue;
    }
    if seen.total() == 0 {
        return BakeVerdict::NoTraffic;
    }
    let bad = bad(seen);
    let share = percent(bad, seen.total());
    let mut notes =
        vec![format!("{bad} of {} answers were {} ({share})", seen.total(), kind(seen))];
    notes.extend(latency_note(bake, seen, baseline_p99));
    BakeVerdict::Passed { notes }
}

/// Errors, and what would have been errors had the edge not waited for a replica that had crashed.
fn bad(seen: &Facts) -> u64 {
    (seen.classes[4] + seen.waited()).min(seen.total())
}

fn kind(seen: &Facts) -> &'static str {
    match seen.waited() {
        0 => "5xx",
        _ => "5xx or had to wait for a replica that had gone",
    }
}

fn errors(bake: &Bake, seen: &Facts, elapsed: Duration) -> Option<String> {
    let (bad, total) = (bad(seen), seen.total());
    let over = total > 0 && bad as f64 / total as f64 > bake.errors.0;
    let early = total >= FEWEST && is_clear(bad, total, bake.errors.0);
    if !(over && (early || elapsed >= bake.duration)) {
        return None;
    }
    let share = percent(bad, total);
    let unreachable = match seen.unreachable() {
        0 => String::new(),
        n => format!("; {n} of them because no replica could be reached"),
    };
    Some(format!(
        "{bad} of {total} answers were {} ({share}), and {} is allowed{unreachable}",
        kind(seen),
        bake.errors
    ))
}

/// The slowest that the p99 may be.
fn limit(bake: &Bake, baseline_p99: Option<Duration>) -> Option<Duration> {
    Some(baseline_p99?.mul_f64(bake.p99?.0) + FLOOR)
}

/// A release that is slow as a whole is found at once. A slow tail may be a hiccup of the machine, so it
/// has until half of the bake to drown in good answers; from then on the same test as for errors holds.
fn slowness(
    bake: &Bake,
    seen: &Facts,
    baseline_p99: Option<Duration>,
    elapsed: Duration,
) -> Option<String> {
    let limit = limit(bake, baseline_p99)?;
    let total = seen.latency.count();
    if total < FEWEST_FOR_P99 {
        return None;
    }
    let slow = seen.latency.longer_than(limit);
    let breached = if elapsed >= bake.duration {
        seen.latency_at(0.99)? > limit
    } else {
        let tail = elapsed >= bake.duration / 2 && is_clear(slow, total, 0.01);
        tail || slow > total / 2
    };
    breached.then(|| {
        format!(
            "{slow} of {total} answers took longer than {} ({}), the most that the p99 may be after {} before the switch",
            millis(limit),
            percent(slow, total),
            baseline_p99.map(millis).unwrap_or_default()
        )
    })
}

fn latency_note(bake: &Bake, seen: &Facts, baseline_p99: Option<Duration>) -> Option<String> {
    bake.p99?;
    let Some(limit) = limit(bake, baseline_p99) else {
        return Some(
            "its p99 was not judged: there was none before the switch to compare with".into(),
        );
    };
    let total = seen.latency.count();
    if total < FEWEST_FOR_P99 {
        return Some(format!(
            "its p99 was not judged: {total} answers are too few, it takes {FEWEST_FOR_P99}"
        ));
    }
    let p99 = millis(seen.latency_at(0.99)?);
    Some(format!("p99 {p99}, {} is allowed", millis(limit)))
}

/// Whether `bad` of `total` is beyond what chance makes of the `allowed` share.
fn is_clear(bad: u64, total: u64, allowed: f64) -> bool {
    let share = bad as f64 / total.max(1) as f64;
    if share <= allowed {
        return false;
    }
    // 0 * ln(0) is 0: with all or none of a kind that half of the divergence vanishes.
    let part = |p: f64, q: f64| if p == 0.0 { 0.0 } else { p * (p / q).ln() };
    let divergence = part(share, allowed) + part(1.0 - share, 1.0 - allowed);
    total as f64 * divergence > -CHANCE.ln()
}

#[cfg(test)]
mod tests;
