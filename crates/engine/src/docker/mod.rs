//! The engine of containers: each replica, backing service and job is a container of a Docker Engine.
//!
//! ```text
//! connect     the way to the Engine, lazy and in words      labels   what is ours, and what it is called
//! containers  a container in the API's words, and its life  networks volumes mounts images   what it needs
//! slots       apply, remove, down                           state    what the Engine's words mean
//! observe     looks, brings back, sweeps                    health   when a replica is ready;  ended: how often it ended
//! backing     backing services and their first start        jobs     run once;  exec running: inside of a replica
//! logs usage  what they say and use                         records  what is remembered on disk;  left: what is still there
//! build/      images, from a folder to a digest               project/ a plain Compose project, for `launchway up`
//!
//! <state>/docker/                    one app
//!   salt                             makes labels with digests say nothing about secrets
//!   <environment>/
//!     slots/<color>.json             what was asked: the whole SlotSpec
//!     backing/<service>.json         what was asked, its port, volumes that never held a ready server
//!     jobs/<id>/                     job.json, outcome.json, log
//!     execs/<id>.json                a command inside of a container that has not ended
//!     logs/<color>.<service>.<n>     the last lines of a container that was removed
//!     texts/                         secrets and configs, as files that are mounted
//! ```
//! The Engine keeps replicas running, over crashes of theirs and of ours; whoever comes after us finds everything by
//! its labels. An environment without a folder here never asks Docker anything.
//!
//! Replicas are published on 127.0.0.1, for people. Traffic goes to the container's own address where the machine
//! reaches that (a rootful Engine on Linux): it is fixed, and answers while the Engine itself is restarted, which the
//! proxy behind a published port does not. Elsewhere (Docker Desktop, rootless) traffic takes the published port.

mod backing;
pub mod build;
mod connect;
mod containers;
mod ended;
mod exec;
mod health;
mod images;
mod jobs;
mod labels;
mod left;
mod logs;
mod mounts;
mod networks;
mod observe;
pub mod project;
mod records;
mod running;
mod slots;
mod state;
mod usage;
mod volumes;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bollard::Docker;
use domain::slot::{BackingSpec, Color, Exit, JobOutcome, JobSpec, SlotSpec, Snapshot, Usage};
use domain::{EnvironmentName, ServiceName};

pub use labels::{STATE as STATE_LABEL, state as state_label};
pub use running::Abandoned;

use self::connect::{Connection, Trouble};
use self::health::Memory;
use self::records::Records;
use crate::{Engine, EngineError, LogSource, Streams};

/// How to build a [`DockerEngine`].
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// The folder of one app; what the engine remembers lies below.
    pub state: PathBuf,
    /// The Engine's socket; `None`: what `$DOCKER_HOST` names (`unix://` or `tcp://`), else `/var/run/docker.sock`.
    pub socket: Option<PathBuf>,
}

/// Runs an app as containers of a Docker Engine (API 1.41, Docker 20.10, or newer).
#[derive(Debug, Clone)]
pub struct DockerEngine {
    connection: Arc<Connection>,
    records: Arc<Records>,
    memory: Arc<Memory>,
    /// The label of this installation.
    state: String,
}

impl DockerEngine {
    /// Touches nothing: the Engine is asked when something is asked of it, and may be down until then.
    pub fn connect(config: DockerConfig) -> Self {
        let state = std::path::absolute(&config.state).unwrap_or(config.state);
        Self {
            connection: Arc::new(Connection::new(config.socket)),
            memory: Arc::default(),
            state: labels::state(&state),
            records: Arc::new(Records::new(&state)),
        }
    }

    /// The version of the Engine, if it answers.
    pub async fn version(&self) -> Result<String, EngineError> {
        let asked = async {
            let version = self.docker().await?.version().await;
            version.map_err(|error| self.trouble(error))
        };
        let failed = |trouble: Trouble| EngineError::new("asking Docker", trouble.to_string());
        Ok(asked.await.map_err(failed)?.version.unwrap_or_default())
    }

    /// Whether anything of the environment may be with this engine: containers, or data in volumes.
    pub fn knows(&self, environment: &EnvironmentName) -> bool {
        self.records.knows(environment)
    }

    async fn docker(&self) -> Result<Docker, Trouble> {
        self.connection.client().await
    }

    fn trouble(&self, error: bollard::errors::Error) -> Trouble {
        self.connection.trouble(error)
    }
}

#[async_trait]
impl Engine for DockerEngine {
    async fn apply(&self, spec: &SlotSpec) -> Result<(), EngineError> {
        self.apply_slot(spec).await
    }

    async fn observe(&self, environment: &EnvironmentName) -> Result<Snapshot, EngineError> {
        self.look(environment).await
    }

    async fn remove(&self, environment: &EnvironmentName, slot: Color) -> Result<(), EngineError> {
        self.remove_slot(environment, slot).await
    }

    async fn back(&self, spec: &BackingSpec) -> Result<SocketAddr, EngineError> {
        self.back_service(spec).await
    }

    async fn down(
        &self,
        environment: &EnvironmentName,
        with_data: bool,
    ) -> Result<(), EngineError> {
        self.take_down(environment, with_data).await
    }

    async fn run(&self, job: &JobSpec) -> Result<JobOutcome, EngineError> {
        self.run_job(job).await
    }

    async fn cancel(&self, environment: &EnvironmentName, id: &str) -> Result<(), EngineError> {
        self.end_job(environment, id).await
    }

    async fn logs(
        &self,
        environment: &EnvironmentName,
        source: &LogSource,
        lines: usize,
    ) -> Result<Vec<String>, EngineError> {
        self.read_logs(environment, source, lines).await
    }

    async fn exec(
        &self,
        environment: &EnvironmentName,
        slot: Color,
        service: &ServiceName,
        command: &[String],
        streams: Streams,
    ) -> Result<Exit, EngineError> {
        self.exec_inside(environment, slot, service, command, streams).await
    }

    async fn usage(&self, environment: &EnvironmentName) -> Result<Vec<Usage>, EngineError> {
        self.use_of(environment).await
    }
}
