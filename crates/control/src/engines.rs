//! The process engine and Docker as one engine: each thing goes to the one that its spec is for, and an environment is
//! whatever both of them run of it.
//!
//! ```text
//! apply, back, run   by the spec: a container goes to Docker
//! observe, usage     both, joined;   remove, down, cancel: both
//! logs, exec         the one that has it
//! ```
//!
//! Docker is only asked about environments that have had something there: a file in `docker/` says so, from before the
//! first container until the environment went down with its data. So an app of processes needs no Docker, and an
//! environment of containers is never taken for empty because Docker does not answer.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use domain::slot::{
    ArtifactRef, BackingSpec, Color, JobOutcome, JobSpec, Launch, Location, Place, SlotSpec,
    Snapshot, Usage,
};
use domain::{EnvironmentName, ServiceName};
use engine::docker::build::by_id;
use engine::{Engine, EngineError, ExecOutcome, LogSource};
use serde::{Deserialize, Serialize};

use crate::pipeline::Images;

/// Both engines of a server.
pub struct Engines {
    process: Arc<dyn Engine>,
    docker: Arc<dyn Engine>,
    images: Arc<Images>,
    state: PathBuf,
}

/// What Docker has, or had, of an environment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct InDocker {
    /// Backing services with volumes.
    data: bool,
}

impl Engines {
    /// Of the installation in the folder `state`. Nothing is asked yet.
    pub fn new(
        process: Arc<dyn Engine>,
        docker: Arc<dyn Engine>,
        images: Arc<Images>,
        state: &Path,
    ) -> Self {
        Self { process, docker, images, state: state.to_owned() }
    }

    /// Docker, if the environment has had something there.
    fn docker_of(&self, environment: &EnvironmentName) -> Option<&dyn Engine> {
        self.record(environment).map(|_| &*self.docker)
    }

    fn path(&self, environment: &EnvironmentName) -> PathBuf {
        self.state.join("docker").join(format!("{environment}.json"))
    }

    fn record(&self, environment: &EnvironmentName) -> Option<InDocker> {
        let text = fs::read(self.path(environment)).ok()?;
        // Whatever it says: that it is there is what counts.
        Some(serde_json::from_slice(&text).unwrap_or(InDocker { data: true }))
    }

    /// Written before Docker is asked for anything.
    fn note(&self, environment: &EnvironmentName, data: bool) -> Result<(), EngineError> {
        let known = self.record(environment);
        let wanted = InDocker { data: data || known.is_some_and(|known| known.data) };
        if known == Some(wanted) {
            return Ok(());
        }
        let write = || -> io::Result<()> {
            let folder = self.state.join("docker");
            fs::create_dir_all(&folder)?;
            let mut file = tempfile::NamedTempFile::new_in(&folder)?;
            serde_json::to_writer(&mut file, &wanted)?;
            file.as_file().sync_all()?;
            file.persist(self.path(environment))?;
            fs::File::open(&folder)?.sync_all()
        };
        let doing = || format!("noting that {environment} has containers");
        write().map_err(|error| EngineError::new(doing(), error.to_string()))
    }

    /// Data lies where the environment ran first, and does not move by itself.
    fn refuse_other_data(&self, spec: &BackingSpec) -> Result<(), EngineError> {
        let environment = &spec.environment;
        let (elsewhere, there, here) = match spec.container {
            Some(_) => (self.process_has_data(environment), "processes", "docker"),
            None => {
                let volumes = self.record(environment).is_some_and(|known| known.data);
                (volumes, "Docker", "process")
            }
        };
        if !elsewhere {
            return Ok(());
        }
        Err(EngineError::new(
            format!("starting {} of {environment} with `engine: {here}`", spec.service),
            format!(
                "the data of {environment} lies with {there}, where it ran before; save what you need of it, delete it \
                 with `launchway down {environment} --with-data`, and deploy again; or write the engine it had"
            ),
        ))
    }

    fn process_has_data(&self, environment: &EnvironmentName) -> bool {
        let data = self.state.join("environments").join(environment.as_str()).join("data");
        fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// An image that is not here is pulled, if it was pushed.
    async fn fetch(&self, artifact: &ArtifactRef) -> Result<(), EngineError> {
        let Location::Image { image, pushed } = &artifact.location else { return Ok(()) };
        let doing =
            || format!("looking for the image {image} ({})", &artifact.digest.as_str()[..12]);
        let failed =
            |error: engine::docker::build::BuildError| EngineError::new(doing(), error.to_string());
        let builder = self.images.builder().await.map_err(failed)?;
        if builder.image(&by_id(&artifact.digest)).await.map_err(failed)?.is_some() {
            self.images.used(&artifact.digest);
            return Ok(());
        }
        let Some(pushed) = pushed else {
            let why = "the Docker Engine has it no more, and it was pushed nowhere; build its commit again";
            return Err(EngineError::new(doing(), why));
        };
        let pulled = builder.pull(pushed, &mut |_| {}).await.map_err(|error| {
            let why = format!("{pushed} cannot be pulled: {error}; look whether its registry answers, and at `docker login`");
            EngineError::new(doing(), why)
        })?;
        if pulled.id == artifact.digest {
            return Ok(());
        }
        let why = format!("what {pushed} gave is another image: {}", by_id(&pulled.id));
        Err(EngineError::new(doing(), why))
    }
}

#[async_trait]
impl Engine for Engines {
    async fn apply(&self, spec: &SlotSpec) -> Result<(), EngineError> {
        let contained = |launch: &Launch| matches!(launch, Launch::Container(_));
        if !spec.services.iter().any(|service| contained(&service.launch)) {
            return self.process.apply(spec).await;
        }
        self.note(&spec.environment, false)?;
        for service in &spec.services {
            self.fetch(&service.artifact).await?;
        }
        self.docker.apply(spec).await
    }

    async fn observe(&self, environment: &EnvironmentName) -> Result<Snapshot, EngineError> {
        let Some(docker) = self.docker_of(environment) else {
            return self.process.observe(environment).await;
        };
        let (process, docker) =
            tokio::try_join!(self.process.observe(environment), docker.observe(environment))?;
        let mut joined = process;
        joined.slots.extend(docker.slots);
        joined.backing.extend(docker.backing);
        Ok(joined)
    }

    async fn remove(&self, environment: &EnvironmentName, slot: Color) -> Result<(), EngineError> {
        if let Some(docker) = self.docker_of(environment) {
            docker.remove(environment, slot).await?;
        }
        self.process.remove(environment, slot).await
    }

    async fn back(&self, spec: &BackingSpec) -> Result<SocketAddr, EngineError> {
        self.refuse_other_data(spec)?;
        if spec.container.is_none() {
            return self.process.back(spec).await;
        }
        self.note(&spec.environment, true)?;
        self.docker.back(spec).await
    }

    async fn down(
        &self,
        environment: &EnvironmentName,
        with_data: bool,
    ) -> Result<(), EngineError> {
        self.process.down(environment, with_data).await?;
        let Some(docker) = self.docker_of(environment) else { return Ok(()) };
        docker.down(environment, with_data).await?;
        if !with_data {
            return Ok(());
        }
        match fs::remove_file(self.path(environment)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let doing = format!("forgetting that {environment} had containers");
                Err(EngineError::new(doing, error.to_string()))
            }
            _ => Ok(()),
        }
    }

    async fn run(&self, job: &JobSpec) -> Result<JobOutcome, EngineError> {
        let Place::Container { image, .. } = &job.place else {
            return self.process.run(job).await;
        };
        self.note(&job.environment, false)?;
        self.fetch(image).await?;
        self.docker.run(job).await
    }

    async fn cancel(&self, environment: &EnvironmentName, job: &str) -> Result<(), EngineError> {
        if let Some(docker) = self.docker_of(environment) {
            docker.cancel(environment, job).await?;
        }
        self.process.cancel(environment, job).await
    }

    async fn logs(
        &self,
        environment: &EnvironmentName,
        source: &LogSource,
        lines: usize,
    ) -> Result<Vec<String>, EngineError> {
        let Some(docker) = self.docker_of(environment) else {
            return self.process.logs(environment, source, lines).await;
        };
        match docker.logs(environment, source, lines).await {
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
    ) -> Result<ExecOutcome, EngineError> {
        if let Some(docker) = self.docker_of(environment) {
            let there = docker.observe(environment).await?;
            if there.slots.get(&slot).is_some_and(|status| status.services.contains_key(service)) {
                return docker.exec(environment, slot, service, command).await;
            }
        }
        self.process.exec(environment, slot, service, command).await
    }

    async fn usage(&self, environment: &EnvironmentName) -> Result<Vec<Usage>, EngineError> {
        let mut all = self.process.usage(environment).await?;
        if let Some(docker) = self.docker_of(environment) {
            all.extend(docker.usage(environment).await?);
        }
        Ok(all)
    }
}
