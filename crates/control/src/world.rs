//! What effects act on: the engine, the edge, the pipeline, and what is known of each environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use domain::app::App;
use domain::config::{Environment, Project};
use domain::release::Release;
use domain::slot::{BackingSpec, Launch, SlotSpec, Snapshot};
use domain::{Color, EnvironmentName, ReleaseId, ServiceName, Timestamp};
use engine::Engine;

use crate::certificates::Board;
use crate::clock;
pub use crate::failures::Failures;
use crate::pipeline::{Pipeline, PipelineError};
use crate::spec::{self, SlotRequest, SpecError, Variables};

/// The hands of the loop.
pub struct World {
    pub engine: Arc<dyn Engine>,
    pub edge: edge::Client,
    pub pipeline: Pipeline,
    /// Where the edge carries traffic.
    pub listen: SocketAddr,
    /// Where it carries TLS, if it does.
    pub https: Option<SocketAddr>,
    pub certificates: Board,
    /// What the edge says it could not get answered.
    pub failures: Failures,
    seen: Mutex<BTreeMap<EnvironmentName, Seen>>,
}

/// What was seen of one environment, and when.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: Timestamp,
    pub snapshot: Snapshot,
}

/// A release with all that is needed to run it in one environment.
pub struct Placed<'a> {
    pub release: &'a Release,
    pub project: &'a Project,
    pub environment: &'a Environment,
}

/// Why a release cannot be run in an environment.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
}

/// Why a release cannot be placed in an environment.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("release {0} is not known any more; build its commit again")]
    Forgotten(ReleaseId),
    #[error("release {0} knows no environment {1}")]
    NoEnvironment(ReleaseId, EnvironmentName),
}

impl<'a> Placed<'a> {
    /// `release` in `environment`.
    pub fn of(
        app: &'a App,
        environment: &EnvironmentName,
        release: &ReleaseId,
    ) -> Result<Self, PlaceError> {
        let forgotten = || PlaceError::Forgotten(release.clone());
        let project = app.projects.get(release).ok_or_else(forgotten)?;
        let release = app.releases.get(release).ok_or_else(forgotten)?;
        let found = project.environment(environment);
        let environment = found
            .ok_or_else(|| PlaceError::NoEnvironment(release.id.clone(), environment.clone()))?;
        Ok(Self { release, project, environment })
    }

    /// Variables for interpolation, with the addresses at which backing services answer what runs there.
    pub fn variables(&self, snapshot: &Snapshot) -> Variables {
        let mut variables = Variables::of(&self.environment.name, &self.environment.variables);
        for (service, status) in &snapshot.backing {
            variables.backed_by(service, status);
        }
        variables
    }
}

impl World {
    /// Hands that have seen nothing yet.
    pub fn new(
        engine: Arc<dyn Engine>,
        edge: edge::Client,
        pipeline: Pipeline,
        listen: SocketAddr,
        https: Option<SocketAddr>,
    ) -> Self {
        let certificates = Board::default();
        let (failures, seen) = (Failures::default(), Mutex::default());
        Self { engine, edge, pipeline, listen, https, certificates, failures, seen }
    }

    /// What the engine is asked to run in `slot`.
    pub async fn slot_spec(
        &self,
        placed: &Placed<'_>,
        slot: Color,
        snapshot: &Snapshot,
    ) -> Result<SlotSpec, RunError> {
        let (release, environment) = (placed.release, placed.environment);
        let request = SlotRequest {
            environment: &environment.name,
            slot,
            release: &release.id,
            commit: &release.commit.id,
            engine: environment.engine,
            artifacts: release.artifacts_for(environment.engine),
            replicas: &environment.replicas,
        };
        let files = self.pipeline.env_files(&release.commit.id, placed.project).await?;
        let variables = placed.variables(snapshot);
        let mut spec = spec::slot_spec(placed.project, request, &variables, &files)?;
        for service in &mut spec.services {
            if let Launch::Container(container) = &mut service.launch {
                self.pipeline.ground(&release.commit.id, container).await?;
            }
        }
        Ok(spec)
    }

    /// What its backing services are asked to be; `load` names SQL files for new data.
    pub async fn backing_specs(
        &self,
        placed: &Placed<'_>,
        load: &BTreeMap<ServiceName, PathBuf>,
    ) -> Result<Vec<BackingSpec>, RunError> {
        let (commit, environment) = (&placed.release.commit.id, placed.environment);
        let files = self.pipeline.env_files(commit, placed.project).await?;
        // Backing services start in any order: they do not know each other's addresses.
        let variables = placed.variables(&Snapshot::default());
        let place = (&environment.name, environment.engine);
        let mut specs = spec::backing_specs(placed.project, place, &variables, &files, load)?;
        for container in specs.iter_mut().filter_map(|spec| spec.container.as_mut()) {
            self.pipeline.ground(commit, container).await?;
        }
        Ok(specs)
    }

    /// Notes what was last seen of an environment.
    pub fn saw(&self, environment: &EnvironmentName, snapshot: Snapshot) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(environment.clone(), Seen { at: clock::wall(), snapshot });
    }

    /// What was last seen of every environment.
    pub fn seen(&self) -> BTreeMap<EnvironmentName, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The endpoints of every service in a slot, for the routing table.
pub fn endpoints(
    status: &domain::slot::SlotStatus,
) -> BTreeMap<ServiceName, Vec<domain::slot::Endpoint>> {
    let of_service = |replicas: &Vec<domain::slot::ReplicaStatus>| {
        replicas.iter().map(|replica| replica.endpoint.clone()).collect()
    };
    status.services.iter().map(|(name, all)| (name.clone(), of_service(all))).collect()
}
