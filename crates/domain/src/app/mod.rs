//! The whole application as one state: runs, releases, environments and their rollouts.
//!
//! [`App::step`] takes an event of the log and answers what is newly to be done. What must be done
//! follows from the state alone ([`App::pending`]), so after a crash the fold of the log says what
//! to repeat. Nothing here touches the world.

mod environment;
mod event;
mod hold;
mod pending;
mod request;
mod settle;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use crate::config::Project;
use crate::pipeline::Run;
use crate::refusal::Refusal;
use crate::release::Release;
use crate::rollout::{Rollout, RolloutEvent};
use crate::route::Table;
use crate::{EnvironmentName, Epoch, ReleaseId, RolloutId, RunId, Timestamp};

pub use environment::{EnvironmentState, SlotState};
pub use event::{Action, EnvironmentEvent, Event};
pub use hold::Hold;
pub use table::preview_host;

/// How many ended runs and rollouts are kept in the state; the log has them all.
const KEPT: usize = 100;

/// Everything that is true of one application.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct App {
    pub runs: BTreeMap<RunId, Run>,
    pub releases: BTreeMap<ReleaseId, Release>,
    #[serde(skip)]
    pub projects: BTreeMap<ReleaseId, Arc<Project>>,
    pub rollouts: BTreeMap<RolloutId, Rollout>,
    pub environments: BTreeMap<EnvironmentName, EnvironmentState>,
    /// What the edge shall route.
    pub table: Table,
    /// What the edge has acknowledged.
    pub published: Epoch,
    next_run: u64,
    next_release: u64,
    next_rollout: u64,
}

impl App {
    /// Takes one event: what is newly to be done, or why the event does not fit (then nothing changed).
    pub fn step(&mut self, event: &Event, now: Timestamp) -> Result<Vec<Action>, Refusal> {
        let before: BTreeSet<Action> = self.pending().into_iter().collect();
        self.take(event, now)?;
        self.settle(now);
        self.forget_old();
        Ok(self.pending().into_iter().filter(|action| !before.contains(action)).collect())
    }

    /// The state after a whole log. Events that were refused were never logged.
    pub fn replay<'a>(
        log: impl IntoIterator<Item = &'a (Timestamp, Event)>,
    ) -> Result<Self, Refusal> {
        let mut app = Self::default();
        for (at, event) in log {
            app.step(event, *at)?;
        }
        Ok(app)
    }

    /// The id that the next requested run gets.
    pub fn next_run_id(&self) -> RunId {
        RunId::nth(self.next_run + 1)
    }

    /// The edge routes by the newest table.
    pub fn synced(&self) -> bool {
        self.published == self.table.epoch
    }

    /// When time alone changes something: then [`Event::Timer`] is due.
    pub fn deadline(&self) -> Option<Timestamp> {
        let rollouts = self.rollouts.values().filter_map(Rollout::deadline);
        let slots = self.environments.values().filter_map(EnvironmentState::deadline);
        rollouts.chain(slots).min()
    }

    /// The release made of `commit`, the newest if it was built more than once.
    pub fn release_of(&self, commit: &crate::CommitId) -> Option<&Release> {
        self.releases.values().filter(|r| r.commit.id == *commit).max_by_key(|r| number(&r.id))
    }

    /// The unfinished run that goes first: commits of a branch are built in their order, so that an
    /// older one never replaces a newer one.
    pub fn run_before(&self, run: &Run) -> Option<&Run> {
        let same = |r: &&Run| r.branch.is_some() && r.branch == run.branch && !r.ended();
        let earlier = |r: &&Run| number(&r.id) < number(&run.id);
        self.runs.values().filter(same).find(earlier)
    }

    /// The rollout that is under way in `environment`.
    pub fn active(&self, environment: &EnvironmentName) -> Option<&Rollout> {
        self.rollouts.values().find(|r| r.environment == *environment && r.under_way())
    }

    fn take(&mut self, event: &Event, now: Timestamp) -> Result<(), Refusal> {
        match event {
            Event::RunRequested { commit, branch, deploy_to, by } => {
                self.request_run(commit, branch.as_ref(), deploy_to.as_ref(), by, now);
                Ok(())
            }
            Event::Run { run, event } => {
                let state = self.runs.get_mut(run);
                let state = state.ok_or_else(|| Refusal::new(format!("there is no {run}")))?;
                let was_ended = state.ended();
                state.step(event, now)?;
                if !was_ended && state.ended() {
                    self.run_ended(run, now);
                }
                Ok(())
            }
            Event::DeployRequested { environment, release, by } => {
                self.request_deploy(environment, release, by, now)
            }
            Event::RollbackRequested { environment, by } => {
                self.request_rollback(environment, by, now)
            }
            Event::Rollout { rollout, event } => self.take_rollout(rollout, event, now),
            Event::Environment { environment, event } => {
                self.take_environment(environment, event, now)
            }
            Event::Published { epoch } => self.take_published(*epoch),
            Event::Timer => self.take_timer(now),
        }
    }

    fn take_rollout(
        &mut self,
        id: &RolloutId,
        event: &RolloutEvent,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let rollout = self.rollouts.get_mut(id);
        let rollout = rollout.ok_or_else(|| Refusal::new(format!("there is no {id}")))?;
        if let RolloutEvent::Started { endpoints } = event {
            let environment = self.environments.get_mut(&rollout.environment);
            let (Some(environment), Some(slot)) = (environment, rollout.candidate) else {
                return Err(Refusal::new(format!("{id} has no slot")));
            };
            if endpoints.is_empty() || endpoints.values().any(Vec::is_empty) {
                return Err(Refusal::new(format!("a service of {id} has no replica")));
            }
            rollout.step(event, now)?;
            environment.fill(slot, &rollout.release, endpoints.clone());
            return Ok(());
        }
        rollout.step(event, now)
    }

    fn take_published(&mut self, epoch: Epoch) -> Result<(), Refusal> {
        if epoch != self.table.epoch || epoch <= self.published {
            return Err(Refusal::new(format!("epoch {epoch} is stale")));
        }
        self.published = epoch;
        Ok(())
    }

    fn take_timer(&mut self, now: Timestamp) -> Result<(), Refusal> {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return Err(Refusal::new("no deadline has come"));
        }
        for rollout in self.rollouts.values_mut() {
            if rollout.deadline().is_some_and(|deadline| deadline <= now) {
                rollout.time_out(now);
            }
        }
        for environment in self.environments.values_mut() {
            environment.expire(now);
        }
        Ok(())
    }

    /// Drops what is ended and old, so that the state stays small however long the log gets.
    fn forget_old(&mut self) {
        let ended: Vec<RunId> =
            newest_last(self.runs.iter().filter(|(_, r)| r.ended() && r.cleaned));
        for run in ended.iter().take(ended.len().saturating_sub(KEPT)) {
            self.runs.remove(run);
        }
        let ended: Vec<RolloutId> = newest_last(self.rollouts.iter().filter(|(_, r)| r.ended()));
        for rollout in ended.iter().take(ended.len().saturating_sub(KEPT)) {
            self.rollouts.remove(rollout);
        }
        let releases: Vec<ReleaseId> = newest_last(self.releases.iter());
        for release in releases.iter().take(releases.len().saturating_sub(KEPT)) {
            let used = self.environments.values().any(|e| e.needs(release))
                || self.rollouts.values().any(|r| r.release == *release && !r.ended());
            if !used {
                self.releases.remove(release);
                self.projects.remove(release);
            }
        }
    }
}

/// The number in `run-12`, `r12` or `ro-12`: the order in which they were made.
pub fn number(id: &impl std::fmt::Display) -> u64 {
    let text = id.to_string();
    text.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0)
}

fn newest_last<'a, K, V: 'a>(entries: impl Iterator<Item = (&'a K, &'a V)>) -> Vec<K>
where
    K: Clone + std::fmt::Display + 'a,
{
    let mut ids: Vec<K> = entries.map(|(id, _)| id.clone()).collect();
    ids.sort_by_key(number);
    ids
}
