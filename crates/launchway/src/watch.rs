//! Follows runs and rollouts as they go, for the terminal and the API alike.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use control::control::Handle;
use control::pipeline::Pipeline;
use domain::app::{App, Hold};
use domain::pipeline::{Run, Stage, StepResult, StepState, StepStatus};
use domain::rollout::{Phase, Rollout};
use domain::{RolloutId, RunId, StepName};
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
    /// The traffic moved: after so many milliseconds from the request.
    Switched { to: domain::Color, millis: u64 },
    /// The last one.
    Ended { rollout: Box<Rollout> },
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
            updates.extend(tail.lines().into_iter().map(line));
            return;
        };
        if result.reused.is_none() {
            loop {
                let lines = tail.lines();
                if lines.is_empty() {
                    break;
                }
                updates.extend(lines.into_iter().map(line));
            }
            updates.extend(tail.rest().map(line));
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
        let published = rollout.switches.iter().filter_map(|s| Some((s.to, s.published?)));
        for (to, at) in published.skip(switches) {
            switches += 1;
            let millis = u64::try_from(at.since(began(rollout)).as_millis()).unwrap_or(u64::MAX);
            updates.push(RolloutUpdate::Switched { to, millis });
        }
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

/// From when a switch is measured: the wish to go back, or the wish to deploy.
fn began(rollout: &Rollout) -> domain::Timestamp {
    let back = rollout.timeline.iter().rev().find(|(_, phase)| phase == "reverting");
    let approved = rollout.approved.as_ref().map(|(_, at)| *at);
    back.map(|(at, _)| *at).or(approved).unwrap_or(rollout.created)
}

fn standing(
    handle: &Handle,
    app: &App,
    rollout: &Rollout,
) -> (String, Option<Hold>, Option<String>) {
    let note = view::note_of(&handle.notes(), rollout);
    (rollout.phase.name().into(), app.hold(rollout), note)
}
