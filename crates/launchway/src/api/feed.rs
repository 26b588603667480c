//! Answers that go on: one JSON value a line, until the thing has ended or the client has.

use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use domain::app::{App, number};
use domain::rollout::Rollout;
use domain::slot::Color;
use domain::{EnvironmentName, RolloutId, RunId, StepName};
use engine::{Engine, LogSource, UnitView};
use hyper::body::{Body, Bytes, Frame};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::Api;
use super::answer::{Problem, Query};
use super::change::{known, no_such};
use super::wire::{LogLine, LogsQuery};
use crate::tail::Tail;
use crate::watch;

/// Lines on their way to a client that reads slowly.
const QUEUE: usize = 256;
/// Between two looks at a log that grows.
const LOOK: Duration = Duration::from_millis(200);
/// Between two questions to an engine.
const ASK: Duration = Duration::from_millis(500);
/// Lines that are asked for then; more than these are not seen of one that writes so much.
const WINDOW: usize = 1000;
const LINES: usize = 100;
const MOST_LINES: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    after: Option<u64>,
    follow: Option<bool>,
}

pub async fn run(State(api): State<Api>, Path(id): Path<String>) -> Result<Response, Problem> {
    let run = RunId::new(id.as_str()).map_err(|_| no_such("run", &id))?;
    if !api.handle.app().runs.contains_key(&run) {
        return Err(no_such("run", &id));
    }
    let (to, from) = channel(QUEUE);
    spawn(&api, watch::run(api.handle.clone(), api.world.pipeline.clone(), run, to));
    Ok(lines(from))
}

pub async fn rollout(State(api): State<Api>, Path(id): Path<String>) -> Result<Response, Problem> {
    let rollout = RolloutId::new(id.as_str()).map_err(|_| no_such("rollout", &id))?;
    if !api.handle.app().rollouts.contains_key(&rollout) {
        return Err(no_such("rollout", &id));
    }
    let (to, from) = channel(QUEUE);
    spawn(&api, watch::rollout(api.handle.clone(), rollout, to));
    Ok(lines(from))
}

pub async fn events(
    State(api): State<Api>,
    Query(query): Query<EventsQuery>,
) -> Result<Response, Problem> {
    let (to, from) = channel(QUEUE);
    let follow = query.follow.unwrap_or(false);
    spawn(&api, send_events(api.clone(), query.after.unwrap_or(0), follow, to));
    Ok(lines(from))
}

pub async fn logs(
    State(api): State<Api>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Problem> {
    let outputs = match (&query.run, &query.environment) {
        (Some(run), None) => vec![api.step_log(run, query.step.as_deref())?],
        (None, Some(_)) => api.outputs(&query).await?,
        _ => return Err(Problem::usage("name an environment, or a run and its step")),
    };
    let wanted = query.lines.unwrap_or(LINES).min(MOST_LINES);
    let (to, from) = channel(QUEUE);
    spawn(&api, send_logs(outputs, wanted, query.follow.unwrap_or(false), to));
    Ok(lines(from))
}

impl Api {
    fn step_log(&self, run: &RunId, step: Option<&str>) -> Result<(String, Output), Problem> {
        let step = step.ok_or_else(|| Problem::usage("the step is missing"))?;
        let step = StepName::new(step).map_err(|error| Problem::usage(error.to_string()))?;
        let path = self.world.pipeline.log_path(run.as_str(), &step);
        if !path.is_file() {
            return Err(Problem::missing(format!("step `{step}` of {run} has no log"))
                .help(format!("`launchway history {run}` shows its steps")));
        }
        Ok((step.to_string(), Output::File(path)))
    }

    /// The outputs of what the query names: of the live slot unless it names one, and of the newest where that has none.
    async fn outputs(&self, query: &LogsQuery) -> Result<Vec<(String, Output)>, Problem> {
        let app = self.handle.app();
        let name = query.environment.as_ref().map_or("", |name| name.as_str());
        let environment = known(&app, name)?;
        let live = app.environments.get(&environment).and_then(|state| state.live);
        let tried = newest_slot(&app, &environment);
        let slot = query.slot.or(live).or(tried);
        let units: Vec<UnitView> = self.engine.units(&environment);
        let contained = self.contained(&environment, &units).await;
        let mut slots = vec![slot];
        if query.slot.is_none() && tried != slot {
            slots.push(tried);
        }
        for slot in slots {
            let named = units.iter().filter_map(|unit| {
                let name = wanted(&unit.source, query, slot)?;
                Some((name, Output::File(unit.output.clone())))
            });
            let mut outputs: Vec<_> = named.collect();
            let mut contained = contained.clone();
            if let Some(slot) = slot {
                contained.extend(self.gone(&app, &environment, slot, &units, &contained).await);
            }
            outputs.extend(contained.into_iter().filter_map(|source| {
                let name = wanted(&source, query, slot)?;
                let (engine, environment) = (self.world.engine.clone(), environment.clone());
                Some((name, Output::Engine(Asked { engine, environment, source })))
            }));
            if !outputs.is_empty() {
                return Ok(outputs);
            }
        }
        let sources = units.iter().map(|unit| &unit.source).chain(&contained);
        Err(nothing_of(query, &environment, slot, sources.map(service_of).collect()))
    }

    /// What runs in the environment and writes no file: containers.
    async fn contained(&self, environment: &EnvironmentName, units: &[UnitView]) -> Vec<LogSource> {
        let snapshot = self.world.engine.observe(environment).await.unwrap_or_default();
        let replicas = snapshot.slots.iter().flat_map(|(slot, status)| {
            status.services.iter().flat_map(|(service, replicas)| {
                replicas.iter().map(|replica| {
                    let (slot, service, index) = (*slot, service.clone(), replica.index);
                    (LogSource::Replica { slot, service, index }, replica.pid.is_some())
                })
            })
        });
        let replicas = replicas.filter(|(_, runs)| *runs).map(|(source, _)| source);
        let backing = snapshot.backing.keys();
        let backing = backing.map(|service| LogSource::Backing { service: service.clone() });
        let has_file = |source: &LogSource| units.iter().any(|unit| unit.source == *source);
        replicas.chain(backing).filter(|source| !has_file(source)).collect()
    }

    /// Replicas of what was in the slot last that are neither of these, and whose last words are kept.
    async fn gone(
        &self,
        app: &App,
        environment: &EnvironmentName,
        slot: Color,
        units: &[UnitView],
        contained: &[LogSource],
    ) -> Vec<LogSource> {
        let mut rollouts = newest_first(app, environment);
        let last = rollouts.find(|rollout| rollout.candidate == Some(slot));
        let Some(project) = last.and_then(|last| app.projects.get(&last.release)) else {
            return Vec::new();
        };
        let differ = project.environment(environment).map(|here| &here.replicas);
        let mut gone = Vec::new();
        for (service, _, built) in project.built() {
            let differs = differ.and_then(|differ| differ.get(service));
            for index in 0..differs.copied().unwrap_or(built.replicas).max(1) {
                let source = LogSource::Replica { slot, service: service.clone(), index };
                let mut there = contained.iter().chain(units.iter().map(|unit| &unit.source));
                if there.any(|there| *there == source) {
                    continue;
                }
                if self.world.engine.logs(environment, &source, 1).await.is_ok() {
                    gone.push(source);
                }
            }
        }
        gone
    }
}

fn newest_first<'a>(
    app: &'a App,
    environment: &EnvironmentName,
) -> impl Iterator<Item = &'a Rollout> {
    let mut here: Vec<&Rollout> =
        app.rollouts.values().filter(|rollout| rollout.environment == *environment).collect();
    here.sort_by_key(|rollout| std::cmp::Reverse(number(&rollout.id)));
    here.into_iter()
}

/// The slot that something was started in last, whether it came to anything or not.
fn newest_slot(app: &App, environment: &EnvironmentName) -> Option<Color> {
    newest_first(app, environment).find_map(|rollout| rollout.candidate)
}

fn nothing_of(
    query: &LogsQuery,
    environment: &EnvironmentName,
    slot: Option<Color>,
    mut there: Vec<String>,
) -> Problem {
    let what = match &query.service {
        Some(service) => format!("no service called {service}"),
        None => "no service".into(),
    };
    let slot = slot.map_or(String::new(), |slot| format!(" (slot {slot})"));
    there.dedup();
    let help = match there.is_empty() {
        true => "nothing has run there".into(),
        false => format!("there is {}", there.join(", ")),
    };
    Problem::missing(format!("{what} has run in {environment}{slot}")).help(help)
}

/// Where lines come from.
enum Output {
    File(PathBuf),
    Engine(Asked),
}

/// The output of a container, for which the engine has to be asked.
struct Asked {
    engine: Arc<dyn Engine>,
    environment: EnvironmentName,
    source: LogSource,
}

impl Asked {
    async fn last(&self, lines: usize) -> Vec<String> {
        // It may be gone, or be made again at this moment: then it says nothing new.
        self.engine.logs(&self.environment, &self.source, lines).await.unwrap_or_default()
    }
}

/// How much of the end of `before` is the beginning of `now`: the rest of `now` is new.
fn overlap(before: &[String], now: &[String]) -> usize {
    let most = before.len().min(now.len());
    let fits = |length: &usize| before[before.len() - length..] == now[..*length];
    (0..=most).rev().find(fits).unwrap_or(0)
}

fn service_of(source: &LogSource) -> String {
    match source {
        LogSource::Replica { service, .. } | LogSource::Backing { service } => service.to_string(),
        LogSource::Job { id } => id.clone(),
    }
}

/// What a source is called, if it is asked for. Backing services belong to both slots.
fn wanted(source: &LogSource, query: &LogsQuery, slot: Option<Color>) -> Option<String> {
    let asked = |name| query.service.as_ref().is_none_or(|asked| asked == name);
    match source {
        LogSource::Replica { slot: of, service, index } => {
            (asked(service) && slot == Some(*of)).then(|| format!("{service}.{index}"))
        }
        LogSource::Backing { service } => {
            (asked(service) && query.slot.is_none()).then(|| service.to_string())
        }
        LogSource::Job { .. } => None,
    }
}

async fn send_logs(
    outputs: Vec<(String, Output)>,
    wanted: usize,
    follow: bool,
    to: Sender<LogLine>,
) {
    let mut tails = Vec::new();
    let mut asked = Vec::new();
    for (source, output) in outputs {
        let last = match output {
            Output::File(path) => {
                let (tail, last) = Tail::last(path, wanted);
                tails.push((source.clone(), tail));
                last
            }
            Output::Engine(engine) => {
                let window = engine.last(wanted.max(WINDOW)).await;
                let last = window[window.len().saturating_sub(wanted)..].to_vec();
                asked.push((source.clone(), engine, window));
                last
            }
        };
        if send_lines(&source, last, &to).await.is_none() {
            return;
        }
    }
    if !follow {
        return;
    }
    let pause = if asked.is_empty() { LOOK } else { ASK };
    loop {
        for (source, tail) in &mut tails {
            let more = tail.lines();
            if send_lines(source, more, &to).await.is_none() {
                return;
            }
        }
        for (source, engine, window) in &mut asked {
            let now = engine.last(WINDOW).await;
            let more = now[overlap(window, &now)..].to_vec();
            if !now.is_empty() {
                *window = now;
            }
            if send_lines(source, more, &to).await.is_none() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = to.closed() => return,
        }
    }
}

async fn send_lines(source: &str, lines: Vec<String>, to: &Sender<LogLine>) -> Option<()> {
    for text in lines {
        to.send(LogLine { source: source.into(), text }).await.ok()?;
    }
    Some(())
}

async fn send_events(api: Api, after: u64, follow: bool, to: Sender<std::sync::Arc<store::Entry>>) {
    let mut news = api.handle.listen();
    let Some(mut last) = send_logged(&api, after, &to).await else { return };
    if !follow {
        return;
    }
    loop {
        let entry = tokio::select! {
            entry = news.recv() => entry,
            () = to.closed() => return,
        };
        match entry {
            Ok(entry) if entry.seq <= last => {}
            Ok(entry) => {
                last = entry.seq;
                if to.send(entry).await.is_err() {
                    return;
                }
            }
            Err(RecvError::Lagged(_)) => match send_logged(&api, last, &to).await {
                Some(now) => last = now,
                None => return,
            },
            Err(RecvError::Closed) => return,
        }
    }
}

/// Sends what the log has after `seq`; the last number it sent.
async fn send_logged(
    api: &Api,
    mut seq: u64,
    to: &Sender<std::sync::Arc<store::Entry>>,
) -> Option<u64> {
    loop {
        let entries = match api.handle.store().after(seq, 500).await {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(%error, "cannot read the log for a client");
                return None;
            }
        };
        if entries.is_empty() {
            return Some(seq);
        }
        for entry in entries {
            seq = entry.seq;
            to.send(std::sync::Arc::new(entry)).await.ok()?;
        }
    }
}

/// Ends with the server, so that no client holds it back.
fn spawn(api: &Api, feed: impl Future<Output = ()> + Send + 'static) {
    let stop = api.stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = feed => {}
            () = stop.cancelled() => {}
        }
    });
}

/// A response of a JSON value a line.
pub(super) fn lines<T: Serialize + Send + 'static>(from: Receiver<T>) -> Response {
    let body = axum::body::Body::new(Lines(from));
    ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

struct Lines<T>(Receiver<T>);

impl<T: Serialize> Body for Lines<T> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|value| {
            // A value that is no JSON ends the answer early, which the client takes for a failure.
            let mut line = serde_json::to_vec(&value?).ok()?;
            line.push(b'\n');
            Some(Ok(Frame::data(line.into())))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::overlap;

    #[test]
    fn only_what_was_not_seen_is_new() {
        let lines = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        for (before, now, new) in [
            ("abc", "abc", ""),
            ("abc", "abcd", "d"),
            ("abc", "cde", "de"),
            ("aa", "aaa", "a"),
            ("ab", "xy", "xy"),
            ("", "x", "x"),
        ] {
            let (before, now) = (lines(before), lines(now));
            assert_eq!(now[overlap(&before, &now)..].concat(), new);
        }
    }
}
