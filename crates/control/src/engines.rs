//! The process engine and Docker as one engine: each thing goes to the one that its spec is for, and an environment is
//! whatever both of them run of it.
//!
//! ```text
//! apply, back, run   by the spec: a container goes to Docker
//! observe, usage     both, joined;   remove, down, cancel: both
//! logs, exec         the one that has it
//! ```
//!
//! The Docker engine asks Docker only about environments that have had something there, so an app of processes needs no
//! Docker, and an environment of containers is never taken for empty because Docker does not answer.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use domain::slot::{
    BackingSpec, Color, Exit, JobOutcome, JobSpec, Launch, Place, SlotSpec, Snapshot, Usage,
};
use domain::{EnvironmentName, ServiceName};
use engine::{DockerEngine, Engine, EngineError, LogSource, ProcessEngine, Streams};

/// Both engines of a server.
pub struct Engines {
    process: Arc<ProcessEngine>,
    docker: Arc<DockerEngine>,
}

impl Engines {
    /// Of one installation. Nothing is asked yet.
    pub fn new(process: Arc<ProcessEngine>, docker: Arc<DockerEngine>) -> Self {
        Self { process, docker }
    }

    /// Data lies where the environment ran first, and does not move by itself.
    fn refuse_other_data(&self, spec: &BackingSpec) -> Result<(), EngineError> {
        let environment = &spec.environment;
        let (elsewhere, there, wanted) = match spec.container {
            Some(_) => (self.process.has_data(environment), "processes", "docker"),
            None => (self.docker.knows(environment), "containers", "process"),
        };
        if !elsewhere {
            return Ok(());
        }
        Err(EngineError::new(
            format!("starting {} of {environment} with `engine: {wanted}`", spec.service),
            format!(
                "{environment} ran as {there} before, and its data lies with them; save what you need of it, delete it \
                 with `launchway down {environment} --with-data` and deploy again, or write the engine that it had"
            ),
        ))
    }
}

#[async_trait]
impl Engine for Engines {
    async fn apply(&self, spec: &SlotSpec) -> Result<(), EngineError> {
        let contained = |launch: &Launch| matches!(launch, Launch::Container(_));
        if !spec.services.iter().any(|service| contained(&service.launch)) {
            return self.process.apply(spec).await;
        }
        self.docker.apply(spec).await
    }

    async fn observe(&self, environment: &EnvironmentName) -> Result<Snapshot, EngineError> {
        let (process, docker) =
            tokio::try_join!(self.process.observe(environment), self.docker.observe(environment))?;
        let mut joined = process;
        joined.slots.extend(docker.slots);
        joined.backing.extend(docker.backing);
        Ok(joined)
    }

    async fn remove(&self, environment: &EnvironmentName, slot: Color) -> Result<(), EngineError> {
        self.docker.remove(environment, slot).await?;
        self.process.remove(environment, slot).await
    }

    async fn back(&self, spec: &BackingSpec) -> Result<SocketAddr, EngineError> {
        self.refuse_other_data(spec)?;
        if spec.container.is_none() {
            return self.process.back(spec).await;
        }
        self.docker.back(spec).await
    }

    async fn down(
        &self,
        environment: &EnvironmentName,
        with_data: bool,
    ) -> Result<(), EngineError> {
        self.process.down(environment, with_data).await?;
        self.docker.down(environment, with_data).await
    }

    async fn run(&self, job: &JobSpec) -> Result<JobOutcome, EngineError> {
        match &job.place {
            Place::Folder(_) => self.process.run(job).await,
            Place::Container { .. } => self.docker.run(job).await,
        }
    }

    async fn cancel(&self, environment: &EnvironmentName, job: &str) -> Result<(), EngineError> {
        self.docker.cancel(environment, job).await?;
        self.process.cancel(environment, job).await
    }

    async fn logs(
        &self,
        environment: &EnvironmentName,
        source: &LogSource,
        lines: usize,
    ) -> Result<Vec<String>, EngineError> {
        if !self.docker.knows(environment) {
            return self.process.logs(environment, source, lines).await;
        }
        match self.docker.logs(environment, source, lines).await {
            Ok(log) => Ok(log),
            // Docker's own answer says more where neither has it.
            Err(error) => self.process.logs(environment, source, lines).await.map_err(|_| error),
        }
    }

    async fn exec(
        &self,
        environment: &EnvironmentName,
        slot: Color,
        service: &ServiceName,
        command: &[String],
        streams: Streams,
    ) -> Result<Exit, EngineError> {
        let there = self.docker.observe(environment).await?;
        if there.slots.get(&slot).is_some_and(|status| status.services.contains_key(service)) {
            return self.docker.exec(environment, slot, service, command, streams).await;
        }
        self.process.exec(environment, slot, service, command, streams).await
    }

    async fn usage(&self, environment: &EnvironmentName) -> Result<Vec<Usage>, EngineError> {
        let mut all = self.process.usage(environment).await?;
        all.extend(self.docker.usage(environment).await?);
        Ok(all)
    }
}
