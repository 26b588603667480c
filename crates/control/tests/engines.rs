//! The process engine and Docker as one engine. Nothing here needs a Docker Engine: it is not asked.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use control::engines::Engines;
use domain::container::Container;
use domain::slot::{
    ArtifactRef, BackingSpec, Color, HealthCheck, Launch, Location, Probe, ServiceSpec, SlotSpec,
};
use domain::{AppName, Digest, EnvironmentName, ReleaseId, ServiceName};
use engine::process::{ProcessConfig, ProcessEngine, ShimCommand};
use engine::{DockerConfig, DockerEngine, Engine, LogSource};
use tempfile::TempDir;

/// Engines over a state folder, beside a Docker Engine that does not answer.
fn engines(folder: &TempDir) -> Engines {
    let state = folder.path().to_owned();
    let shim = ShimCommand { program: "/nonexistent".into(), args: Vec::new() };
    let process = ProcessEngine::new(ProcessConfig { state: state.clone(), shim, run_as: None });
    let socket = Some(folder.path().join("no.sock"));
    Engines::new(Arc::new(process), Arc::new(DockerEngine::connect(DockerConfig { state, socket })))
}

fn staging() -> EnvironmentName {
    EnvironmentName::new("staging").unwrap()
}

fn redis(container: Option<Container>) -> BackingSpec {
    BackingSpec {
        app: AppName::new("tea").unwrap(),
        environment: staging(),
        service: ServiceName::new("redis").unwrap(),
        image: "redis:7-alpine".into(),
        env: BTreeMap::new(),
        load: None,
        container: container.map(Box::new),
    }
}

fn slot() -> SlotSpec {
    let location = Location::Image { image: "tea/web:1".into(), pushed: None };
    let service = ServiceSpec {
        name: ServiceName::new("web").unwrap(),
        replicas: 1,
        artifact: ArtifactRef { digest: Digest::of("tea"), location },
        launch: Launch::Container(Box::default()),
        env: BTreeMap::new(),
        health: HealthCheck {
            probe: Probe::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            start_deadline: Duration::from_secs(1),
        },
        stop_grace: Duration::from_secs(1),
        after: Vec::new(),
    };
    SlotSpec {
        app: AppName::new("tea").unwrap(),
        environment: staging(),
        slot: Color::Blue,
        release: ReleaseId::nth(1),
        services: vec![service],
    }
}

#[tokio::test]
async fn data_does_not_move_to_another_engine_by_itself() {
    for (data, spec) in [
        ("environments/staging/data/redis", redis(Some(Container::default()))),
        ("docker/staging/backing", redis(None)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join(data)).unwrap();
        let refused = engines(&folder).back(&spec).await.unwrap_err().to_string();
        assert!(refused.contains("its data lies with them"), "{refused}");
        assert!(refused.contains("launchway down staging --with-data"), "{refused}");
    }
}

#[tokio::test]
async fn an_app_of_processes_needs_no_docker() {
    let folder = tempfile::tempdir().unwrap();
    let engines = engines(&folder);
    let environment = staging();
    assert_eq!(engines.observe(&environment).await.unwrap(), Default::default());
    engines.remove(&environment, Color::Blue).await.unwrap();
    engines.cancel(&environment, "job").await.unwrap();
    assert!(engines.usage(&environment).await.unwrap().is_empty());
    let source = LogSource::Backing { service: ServiceName::new("redis").unwrap() };
    let unknown = engines.logs(&environment, &source, 5).await.unwrap_err().to_string();
    assert!(!unknown.contains("Docker"), "{unknown}");
    engines.down(&environment, true).await.unwrap();
}

#[tokio::test]
async fn an_environment_of_containers_is_not_empty_because_docker_does_not_answer() {
    let folder = tempfile::tempdir().unwrap();
    let engines = engines(&folder);
    // It cannot be started; that it was asked for is remembered all the same.
    engines.apply(&slot()).await.unwrap_err();
    let error = engines.observe(&staging()).await.unwrap_err().to_string();
    assert!(error.contains("no Docker Engine answers"), "{error}");
}
