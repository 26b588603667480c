//! Containers of a project: made as the Compose file says, looked at, stopped and removed.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary, EndpointSettings,
    HealthStatusEnum, HostConfig, Mount as BollardMount, MountTmpfsOptions, MountType,
    MountVolumeOptions, NetworkConnectRequest, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, KillContainerOptions,
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, RenameContainerOptionsBuilder,
    StartContainerOptions, StopContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use domain::container::{Container, Mount, Port, Protocol, Restart, Source};

use crate::EngineError;

use super::super::connect::{is_conflict, is_done, is_missing, status};
use super::super::containers::{Place, Plan, body};
use super::super::labels;
use super::super::mounts::{of_kind, uncovered};
use super::{DIGEST, FOLDER, INDEX, PROJECT, ProjectEngine, SERVICE, owned};

/// A container that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub name: String,
    /// By digest.
    pub image: String,
    /// Volumes by their real names; no `Source::Project`.
    pub container: Container,
    pub env: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Real names, and what it is called there.
    pub networks: Vec<(String, Vec<String>)>,
    pub stop_grace: Duration,
}

/// A container that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub id: String,
    /// What the Engine had to say about it.
    pub warnings: Vec<String>,
}

/// A container that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub id: String,
    pub name: String,
    /// As its labels say; empty if they do not.
    pub service: String,
    pub index: u32,
    pub digest: String,
    pub labels: BTreeMap<String, String>,
    pub running: bool,
    /// Volumes by where they are mounted; those without a name have one of the Engine's own here.
    pub volumes: BTreeMap<String, String>,
}

/// What a container is doing now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub phase: Phase,
    pub health: Health,
    /// What the last probe of its health said.
    pub probe: String,
    pub out_of_memory: bool,
    /// `127.0.0.1:8080->80/tcp`.
    pub ports: Vec<String>,
}

/// Where it is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Never started.
    Created,
    Running,
    /// Ended, and about to be started again.
    Restarting,
    Exited(i64),
}

/// What its health check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// There is no check.
    Unchecked,
    Starting,
    Healthy,
    Unhealthy,
}

impl ProjectEngine {
    /// All containers with these labels, running or not.
    pub async fn containers(&self, wanted: &[(&str, &str)]) -> Result<Vec<Found>, EngineError> {
        let doing = "listing containers";
        let filter = labels::filter(wanted);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filter).build();
        let listed = self.docker(doing).await?.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| self.failed(doing, error))?;
        Ok(listed.into_iter().map(found).collect())
    }

    /// Makes the container, with the texts of its secrets and configs in it. It is not started. One that cannot be
    /// made whole is not left behind.
    pub async fn create(&self, wish: &Wish) -> Result<Made, EngineError> {
        let doing = format!("making the container {}", wish.name);
        if wish.container.read_only && texts(&wish.container).next().is_some() {
            let why = "its root is read-only, so that a secret or config from a variable or of the file itself cannot be written into it; take `file:` for it, or remove `read_only`";
            return Err(EngineError::new(doing, why));
        }
        let docker = self.docker(&doing).await?;
        let image = docker.inspect_image(&wish.image).await;
        let image = image.map_err(|error| self.failed(&doing, error))?;
        let of_image = image.config.and_then(|config| config.volumes).unwrap_or_default();
        let options = CreateContainerOptionsBuilder::new().name(&wish.name).build();
        let made = docker.create_container(Some(options), whole(wish, &of_image)).await;
        let made = made.map_err(|error| match is_conflict(&error) {
            true => EngineError::new(
                &doing,
                format!(
                    "another container has this name; remove it with `docker rm -f {}` if nobody needs it, or choose another project name",
                    wish.name
                ),
            ),
            false => self.failed(&doing, error),
        })?;
        let finished = self.finish(&made.id, wish, &doing).await;
        if finished.is_err() {
            self.remove(&made.id, true).await?;
        }
        finished.map(|()| Made { id: made.id, warnings: made.warnings })
    }

    async fn finish(&self, id: &str, wish: &Wish, doing: &str) -> Result<(), EngineError> {
        let docker = self.docker(doing).await?;
        for (network, aliases) in wish.networks.iter().skip(1) {
            let settings =
                EndpointSettings { aliases: Some(aliases.clone()), ..EndpointSettings::default() };
            let request =
                NetworkConnectRequest { container: id.to_owned(), endpoint_config: Some(settings) };
            let joined = docker.connect_network(network, request).await;
            joined.map_err(|error| self.failed(doing, error))?;
        }
        let Some(archive) = archive(&wish.container) else { return Ok(()) };
        let options = UploadToContainerOptionsBuilder::new().path("/").copy_uidgid("true").build();
        let sent =
            docker.upload_to_container(id, Some(options), bollard::body_full(archive.into()));
        sent.await.map_err(|error| self.failed(doing, error))
    }

    /// Starts it; one that runs goes on.
    pub async fn start(&self, id: &str, name: &str) -> Result<(), EngineError> {
        let doing = format!("starting the container {name}");
        let docker = self.docker(&doing).await?;
        match docker.start_container(id, None::<StartContainerOptions>).await {
            Err(error) if status(&error) != Some(304) => {
                let failed = self.failed(&doing, error);
                Err(EngineError::new(failed.doing, advised(&failed.why)))
            }
            _ => Ok(()),
        }
    }

    /// Its stop signal, `grace`, SIGKILL.
    pub async fn stop(&self, id: &str, name: &str, grace: Duration) -> Result<(), EngineError> {
        let doing = format!("stopping the container {name}");
        let seconds = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let docker = self.docker(&doing).await?.with_timeout(grace + Duration::from_secs(60));
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        match docker.stop_container(id, Some(options)).await {
            Err(error) if !is_done(&error) => Err(self.failed(&doing, error)),
            _ => Ok(()),
        }
    }

    /// SIGKILL; one that does not run stays as it is.
    pub async fn kill(&self, id: &str, name: &str) -> Result<(), EngineError> {
        let doing = format!("killing the container {name}");
        let docker = self.docker(&doing).await?;
        match docker.kill_container(id, None::<KillContainerOptions>).await {
            Err(error) if !is_done(&error) && !is_conflict(&error) => {
                Err(self.failed(&doing, error))
            }
            _ => Ok(()),
        }
    }

    /// Gives it another name.
    pub async fn rename(&self, id: &str, name: &str) -> Result<(), EngineError> {
        let doing = format!("giving a container the name {name}");
        let options = RenameContainerOptionsBuilder::new().name(name).build();
        let renamed = self.docker(&doing).await?.rename_container(id, options).await;
        renamed.map_err(|error| self.failed(&doing, error))
    }

    /// Removes it, killed if it runs; `volumes`: with those that have no name.
    pub async fn remove(&self, id: &str, volumes: bool) -> Result<(), EngineError> {
        let doing = format!("removing the container {id}");
        let docker = self.docker(&doing).await?;
        let options = RemoveContainerOptionsBuilder::new().force(true).v(volumes).build();
        match docker.remove_container(id, Some(options)).await {
            // 409: somebody else is removing it.
            Err(error) if !is_done(&error) && !is_conflict(&error) => {
                Err(self.failed(&doing, error))
            }
            _ => Ok(()),
        }
    }

    /// What it is doing; `None` if it is not there (any more).
    pub async fn look(&self, id: &str) -> Result<Option<Look>, EngineError> {
        let doing = format!("looking at the container {id}");
        let docker = self.docker(&doing).await?;
        match docker.inspect_container(id, None::<InspectContainerOptions>).await {
            Ok(found) => Ok(Some(look(found))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.failed(&doing, error)),
        }
    }
}

/// What the Engine says of ports in use does not say what to do.
fn advised(why: &str) -> String {
    let taken = ["port is already allocated", "address already in use"];
    match taken.iter().any(|words| why.contains(words)) {
        true => format!("{why}; stop what answers at this port, or publish another one in `ports`"),
        false => why.to_owned(),
    }
}

fn found(summary: ContainerSummary) -> Found {
    let labels: BTreeMap<String, String> = summary.labels.unwrap_or_default().into_iter().collect();
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    let names = summary.names.unwrap_or_default();
    let volumes = summary.mounts.unwrap_or_default().into_iter().filter_map(|mount| {
        let volume = mount.typ.is_some_and(|kind| kind == "volume");
        volume.then_some((mount.destination?, mount.name?))
    });
    let running = summary
        .state
        .is_some_and(|state| ["running", "restarting"].contains(&state.to_string().as_str()));
    Found {
        id: summary.id.unwrap_or_default(),
        // Behind a slash.
        name: names.first().map(|name| name.trim_start_matches('/').to_owned()).unwrap_or_default(),
        service: label(SERVICE),
        index: label(INDEX).parse().unwrap_or(1),
        digest: label(DIGEST),
        running,
        volumes: volumes.collect(),
        labels,
    }
}

fn look(found: ContainerInspectResponse) -> Look {
    let state = found.state.unwrap_or_default();
    let exit = state.exit_code.unwrap_or_default();
    let phase = match state.status {
        Some(ContainerStateStatusEnum::CREATED) => Phase::Created,
        Some(ContainerStateStatusEnum::RESTARTING) => Phase::Restarting,
        Some(ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::DEAD) => {
            Phase::Exited(exit)
        }
        _ => Phase::Running,
    };
    let checked = state.health.as_ref().and_then(|health| health.status);
    let health = match checked {
        Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
        Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy,
        Some(HealthStatusEnum::STARTING) => Health::Starting,
        _ => Health::Unchecked,
    };
    let last = state.health.and_then(|health| health.log?.pop());
    let ports = found.network_settings.and_then(|settings| settings.ports).unwrap_or_default();
    let mut ports: Vec<String> = ports
        .into_iter()
        .flat_map(|(inside, hosts)| {
            hosts.into_iter().flatten().map(move |host| published(&inside, &host))
        })
        .collect();
    ports.sort();
    Look {
        phase,
        health,
        probe: last.and_then(|probe| probe.output).unwrap_or_default().trim().to_owned(),
        out_of_memory: state.oom_killed.unwrap_or_default(),
        ports,
    }
}

fn published(inside: &str, host: &PortBinding) -> String {
    let port = host.host_port.as_deref().unwrap_or_default();
    match host.host_ip.as_deref().unwrap_or_default() {
        address if address.contains(':') => format!("[{address}]:{port}->{inside}"),
        address => format!("{address}:{port}->{inside}"),
    }
}

/// What every container of ours has in common, and what only `up` does: ports as written, restarts as written. `of_image`:
/// the paths of its volumes.
fn whole(wish: &Wish, of_image: &[String]) -> bollard::models::ContainerCreateBody {
    let container = &wish.container;
    let said = container.mounts.iter().filter_map(|said| mount(said, &wish.labels));
    let unsaid = uncovered(container, of_image).map(|target| unnamed(target, false, &wish.labels));
    let mounts = said.chain(unsaid).collect();
    let places = wish.networks.iter().map(|(network, aliases)| Place {
        network: network.clone(),
        aliases: aliases.clone(),
        address: None,
    });
    let mut body = body(Plan {
        name: wish.name.clone(),
        image: wish.image.clone(),
        container,
        env: wish.env.clone(),
        labels: owned(&wish.labels),
        mounts,
        networks: places.collect(),
        publish: None,
        restart: false,
        stop_grace: wish.stop_grace,
    });
    let exposed = container.ports.iter().map(inside);
    let mut exposed: Vec<String> =
        exposed.chain(body.exposed_ports.take().unwrap_or_default()).collect();
    exposed.sort();
    exposed.dedup();
    body.exposed_ports = Some(exposed);
    body.host_config = Some(HostConfig {
        port_bindings: Some(bindings(&container.ports)),
        restart_policy: Some(restart(container.restart)),
        ..body.host_config.take().unwrap_or_default()
    });
    body
}

fn inside(port: &Port) -> String {
    let protocol = if port.protocol == Protocol::Udp { "udp" } else { "tcp" };
    format!("{}/{protocol}", port.target)
}

fn bindings(ports: &[Port]) -> HashMap<String, Option<Vec<PortBinding>>> {
    let mut all: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in ports {
        let binding = PortBinding {
            host_ip: Some(port.host.map(|host| host.to_string()).unwrap_or_default()),
            host_port: Some(port.published.map(|port| port.to_string()).unwrap_or_default()),
        };
        all.entry(inside(port)).or_default().get_or_insert_default().push(binding);
    }
    all
}

fn restart(restart: Restart) -> RestartPolicy {
    let (name, most) = match restart {
        Restart::No => (RestartPolicyNameEnum::NO, None),
        Restart::Always => (RestartPolicyNameEnum::ALWAYS, None),
        Restart::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
        Restart::OnFailure { most } => (RestartPolicyNameEnum::ON_FAILURE, most),
    };
    RestartPolicy { name: Some(name), maximum_retry_count: most.map(i64::from) }
}

fn mount(mount: &Mount, labels: &BTreeMap<String, String>) -> Option<BollardMount> {
    let (target, read_only) = (mount.target.as_str(), mount.read_only);
    let (kind, source) = match &mount.source {
        Source::Volume(name) => (MountType::VOLUME, Some(name.clone())),
        Source::Anonymous => return Some(unnamed(target, read_only, labels)),
        Source::Host(path) | Source::Project(path) => {
            (MountType::BIND, Some(path.to_string_lossy().into_owned()))
        }
        Source::Tmpfs { size, mode } => {
            let options = MountTmpfsOptions {
                size_bytes: size.and_then(|size| i64::try_from(size.0).ok()),
                mode: mode.map(i64::from),
                options: None,
            };
            let plain = of_kind(MountType::TMPFS, None, target, false);
            return Some(BollardMount { tmpfs_options: Some(options), ..plain });
        }
        // They are written into the container, see `archive`.
        Source::Text { .. } => return None,
    };
    Some(of_kind(kind, source, target, read_only))
}

/// A volume without a name. It says whose it is: once its container is gone, nothing else tells it from others.
fn unnamed(target: &str, read_only: bool, labels: &BTreeMap<String, String>) -> BollardMount {
    let labels = labels.iter().filter(|(name, _)| [PROJECT, FOLDER].contains(&name.as_str()));
    let labels = labels.map(|(name, value)| (name.clone(), value.clone())).collect();
    let options = MountVolumeOptions { labels: Some(labels), ..MountVolumeOptions::default() };
    let plain = of_kind(MountType::VOLUME, None, target, read_only);
    BollardMount { volume_options: Some(options), ..plain }
}

fn texts(container: &Container) -> impl Iterator<Item = &Mount> {
    container.mounts.iter().filter(|mount| matches!(mount.source, Source::Text { .. }))
}

/// The texts of secrets and configs as a tar of files.
fn archive(container: &Container) -> Option<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut any = false;
    for given in texts(container) {
        let Source::Text { text, mode, uid, gid } = &given.source else { continue };
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(mode.unwrap_or(0o444));
        header.set_uid(u64::from(uid.unwrap_or(0)));
        header.set_gid(u64::from(gid.unwrap_or(0)));
        // Into memory: only a path that is no path can fail.
        tar.append_data(&mut header, given.target.trim_start_matches('/'), text.as_bytes()).ok()?;
        any = true;
    }
    any.then(|| tar.into_inner().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_published_as_the_file_says() {
        let port = |host: Option<&str>, published, target, protocol| Port {
            host: host.map(|host| host.parse().unwrap()),
            published,
            target,
            protocol,
        };
        let ports = [
            port(None, Some(8080), 80, Protocol::Tcp),
            port(Some("127.0.0.1"), None, 80, Protocol::Tcp),
            port(None, Some(53), 53, Protocol::Udp),
        ];
        let bound = bindings(&ports);
        let of = |name: &str| {
            let all = bound[name].clone().unwrap();
            let text = |b: PortBinding| format!("{}:{}", b.host_ip.unwrap(), b.host_port.unwrap());
            all.into_iter().map(text).collect::<Vec<_>>()
        };
        assert_eq!(of("80/tcp"), [":8080", "127.0.0.1:"]);
        assert_eq!(of("53/udp"), [":53"]);
    }

    #[test]
    fn the_texts_of_secrets_are_files_with_their_mode_and_owner() {
        let text =
            Source::Text { text: "teapot".into(), mode: Some(0o400), uid: Some(100), gid: None };
        let container = Container {
            mounts: vec![Mount {
                source: text,
                target: "/run/secrets/key".into(),
                read_only: true,
            }],
            ..Container::default()
        };
        let bytes = archive(&container).unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        let header = entry.header();
        assert_eq!(entry.path().unwrap().to_str(), Some("run/secrets/key"));
        assert_eq!((header.mode().unwrap(), header.uid().unwrap()), (0o400, 100));
        assert_eq!(super::archive(&Container::default()), None);
    }
}
