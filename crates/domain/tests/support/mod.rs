//! A project by hand, as the reader of configuration would make it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::config::*;
use domain::pipeline::{Outcome, StepResult};
use domain::release::Commit;
use domain::slot::{ArtifactRef, HealthCheck, Launch, Location, Probe};
use domain::units::{Percent, Rate};
use domain::{CommitId, Digest, EnvironmentName, ServiceName, StepName};

pub fn environment_name(text: &str) -> EnvironmentName {
    EnvironmentName::new(text).unwrap()
}

pub fn service_name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

pub fn step(name: &str) -> Step {
    Step {
        name: StepName::new(name).unwrap(),
        folder: String::new(),
        run: "true".into(),
        env: BTreeMap::new(),
        time_limit: Duration::from_secs(60),
        retries: 0,
        inputs: Vec::new(),
        junit: None,
        sarif: None,
        cyclonedx: None,
        with: Vec::new(),
    }
}

pub fn commit(n: u64) -> Commit {
    Commit {
        id: CommitId::new(format!("{n:040x}")).unwrap(),
        author: "Ada <ada@example.org>".into(),
        subject: format!("Change {n}"),
    }
}

pub fn step_result(outcome: Outcome) -> StepResult {
    StepResult {
        outcome,
        duration: Duration::from_secs(1),
        attempts: 1,
        flaky: false,
        reused: None,
        tests: None,
        findings: None,
        artifact: Some(ArtifactRef {
            digest: Digest::of("x"),
            location: Location::Folder("artifact".into()),
        }),
        cause: None,
        tail: vec![],
    }
}

fn environment(name: &str) -> Environment {
    Environment {
        name: environment_name(name),
        engine: EngineKind::Process,
        host: format!("{name}.tea.localhost"),
        names: Vec::new(),
        tls: None,
        branch: None,
        after: None,
        verify: Verify::default(),
        approval: None,
        bake: Some(Bake { duration: Duration::from_secs(5), errors: Percent(0.01), p99: None }),
        replicas: BTreeMap::new(),
        variables: BTreeMap::new(),
        load: BTreeMap::new(),
        drain: Duration::from_secs(10),
        spread: domain::route::close_spread(),
        keep: Duration::from_secs(600),
    }
}

fn web() -> Service {
    let built = Built {
        context: "web".into(),
        dockerfile: "Dockerfile".into(),
        options: BuildOptions::default(),
        health: HealthCheck {
            probe: Probe::Http("/health".into()),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            start_deadline: Duration::from_secs(30),
        },
        migrate: Some("./migrate".into()),
        native: Some(Native { setup: None, launch: Launch::Command("./serve".into()) }),
        replicas: 1,
        stop_grace: Duration::from_secs(5),
    };
    Service {
        kind: ServiceKind::Built(Box::new(built)),
        env: BTreeMap::new(),
        env_files: Vec::new(),
        depends_on: Vec::new(),
        template: ContainerTemplate::default(),
    }
}

/// staging follows `develop` and has two checks; production comes after it and wants an approval.
pub fn project() -> Arc<Project> {
    let performance = Performance {
        rate: Rate(10.0),
        duration: Duration::from_secs(5),
        paths: vec!["/".into()],
        p95: None,
        p99: None,
        errors: Percent(0.0),
        versus_live: None,
    };
    let staging = Environment {
        branch: Some("develop".into()),
        verify: Verify { e2e: vec![step("journey")], performance: Some(performance) },
        ..environment("staging")
    };
    let production = Environment {
        after: Some(environment_name("staging")),
        approval: Some(Approval {
            from: vec!["grace".into(), "managers".into(), "ada".into()],
            not_author: true,
            expires: Duration::from_secs(3600),
        }),
        ..environment("production")
    };
    Arc::new(Project {
        mixed_artifacts: false,
        registry: None,
        app: domain::AppName::new("tea").unwrap(),
        services: BTreeMap::from([(service_name("web"), web())]),
        routes: BTreeMap::from([(
            "/".into(),
            Target { service: service_name("web"), max_body: None },
        )]),
        build: Build {
            analyze: vec![step("lint"), step("types"), step("style")],
            test: vec![step("unit")],
            integrate: vec![step("api")],
            scan: Scan::Off,
            parallel: 2,
        },
        environments: vec![staging, production],
    })
}
