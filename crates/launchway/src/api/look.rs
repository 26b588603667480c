//! Requests that only look.

use std::collections::BTreeMap;
use std::time::Duration;

use ::edge::ClientError;
use axum::Json;
use axum::extract::{Path, State};
use control::pipeline::Difference;
use control::server::{edge_folder, known_environments};
use domain::app::{App, number};
use domain::pipeline::Run;
use domain::rollout::Rollout;
use domain::route::EdgeStatus;
use domain::slot::Snapshot;
use domain::units::Span;
use domain::{EnvironmentName, RolloutId, RunId, StepName};
use engine::UnitView;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Api;
use super::answer::{Answer, Problem, Query};
use super::change::{known, no_such};
use super::wire::History;
use crate::view::{EdgeView, Gathered, Measured, RolloutView, RunView, ServerView, Stale, Status};

/// For one look at an environment of which nothing is known, and for what it uses.
const LOOK: Duration = Duration::from_secs(3);
/// For one look where there is something else to show. A replica that hangs makes it as slow as its probe's limit.
const GLANCE: Duration = Duration::from_millis(500);
/// What was seen before is worth showing for this long.
const WORTH: Duration = Duration::from_secs(60);
/// For the edge, which has nothing to wait for.
const EDGE: Duration = Duration::from_secs(1);

/// What there is in one environment.
struct Look {
    name: EnvironmentName,
    /// Or why it could not be had.
    snapshot: Result<Snapshot, String>,
    units: Vec<UnitView>,
    usage: Vec<Measured>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Only {
    environment: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhyQuery {
    run: RunId,
    step: StepName,
}

pub async fn status(State(api): State<Api>, Query(only): Query<Only>) -> Answer<Status> {
    let app = api.handle.app();
    let only = match only.environment {
        Some(name) => Some(known(&app, &name)?),
        None => None,
    };
    let mut names = known_environments(&app);
    names.retain(|name| only.as_ref().is_none_or(|only| only == name));
    let ((edge, answer), looks) = tokio::join!(api.look_at_edge(&app), api.look_at_all(names));
    let mut seen = api.world.seen();
    let (mut snapshots, mut stale) = (BTreeMap::new(), BTreeMap::new());
    let (mut units, mut usage) = (BTreeMap::new(), BTreeMap::new());
    for look in looks {
        let before = seen.remove(&look.name);
        match look.snapshot {
            Ok(snapshot) => {
                snapshots.insert(look.name.clone(), snapshot);
            }
            Err(because) => {
                let at = before.as_ref().map(|before| before.at);
                stale.insert(look.name.clone(), Stale { seen: at, because });
                snapshots.extend(before.map(|before| (look.name.clone(), before.snapshot)));
            }
        }
        usage.insert(look.name.clone(), look.usage);
        units.insert(look.name, look.units);
    }
    let server = ServerView {
        pid: std::process::id(),
        since: api.since,
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let gathered = Gathered {
        app: &app,
        now: control::clock::wall(),
        server: Some(server),
        edge,
        answer,
        notes: api.handle.notes(),
        failed: api.world.failures.last(),
        snapshots,
        stale,
        units,
        certificates: api.world.certificates.seen(),
        usage,
    };
    Ok(Json(gathered.status(only.as_ref())))
}

pub async fn history(State(api): State<Api>, Query(only): Query<Only>) -> Answer<History> {
    let app = api.handle.app();
    let only = match only.environment {
        Some(name) => Some(known(&app, &name)?),
        None => None,
    };
    Ok(Json(history_of(&app, only.as_ref())))
}

/// Runs and rollouts, newest first; those of one environment only, if one is named.
pub fn history_of(app: &App, only: Option<&EnvironmentName>) -> History {
    let (notes, now) = (std::collections::HashMap::new(), control::clock::wall());
    let here = |rollout: &&Rollout| only.is_none_or(|only| rollout.environment == *only);
    let mut rollouts: Vec<&Rollout> = app.rollouts.values().filter(here).collect();
    rollouts.sort_by_key(|rollout| std::cmp::Reverse(number(&rollout.id)));
    let rollouts = rollouts.into_iter().map(|rollout| RolloutView::of(app, &notes, rollout, now));
    let mut runs: Vec<&Run> = app.runs.values().filter(|_| only.is_none()).collect();
    runs.sort_by_key(|run| std::cmp::Reverse(number(&run.id)));
    History {
        now,
        runs: runs.into_iter().map(|run| RunView::of(app, run)).collect(),
        rollouts: rollouts.collect(),
    }
}

pub async fn runs(State(api): State<Api>) -> Answer<Vec<RunView>> {
    Ok(Json(history_of(&api.handle.app(), None).runs))
}

pub async fn run(State(api): State<Api>, Path(id): Path<String>) -> Answer<Run> {
    let app = api.handle.app();
    let run = RunId::new(id.as_str()).ok().and_then(|id| app.runs.get(&id));
    run.cloned().map(Json).ok_or_else(|| no_such("run", &id))
}

pub async fn rollout(State(api): State<Api>, Path(id): Path<String>) -> Answer<Rollout> {
    let app = api.handle.app();
    let rollout = RolloutId::new(id.as_str()).ok().and_then(|id| app.rollouts.get(&id));
    rollout.cloned().map(Json).ok_or_else(|| no_such("rollout", &id))
}

pub async fn why(State(api): State<Api>, Query(query): Query<WhyQuery>) -> Answer<Vec<Difference>> {
    let why = api.world.pipeline.why(&query.run, &query.step).await;
    why.map(Json).map_err(|error| Problem::missing(error.to_string()))
}

impl Api {
    /// Side by side: however many environments there are, it takes as long as the slowest of them.
    async fn look_at_all(&self, names: Vec<EnvironmentName>) -> Vec<Look> {
        let look = |name| {
            let api = self.clone();
            async move { api.look_at(name).await }
        };
        names.into_iter().map(look).collect::<JoinSet<Look>>().join_all().await
    }

    async fn look_at(&self, name: EnvironmentName) -> Look {
        let seen = self.world.seen().get(&name).map(|seen| seen.at);
        let recent = seen.is_some_and(|at| control::clock::wall().since(at) < WORTH);
        let limit = if recent { GLANCE } else { LOOK };
        let (engine, of) = (self.world.engine.clone(), name.clone());
        let (snapshot, usage) = tokio::join!(
            self.looks.look(&name, limit, async move { engine.observe(&of).await }),
            self.meter.read(&self.world.engine, &name, Instant::now() + LOOK),
        );
        let units = self.engine.units(&name);
        Look { snapshot, units, usage, name }
    }

    async fn look_at_edge(&self, app: &App) -> (EdgeView, Option<EdgeStatus>) {
        let answer = self.world.edge.clone().with_deadline(EDGE).status().await;
        let now = control::clock::wall();
        if let Ok(answer) = &answer {
            self.world.failures.note(answer, now);
        }
        let pid = answer.as_ref().ok().map(|answer| answer.pid);
        let unit = control::edges::unit(&self.engine, pid);
        let view = EdgeView {
            listen: Some(self.world.listen),
            https: self.world.https,
            pid,
            shim_pid: unit.as_ref().map(|unit| unit.shim.pid),
            restarts: unit.as_ref().map_or(0, |unit| unit.restarts),
            epoch: answer.as_ref().ok().map(|answer| answer.epoch),
            wanted: app.table.epoch,
            finishing: answer.as_ref().map_or(Vec::new(), |answer| answer.finishing.clone()),
            problem: answer.as_ref().err().map(out_of_reach),
            ends: unit.and_then(|unit| unit.ends(now)),
        };
        (view, answer.ok())
    }
}

/// Why the edge does not answer, in a few words.
fn out_of_reach(error: &ClientError) -> String {
    match error {
        ClientError::Unreachable { source, .. } => format!("nobody answers for it: {source}"),
        ClientError::Deadline { deadline, .. } => format!("no answer within {}", Span(*deadline)),
        error => error.to_string(),
    }
}

/// The edge as it is found without a server.
pub async fn edge_alone(state: &std::path::Path, app: &App) -> (EdgeView, Option<EdgeStatus>) {
    let client = edge::Client::new(edge_folder(state).join("control.sock")).with_deadline(EDGE);
    let answer = client.status().await;
    let view = EdgeView {
        listen: answer.as_ref().ok().map(|answer| answer.listen),
        https: answer.as_ref().ok().and_then(|answer| answer.https),
        pid: answer.as_ref().ok().map(|answer| answer.pid),
        shim_pid: None,
        restarts: 0,
        epoch: answer.as_ref().ok().map(|answer| answer.epoch),
        wanted: app.table.epoch,
        finishing: answer.as_ref().map_or(Vec::new(), |answer| answer.finishing.clone()),
        problem: answer.as_ref().err().map(out_of_reach),
        ends: None,
    };
    (view, answer.ok())
}
