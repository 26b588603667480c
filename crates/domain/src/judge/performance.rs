//! Whether a load test passes.
//!
//! Latency is judged only from a generator that counts from the moment a request *should* have been sent.
//! One that waits for an answer before it sends the next request stops asking just when the server is slow, and so
//! leaves out what its users would have felt: Gil Tene called it coordinated omission ("How NOT to Measure
//! Latency", 2013). For the same reason a test whose generator fell behind its rate is not judged at all.
//!
//! With `versus: live` both releases are asked alternately, request by request, from one process. What disturbs one
//! (a backup, a neighbour, a slow disk) disturbs the other just as much, so their *difference* is the release's
//! doing even where the absolute numbers are not. Therefore a latency threshold that live itself breaks in the same
//! seconds does not decide; the pair does. Errors are judged on their own, and against live too: noise makes
//! requests slow, but it does not make them wrong.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{millis, percent};
use crate::config::Performance;
use crate::units::{Factor, Rate};

/// Fewer requests than this tell nothing.
const FEWEST_SENT: u64 = 50;
/// How much of the wanted rate the generator must reach.
const RATE_HELD: f64 = 0.95;
/// A difference below this is the machine's, whatever the factor.
const FLOOR: Duration = Duration::from_millis(5);
/// Live is at the edge of a threshold when it is this close below it: then it is chance on which side each one lies.
const EDGE: f64 = 0.9;
/// Two shares differ clearly when their 99 % confidence intervals do not meet.
const Z: f64 = 2.576;

/// A load test in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadSummary {
    /// Requests whose time came, whether or not they could be sent.
    pub sent: u64,
    /// Those that got a whole answer in time, of whatever status.
    pub answered: u64,
    /// Those that got no answer, none in time, or one with status 5xx.
    pub failed: u64,
    pub rate_wanted: Rate,
    pub rate_reached: Rate,
    /// How late the generator itself was, 99th percentile: part of every latency here.
    pub lag_p99: Duration,
    pub p50: Duration,
    pub p95: Duration,
    pub p99: Duration,
    pub p999: Duration,
    pub by_path: Vec<PathSummary>,
}

/// One path of a load test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathSummary {
    pub path: String,
    pub sent: u64,
    pub failed: u64,
    /// Answers with status 4xx: not failures of the server, but nothing to measure either.
    pub refused: u64,
    pub p99: Duration,
}

/// The judgement on a load test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Passed {
        /// What is worth knowing all the same.
        notes: Vec<String>,
    },
    Failed {
        reasons: Vec<String>,
    },
    /// It could not be measured: the gate does not open.
    Unavailable {
        why: String,
    },
}

/// Judges `candidate` against the thresholds, and against `live` where `versus: live` is wanted.
pub fn judge(wanted: &Performance, candidate: &LoadSummary, live: Option<&LoadSummary>) -> Verdict {
    if let Err(why) = asked("the candidate", candidate) {
        return Verdict::Unavailable { why };
    }
    let mut reasons = too_many_errors(wanted, candidate, live);
    if !reasons.is_empty() {
        reasons.extend(worst_path(candidate));
        return Verdict::Failed { reasons };
    }
    match latency(wanted, candidate, live) {
        Err(why) => Verdict::Unavailable { why },
        Ok(Latency { slow, .. }) if !slow.is_empty() => Verdict::Failed { reasons: slow },
        Ok(Latency { notes, .. }) => Verdict::Passed { notes },
    }
}

/// Whether enough was asked, at the rate that was wanted, of pages that exist.
fn asked(who: &str, load: &LoadSummary) -> Result<(), String> {
    if load.sent < FEWEST_SENT {
        return Err(format!(
            "{who} was sent only {} requests, and {FEWEST_SENT} are the least that tell anything; \
             raise `rate` or `for`",
            load.sent
        ));
    }
    if load.rate_reached.0 < load.rate_wanted.0 * RATE_HELD {
        return Err(format!(
            "the load generator reached {:.1}/s of the wanted {:.1}/s, so {who} was not tested as hard as asked; \
             lower `rate` or give the machine more processors",
            load.rate_reached.0, load.rate_wanted.0
        ));
    }
    match load.by_path.iter().find(|path| path.sent > 0 && path.refused == path.sent) {
        Some(path) => Err(format!(
            "{who} answered every request for {} with a status 4xx, so nothing was measured there; \
             correct `paths`",
            path.path
        )),
        None => Ok(()),
    }
}

fn too_many_errors(
    wanted: &Performance,
    candidate: &LoadSummary,
    live: Option<&LoadSummary>,
) -> Vec<String> {
    let mut reasons = Vec::new();
    let told = |load: &LoadSummary| {
        format!(
            "{} of {} requests failed ({})",
            load.failed,
            load.sent,
            percent(load.failed, load.sent)
        )
    };
    if load_share(candidate) > wanted.errors.0 {
        reasons.push(format!("{}, and {} is allowed", told(candidate), wanted.errors));
    }
    let Some((factor, live)) = wanted.versus_live.zip(live).filter(|(_, live)| live.sent > 0)
    else {
        return reasons;
    };
    if !reasons.is_empty() {
        reasons.push(format!("at the same time, with live, {}", told(live)));
    } else if interval(candidate).0 > factor.0 * interval(live).1 {
        let both = format!("{}, but with live {}", told(candidate), told(live));
        reasons.push(format!("{both}: clearly more than {factor} as many"));
    }
    reasons
}

fn load_share(load: &LoadSummary) -> f64 {
    load.failed as f64 / load.sent.max(1) as f64
}

/// Wilson's score interval for the share of failures.
fn interval(load: &LoadSummary) -> (f64, f64) {
    let (n, p) = (load.sent as f64, load_share(load));
    let center = p + Z * Z / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    ((center - half) / scale, (center + half) / scale)
}

/// Where most of the failures are, if there is more than one place.
fn worst_path(load: &LoadSummary) -> Option<String> {
    let share = |path: &&PathSummary| path.failed as f64 / path.sent.max(1) as f64;
    let worst = load.by_path.iter().max_by(|a, b| share(a).total_cmp(&share(b)))?;
    (load.by_path.len() > 1).then(|| {
        let share = percent(worst.failed, worst.sent);
        format!("the worst is {}: {} of {} failed ({share})", worst.path, worst.failed, worst.sent)
    })
}

struct Latency {
    slow: Vec<String>,
    notes: Vec<String>,
}

/// A percentile with its threshold and how it is read off a load.
struct Quantile {
    name: &'static str,
    limit: Option<Duration>,
    fewest: u64,
    of: fn(&LoadSummary) -> Duration,
}

/// The percentiles that are judged, each only where it is more than the slowest few answers.
/// With `versus: live` and no threshold at all, the pair alone decides on both.
fn quantiles(wanted: &Performance) -> Vec<Quantile> {
    let both = [
        Quantile { name: "p95", limit: wanted.p95, fewest: 20, of: |load| load.p95 },
        Quantile { name: "p99", limit: wanted.p99, fewest: 100, of: |load| load.p99 },
    ];
    let paired_only = wanted.versus_live.is_some() && both.iter().all(|q| q.limit.is_none());
    both.into_iter().filter(|q| paired_only || q.limit.is_some()).collect()
}

fn latency(
    wanted: &Performance,
    candidate: &LoadSummary,
    live: Option<&LoadSummary>,
) -> Result<Latency, String> {
    let quantiles = quantiles(wanted);
    for quantile in &quantiles {
        enough("the candidate", quantile, candidate)?;
    }
    let pair = match (wanted.versus_live, live) {
        (None, _) => None,
        (Some(_), None) => return Err("live was to be measured beside it, and was not".into()),
        (Some(factor), Some(live)) => {
            asked("live", live)?;
            quantiles.iter().try_for_each(|quantile| enough("live", quantile, live))?;
            Some((factor, live))
        }
    };
    let mut latency = Latency { slow: Vec::new(), notes: Vec::new() };
    for quantile in &quantiles {
        match pair {
            None => alone(quantile, candidate, &mut latency)?,
            Some((factor, live)) => paired(quantile, candidate, live, factor, &mut latency),
        }
    }
    Ok(latency)
}

fn enough(who: &str, quantile: &Quantile, load: &LoadSummary) -> Result<(), String> {
    if load.answered >= quantile.fewest {
        return Ok(());
    }
    Err(format!(
        "{who} gave only {} answers, and {} needs {}; raise `rate` or `for`",
        load.answered, quantile.name, quantile.fewest
    ))
}

/// Against the threshold only. Being late is part of the latency, so it can only make a good release look bad:
/// then the machine is to blame, and nothing is known.
fn alone(quantile: &Quantile, load: &LoadSummary, latency: &mut Latency) -> Result<(), String> {
    let (name, seen) = (quantile.name, (quantile.of)(load));
    let Some(limit) = quantile.limit else { return Ok(()) };
    if seen <= limit {
        latency.notes.push(format!("{name} {}, {} is allowed", millis(seen), millis(limit)));
        return Ok(());
    }
    if seen.saturating_sub(load.lag_p99) <= limit {
        return Err(format!(
            "{name} is {}, above {}, but the load generator itself was late by up to {}; \
             the machine is too busy to measure on, try again or use `versus: live`",
            millis(seen),
            millis(limit),
            millis(load.lag_p99)
        ));
    }
    latency.slow.push(format!("{name} is {}, and {} is allowed", millis(seen), millis(limit)));
    Ok(())
}

/// Against the threshold where live keeps it with room to spare, else against live.
fn paired(
    quantile: &Quantile,
    candidate: &LoadSummary,
    live: &LoadSummary,
    factor: Factor,
    latency: &mut Latency,
) {
    let name = quantile.name;
    let (seen, beside) = ((quantile.of)(candidate), (quantile.of)(live));
    let told = format!("{name} is {}, live at the same time {}", millis(seen), millis(beside));
    let allowed = beside.mul_f64(factor.0) + FLOOR;
    let limit = match quantile.limit {
        Some(limit) if seen <= limit => {
            let slower =
                if seen > allowed { format!(", more than {factor} slower") } else { String::new() };
            latency.notes.push(format!("{told}{slower}; {} is allowed", millis(limit)));
            return;
        }
        Some(limit) if beside < limit.mul_f64(EDGE) => {
            latency.slow.push(format!("{told}; {} is allowed, and live keeps it", millis(limit)));
            return;
        }
        limit => limit,
    };
    let because = limit.map_or(String::new(), |limit| {
        format!(" (live is at or above {} itself, so the pair decides)", millis(limit))
    });
    if seen <= allowed {
        latency.notes.push(format!("{told}; within {factor}{because}"));
    } else {
        latency.slow.push(format!("{told}; more than {factor} slower{because}"));
    }
}

#[cfg(test)]
mod tests;
