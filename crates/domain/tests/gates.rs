//! A commit cannot remove the gates that it has to pass, and who waits at one is told for what and how long.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use domain::app::{Action, App, EnvironmentEvent, Event};
use domain::config::{EngineKind, Environment, Native, Project, ServiceKind};
use domain::pipeline::{Outcome, RunAction, RunEvent};
use domain::rollout::{Gates, Phase, Rollout, RolloutEvent};
use domain::slot::{Endpoint, Launch};
use domain::{Identity, ReleaseId, RolloutId, Timestamp};
use support::{commit, environment_name, project, service_name, step_result};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

#[test]
fn a_commit_that_drops_approval_bake_and_after_still_has_to_pass_them() {
    let mut app = App::default();
    build(&mut app, 1, project(), Some("develop"));
    all_goes_well(&mut app);
    assert!(app.environments[&environment_name("production")].live.is_some());

    let mut bare = Project::clone(&project());
    for environment in &mut bare.environments {
        environment.branch = None;
        environment.after = None;
        environment.approval = None;
        environment.bake = None;
    }
    build(&mut app, 2, Arc::new(bare), None);
    let refused = app.step(&deploy("production", 2), NOW).unwrap_err();
    assert!(refused.gate && refused.reason.contains("was not good in staging"), "{refused}");

    app.step(&deploy("staging", 2), NOW).unwrap();
    all_goes_well(&mut app);
    app.step(&deploy("production", 2), NOW).unwrap();
    let rollout = app.rollouts.values().max_by_key(|r| domain::app::number(&r.id)).unwrap();
    assert!(matches!(rollout.phase, Phase::AwaitingApproval { .. }), "{:?}", rollout.phase);
    assert_eq!(rollout.gates.bake, project().environments[1].bake);
}

#[test]
fn the_old_slot_has_its_drain_and_the_spread_over_which_the_rest_is_closed() {
    let (project, mut spread) = (project(), 0);
    for environment in &project.environments {
        let gates = Gates::for_rollback(&project, environment);
        assert_eq!(gates.drain, environment.drain + environment.spread);
        spread += environment.spread.as_millis();
    }
    assert!(spread > 0, "nothing was tested");
}

#[test]
fn static_files_do_not_lengthen_the_time_that_others_have_to_start() {
    let mut project = Project::clone(&project());
    let environment = project.environments[0].clone();
    let limit = Gates::for_rollback(&project, &environment).start_limit;
    let mut files = project.services.values().next().unwrap().clone();
    let ServiceKind::Built(built) = &mut files.kind else { panic!("it is not built") };
    built.native = Some(Native { setup: None, launch: Launch::Static("dist".into()) });
    built.health.start_deadline = 2 * limit;
    project.services.insert(service_name("site"), files);
    assert_eq!(Gates::for_rollback(&project, &environment).start_limit, limit);
    let contained = Environment { engine: EngineKind::Docker, ..environment };
    assert_eq!(Gates::for_rollback(&project, &contained).start_limit, 2 * limit);
}

#[test]
fn a_start_is_said_to_last_for_the_configured_limit_and_for_the_margin_only_after_it() {
    let mut app = App::default();
    let rollout = until(&mut app, "staging", |phase| *phase == Phase::Starting);
    let limit = NOW + rollout.gates.start_limit;
    let until = |now| app.hold(&rollout, now).unwrap().until.unwrap();
    assert_eq!(until(NOW), limit);
    let late = until(limit);
    assert!(late > limit, "{late}");
    assert_eq!(app.deadline(), Some(late), "that is when it is given up");
}

#[test]
fn who_waits_behind_a_rollout_is_told_for_which_and_how_to_end_it() {
    let mut app = App::default();
    until(&mut app, "staging", |phase| *phase == Phase::Starting);
    let waits = |app: &App| {
        let queued = app.rollouts.values().find(|r| r.phase == Phase::Queued).unwrap();
        app.hold(queued, NOW).unwrap().to_string()
    };
    app.step(&deploy("staging", 1), NOW).unwrap();
    assert_eq!(waits(&app), "ro-1 (r1, starting) to end; `launchway abort ro-1` stops it");
    app.step(&abort(&RolloutId::nth(1)), NOW).unwrap();
    assert_eq!(waits(&app), "ro-1 (r1, discarding) to end");
}

#[test]
fn a_way_out_is_named_exactly_as_long_as_it_is_taken() {
    let mut app = App::default();
    build(&mut app, 1, project(), Some("develop"));
    begin(&mut app, 2, project(), Some("develop"));
    let mut phases = BTreeSet::new();
    let mut look = |app: &App| {
        for (id, rollout) in &app.rollouts {
            phases.insert(rollout.phase.name());
            let taken = app.clone().step(&abort(id), NOW).is_ok();
            assert_eq!(rollout.way_out().is_some(), taken, "{}", rollout.phase.name());
        }
    };
    let mut back = None;
    loop {
        look(&app);
        let bakes = |r: &&Rollout| matches!(r.phase, Phase::Baking { .. }) && r.previous.is_some();
        if back.is_none()
            && let Some(rollout) = app.rollouts.values().find(bakes)
        {
            let mut aborted = app.clone();
            aborted.step(&abort(&rollout.id), NOW).unwrap();
            back = Some(aborted);
        }
        if !goes_on(&mut app) {
            break;
        }
    }
    let mut back = back.expect("something baked");
    while goes_on(&mut back) {
        look(&back);
    }
    for phase in ["awaiting approval", "starting", "baking", "draining", "discarding", "live"] {
        assert!(phases.contains(phase), "{phase} was not seen: {phases:?}");
    }
}

fn deploy(environment: &str, release: u64) -> Event {
    Event::DeployRequested {
        environment: environment_name(environment),
        release: ReleaseId::nth(release),
        by: Identity::new("eve").unwrap(),
    }
}

fn abort(id: &RolloutId) -> Event {
    let event = RolloutEvent::Aborted { by: Identity::new("eve").unwrap() };
    Event::Rollout { rollout: id.clone(), event }
}

fn build(app: &mut App, n: u64, project: Arc<Project>, branch: Option<&str>) {
    begin(app, n, project, branch);
    all_goes_well(app);
}

fn begin(app: &mut App, n: u64, project: Arc<Project>, branch: Option<&str>) {
    let run = app.next_run_id();
    let requested = Event::RunRequested {
        commit: commit(n).id,
        branch: branch.map(Into::into),
        deploy_to: None,
        by: Identity::new("ada").unwrap(),
    };
    app.step(&requested, NOW).unwrap();
    let event = RunEvent::Planned { commit: commit(n), project };
    app.step(&Event::Run { run, event }, NOW).unwrap();
}

/// Performs what is pending, with good luck, and approves what waits, until nothing is left to do.
fn all_goes_well(app: &mut App) {
    while goes_on(app) {}
}

/// The first rollout in an environment, as soon as it is in such a phase.
fn until(app: &mut App, environment: &str, wanted: impl Fn(&Phase) -> bool) -> Rollout {
    begin(app, 1, project(), Some("develop"));
    loop {
        let here = |r: &&Rollout| r.environment == environment_name(environment);
        let found = app.rollouts.values().find(here).filter(|r| wanted(&r.phase));
        if let Some(rollout) = found {
            return rollout.clone();
        }
        assert!(goes_on(app), "it was never there");
    }
}

/// The next thing that is pending happens; says whether there was one.
fn goes_on(app: &mut App) -> bool {
    let waiting = app.rollouts.values().find(|r| matches!(r.phase, Phase::AwaitingApproval { .. }));
    let event = match (app.pending().first(), waiting) {
        (Some(action), _) => result(action),
        (None, Some(rollout)) => {
            let by = Identity::new("grace").unwrap();
            let event = RolloutEvent::Approved { by, groups: vec![] };
            Event::Rollout { rollout: rollout.id.clone(), event }
        }
        (None, None) => return false,
    };
    app.step(&event, NOW).unwrap();
    true
}

fn result(action: &Action) -> Event {
    let rollout =
        |rollout: &domain::RolloutId, event| Event::Rollout { rollout: rollout.clone(), event };
    match action {
        Action::Run { run, action } => {
            let event = match action {
                RunAction::Step(step) => RunEvent::StepFinished {
                    step: step.clone(),
                    result: Box::new(step_result(Outcome::Passed)),
                },
                RunAction::CleanUp => RunEvent::CleanedUp,
                RunAction::Plan => unreachable!("planned when built"),
            };
            Event::Run { run: run.clone(), event }
        }
        Action::Publish { epoch } => Event::Published { epoch: *epoch },
        Action::Prepare { rollout: id } => rollout(id, RolloutEvent::Prepared),
        Action::Migrate { rollout: id } => rollout(id, RolloutEvent::Migrated { notes: vec![] }),
        Action::Start { rollout: id, .. } => {
            let endpoint = Endpoint::Http("127.0.0.1:4000".parse().unwrap());
            let endpoints = [(service_name("web"), vec![endpoint])].into();
            rollout(id, RolloutEvent::Started { endpoints })
        }
        Action::Check { rollout: id, check } => {
            rollout(id, RolloutEvent::CheckPassed { check: *check, notes: vec![] })
        }
        Action::Watch { rollout: id } => {
            rollout(id, RolloutEvent::Baked { notes: vec![], unjudged: false })
        }
        Action::Drain { rollout: id, .. } => {
            rollout(id, RolloutEvent::Drained { last_request: None })
        }
        Action::Remove { environment, slot, .. } => {
            let event = EnvironmentEvent::Removed { slot: *slot, last_request: None };
            Event::Environment { environment: environment.clone(), event }
        }
        Action::TakeDown { environment, .. } => {
            let event = EnvironmentEvent::WentDown;
            Event::Environment { environment: environment.clone(), event }
        }
    }
}
