//! What is built of a project follows from the engines of its environments.

#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use domain::config::{EngineKind, Project};
use domain::pipeline::{Stage, Task, plan};

fn images(engines: &[EngineKind]) -> Vec<(String, bool)> {
    let mut project: Project = (*support::project()).clone();
    project.environments.truncate(engines.len());
    for (environment, engine) in project.environments.iter_mut().zip(engines) {
        environment.engine = *engine;
    }
    let steps = plan(&project).into_iter().filter(|step| step.stage == Stage::Images);
    steps.map(|s| (s.name.to_string(), matches!(s.task, Task::Container(_)))).collect()
}

#[test]
fn environments_of_one_engine_need_one_artifact_of_each_service() {
    for (engine, container) in [(EngineKind::Process, false), (EngineKind::Docker, true)] {
        let steps = images(&[engine, engine]);
        assert!(!steps.is_empty());
        assert!(steps.iter().all(|(name, is)| name.starts_with("image ") && *is == container));
    }
}

#[test]
fn a_mixed_road_needs_both_under_names_of_their_own() {
    let steps = images(&[EngineKind::Process, EngineKind::Docker]);
    let (trees, containers): (Vec<_>, Vec<_>) = steps.iter().partition(|(_, is)| !is);
    assert_eq!(trees.len(), containers.len());
    assert!(trees.iter().all(|(name, _)| name.starts_with("image ")));
    assert!(containers.iter().all(|(name, _)| name.starts_with("container ")));
}

#[test]
fn tests_run_on_what_the_road_ends_in() {
    let mut project = (*support::project()).clone();
    project.environments.truncate(2);
    project.environments[0].engine = EngineKind::Process;
    project.environments[1].engine = EngineKind::Docker;
    assert_eq!(project.tested_on(), EngineKind::Docker);
}
