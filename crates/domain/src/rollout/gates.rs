//! What stands between a release and the traffic, fixed when the rollout is made.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Approval, Bake, Environment, Performance, Project, Step};

/// For backing services: a first `initdb` with a data load included.
pub(super) const PREPARE_LIMIT: Duration = Duration::from_secs(600);
/// For all migrations of a release.
pub const MIGRATE_LIMIT: Duration = Duration::from_secs(900);
/// For the edge to acknowledge a table.
pub(super) const PUBLISH_LIMIT: Duration = Duration::from_secs(120);
/// An effect has its own limit; the rollout gives up only when that failed to end it.
pub(super) const MARGIN: Duration = Duration::from_secs(30);

/// The gates of one rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gates {
    pub approval: Option<Approval>,
    pub migrate: bool,
    pub checks: Vec<Check>,
    pub bake: Option<Bake>,
    /// Until every replica must have been ready.
    pub start_limit: Duration,
    /// For what the old slot still has in flight, and then for closing the rest over the spread.
    pub drain: Duration,
    /// How long the old slot stays warm.
    pub keep: Duration,
}

/// A check of the candidate before it gets the traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    E2e(Step),
    Performance(Performance),
}

impl Check {
    /// How long it may take.
    pub fn limit(&self) -> Duration {
        match self {
            Self::E2e(step) => step.time_limit * (step.retries + 1),
            // Live and candidate share the time when they are compared.
            Self::Performance(performance) => performance.duration * 3,
        }
    }

    /// What it is called in status and logs.
    pub fn name(&self) -> String {
        match self {
            Self::E2e(step) => format!("e2e {}", step.name),
            Self::Performance(_) => "performance".into(),
        }
    }
}

impl Gates {
    /// All gates of `environment`. Approval and bake of the release that is live there also hold: a
    /// commit cannot remove what it has to pass, only what the release after it has to. (So does
    /// `after`; see `App::request_deploy`. Checks are the commit's own: old ones may not fit it.)
    pub fn for_deploy(
        project: &Project,
        environment: &Environment,
        live: Option<&Environment>,
    ) -> Self {
        let e2e = environment.verify.e2e.iter().cloned().map(Check::E2e);
        let performance = environment.verify.performance.clone().map(Check::Performance);
        Self {
            approval: live
                .and_then(|live| live.approval.clone())
                .or_else(|| environment.approval.clone()),
            migrate: project.built().any(|(_, _, built)| built.migrate.is_some()),
            checks: e2e.chain(performance).collect(),
            bake: environment.bake.clone().or_else(|| live?.bake.clone()),
            ..Self::for_rollback(project, environment)
        }
    }

    /// A release that was live before needs to be ready, no more.
    pub fn for_rollback(project: &Project, environment: &Environment) -> Self {
        let starting = project.built().filter(|(_, _, built)| built.starts_on(environment.engine));
        let start = starting.map(|(_, _, built)| built.health.start_deadline).max();
        Self {
            approval: None,
            migrate: false,
            checks: Vec::new(),
            bake: None,
            start_limit: start.unwrap_or_default(),
            drain: environment.drain + environment.spread,
            keep: environment.keep,
        }
    }
}
