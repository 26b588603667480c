//! Taking environments down, one or all; after all of them the edge and the server itself.

use std::time::Duration;

use axum::extract::{ConnectInfo, State};
use axum::response::Response;
use control::control::Handle;
use control::server::stop_edge;
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
                everything(&api.handle, &api.engine, down.by.clone(), request.with_data, &to).await
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

/// Every environment, then the edge.
pub async fn everything(
    handle: &Handle,
    engine: &ProcessEngine,
    by: Identity,
    with_data: bool,
    to: &Sender<DownUpdate>,
) -> Result<(), String> {
    let down = Down { handle, by, with_data, to };
    down.abort_runs().await;
    let names: Vec<EnvironmentName> = handle.app().environments.keys().cloned().collect();
    for name in &names {
        down.environment(name).await?;
    }
    down.say("stopping the edge").await;
    stop_edge(engine).await.map_err(|error| error.to_string())?;
    down.say("everything is down; what was remembered stays").await;
    Ok(())
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
                    let hold = app.hold(active).map(|hold| hold.reason).unwrap_or_default();
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
