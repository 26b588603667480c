//! What people and branches ask for, and whether it may be.

use super::{App, EnvironmentEvent, EnvironmentState};
use crate::config::{Environment, Project};
use crate::pipeline::{Run, RunPhase};
use crate::refusal::Refusal;
use crate::release::Release;
use crate::rollout::{End, Gates, Kind, Phase, Rollout, RolloutEvent};
use crate::{CommitId, EnvironmentName, Identity, ReleaseId, RolloutId, RunId, Timestamp};

impl App {
    pub(super) fn request_run(
        &mut self,
        commit: &CommitId,
        branch: Option<&String>,
        deploy_to: Option<&EnvironmentName>,
        by: &Identity,
        now: Timestamp,
    ) {
        let id = self.next_run_id();
        self.next_run += 1;
        let run = Run {
            id: id.clone(),
            commit: commit.clone(),
            branch: branch.cloned(),
            deploy_to: deploy_to.cloned(),
            by: by.clone(),
            created: now,
            phase: RunPhase::Planning,
            plan: None,
            cleaned: false,
        };
        self.runs.insert(id, run);
    }

    /// A green run makes a release, which goes to the environments that follow its branch.
    pub(super) fn run_ended(&mut self, id: &RunId, now: Timestamp) {
        let Some(run) = self.runs.get(id) else { return };
        let (RunPhase::Green { .. }, Some(plan)) = (&run.phase, &run.plan) else { return };
        self.next_release += 1;
        let release = Release {
            id: ReleaseId::nth(self.next_release),
            commit: plan.commit.clone(),
            run: id.clone(),
            artifacts: run.artifacts(),
            images: run.images(),
            built: now,
        };
        let project = plan.project.clone();
        let follows = |e: &&Environment| {
            (e.branch.is_some() && e.branch == run.branch)
                || run.deploy_to.as_ref() == Some(&e.name)
        };
        let targets: Vec<EnvironmentName> =
            project.environments.iter().filter(follows).map(|e| e.name.clone()).collect();
        let by = run.by.clone();
        let release_id = release.id.clone();
        self.releases.insert(release_id.clone(), release);
        self.projects.insert(release_id.clone(), project);
        for environment in targets {
            // A gate that says no here (`after`) is no failure of the run.
            let _refused = self.request_deploy(&environment, &release_id, &by, now);
        }
    }

    pub(super) fn request_deploy(
        &mut self,
        environment: &EnvironmentName,
        release: &ReleaseId,
        by: &Identity,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let (project, config) = self.wanted(environment, release)?;
        let live = self.live_config(environment);
        let after =
            live.as_ref().and_then(|live| live.after.clone()).or_else(|| config.after.clone());
        if let Some(first) = &after {
            let proven = self.environments.get(first).is_some_and(|e| e.proven.contains(release));
            if !proven {
                return Err(Refusal::by_gate(format!(
                    "{release} was not good in {first} yet, and {environment} comes after it; \
                     deploy it to {first} first"
                )));
            }
        }
        self.refuse_while_going_down(environment)?;
        let gates = Gates::for_deploy(&project, &config, live.as_ref());
        self.add_rollout(environment, release, Kind::Deploy, gates, by, now);
        Ok(())
    }

    pub(super) fn request_rollback(
        &mut self,
        environment: &EnvironmentName,
        by: &Identity,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        self.refuse_while_going_down(environment)?;
        if let Some(active) = self.active(environment) {
            let id = active.id.clone();
            // After its switch, going back is what aborting it does.
            if matches!(active.phase, Phase::Baking { .. } | Phase::Draining { .. }) {
                return self.take_rollout(&id, &RolloutEvent::Aborted { by: by.clone() }, now);
            }
            return Err(busy(active));
        }
        let target = self.environments.get(environment).and_then(|e| e.rollback_target());
        let target = target.cloned().ok_or_else(|| {
            Refusal::new(format!("{environment} has no earlier release to go back to"))
        })?;
        let (project, config) = self.wanted(environment, &target)?;
        let gates = Gates::for_rollback(&project, &config);
        self.add_rollout(environment, &target, Kind::Rollback, gates, by, now);
        Ok(())
    }

    pub(super) fn take_environment(
        &mut self,
        name: &EnvironmentName,
        event: &EnvironmentEvent,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let busy = self.active(name).map(busy);
        let unknown = || Refusal::new(format!("nothing was deployed to {name} yet"));
        let state = self.environments.get_mut(name).ok_or_else(unknown)?;
        match event {
            EnvironmentEvent::Moved { slot, endpoints } => state.moved(*slot, endpoints),
            EnvironmentEvent::Removed { slot, last_request } => {
                let leaving = state.slots.get(slot).is_some_and(|s| s.leaving);
                let claimed = self.discards(name, *slot);
                if !(leaving || claimed) || !self.synced() {
                    return Err(Refusal::new(format!("slot {slot} of {name} was to stay")));
                }
                self.slot_removed(name, *slot, *last_request, now);
                Ok(())
            }
            EnvironmentEvent::DownRequested { with_data, .. } => {
                if let Some(refusal) = busy {
                    return Err(refusal);
                }
                state.going_down = Some(*with_data);
                state.live = None;
                self.supersede_waiting(name, None, now);
                Ok(())
            }
            EnvironmentEvent::WentDown => {
                if state.going_down.is_none() {
                    return Err(Refusal::new(format!("{name} was to stay")));
                }
                self.environments.remove(name);
                Ok(())
            }
        }
    }

    /// The project of `release` and what it says of `environment`.
    fn wanted(
        &self,
        environment: &EnvironmentName,
        release: &ReleaseId,
    ) -> Result<(std::sync::Arc<Project>, Environment), Refusal> {
        let project = self.projects.get(release).cloned();
        let project =
            project.ok_or_else(|| Refusal::new(format!("there is no release {release}")))?;
        let config = project.environment(environment).cloned().ok_or_else(|| {
            let known: Vec<&str> = project.environments.iter().map(|e| e.name.as_str()).collect();
            Refusal::new(format!(
                "{release} knows no environment {environment}; it has {}",
                known.join(", ")
            ))
        })?;
        Ok((project, config))
    }

    /// What the release that is live in `environment` says of it.
    fn live_config(&self, environment: &EnvironmentName) -> Option<Environment> {
        let release = self.environments.get(environment)?.live_release()?;
        self.projects.get(release)?.environment(environment).cloned()
    }

    fn refuse_while_going_down(&self, environment: &EnvironmentName) -> Result<(), Refusal> {
        match self.environments.get(environment).and_then(|e| e.going_down) {
            Some(_) => Err(Refusal::new(format!("{environment} is being taken down"))),
            None => Ok(()),
        }
    }

    fn add_rollout(
        &mut self,
        environment: &EnvironmentName,
        release: &ReleaseId,
        kind: Kind,
        gates: Gates,
        by: &Identity,
        now: Timestamp,
    ) {
        self.next_rollout += 1;
        let id = RolloutId::nth(self.next_rollout);
        if kind == Kind::Deploy {
            self.supersede_waiting(environment, Some(&id), now);
        }
        let phase = match &gates.approval {
            Some(approval) => Phase::AwaitingApproval { expires: now + approval.expires },
            None => Phase::Queued,
        };
        let rollout = Rollout {
            id: id.clone(),
            environment: environment.clone(),
            release: release.clone(),
            kind,
            by: by.clone(),
            authors: self.authors(release, by),
            created: now,
            gates,
            timeline: vec![(now, phase.name().into())],
            phase,
            since: now,
            candidate: None,
            previous: None,
            holds_slot: false,
            recorded: false,
            approved: None,
            switches: Vec::new(),
            evidence: None,
            notes: Vec::new(),
            unjudged: false,
        };
        self.rollouts.insert(id, rollout);
        self.environments
            .entry(environment.clone())
            .or_insert_with(|| EnvironmentState::new(environment.clone()));
    }

    /// The newest wish wins: what has not got under way yet makes room for it.
    fn supersede_waiting(
        &mut self,
        environment: &EnvironmentName,
        by: Option<&RolloutId>,
        now: Timestamp,
    ) {
        for rollout in self.rollouts.values_mut() {
            if rollout.environment != *environment || rollout.ended() || rollout.under_way() {
                continue;
            }
            let end = match by {
                Some(by) => End::Superseded { by: by.clone() },
                None => End::Failed { cause: "the environment was taken down".into() },
            };
            rollout.end(end, now);
        }
    }

    /// Names by which the author of `release` may come to the door: who asked for its run, and the
    /// commit's author by name and by the local part of the address.
    fn authors(&self, release: &ReleaseId, by: &Identity) -> Vec<String> {
        let mut authors = vec![by.to_string()];
        let Some(release) = self.releases.get(release) else { return authors };
        if let Some(run) = self.runs.get(&release.run) {
            authors.push(run.by.to_string());
        }
        let author = &release.commit.author;
        let (name, address) = author.split_once('<').unwrap_or((author, ""));
        authors.push(name.trim().to_string());
        if let Some((local, _)) = address.split_once('@') {
            authors.push(local.to_string());
        }
        authors
    }
}

/// Why something else has to wait for a rollout.
fn busy(active: &Rollout) -> Refusal {
    let (id, phase, environment) = (&active.id, active.phase.name(), &active.environment);
    let then = active.way_out().unwrap_or_else(|| "it ends by itself; ask again then".into());
    Refusal::new(format!("{id} is {phase} in {environment}; {then}"))
}
