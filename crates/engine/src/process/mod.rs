//! The engine that needs nothing but the app's own tools: each replica is a process under a shim.
//!
//! ```text
//! <state>/                          one app
//!   home/                           $HOME of services; steps of builds have another
//!   supervised/<name>/              units that belong to the app itself: the edge
//!   environments/<environment>/
//!     slots/<color>.json            what was asked: the whole SlotSpec
//!     units/<color>.<service>.<n>/  a replica        (see `unit.rs` for what lies inside)
//!     units/backing.<service>/      a backing service, with its `backing.json`
//!     jobs/<id>/  exec/<random>/    run once
//!     locks/<name>                  what jobs exclude each other with
//!     data/<service>/               what backing services keep
//! ```
//! Nothing that matters is in memory: a new `ProcessEngine` looks at the folder and at `/proc` and
//! goes on where the last one was killed.

pub(crate) mod backing;
mod clock;
mod config;
mod exec;
mod jobs;
mod keeper;
pub(crate) mod layout;
pub(crate) mod observe;
mod owner;
pub(crate) mod ports;
pub(crate) mod postgres;
pub(crate) mod redis;
mod slots;
mod supervise;
pub(crate) mod tail;
mod units;
mod usage;

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use domain::slot::{BackingSpec, Color, Exit, JobOutcome, JobSpec, SlotSpec, Snapshot, Usage};
use domain::{EnvironmentName, ServiceName};

pub use config::{ProcessConfig, ShimCommand, Unprivileged, reachable_path};
pub use ports::lasting_port;
pub use supervise::{Supervised, supervised_digest};
pub use units::UnitView;

pub(crate) use clock::now;

use self::keeper::Keeper;
use self::layout::Layout;
use self::observe::Memory;
use crate::{Engine, EngineError, LogSource, Streams};

/// Runs an app as processes of this machine.
#[derive(Debug, Clone)]
pub struct ProcessEngine {
    config: Arc<ProcessConfig>,
    layout: Arc<Layout>,
    keeper: Arc<Keeper>,
    memory: Arc<Memory>,
}

impl ProcessEngine {
    /// Touches nothing: what runs is found when it is asked for.
    pub fn new(config: ProcessConfig) -> Self {
        // Markers and records hold paths, which must mean the same wherever the next engine is started.
        let state = std::path::absolute(&config.state).unwrap_or_else(|_| config.state.clone());
        let config = ProcessConfig { state, ..config };
        Self {
            layout: Arc::new(Layout::new(config.state.clone())),
            keeper: Arc::new(Keeper::new(config.shim.clone())),
            config: Arc::new(config),
            memory: Arc::default(),
        }
    }
}

#[async_trait]
impl Engine for ProcessEngine {
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
        let unit = match source {
            LogSource::Replica { slot, service, index } => {
                self.layout.replica(environment, *slot, service, *index)
            }
            LogSource::Backing { service } => self.layout.backing(environment, service),
            LogSource::Job { id } => self.layout.job(environment, id),
        };
        if !unit.folder().exists() {
            let doing = format!("reading the log of {source:?} in {environment}");
            return Err(EngineError::new(doing, "nothing of this name has run here"));
        }
        Ok(keeper::blocking(move || tail::of_unit(&unit, lines)).await)
    }

    async fn exec(
        &self,
        environment: &EnvironmentName,
        slot: Color,
        service: &ServiceName,
        command: &[String],
        streams: Streams,
    ) -> Result<Exit, EngineError> {
        self.exec_beside(environment, slot, service, command, streams).await
    }

    async fn usage(&self, environment: &EnvironmentName) -> Result<Vec<Usage>, EngineError> {
        let (layout, environment) = (self.layout.clone(), environment.clone());
        Ok(keeper::blocking(move || usage::of(&layout, &environment)).await)
    }
}
