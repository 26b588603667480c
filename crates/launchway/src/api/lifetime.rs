//! Taking environments down, one or all; after all of them the edge and the server itself.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::extract::{ConnectInfo, State};
use axum::response::Response;
use control::clock;
use control::control::Handle;
use control::pipeline::Pipeline;
use control::server::{has_edge, stop_edge};
use domain::app::{App, EnvironmentEvent, Event};
use domain::pipeline::RunEvent;
use domain::rollout::RolloutEvent;
use domain::{EnvironmentName, Identity};
use engine::ProcessEngine;
use tokio::sync::mpsc::{Sender, channel};

use super::Api;
use super::answer::{Body, Problem};
use super::change::known;
use super::feed::lines;
use super::peer::Peer;
use super::wire::{DownRequest, DownUpdate};
use crate::view;

/// For one environment: a bake that cannot be aborted, drains and graces included.
const LIMIT: Duration = Duration::from_secs(600);
/// For processes that were told to end.
const LEAVING: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

pub async fn down(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(request): Body<DownRequest>,
) -> Result<Response, Problem> {
    let by = peer.identity()?;
    let one = match &request.environment {
        Some(name) => Some(known(&api.handle.app(), name.as_str())?),
        None => None,
    };
    let (to, from) = channel(64);
    // Goes on when the client goes away: what was asked for is done.
    tokio::spawn(async move {
        let down = Down { handle: &api.handle, by, with_data: request.with_data, to: &to };
        let done = match &one {
            Some(name) => down.environment(name).await,
            None => {
                let pipeline = &api.world.pipeline;
                let (handle, by) = (&api.handle, down.by.clone());
                everything(handle, &api.engine, pipeline, by, request.with_data, &to).await
            }
        };
        let last = done.map_or_else(DownUpdate::Failed, |()| DownUpdate::Done);
        let finished = matches!(last, DownUpdate::Done);
        let _unheard = to.send(last).await;
        drop(to);
        if finished && one.is_none() {
            api.gone.cancel();
            api.stop.cancel();
        }
    });
    Ok(lines(from))
}

/// Every run and environment, then the edge. Nothing new begins meanwhile, and nothing is left running.
pub async fn everything(
    handle: &Handle,
    engine: &ProcessEngine,
    pipeline: &Pipeline,
    by: Identity,
    with_data: bool,
    to: &Sender<DownUpdate>,
) -> Result<(), String> {
    let down = Down { handle, by, with_data, to };
    handle.close(true);
    let done = down.all(engine, pipeline).await;
    // Who is left with a server may use it; after a success it ends.
    handle.close(done.is_ok());
    done
}

/// Waits until nothing of this state folder runs; else what does.
async fn nothing_left(engine: &ProcessEngine) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + LEAVING;
    loop {
        let left = engine.processes();
        if left.is_empty() {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            let left: Vec<String> =
                left.iter().map(|(pid, unit)| format!("{pid} of {unit}")).collect();
            return Err(format!("these processes still run: {}", left.join(", ")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

struct Down<'a> {
    handle: &'a Handle,
    by: Identity,
    with_data: bool,
    to: &'a Sender<DownUpdate>,
}

impl Down<'_> {
    async fn say(&self, text: impl Into<String>) {
        // It is done whether anybody listens or not.
        let _unheard = self.to.send(DownUpdate::Progress(text.into())).await;
    }

    async fn all(&self, engine: &ProcessEngine, pipeline: &Pipeline) -> Result<(), String> {
        let app = self.handle.app();
        let had = !app.environments.is_empty() || app.runs.values().any(|run| !run.ended());
        self.abort_runs().await;
        let names: Vec<EnvironmentName> = self.handle.app().environments.keys().cloned().collect();
        for name in &names {
            self.environment(name).await?;
        }
        self.runs_gone().await?;
        // Checks of rollouts whose server died have nobody else who ends them.
        pipeline.sweep(&BTreeSet::new()).await.map_err(|error| error.to_string())?;
        let edge = has_edge(engine);
        if edge {
            self.say("stopping the edge").await;
        }
        stop_edge(engine).await.map_err(|error| error.to_string())?;
        nothing_left(engine).await?;
        let said = match had || edge {
            true => "everything is down; what was remembered stays",
            false => "nothing ran any more; what was remembered stays",
        };
        self.say(said).await;
        Ok(())
    }

    /// Until every run has ended and its jobs with it.
    async fn runs_gone(&self) -> Result<(), String> {
        let mut states = self.handle.watch();
        let gone = states.wait_for(|app| app.runs.values().all(|run| run.ended() && run.cleaned));
        match tokio::time::timeout(LIMIT, gone).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err("the server stopped before every run was cleaned up".into()),
            Err(_) => {
                let app = self.handle.app();
                let left = app.runs.values().filter(|run| !(run.ended() && run.cleaned));
                let left: Vec<&str> = left.map(|run| run.id.as_str()).collect();
                let seconds = LIMIT.as_secs();
                Err(format!("not cleaned up within {seconds} s: {}", left.join(", ")))
            }
        }
    }

    async fn abort_runs(&self) {
        let app = self.handle.app();
        for run in app.runs.values().filter(|run| !run.ended()) {
            self.say(format!("aborting {}", run.id)).await;
            let event = RunEvent::Aborted { by: self.by.clone() };
            // A run that has just ended needs no aborting.
            let _ended = self.handle.offer(Event::Run { run: run.id.clone(), event }).await;
        }
    }

    async fn environment(&self, name: &EnvironmentName) -> Result<(), String> {
        tokio::time::timeout(LIMIT, self.bring_down(name)).await.unwrap_or_else(|_| {
            Err(format!(
                "{name} was not down within {} s; `launchway status` says why",
                LIMIT.as_secs()
            ))
        })
    }

    async fn bring_down(&self, name: &EnvironmentName) -> Result<(), String> {
        let mut said = String::new();
        let mut aborted = None;
        loop {
            let app = self.handle.app();
            let Some(state) = app.environments.get(name) else {
                self.say(format!("{name} is down")).await;
                return Ok(());
            };
            let waits = match app.active(name) {
                Some(active) => {
                    if aborted.as_ref() != Some(&active.id) {
                        aborted = Some(active.id.clone());
                        self.abort(&active.id).await;
                    }
                    let hold =
                        app.hold(active, clock::wall()).map(|hold| hold.reason).unwrap_or_default();
                    format!("{} is {}: it waits for {hold}", active.id, active.phase.name())
                }
                None if state.going_down.is_none() => {
                    self.request(name).await;
                    continue;
                }
                None => self.in_the_way(&app, name),
            };
            if said != waits {
                self.say(format!("{name}: {waits}")).await;
                said = waits;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn abort(&self, rollout: &domain::RolloutId) {
        let event = RolloutEvent::Aborted { by: self.by.clone() };
        let event = Event::Rollout { rollout: rollout.clone(), event };
        if let Err(declined) = self.handle.offer(event).await {
            self.say(format!("{declined}; waiting for its end")).await;
        }
    }

    async fn request(&self, name: &EnvironmentName) {
        let event =
            EnvironmentEvent::DownRequested { by: self.by.clone(), with_data: self.with_data };
        let event = Event::Environment { environment: name.clone(), event };
        if let Err(declined) = self.handle.offer(event).await {
            self.say(declined.to_string()).await;
            tokio::time::sleep(LOOK).await;
        }
    }

    fn in_the_way(&self, app: &App, name: &EnvironmentName) -> String {
        let notes = self.handle.notes();
        view::note_in(&notes, name).unwrap_or_else(|| match app.synced() {
            true => "stopping its replicas and backing services".into(),
            false => "the edge has to forget its routes first".into(),
        })
    }
}
