//! Follows runs and rollouts as they go, for the terminal and the API alike.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use control::clock;
use control::control::Handle;
use control::pipeline::Pipeline;
use domain::app::{App, Hold};
use domain::pipeline::{Run, Stage, StepResult, StepState, StepStatus};
use domain::rollout::{Kind, Phase, Rollout};
use domain::{RolloutId, RunId, StepName, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Sender;

use crate::tail::Tail;
use crate::view;

/// Between two looks at what grows without an event: logs, and notes of effects.
const LOOK: Duration = Duration::from_millis(100);

/// Something new about a run.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunUpdate {
    /// It does not move yet, and why.
    Waiting { reason: String },
    /// A line that a step wrote.
    Line { stage: Stage, step: StepName, text: String },
    /// A step has its result.
    Step { stage: Stage, step: StepName, result: Box<StepResult> },
    /// The last one.
    Ended { run: Box<Run> },
}

/// Something new about a rollout.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutUpdate {
    /// Where it stands, what it waits for and what is in the way.
    At { phase: String, hold: Option<Hold>, note: Option<String>, approval: bool },
    /// The traffic moved, this many milliseconds after it was asked for.
    Switched(Moved),
    /// The last one.
    Ended { rollout: Box<Rollout> },
}

/// One move of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    pub to: domain::Color,
    /// To a release that was live before.
    pub back: bool,
    /// From the wish to the edge's acknowledgement.
    pub millis: u64,
    /// From the decision to switch to the edge's acknowledgement.
    #[serde(default)]
    pub switch_millis: u64,
}

/// Says what happens to a run until it has ended or nobody listens any more.
pub async fn run(handle: Handle, pipeline: Pipeline, id: RunId, to: Sender<RunUpdate>) {
    let mut states = handle.watch();
    let mut follower =
        RunFollower { pipeline, tails: BTreeMap::new(), told: BTreeSet::new(), said: None };
    loop {
        let app = states.borrow_and_update().clone();
        let Some(run) = app.runs.get(&id) else { return };
        let mut updates = follower.updates(&app, run);
        if run.ended() {
            updates.push(RunUpdate::Ended { run: Box::new(run.clone()) });
        }
        for update in updates {
            if to.send(update).await.is_err() {
                return;
            }
        }
        if run.ended() {
            return;
        }
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
            () = to.closed() => return,
        }
    }
}

struct RunFollower {
    pipeline: Pipeline,
    tails: BTreeMap<StepName, Tail>,
    told: BTreeSet<StepName>,
    said: Option<String>,
}

impl RunFollower {
    fn updates(&mut self, app: &App, run: &Run) -> Vec<RunUpdate> {
        let mut updates = Vec::new();
        let waits =
            app.run_hold(run).filter(|_| run.plan.is_none() || app.run_before(run).is_some());
        let reason = waits.map(|hold| hold.reason);
        if let Some(reason) = reason.filter(|reason| self.said.as_ref() != Some(reason)) {
            self.said = Some(reason.clone());
            updates.push(RunUpdate::Waiting { reason });
        }
        for step in run.plan.iter().flat_map(|plan| &plan.steps) {
            self.step(run, step, &mut updates);
        }
        updates
    }

    fn step(&mut self, run: &Run, step: &StepState, updates: &mut Vec<RunUpdate>) {
        let (stage, name) = (step.planned.stage, &step.planned.name);
        if step.status == StepStatus::Waiting || self.told.contains(name) {
            return;
        }
        let path = || self.pipeline.log_path(run.id.as_str(), name);
        let tail = self.tails.entry(name.clone()).or_insert_with(|| Tail::new(path()));
        let line = |text| RunUpdate::Line { stage, step: name.clone(), text };
        let Some(result) = step.result() else {
            updates.extend(newest(tail.lines(), 0).into_iter().map(line));
            return;
        };
        if result.reused.is_none() {
            updates.extend(to_the_end(tail).into_iter().map(line));
        }
        self.tails.remove(name);
        self.told.insert(name.clone());
        let result = Box::new(result.clone());
        updates.push(RunUpdate::Step { stage, step: name.clone(), result });
    }
}

/// Says what happens to a rollout until it has ended or nobody listens any more.
pub async fn rollout(handle: Handle, id: RolloutId, to: Sender<RolloutUpdate>) {
    let mut states = handle.watch();
    let (mut said, mut switches) = (None, 0);
    loop {
        let app = states.borrow_and_update().clone();
        let Some(rollout) = app.rollouts.get(&id) else { return };
        let mut updates = Vec::new();
        let here = standing(&handle, &app, rollout);
        if said.as_ref() != Some(&here) && !rollout.ended() {
            let (phase, hold, note) = here.clone();
            let approval = matches!(rollout.phase, Phase::AwaitingApproval { .. });
            updates.push(RolloutUpdate::At { phase, hold, note, approval });
            said = Some(here);
        }
        let moves = moves(rollout);
        updates.extend(moves.iter().skip(switches).copied().map(RolloutUpdate::Switched));
        switches = moves.len();
        if rollout.ended() {
            updates.push(RolloutUpdate::Ended { rollout: Box::new(rollout.clone()) });
        }
        for update in updates {
            if to.send(update).await.is_err() {
                return;
            }
        }
        if rollout.ended() {
            return;
        }
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
            () = to.closed() => return,
        }
    }
}

/// Every move of the traffic that the edge has acknowledged.
pub fn moves(rollout: &Rollout) -> Vec<Moved> {
    let moves = rollout.switches.iter().enumerate().filter_map(|(index, switch)| {
        // After the switch to the candidate only one back can follow.
        let back = rollout.kind == Kind::Rollback || index > 0;
        let began = if index > 0 { reverting(rollout) } else { wished(rollout) };
        let published = switch.published?;
        let millis = |began| u64::try_from(published.since(began).as_millis()).unwrap_or(u64::MAX);
        let (to, switch_millis) = (switch.to, millis(switch.decided));
        Some(Moved { to, back, millis: millis(began), switch_millis })
    });
    moves.collect()
}

fn wished(rollout: &Rollout) -> Timestamp {
    rollout.approved.as_ref().map_or(rollout.created, |(_, at)| *at)
}

fn reverting(rollout: &Rollout) -> Timestamp {
    let back = rollout.timeline.iter().rev().find(|(_, phase)| phase == "reverting");
    back.map_or(rollout.created, |(at, _)| *at)
}

fn standing(
    handle: &Handle,
    app: &App,
    rollout: &Rollout,
) -> (String, Option<Hold>, Option<String>) {
    let note = view::note_of(&handle.notes(), rollout);
    (rollout.phase.name().into(), app.hold(rollout, clock::wall()), note)
}

/// More lines than these are not read by anybody while they fly past; the log has them all.
pub const AT_ONCE: usize = 1000;

/// All that is left to read of a log whose step has ended.
fn to_the_end(tail: &mut Tail) -> Vec<String> {
    let (mut left_out, mut kept) = (0, Vec::new());
    loop {
        let more = tail.lines();
        if more.is_empty() {
            kept.extend(tail.rest());
            return newest(kept, left_out);
        }
        kept.extend(more);
        let excess = kept.len().saturating_sub(AT_ONCE);
        kept.drain(..excess);
        left_out += excess;
    }
}

/// The newest of the lines, and how many are left out before them beside those that were already.
fn newest(mut lines: Vec<String>, left_out: usize) -> Vec<String> {
    let excess = lines.len().saturating_sub(AT_ONCE);
    let left_out = left_out + excess;
    if left_out > 0 {
        let note = format!("({left_out} lines are left out here; `launchway logs` has them)");
        lines.splice(..excess, [note]);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_output_is_cut_to_its_newest_lines_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let flood: String = (0..500_000).map(|n| format!("{n}\n")).collect();
        std::fs::write(&path, flood).unwrap();
        let shown = to_the_end(&mut Tail::new(path));
        assert_eq!(shown.len(), AT_ONCE + 1);
        assert_eq!(shown[0], "(499000 lines are left out here; `launchway logs` has them)");
        assert_eq!(shown.last().map(String::as_str), Some("499999"));
    }
}
