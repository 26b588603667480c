//! Turns a project, an environment's variables and what was built into what an engine is asked to run.
//! Deployments and throwaway environments both come through here, so they cannot differ.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use domain::config::{
    Built, ContainerError, EngineKind, EnvFileError, InterpolationError, Project, Service,
    ServiceKind, interpolate, with_env_files,
};
use domain::container::Container;
use domain::slot::{
    ArtifactRef, BackingSpec, BackingStatus, JobSpec, Launch, Location, Place, ServiceSpec,
    SlotSpec,
};
use domain::{Color, CommitId, EnvironmentName, ReleaseId, ServiceName};

use crate::pipeline::EnvFiles;

/// What Compose's `${NAME}` stands for in one environment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Variables(BTreeMap<String, String>);

/// The release that a slot is asked to run, and around what.
#[derive(Debug, Clone, Copy)]
pub struct SlotRequest<'a> {
    pub environment: &'a EnvironmentName,
    pub slot: Color,
    pub release: &'a ReleaseId,
    pub commit: &'a CommitId,
    pub engine: EngineKind,
    /// What was built for this engine.
    pub artifacts: &'a BTreeMap<ServiceName, ArtifactRef>,
    /// How many of each service, where it differs from Compose.
    pub replicas: &'a BTreeMap<ServiceName, u32>,
}

/// Why there is nothing to ask an engine for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("filling in `{variable}` of service `{service}`: {source}; {}", source.help())]
    Interpolation { service: ServiceName, variable: String, source: InterpolationError },
    #[error("nothing was built for service `{0}`; run the pipeline's images stage first")]
    NoArtifact(ServiceName),
    #[error("the process engine cannot run `{0}`; add `services.{0}.native` to launchway.yaml")]
    NotNative(ServiceName),
    #[error("describing the container of service `{service}`: {source}")]
    Container { service: ServiceName, source: ContainerError },
    #[error("reading {path} for service `{service}`: {source}")]
    EnvFile { service: ServiceName, path: String, source: EnvFileError },
}

impl Variables {
    /// Those of `environment`; `own` is what its `variables` say.
    pub fn of(environment: &EnvironmentName, own: &BTreeMap<String, String>) -> Self {
        let mut variables = Self(own.clone());
        variables.set("LAUNCHWAY_ENVIRONMENT", environment.as_str());
        variables
    }

    /// Gives `name` a value.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// `<SERVICE>_HOST` and `<SERVICE>_PORT`.
    pub fn answers_at(&mut self, service: &ServiceName, address: SocketAddr) {
        self.reached_at(service, &address.ip().to_string(), address.port());
    }

    /// The same, for what runs in the environment: containers reach each other at other addresses than the machine does.
    pub fn backed_by(&mut self, service: &ServiceName, status: &BackingStatus) {
        match &status.inside {
            Some((host, port)) => self.reached_at(service, host, *port),
            None => self.answers_at(service, status.address),
        }
    }

    fn reached_at(&mut self, service: &ServiceName, host: &str, port: u16) {
        let name = variable_name(service);
        self.set(format!("{name}_HOST"), host);
        self.set(format!("{name}_PORT"), port.to_string());
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn lookup(&self) -> impl Fn(&str) -> Option<String> + '_ {
        |name| self.get(name).map(str::to_owned)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }
}

/// What the project's backing services are asked to be. `load` names SQL files for new data.
pub fn backing_specs(
    project: &Project,
    (environment, engine): (&EnvironmentName, EngineKind),
    variables: &Variables,
    files: &EnvFiles,
    load: &BTreeMap<ServiceName, PathBuf>,
) -> Result<Vec<BackingSpec>, SpecError> {
    let backing = project.services.iter().filter_map(|(name, service)| match &service.kind {
        ServiceKind::Backing { image } => Some((name, service, image)),
        ServiceKind::Built(_) => None,
    });
    backing
        .map(|(name, service, image)| {
            Ok(BackingSpec {
                app: project.app.clone(),
                environment: environment.clone(),
                service: name.clone(),
                image: image.clone(),
                env: environment_of(name, service, variables, files)?,
                load: load.get(name).cloned(),
                container: match engine {
                    EngineKind::Process => None,
                    EngineKind::Docker => Some(Box::new(container(name, service, variables)?)),
                },
            })
        })
        .collect()
}

/// What a slot is asked to run: every service of ours, with its environment filled in.
pub fn slot_spec(
    project: &Project,
    request: SlotRequest<'_>,
    variables: &Variables,
    files: &EnvFiles,
) -> Result<SlotSpec, SpecError> {
    let services = project.built().map(|(name, service, built)| {
        let artifact = request.artifacts.get(name);
        let mut env = environment_of(name, service, variables, files)?;
        env.insert("LAUNCHWAY_ENVIRONMENT".into(), request.environment.to_string());
        env.insert("RELEASE".into(), request.release.to_string());
        env.insert("COMMIT".into(), request.commit.to_string());
        Ok(ServiceSpec {
            name: name.clone(),
            replicas: request.replicas.get(name).copied().unwrap_or(built.replicas).max(1),
            artifact: artifact.cloned().ok_or_else(|| SpecError::NoArtifact(name.clone()))?,
            launch: launch(request.engine, name, service, built, variables)?,
            env,
            health: built.health.clone(),
            stop_grace: built.stop_grace,
            after: service.depends_on.clone(),
        })
    });
    Ok(SlotSpec {
        app: project.app.clone(),
        environment: request.environment.clone(),
        slot: request.slot,
        release: request.release.clone(),
        services: services.collect::<Result<_, SpecError>>()?,
    })
}

/// The migrations of the slot's release, in the surroundings of their services. `id` names what they are run for:
/// the same id never runs twice.
pub fn migrations(
    project: &Project,
    slot: &SlotSpec,
    id: &str,
    time_limit: Duration,
) -> Vec<JobSpec> {
    let of_service = |service: &ServiceSpec| {
        let (_, _, built) = project.built().find(|(name, ..)| **name == service.name)?;
        Some(JobSpec {
            id: format!("{id}.migrate.{}", service.name),
            environment: slot.environment.clone(),
            command: built.migrate.clone()?,
            place: place(slot.slot, service)?,
            env: service.env.clone(),
            time_limit,
            lock: Some("migrate".into()),
            log: None,
        })
    };
    slot.services.iter().filter_map(of_service).collect()
}

/// Where something of the service runs once: in its tree, or in a container like its own.
fn place(slot: Color, service: &ServiceSpec) -> Option<Place> {
    match (&service.artifact.location, &service.launch) {
        (Location::Folder(folder), _) => Some(Place::Folder(folder.clone())),
        (Location::Image { .. }, Launch::Container(container)) => Some(Place::Container {
            slot,
            service: service.name.clone(),
            image: service.artifact.clone(),
            container: container.clone(),
        }),
        _ => None,
    }
}

fn launch(
    engine: EngineKind,
    name: &ServiceName,
    service: &Service,
    built: &Built,
    variables: &Variables,
) -> Result<Launch, SpecError> {
    match engine {
        EngineKind::Process => {
            let native = built.native.as_ref().ok_or_else(|| SpecError::NotNative(name.clone()))?;
            Ok(native.launch.clone())
        }
        EngineKind::Docker => Ok(Launch::Container(Box::new(container(name, service, variables)?))),
    }
}

fn container(
    name: &ServiceName,
    service: &Service,
    variables: &Variables,
) -> Result<Container, SpecError> {
    let filled = service.container(&variables.lookup());
    filled.map_err(|source| SpecError::Container { service: name.clone(), source })
}

/// `tea-shop.db` becomes `TEA_SHOP_DB`.
pub fn variable_name(service: &ServiceName) -> String {
    service.as_str().to_ascii_uppercase().replace(['-', '.'], "_")
}

/// What Compose says of the service's environment, filled in, over what its files say.
fn environment_of(
    name: &ServiceName,
    service: &Service,
    variables: &Variables,
    files: &EnvFiles,
) -> Result<BTreeMap<String, String>, SpecError> {
    let filled = service.env.iter().map(|(variable, template)| {
        let value = interpolate(template, &variables.lookup()).map_err(|source| {
            let (service, variable) = (name.clone(), variable.clone());
            SpecError::Interpolation { service, variable, source }
        })?;
        Ok((variable.clone(), value))
    });
    let env = filled.collect::<Result<_, SpecError>>()?;
    let texts =
        service.env_files.iter().filter_map(|file| Some((file, files.get(&file.path)?.clone())));
    let texts: Vec<_> = texts.collect();
    with_env_files(&texts, &env, &variables.lookup()).map_err(|(path, source)| SpecError::EnvFile {
        service: name.clone(),
        path,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_becomes_host_and_port_of_the_service() {
        let mut variables = Variables::default();
        let service = ServiceName::new("tea-shop.db").unwrap();
        variables.answers_at(&service, "127.0.0.1:4711".parse().unwrap());
        assert_eq!(variables.get("TEA_SHOP_DB_HOST"), Some("127.0.0.1"));
        assert_eq!(variables.get("TEA_SHOP_DB_PORT"), Some("4711"));
    }

    #[test]
    fn in_containers_a_service_is_reached_inside() {
        let mut variables = Variables::default();
        let service = ServiceName::new("db").unwrap();
        let status = BackingStatus {
            address: "127.0.0.1:4711".parse().unwrap(),
            inside: Some(("db".into(), 5432)),
            ready: true,
            problem: None,
            restarts: 0,
            pid: None,
        };
        variables.backed_by(&service, &status);
        assert_eq!(variables.get("DB_HOST"), Some("db"));
        assert_eq!(variables.get("DB_PORT"), Some("5432"));
    }
}
