//! Runs. One [`Engine`] brings up slots, backing services and jobs, and says what it runs.
//!
//! Engines are declarative: `apply` and `remove` may be repeated at any time, `observe` is whole.
//!
//! ```text
//! lib.rs       trait Engine, what all engines agree on; tests/contract.rs holds each of them to it
//! process/     ProcessEngine: processes of this machine   start at process/mod.rs (what lies where on disk)
//!   slots      apply, remove, down          keeper   starts, adopts and stops shims; nobody else does
//!   observe    readiness and healing        owner    whose port answers
//!   jobs exec  run once                     ports    reserved between all engines of the machine
//!   backing    PostgreSQL, Redis            usage    CPU, memory, disk;  supervise: the edge
//! docker/      DockerEngine: containers of a Docker Engine   start at docker/mod.rs;  docker/build: images
//! probe.rs     one HTTP or TCP question, the same for all engines
//! readiness.rs what the answers of one replica come to, the same
//! shim/        the supervisor of one command, a process of its own (`launchway shim`)
//! streams.rs   what a command of `exec` reads, and who hears it
//! unit.rs      one supervised command on disk: the only thing that engine and shim share
//! proc.rs      /proc; lock.rs: locks that end with their holder
//! fake.rs      FakeEngine: the same answers without processes, for the tests of others
//! ```

pub mod docker;
pub mod fake;
mod lock;
mod probe;
mod proc;
pub mod process;
mod readiness;
pub mod shim;
mod streams;
mod unit;

use std::net::SocketAddr;

use async_trait::async_trait;
use domain::slot::{BackingSpec, Color, Exit, JobOutcome, JobSpec, SlotSpec, Snapshot, Usage};
use domain::{EnvironmentName, ServiceName};

pub use docker::{Abandoned, DockerConfig, DockerEngine};
pub use proc::ProcessRef;
pub use process::{ProcessConfig, ProcessEngine, ShimCommand, UnitView, Unprivileged};
pub use streams::{Input, Said, Streams};
pub use unit::{Phase, UnitStatus};

/// Why an engine could not do it.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct EngineError {
    /// What was being done, to what.
    pub doing: String,
    /// Why it failed, and what to do next where that is known.
    pub why: String,
}

impl EngineError {
    /// What was being done to what, and why it failed.
    pub fn new(doing: impl Into<String>, why: impl Into<String>) -> Self {
        Self { doing: doing.into(), why: why.into() }
    }
}

/// Which log to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogSource {
    Replica { slot: Color, service: ServiceName, index: u32 },
    Backing { service: ServiceName },
    Job { id: String },
}

/// What runs replicas. Every method is idempotent and may be repeated after a crash.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Brings the slot to `spec`: starts what is missing, replaces what differs, stops what is too much.
    /// Returns when everything was started, not when it is ready: that is for [`Engine::observe`].
    async fn apply(&self, spec: &SlotSpec) -> Result<(), EngineError>;

    /// Everything that runs in the environment, probed now.
    async fn observe(&self, environment: &EnvironmentName) -> Result<Snapshot, EngineError>;

    /// Stops the slot's replicas (SIGTERM, grace, SIGKILL) and forgets them. Logs stay.
    async fn remove(&self, environment: &EnvironmentName, slot: Color) -> Result<(), EngineError>;

    /// Makes sure that a backing service runs and waits until it is ready.
    async fn back(&self, spec: &BackingSpec) -> Result<SocketAddr, EngineError>;

    /// Stops everything of the environment. `with_data` deletes the data folders too.
    async fn down(&self, environment: &EnvironmentName, with_data: bool)
    -> Result<(), EngineError>;

    /// Runs a job to its end, or answers from its record if one with this id has run already.
    async fn run(&self, job: &JobSpec) -> Result<JobOutcome, EngineError>;

    /// Stops the job (SIGTERM, a few seconds of grace, SIGKILL to all of it) and returns once nothing of it runs any more; whoever waits
    /// in [`Engine::run`] gets its outcome. A job that has ended or never began is left as it is.
    async fn cancel(&self, environment: &EnvironmentName, job: &str) -> Result<(), EngineError>;

    /// The last `lines` lines, oldest first.
    async fn logs(
        &self,
        environment: &EnvironmentName,
        source: &LogSource,
        lines: usize,
    ) -> Result<Vec<String>, EngineError>;

    /// Runs a command in the surroundings of a replica (folder and environment) to its end. All it wrote has been sent
    /// then.
    async fn exec(
        &self,
        environment: &EnvironmentName,
        slot: Color,
        service: &ServiceName,
        command: &[String],
        streams: Streams,
    ) -> Result<Exit, EngineError>;

    /// What each replica and backing service uses now.
    async fn usage(&self, environment: &EnvironmentName) -> Result<Vec<Usage>, EngineError>;
}
