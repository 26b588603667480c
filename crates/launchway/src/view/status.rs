//! What `launchway status` knows.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use domain::app::{Action, App, EnvironmentState, Hold};
use domain::certificate::CertificateView;
use domain::config::{EngineKind, Environment};
use domain::pipeline::Run;
use domain::rollout::{Kind, Phase, Rollout};
use domain::route::{EdgeStatus, Facts, FactsKey, Finishing};
use domain::slot::{ArtifactRef, Endpoint, Ends, ReplicaState, ReplicaStatus, Snapshot};
use domain::{
    AppName, Color, CommitId, EnvironmentName, Epoch, ReleaseId, RolloutId, RunId, ServiceName,
    Timestamp,
};
use engine::{LogSource, UnitView};
use serde::{Deserialize, Serialize};

use super::{ReleaseView, RollbackView, TrafficView, UsageView};

/// Everything at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub app: Option<AppName>,
    pub now: Timestamp,
    /// `None` when it is read from disk because no server runs.
    pub server: Option<ServerView>,
    pub edge: EdgeView,
    pub environments: Vec<EnvironmentView>,
    /// Runs under way.
    pub runs: Vec<RunView>,
    /// The newest run of a branch, if nothing came of it: what is live is older.
    #[serde(default)]
    pub refused: Vec<RunView>,
}

/// The server that answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerView {
    pub pid: u32,
    pub since: Timestamp,
    pub version: String,
}

/// The process that carries the traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EdgeView {
    pub listen: Option<SocketAddr>,
    /// Where it carries TLS, if it does.
    #[serde(default)]
    pub https: Option<SocketAddr>,
    pub pid: Option<u32>,
    pub shim_pid: Option<u32>,
    pub restarts: u32,
    /// The table it routes by; `None` when it does not answer.
    pub epoch: Option<Epoch>,
    /// The table it shall route by.
    pub wanted: Epoch,
    /// Those that it took over from and that still have something.
    #[serde(default)]
    pub finishing: Vec<Finishing>,
    /// Why it does not answer.
    pub problem: Option<String>,
    /// How its process ended, if it did.
    #[serde(default)]
    pub ends: Option<Ends>,
}

/// One environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnvironmentView {
    pub name: EnvironmentName,
    /// What runs it, as the live release says, or else the newest project.
    #[serde(default)]
    pub engine: Option<EngineKind>,
    pub host: String,
    pub url: Option<String>,
    /// Answers with the slot that is not live.
    pub preview_url: Option<String>,
    /// `None` without HTTPS, or when no server runs.
    #[serde(default)]
    pub certificate: Option<CertificateView>,
    pub live: Option<Color>,
    /// Why slots and backing services are shown as they were seen before; `None` if they are as of now.
    #[serde(default)]
    pub stale: Option<Stale>,
    pub slots: Vec<SlotView>,
    pub backing: Vec<BackingView>,
    pub under_way: Option<RolloutView>,
    /// Rollouts that have not begun: they wait for approval or for their turn.
    pub waiting: Vec<RolloutView>,
    /// The rollout that ended last.
    pub last: Option<RolloutView>,
    pub rollback: RollbackView,
    pub going_down: bool,
    pub note: Option<String>,
}

/// A look that brought nothing new.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stale {
    /// When the last look was that did; `None` if there was none.
    pub seen: Option<Timestamp>,
    pub because: String,
}

/// One slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotView {
    pub color: Color,
    pub live: bool,
    pub release: ReleaseView,
    /// When it got the traffic, if it has it.
    pub since: Option<Timestamp>,
    /// On its way out.
    pub leaving: bool,
    /// When a slot that is not live is emptied.
    pub expires: Option<Timestamp>,
    pub ready: bool,
    /// What its containers run; empty for processes.
    #[serde(default)]
    pub images: BTreeMap<ServiceName, ArtifactRef>,
    pub replicas: Vec<ReplicaView>,
    /// Of each service that the edge routed to; empty while the edge does not answer.
    #[serde(default)]
    pub traffic: BTreeMap<ServiceName, TrafficView>,
}

/// One replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaView {
    pub service: ServiceName,
    pub index: u32,
    pub state: String,
    pub problem: Option<String>,
    pub endpoint: Endpoint,
    pub restarts: u32,
    pub pid: Option<u32>,
    pub shim_pid: Option<u32>,
    /// Why the edge keeps it out, if it does.
    pub ejected: Option<String>,
    /// How its process ended, if it did since the slot was made.
    #[serde(default)]
    pub ends: Option<Ends>,
    /// `None` when it does not run, or when that could not be read in time.
    pub usage: Option<UsageView>,
}

/// One backing service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackingView {
    pub service: ServiceName,
    pub address: SocketAddr,
    pub ready: bool,
    pub problem: Option<String>,
    pub restarts: u32,
    pub pid: Option<u32>,
    pub shim_pid: Option<u32>,
    pub usage: Option<UsageView>,
}

/// One rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutView {
    pub id: RolloutId,
    pub environment: EnvironmentName,
    pub kind: Kind,
    pub release: ReleaseView,
    pub by: String,
    pub phase: String,
    pub created: Timestamp,
    pub since: Timestamp,
    /// How it ended, in a sentence.
    pub end: Option<String>,
    /// It went live, and its bake had nothing to judge.
    #[serde(default)]
    pub unjudged: bool,
    pub hold: Option<Hold>,
    /// What is in the way.
    pub note: Option<String>,
    /// What somebody has to do for it to go on.
    pub command: Option<String>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunView {
    pub id: RunId,
    pub commit: CommitId,
    pub subject: Option<String>,
    pub branch: Option<String>,
    pub by: String,
    pub created: Timestamp,
    pub ended: Option<Timestamp>,
    pub phase: String,
    pub release: Option<ReleaseId>,
    pub deploy_to: Option<EnvironmentName>,
    pub hold: Option<Hold>,
    /// For a run that is not green: what is wrong.
    pub problem: Option<String>,
}

/// What was looked at.
pub struct Gathered<'a> {
    pub app: &'a App,
    pub now: Timestamp,
    pub server: Option<ServerView>,
    pub edge: EdgeView,
    pub answer: Option<EdgeStatus>,
    pub notes: HashMap<Action, String>,
    /// When requests failed last.
    pub failed: BTreeMap<FactsKey, Timestamp>,
    pub snapshots: BTreeMap<EnvironmentName, Snapshot>,
    /// Where the snapshot is not of now.
    pub stale: BTreeMap<EnvironmentName, Stale>,
    pub units: BTreeMap<EnvironmentName, Vec<UnitView>>,
    pub certificates: BTreeMap<EnvironmentName, CertificateView>,
    pub usage: BTreeMap<EnvironmentName, Vec<Measured>>,
}

/// What one process of the engine used when it was looked at.
#[derive(Debug, Clone)]
pub struct Measured {
    pub source: LogSource,
    pub pid: u32,
    /// When it was, see [`domain::slot::Usage`].
    pub started: String,
    /// Since it was started.
    pub cpu: Duration,
    pub usage: UsageView,
}

impl Gathered<'_> {
    /// All of it, or one environment only.
    pub fn status(self, only: Option<&EnvironmentName>) -> Status {
        let names = control::server::known_environments(self.app);
        let newest = self.app.projects.iter().max_by_key(|(id, _)| domain::app::number(*id));
        let wanted = names.into_iter().filter(|name| only.is_none_or(|only| only == name));
        let environments = wanted.map(|name| self.environment(&name)).collect();
        let mut runs: Vec<&Run> = self.app.runs.values().filter(|run| !run.ended()).collect();
        runs.sort_by_key(|run| domain::app::number(&run.id));
        Status {
            app: newest.map(|(_, project)| project.app.clone()),
            now: self.now,
            environments,
            runs: runs.into_iter().map(|run| RunView::of(self.app, run)).collect(),
            refused: refused(self.app, only).map(|run| RunView::of(self.app, run)).collect(),
            server: self.server,
            edge: self.edge,
        }
    }

    fn environment(&self, name: &EnvironmentName) -> EnvironmentView {
        let blank = EnvironmentState {
            name: name.clone(),
            slots: BTreeMap::new(),
            live: None,
            lineage: Vec::new(),
            proven: Vec::new(),
            going_down: None,
        };
        let state = self.app.environments.get(name).unwrap_or(&blank);
        let host = self.host(state);
        let certificate = self.certificates.get(name);
        let secure = certificate.is_some_and(|seen| seen.validity.is_some());
        let url = |host: &str, secure: bool| {
            let https = self.edge.https.filter(|_| secure).map(|address| ("https", address.port()));
            Some(match https.or(self.edge.listen.map(|address| ("http", address.port())))? {
                (scheme @ "http", 80) | (scheme @ "https", 443) => format!("{scheme}://{host}"),
                (scheme, port) => format!("{scheme}://{host}:{port}"),
            })
        };
        let snapshot = self.snapshots.get(name);
        let here = |rollout: &&Rollout| rollout.environment == *name;
        let mut rollouts: Vec<&Rollout> = self.app.rollouts.values().filter(here).collect();
        rollouts.sort_by_key(|rollout| domain::app::number(&rollout.id));
        let view = |rollout: &&Rollout| RolloutView::of(self.app, &self.notes, rollout, self.now);
        let waits = |rollout: &&&Rollout| !rollout.ended() && !rollout.under_way();
        EnvironmentView {
            name: name.clone(),
            url: url(&host, secure),
            // No certificate is asked for its name.
            preview_url: url(&domain::app::preview_host(&host), false),
            certificate: certificate.cloned(),
            engine: self.config(state).map(|environment| environment.engine),
            host,
            live: state.live,
            stale: self.stale.get(name).cloned(),
            slots: self.slots(state, snapshot),
            backing: self.backing(name, snapshot),
            under_way: rollouts.iter().find(|rollout| rollout.under_way()).map(view),
            waiting: rollouts.iter().filter(waits).map(view).collect(),
            last: rollouts.iter().rev().find(|rollout| rollout.ended()).map(view),
            rollback: RollbackView::of(self.app, state),
            going_down: state.going_down.is_some(),
            note: super::note_in(&self.notes, name),
        }
    }

    /// As the live release says, or else the newest project.
    fn host(&self, state: &EnvironmentState) -> String {
        self.config(state).map_or(String::new(), |environment| environment.host.clone())
    }

    fn config(&self, state: &EnvironmentState) -> Option<&Environment> {
        let live = state.live_release().and_then(|live| self.app.projects.get(live));
        let newest = self.app.projects.iter().max_by_key(|(id, _)| domain::app::number(*id));
        let project = live.or(newest.map(|(_, project)| project));
        project.and_then(|project| project.environment(&state.name))
    }

    /// What was built of the release for containers, if it runs there as such.
    fn images(
        &self,
        state: &EnvironmentState,
        release: &ReleaseId,
    ) -> BTreeMap<ServiceName, ArtifactRef> {
        let project = self.app.projects.get(release);
        let environment = project.and_then(|project| project.environment(&state.name));
        let contained = environment.is_some_and(|e| e.engine == EngineKind::Docker);
        let release = self.app.releases.get(release).filter(|_| contained);
        release.map(|release| release.images.clone()).unwrap_or_default()
    }

    /// What shall run, and what really runs: a candidate that is not ready yet is only in the snapshot.
    fn slots(&self, state: &EnvironmentState, snapshot: Option<&Snapshot>) -> Vec<SlotView> {
        let both = [Color::Blue, Color::Green];
        both.into_iter().filter_map(|color| self.slot(state, color, snapshot)).collect()
    }

    fn slot(
        &self,
        state: &EnvironmentState,
        color: Color,
        snapshot: Option<&Snapshot>,
    ) -> Option<SlotView> {
        let wanted = state.slots.get(&color);
        let seen = snapshot.and_then(|snapshot| snapshot.slots.get(&color));
        let release = wanted.map(|slot| &slot.release).or(seen.map(|slot| &slot.release))?;
        let replicas = seen.into_iter().flat_map(|slot| &slot.services).flat_map(|(name, all)| {
            all.iter().map(|replica| self.replica(&state.name, color, name, replica))
        });
        let live = state.live == Some(color);
        Some(SlotView {
            color,
            live,
            release: ReleaseView::of(self.app, release),
            since: live.then(|| self.live_since(state, color, release)).flatten(),
            leaving: wanted.is_some_and(|slot| slot.leaving),
            expires: wanted.and_then(|slot| slot.expires),
            ready: seen.is_some_and(domain::slot::SlotStatus::ready),
            images: self.images(state, release),
            replicas: replicas.collect(),
            traffic: self.traffic(&state.name, color, release),
        })
    }

    fn traffic(
        &self,
        environment: &EnvironmentName,
        slot: Color,
        release: &ReleaseId,
    ) -> BTreeMap<ServiceName, TrafficView> {
        let facts = self.answer.iter().flat_map(|answer| &answer.facts);
        let here = facts.filter(|(key, _)| {
            key.environment == *environment && key.slot == slot && key.release == *release
        });
        let view = |(key, facts): &(FactsKey, Facts)| {
            (key.service.clone(), TrafficView::of(facts, self.failed.get(key).copied()))
        };
        here.map(view).collect()
    }

    fn live_since(
        &self,
        state: &EnvironmentState,
        color: Color,
        release: &ReleaseId,
    ) -> Option<Timestamp> {
        let here = self.app.rollouts.values().filter(|r| r.environment == state.name);
        let there = here.flat_map(|rollout| rollout.switches.iter().map(move |s| (rollout, s)));
        let to = there.filter(|(rollout, switch)| {
            // A switch back is to the release that was live before the rollout.
            switch.to == color && (rollout.release == *release || rollout.previous == Some(color))
        });
        to.map(|(_, switch)| switch.published.unwrap_or(switch.decided)).max()
    }

    fn replica(
        &self,
        environment: &EnvironmentName,
        slot: Color,
        service: &ServiceName,
        replica: &ReplicaStatus,
    ) -> ReplicaView {
        let source = LogSource::Replica { slot, service: service.clone(), index: replica.index };
        let ejected = self.answer.iter().flat_map(|answer| &answer.ejected).find(|(key, at, _)| {
            key.environment == *environment && key.slot == slot && *at == replica.endpoint
        });
        let (state, problem) = state_of(&replica.state);
        ReplicaView {
            service: service.clone(),
            index: replica.index,
            state: state.into(),
            problem,
            endpoint: replica.endpoint.clone(),
            restarts: replica.restarts,
            pid: replica.pid,
            shim_pid: self.shim(environment, &source),
            ejected: ejected.map(|(.., why)| why.clone()),
            ends: replica.ends.clone(),
            usage: self.usage(environment, &source, replica.pid),
        }
    }

    fn backing(&self, name: &EnvironmentName, snapshot: Option<&Snapshot>) -> Vec<BackingView> {
        let all = snapshot.into_iter().flat_map(|snapshot| &snapshot.backing);
        all.map(|(service, status)| {
            let source = LogSource::Backing { service: service.clone() };
            BackingView {
                service: service.clone(),
                address: status.address,
                ready: status.ready,
                problem: status.problem.clone(),
                restarts: status.restarts,
                pid: status.pid,
                shim_pid: self.shim(name, &source),
                usage: self.usage(name, &source, status.pid),
            }
        })
        .collect()
    }

    /// Of this very process: what the one before it used says nothing.
    fn usage(
        &self,
        environment: &EnvironmentName,
        source: &LogSource,
        pid: Option<u32>,
    ) -> Option<UsageView> {
        let of = |all: &Measured| all.source == *source && Some(all.pid) == pid;
        let measured = self.usage.get(environment)?.iter().find(|all| of(all))?;
        Some(measured.usage.clone())
    }

    fn shim(&self, environment: &EnvironmentName, source: &LogSource) -> Option<u32> {
        let unit = self.units.get(environment)?.iter().find(|unit| unit.source == *source)?;
        let shim = unit.status.as_ref()?.shim;
        shim.alive().then_some(shim.pid)
    }
}

/// The newest run of each branch, if it is over and made nothing. `only` one that this environment follows.
fn refused<'a>(
    app: &'a App,
    only: Option<&EnvironmentName>,
) -> impl Iterator<Item = &'a Run> + use<'a> {
    use domain::app::number;
    use domain::pipeline::RunPhase;
    let newest = app.projects.iter().max_by_key(|(id, _)| number(*id));
    let follows = |name| newest?.1.environment(name)?.branch.as_deref();
    let wanted = only.map(follows);
    let mut of_branch: BTreeMap<&str, &Run> = BTreeMap::new();
    for run in app.runs.values() {
        let Some(branch) = run.branch.as_deref() else { continue };
        if wanted.is_some_and(|wanted| wanted != Some(branch)) {
            continue;
        }
        let known = of_branch.entry(branch).or_insert(run);
        if number(&run.id) > number(&known.id) {
            *known = run;
        }
    }
    let failed = |run: &&Run| matches!(run.phase, RunPhase::Invalid { .. } | RunPhase::Red { .. });
    // Somebody may have asked for it again.
    let again = |run: &&Run| {
        let later = |other: &Run| number(&other.id) > number(&run.id);
        app.runs.values().any(|other| other.commit == run.commit && later(other))
    };
    of_branch.into_values().filter(failed).filter(move |run| !again(run))
}

fn state_of(state: &ReplicaState) -> (&'static str, Option<String>) {
    match state {
        ReplicaState::Ready => ("ready", None),
        ReplicaState::Starting { transcript } => {
            ("starting", transcript.last().map(|probe| probe.answer.clone()))
        }
        ReplicaState::Unready { transcript } => {
            ("unready", transcript.last().map(|probe| probe.answer.clone()))
        }
        ReplicaState::Exited { exit, tail } => {
            let last = tail.iter().rev().find(|line| !line.trim().is_empty());
            let said = last.map_or(String::new(), |line| format!("; it last said: {line}"));
            ("ended", Some(format!("{exit}{said}")))
        }
    }
}

impl RolloutView {
    /// As it stands.
    pub fn of(
        app: &App,
        notes: &HashMap<Action, String>,
        rollout: &Rollout,
        now: Timestamp,
    ) -> Self {
        let approval = matches!(rollout.phase, Phase::AwaitingApproval { .. });
        Self {
            id: rollout.id.clone(),
            environment: rollout.environment.clone(),
            kind: rollout.kind,
            release: ReleaseView::of(app, &rollout.release),
            by: rollout.by.to_string(),
            phase: rollout.phase.name().into(),
            created: rollout.created,
            since: rollout.since,
            end: match &rollout.phase {
                Phase::Ended { end } => Some(end.to_string()),
                Phase::Live => {
                    let caveat = rollout.caveat().map(|caveat| format!("; {caveat}"));
                    Some(format!("went live{}", caveat.unwrap_or_default()))
                }
                _ => None,
            },
            unjudged: rollout.unjudged,
            hold: app.hold(rollout, now),
            note: super::note_of(notes, rollout).filter(|_| rollout.under_way()),
            command: approval.then(|| super::approval_command(rollout)),
        }
    }
}

impl RunView {
    /// As it stands.
    pub fn of(app: &App, run: &Run) -> Self {
        use domain::pipeline::RunPhase;
        let (ended, problem) = match &run.phase {
            RunPhase::Planning | RunPhase::Running => (None, None),
            RunPhase::Green { at } => (Some(*at), None),
            RunPhase::Red { at, stage } => (Some(*at), Some(red(run, *stage))),
            RunPhase::Aborted { at, by } => (Some(*at), Some(format!("by {by}"))),
            RunPhase::Invalid { at, mistakes } => (Some(*at), mistakes.first().cloned()),
        };
        let release = app.releases.values().find(|release| release.run == run.id);
        Self {
            id: run.id.clone(),
            commit: run.commit.clone(),
            subject: run.plan.as_ref().map(|plan| plan.commit.subject.clone()),
            branch: run.branch.clone(),
            by: run.by.to_string(),
            created: run.created,
            ended,
            phase: run.phase.name().into(),
            release: release.map(|release| release.id.clone()),
            deploy_to: run.deploy_to.clone(),
            hold: app.run_hold(run),
            problem,
        }
    }
}

/// The first failure of the stage that stopped the run.
fn red(run: &Run, stage: domain::pipeline::Stage) -> String {
    use domain::pipeline::Outcome;
    let steps = run.plan.iter().flat_map(|plan| &plan.steps);
    let failed = steps.filter(|step| step.planned.stage == stage).find_map(|step| {
        let result = step.result().filter(|result| result.outcome != Outcome::Passed)?;
        let cause = result.cause.clone().unwrap_or_else(|| format!("{:?}", result.outcome));
        Some(format!("{stage}/{}: {cause}", step.planned.name))
    });
    failed.unwrap_or_else(|| format!("stage {stage}"))
}

#[cfg(test)]
mod tests {
    use domain::pipeline::{RunPhase, Stage};

    use super::*;

    fn run(number: u64, commit: char, branch: Option<&str>, phase: RunPhase) -> Run {
        Run {
            id: format!("run-{number}").parse().unwrap(),
            commit: CommitId::new(commit.to_string().repeat(40)).unwrap(),
            branch: branch.map(str::to_owned),
            deploy_to: None,
            by: domain::Identity::new("ada").unwrap(),
            created: Timestamp::from_millis(0),
            phase,
            plan: None,
            cleaned: true,
        }
    }

    #[test]
    fn a_refused_commit_is_told_until_its_branch_goes_on() {
        let at = Timestamp::from_millis(0);
        let invalid = || RunPhase::Invalid { at, mistakes: vec!["line 3: no".into()] };
        let red = || RunPhase::Red { at, stage: Stage::Test };
        let (main, other) = (Some("main"), Some("other"));
        let mut app = App::default();
        let mut after = |run: Run| {
            app.runs.insert(run.id.clone(), run);
            refused(&app, None).map(|run| run.id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(after(run(1, 'a', main, RunPhase::Green { at })), Vec::<String>::new());
        assert_eq!(after(run(2, 'b', main, invalid())), ["run-2"]);
        assert_eq!(after(run(3, 'c', other, red())), ["run-2", "run-3"]);
        assert_eq!(after(run(4, 'd', None, invalid())), ["run-2", "run-3"], "told to who asked");
        assert_eq!(after(run(5, 'c', None, RunPhase::Running)), ["run-2"], "it is tried again");
        assert_eq!(after(run(10, 'e', main, RunPhase::Running)), Vec::<String>::new());
    }
}
