//! Whether an environment can go back, where to, and how long that would take.

use std::time::Duration;

use domain::app::{App, EnvironmentState};
use domain::rollout::{Kind, Phase, Rollout};
use domain::{ReleaseId, Timestamp};
use serde::{Deserialize, Serialize};

/// The way back of one environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RollbackView {
    pub way: Way,
    pub to: Option<ReleaseId>,
    /// From what was measured here before, milliseconds.
    pub about_ms: Option<u64>,
    /// For people: why there is none, or what the time was taken from.
    pub because: String,
}

/// How ready it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The old slot still runs: only the traffic has to move.
    Warm,
    /// The old release has to be started first.
    Cold,
    None,
}

/// Nobody notices less, and clocks of one millisecond measure less badly.
const LEAST: Duration = Duration::from_millis(100);

impl RollbackView {
    /// As it is now.
    pub fn of(app: &App, environment: &EnvironmentState) -> Self {
        if let Some(active) = app.active(&environment.name) {
            return Self::under_way(app, environment, active);
        }
        let Some(target) = environment.rollback_target() else {
            return Self::none(&nowhere(app, environment));
        };
        if !app.projects.contains_key(target) {
            return Self::none(&format!("{target} is not kept any more"));
        }
        let to = Some(target.clone());
        if environment.warm().is_some() {
            let (about, because) = warm(app, environment);
            return Self { way: Way::Warm, to, about_ms: Some(millis(about)), because };
        }
        let (about, because) = cold(app, environment, target);
        Self { way: Way::Cold, to, about_ms: about.map(millis), because }
    }

    fn none(because: &str) -> Self {
        Self { way: Way::None, to: None, about_ms: None, because: because.into() }
    }

    fn under_way(app: &App, environment: &EnvironmentState, active: &Rollout) -> Self {
        let switched = matches!(active.phase, Phase::Baking { .. } | Phase::Draining { .. });
        let previous = active.previous.and_then(|color| environment.slots.get(&color));
        let Some(previous) = previous.filter(|_| switched) else {
            return Self::none(&no_way(environment, active));
        };
        let (about, because) = warm(app, environment);
        let to = Some(previous.release.clone());
        Self { way: Way::Warm, to, about_ms: Some(millis(about)), because }
    }
}

/// Why there is no way back while nothing is under way; after a rollback, the way forward.
fn nowhere(app: &App, environment: &EnvironmentState) -> String {
    let Some(live) = environment.live_release() else { return "nothing is live".into() };
    let came = |rollout: &Rollout| matches!(rollout.phase, Phase::Live);
    let last = newest(app, environment, |rollout| came(rollout).then_some(()));
    let left = last.filter(|(last, ())| last.kind == Kind::Rollback).and_then(|_| {
        newest(app, environment, |rollout| {
            (came(rollout) && rollout.release != *live).then_some(&rollout.release)
        })
    });
    let name = &environment.name;
    match left {
        Some((_, left)) => format!(
            "{live} is what was gone back to; `launchway deploy {name} {left}` goes forward again"
        ),
        None => "no other release was live before".into(),
    }
}

/// Why there is no way back from a rollout under way but to abort it, or not even that.
fn no_way(environment: &EnvironmentState, active: &Rollout) -> String {
    let (id, phase) = (&active.id, active.phase.name());
    let live = environment.live_release().filter(|_| active.previous.is_some());
    match (active.way_out(), live) {
        (Some(_), _) => format!("{id} is {phase}; aborting it is the way back"),
        (None, Some(live)) => format!("{id} is {phase} and ends by itself; {live} stays live"),
        (None, None) => format!("{id} is {phase}, and no other release was live before"),
    }
}

/// A rollback of a warm slot takes about what the last one took, or else what the last switch took.
fn warm(app: &App, environment: &EnvironmentState) -> (Duration, String) {
    let back = newest(app, environment, |rollout| {
        let switch = rollout.switches.first().filter(|_| rollout.kind == Kind::Rollback)?;
        Some(switch.published?.since(rollout.created))
    });
    if let Some((rollout, took)) = back {
        return (took.max(LEAST), format!("as {} took", rollout.id));
    }
    let switch = newest(app, environment, |rollout| {
        let switch = rollout.switches.iter().rev().find(|switch| switch.from.is_some())?;
        Some(switch.published?.since(switch.decided))
    });
    match switch {
        Some((rollout, took)) => (took.max(LEAST), format!("as the switch of {} took", rollout.id)),
        None => (LEAST, "the old slot is warm".into()),
    }
}

/// A cold one takes as long as the release took to start.
fn cold(
    app: &App,
    environment: &EnvironmentState,
    target: &ReleaseId,
) -> (Option<Duration>, String) {
    let of_target = newest(app, environment, |rollout| {
        start_of(rollout).filter(|_| rollout.release == *target)
    });
    match of_target.or_else(|| newest(app, environment, start_of)) {
        Some((rollout, took)) => (
            Some(took.max(LEAST)),
            format!("it has to be started, which took {} so long", rollout.id),
        ),
        None => (None, "it has to be started".into()),
    }
}

fn start_of(rollout: &Rollout) -> Option<Duration> {
    let times = &rollout.timeline;
    let (index, began) = phase_begin(times, "starting")?;
    Some(times.get(index + 1)?.0.since(began))
}

fn phase_begin(timeline: &[(Timestamp, String)], phase: &str) -> Option<(usize, Timestamp)> {
    let index = timeline.iter().position(|(_, name)| name == phase)?;
    Some((index, timeline[index].0))
}

fn newest<'a, T>(
    app: &'a App,
    environment: &EnvironmentState,
    measure: impl Fn(&'a Rollout) -> Option<T>,
) -> Option<(&'a Rollout, T)> {
    let here = app.rollouts.values().filter(|rollout| rollout.environment == environment.name);
    let measured = here.filter_map(|rollout| Some((rollout, measure(rollout)?)));
    measured.max_by_key(|(rollout, _)| domain::app::number(&rollout.id))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
