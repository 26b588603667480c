//! Random histories of a whole application against a model of the world it acts on.
//!
//! The world in the test does what actions say (or fails, or crashes in between), people ask for
//! anything at any time, and after each event the model checks what must never be.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use domain::app::{Action, App, EnvironmentEvent, Event};
use domain::pipeline::{Outcome, RunAction, RunEvent};
use domain::rollout::{Evidence, Phase, RolloutEvent};
use domain::route::Table;
use domain::slot::Endpoint;
use domain::{Color, EnvironmentName, Epoch, Identity, ReleaseId, RolloutId, Timestamp};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use support::{commit, environment_name, project, service_name, step_result};

/// What really runs and what the edge really routes, whatever the application believes.
#[derive(Default)]
struct World {
    edge: Table,
    /// Slots with ready replicas.
    ready: BTreeMap<(EnvironmentName, Color), ReleaseId>,
    /// Environments that somebody asked to take down.
    down: Vec<EnvironmentName>,
    migrated: BTreeMap<RolloutId, u32>,
}

struct History {
    app: App,
    world: World,
    log: Vec<(Timestamp, Event)>,
    now: Timestamp,
    commits: u64,
}

impl History {
    fn new() -> Self {
        Self {
            app: App::default(),
            world: World::default(),
            log: Vec::new(),
            now: Timestamp::from_millis(1_700_000_000_000),
            commits: 0,
        }
    }

    /// Offers an event; a refused one must change nothing.
    fn offer(&mut self, event: Event) -> bool {
        let mut next = self.app.clone();
        let before = self.app.pending();
        match next.step(&event, self.now) {
            Err(_) => {
                assert_eq!(next, self.app, "a refused event changed the state: {event:?}");
                false
            }
            Ok(fresh) => {
                let after = next.pending();
                assert!(fresh.iter().all(|a| after.contains(a) && !before.contains(a)));
                self.app = next;
                self.log.push((self.now, event));
                self.check();
                true
            }
        }
    }

    fn check(&self) {
        let names = self.app.environments.keys();
        for name in names {
            let active = self.app.rollouts.values().filter(|r| r.environment == *name);
            let under_way: Vec<_> = active.filter(|r| r.under_way()).collect();
            assert!(under_way.len() <= 1, "two rollouts hold {name}: {under_way:?}");
        }
        for rollout in self.app.rollouts.values() {
            let waits = matches!(rollout.phase, Phase::AwaitingApproval { .. });
            let gate = rollout.gates.approval.as_ref();
            if let Some(gate) =
                gate.filter(|_| !waits && (rollout.under_way() || rollout.phase == Phase::Live))
            {
                let (by, at) =
                    rollout.approved.as_ref().expect("got past its approval without one");
                assert!(gate.from.iter().any(|f| f == by.as_str()) || by.as_str() == "lin");
                assert_ne!(by.as_str(), "ada", "the author approved it");
                assert!(*at < rollout.created + gate.expires, "a lost approval was used");
            }
        }
        for action in self.app.pending() {
            if let Action::Remove { environment, slot, .. } = &action {
                let routed = self.world.edge.environments.get(environment);
                let routed = routed.is_some_and(|routes| routes.slots.contains_key(slot));
                assert!(!routed, "{action:?}, and the edge still routes there");
            }
        }
    }

    /// What the edge routes must be ready, and what was live stays live.
    fn publish(&mut self, table: Table) {
        assert!(table.epoch >= self.world.edge.epoch, "a stale table was published");
        for (name, routes) in &self.world.edge.environments {
            let was_live = routes.slots.contains_key(&routes.live);
            let now_live =
                table.environments.get(name).is_some_and(|r| r.slots.contains_key(&r.live));
            assert!(
                !was_live || now_live || self.world.down.contains(name),
                "{name} lost its live slot"
            );
        }
        for (name, routes) in &table.environments {
            for (slot, to) in &routes.slots {
                let ready = self.world.ready.get(&(name.clone(), *slot));
                assert_eq!(ready, Some(&to.release), "{name} {slot} is routed and not ready");
            }
        }
        self.world.edge = table;
    }

    /// Performs an action; `luck` decides how it goes.
    fn perform(&mut self, action: &Action, luck: u8) {
        let fails = luck.is_multiple_of(5);
        let event = match action {
            Action::Run { run, action } => {
                let event = self.run_event(run, action, fails);
                Event::Run { run: run.clone(), event }
            }
            Action::Publish { epoch } => {
                self.publish(self.app.table.clone());
                // A crash between the edge's answer and the log.
                if fails {
                    return;
                }
                Event::Published { epoch: *epoch }
            }
            Action::Prepare { rollout } => self.result(rollout, fails, RolloutEvent::Prepared),
            Action::Migrate { rollout } => {
                *self.world.migrated.entry(rollout.clone()).or_default() += 1;
                self.result(rollout, fails, RolloutEvent::Migrated { notes: vec![] })
            }
            Action::Start { rollout, slot } => self.start(rollout, *slot, fails),
            Action::Check { rollout, check } => {
                let passed = RolloutEvent::CheckPassed { check: *check, notes: vec![] };
                self.result(rollout, fails, passed)
            }
            Action::Watch { rollout } => {
                let event = if fails {
                    RolloutEvent::Breached { evidence: Evidence::of("errors"), last_request: None }
                } else {
                    RolloutEvent::Baked { notes: vec![], unjudged: false }
                };
                Event::Rollout { rollout: rollout.clone(), event }
            }
            Action::Drain { rollout, .. } => Event::Rollout {
                rollout: rollout.clone(),
                event: RolloutEvent::Drained { last_request: Some(self.now) },
            },
            Action::Remove { environment, slot, .. } => {
                self.world.ready.remove(&(environment.clone(), *slot));
                let event = EnvironmentEvent::Removed { slot: *slot, last_request: None };
                Event::Environment { environment: environment.clone(), event }
            }
            Action::TakeDown { environment, .. } => {
                self.world.ready.retain(|(name, _), _| name != environment);
                let event = EnvironmentEvent::WentDown;
                Event::Environment { environment: environment.clone(), event }
            }
        };
        let accepted = self.offer(event.clone());
        assert!(accepted, "the result of {action:?} was refused: {event:?}");
    }

    fn run_event(&mut self, run: &domain::RunId, action: &RunAction, fails: bool) -> RunEvent {
        match action {
            RunAction::Plan if fails => RunEvent::Refused { mistakes: vec!["x:1:1: no".into()] },
            RunAction::Plan => {
                let id = self.app.runs[run].commit.clone();
                let commit = domain::release::Commit { id, ..commit(0) };
                RunEvent::Planned { commit, project: project() }
            }
            RunAction::CleanUp => RunEvent::CleanedUp,
            RunAction::Step(step) => {
                let outcome = if fails { Outcome::Failed } else { Outcome::Passed };
                RunEvent::StepFinished {
                    step: step.clone(),
                    result: Box::new(step_result(outcome)),
                }
            }
        }
    }

    fn result(&self, rollout: &RolloutId, fails: bool, good: RolloutEvent) -> Event {
        let bad = RolloutEvent::EffectFailed { evidence: Evidence::of("bad luck") };
        Event::Rollout { rollout: rollout.clone(), event: if fails { bad } else { good } }
    }

    fn start(&mut self, id: &RolloutId, slot: Color, fails: bool) -> Event {
        let rollout = &self.app.rollouts[id];
        let key = (rollout.environment.clone(), slot);
        if fails {
            // Whatever was there is not ready any more, unless the edge was never told to leave it.
            if self.world.ready.get(&key) != Some(&rollout.release) {
                self.world.ready.remove(&key);
            }
            return self.result(id, true, RolloutEvent::Prepared);
        }
        self.world.ready.insert(key, rollout.release.clone());
        let endpoint = Endpoint::Http("127.0.0.1:4000".parse().unwrap());
        let endpoints = BTreeMap::from([(service_name("web"), vec![endpoint])]);
        self.result(id, false, RolloutEvent::Started { endpoints })
    }

    /// Somebody asks for something, sensible or not.
    fn ask(&mut self, what: u8, pick: u8) {
        let environment = environment_name(["staging", "production"][usize::from(pick % 2)]);
        let by = identity(["ada", "grace", "lin", "eve"][usize::from(pick / 2 % 4)]);
        let groups = if by.as_str() == "lin" { vec!["managers".into()] } else { vec![] };
        let rollout = self.any_rollout(pick);
        let release = ReleaseId::nth(u64::from(pick % 8) + 1);
        let slot = if pick.is_multiple_of(2) { Color::Blue } else { Color::Green };
        let event = match what % 12 {
            0..=2 => {
                self.commits += 1;
                Event::RunRequested {
                    commit: commit(self.commits).id,
                    branch: (!pick.is_multiple_of(3)).then(|| "develop".into()),
                    deploy_to: None,
                    by,
                }
            }
            3 => Event::DeployRequested { environment, release, by },
            4 => Event::RollbackRequested { environment, by },
            5 | 6 => Event::Rollout { rollout, event: RolloutEvent::Approved { by, groups } },
            7 => {
                let reason = "not today".into();
                Event::Rollout { rollout, event: RolloutEvent::Rejected { by, groups, reason } }
            }
            8 => Event::Rollout { rollout, event: RolloutEvent::Aborted { by } },
            9 => Event::Published { epoch: Epoch(u64::from(pick)) },
            10 if pick.is_multiple_of(4) => {
                let event = EnvironmentEvent::DownRequested { by, with_data: pick > 128 };
                self.world.down.push(environment.clone());
                Event::Environment { environment, event }
            }
            10 => {
                let event = EnvironmentEvent::Removed { slot, last_request: None };
                Event::Environment { environment, event }
            }
            _ => Event::Rollout { rollout, event: unexpected(pick) },
        };
        // An epoch that was never published must not be believed: only the edge's own answer counts.
        if matches!(event, Event::Published { epoch } if epoch == self.app.table.epoch) {
            return;
        }
        if matches!(&event, Event::Environment { event: EnvironmentEvent::Removed { .. }, .. })
            || matches!(&event, Event::Rollout { event: RolloutEvent::Started { .. }, .. })
        {
            let mut copy = self.app.clone();
            // Results that no action asked for are refused, unless that action is pending now.
            if copy.step(&event, self.now).is_ok() {
                return;
            }
        }
        self.offer(event);
    }

    fn any_rollout(&self, pick: u8) -> RolloutId {
        let ids: Vec<_> = self.app.rollouts.keys().collect();
        match ids.len() {
            0 => RolloutId::nth(1),
            n => ids[usize::from(pick) % n].clone(),
        }
    }

    fn pass_time(&mut self, pick: u8) {
        self.now = self.now + Duration::from_millis(u64::from(pick).pow(3) / 4);
        // Now and then something else happens between a deadline and its timer.
        let late = pick.is_multiple_of(3);
        if !late && self.app.deadline().is_some_and(|at| at <= self.now) {
            assert!(self.offer(Event::Timer), "a deadline came and the timer was refused");
        }
    }

    /// With good luck from here on everything ends; nothing waits for ever.
    fn run_out(&mut self) {
        for _ in 0..2_000 {
            self.now = self.now + Duration::from_millis(1);
            let Some(action) = self.app.pending().into_iter().next() else { break };
            self.perform(&action, 1);
        }
        assert_eq!(self.app.pending(), vec![], "something is never done");
        for rollout in self.app.rollouts.values() {
            let waits = matches!(rollout.phase, Phase::AwaitingApproval { .. });
            assert!(rollout.ended() || waits, "{rollout:?} is stuck");
        }
    }
}

fn identity(name: &str) -> Identity {
    Identity::new(name).unwrap()
}

fn unexpected(pick: u8) -> RolloutEvent {
    match pick % 5 {
        0 => RolloutEvent::Prepared,
        1 => RolloutEvent::Started { endpoints: BTreeMap::new() },
        2 => RolloutEvent::CheckPassed { check: usize::from(pick), notes: vec![] },
        3 => RolloutEvent::Started { endpoints: BTreeMap::from([(service_name("web"), vec![])]) },
        _ => RolloutEvent::Drained { last_request: None },
    }
}

fn play(choices: &[(u8, u8, u8)]) -> History {
    let mut history = History::new();
    for (kind, what, pick) in choices {
        history.now = history.now + Duration::from_millis(u64::from(*pick));
        match kind % 16 {
            0..=10 => {
                let pending = history.app.pending();
                if pending.is_empty() {
                    history.ask(*what, *pick);
                } else {
                    let action = pending[usize::from(*what) % pending.len()].clone();
                    history.perform(&action, *pick);
                }
            }
            11..=13 => history.ask(*what, *pick),
            14 => history.pass_time(*pick),
            _ => {
                let again = App::replay(&history.log).expect("the log replays");
                assert_eq!(again, history.app, "replay gives another state");
            }
        }
    }
    history
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_history_breaks_a_rule_and_every_one_can_end(
        choices in prop::collection::vec(any::<(u8, u8, u8)>(), 1..100),
    ) {
        let mut history = play(&choices);
        history.run_out();
        let again = App::replay(&history.log).expect("the log replays");
        prop_assert_eq!(again, history.app);
    }
}

#[test]
fn histories_reach_the_interesting_places() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = prop::collection::vec(any::<(u8, u8, u8)>(), 300..301);
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..150 {
        let choices = strategy.new_tree(&mut runner).unwrap().current();
        for rollout in play(&choices).app.rollouts.values() {
            *seen.entry(rollout.phase.name()).or_default() += 1;
        }
    }
    for phase in ["live", "failed", "rolled back", "aborted", "rejected", "superseded", "stranded"]
    {
        assert!(seen.contains_key(phase), "no history came to `{phase}`: {seen:?}");
    }
}
