//! What a container of ours is, in the words of the Engine's API, and its life: made, started, stopped, removed.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerSummary, EndpointIpamConfig,
    EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig, Mount as BollardMount,
    NetworkConnectRequest, NetworkingConfig, PortBinding, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions, StopContainerOptions,
};
use domain::container::{Container, Healthcheck};

use super::DockerEngine;
use super::connect::{Trouble, is_conflict, is_done, is_missing};
use super::labels::{self, Labels};

/// The output of a container that is kept, in files of this size.
const LOG_SIZE: &str = "8m";
const LOG_FILES: &str = "3";

/// No grace is longer than this.
const LONGEST_STOP: Duration = Duration::from_secs(3600);

/// Everything about a container that is to be made.
pub(super) struct Plan<'a> {
    pub(super) name: String,
    /// By digest where that is known.
    pub(super) image: String,
    pub(super) container: &'a Container,
    pub(super) env: BTreeMap<String, String>,
    pub(super) labels: Labels,
    pub(super) mounts: Vec<BollardMount>,
    /// The first is the one that it is made in.
    pub(super) networks: Vec<Place>,
    /// Its port, and the one of 127.0.0.1 that leads there (0: any).
    pub(super) publish: Option<(u16, u16)>,
    pub(super) restart: bool,
    pub(super) stop_grace: Duration,
}

/// A network, and what the container is called in it.
pub(super) struct Place {
    pub(super) network: String,
    pub(super) aliases: Vec<String>,
    pub(super) address: Option<Ipv4Addr>,
}

impl DockerEngine {
    /// Containers with these labels, whatever they are doing.
    pub(super) async fn containers(
        &self,
        wanted: &[(&str, &str)],
    ) -> Result<Vec<ContainerSummary>, Trouble> {
        let mut wanted = wanted.to_vec();
        wanted.push((labels::STATE, &self.state));
        let filter = labels::filter(&wanted);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filter).build();
        let docker = self.docker().await?;
        docker.list_containers(Some(options)).await.map_err(|error| self.trouble(error))
    }

    /// `None` if there is no such container (any more).
    pub(super) async fn inspect(
        &self,
        id: &str,
    ) -> Result<Option<ContainerInspectResponse>, Trouble> {
        let docker = self.docker().await?;
        match docker.inspect_container(id, None::<InspectContainerOptions>).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.trouble(error)),
        }
    }

    /// Makes the container and puts it into its networks. It is not started.
    pub(super) async fn create(&self, plan: Plan<'_>) -> Result<String, Trouble> {
        let docker = self.docker().await?;
        let others: Vec<(String, EndpointSettings)> =
            plan.networks.iter().skip(1).map(endpoint).collect();
        let mut name = plan.name.clone();
        let body = body(plan);
        let mut tries = 0;
        let id = loop {
            let options = CreateContainerOptionsBuilder::new().name(&name).build();
            match docker.create_container(Some(options), body.clone()).await {
                Ok(made) => break made.id,
                Err(error) if is_conflict(&error) && tries < 3 => {
                    tries += 1;
                    name = self.free_name(name).await?;
                }
                Err(error) => return Err(self.trouble(error)),
            }
        };
        for (network, settings) in others {
            let request =
                NetworkConnectRequest { container: id.clone(), endpoint_config: Some(settings) };
            let joined = docker.connect_network(&network, request).await;
            joined.map_err(|error| self.trouble(error))?;
        }
        Ok(id)
    }

    /// What to do about a name that is taken: names are for people, labels for us. Our own container of that name was
    /// being made for a server that died meanwhile, and goes; another installation's stays, and ours is called differently.
    async fn free_name(&self, name: String) -> Result<String, Trouble> {
        let Some(found) = self.inspect(&name).await? else { return Ok(name) };
        let labels = found.config.and_then(|config| config.labels);
        if labels::get(&labels, labels::STATE) != self.state {
            return Ok(format!("{name}-{}", &self.state[..8]));
        }
        self.discard(found.id.as_deref().unwrap_or(&name)).await?;
        Ok(name)
    }

    pub(super) async fn start(&self, id: &str) -> Result<(), Trouble> {
        match self.docker().await?.start_container(id, None::<StartContainerOptions>).await {
            Err(error) if !matches!(super::connect::status(&error), Some(304)) => {
                Err(self.trouble(error))
            }
            _ => Ok(()),
        }
    }

    /// Its stop signal, its grace, SIGKILL; then it is removed with its anonymous volumes.
    pub(super) async fn discard(&self, id: &str) -> Result<(), Trouble> {
        self.stop(id).await?;
        let docker = self.docker().await?;
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match docker.remove_container(id, Some(options)).await {
            // 409: somebody else is removing it, which takes a moment.
            Err(error) if is_conflict(&error) => self.until_gone(id).await,
            Err(error) if !is_done(&error) => Err(self.trouble(error)),
            _ => Ok(()),
        }
    }

    async fn until_gone(&self, id: &str) -> Result<(), Trouble> {
        for _ in 0..600 {
            if self.inspect(id).await?.is_none() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(Trouble::refused(
            "it is being removed for longer than 30 s; look at it with `docker ps -a`",
        ))
    }

    /// The grace is the container's own, set when it was made.
    pub(super) async fn stop(&self, id: &str) -> Result<(), Trouble> {
        let docker = self.docker().await?.with_timeout(LONGEST_STOP);
        match docker.stop_container(id, None::<StopContainerOptions>).await {
            Err(error) if !is_done(&error) => Err(self.trouble(error)),
            _ => Ok(()),
        }
    }
}

/// Made, and not started: it may not be in all of its networks yet.
pub(super) fn half_made(found: &ContainerSummary) -> bool {
    found.state.as_ref().is_some_and(|state| state.to_string() == "created")
}

/// A restart policy, as it is set and changed.
pub(super) fn restart_policy(keep: bool) -> RestartPolicy {
    let name = if keep { RestartPolicyNameEnum::ALWAYS } else { RestartPolicyNameEnum::NO };
    RestartPolicy { name: Some(name), maximum_retry_count: None }
}

fn endpoint(place: &Place) -> (String, EndpointSettings) {
    let fixed = place.address.map(|address| EndpointIpamConfig {
        ipv4_address: Some(address.to_string()),
        ..EndpointIpamConfig::default()
    });
    let settings = EndpointSettings {
        aliases: Some(place.aliases.clone()),
        ipam_config: fixed,
        ..EndpointSettings::default()
    };
    (place.network.clone(), settings)
}

pub(super) fn body(plan: Plan<'_>) -> ContainerCreateBody {
    let container = plan.container;
    let primary = plan.networks.first().map(endpoint);
    let mut exposed: Vec<String> =
        container.expose.iter().map(|port| format!("{port}/tcp")).collect();
    exposed.extend(plan.publish.map(|(port, _)| format!("{port}/tcp")));
    exposed.sort();
    exposed.dedup();
    let mut labels: Labels = container.labels.clone().into_iter().collect();
    labels.extend(plan.labels);
    let host = host_config(container, plan.mounts, plan.publish, plan.restart, &primary);
    ContainerCreateBody {
        image: Some(plan.image),
        cmd: container.command.clone(),
        // The API takes an empty one as "none given"; one empty word removes that of the image.
        entrypoint: container.entrypoint.clone().map(|words| match words.is_empty() {
            true => vec![String::new()],
            false => words,
        }),
        env: Some(plan.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        labels: Some(labels),
        hostname: container.hostname.clone(),
        user: container.user.clone(),
        working_dir: container.working_dir.clone(),
        tty: Some(container.tty),
        open_stdin: Some(container.stdin_open),
        healthcheck: container.healthcheck.as_ref().map(health),
        stop_signal: container.stop_signal.clone(),
        stop_timeout: i64::try_from(plan.stop_grace.as_millis().div_ceil(1000)).ok(),
        exposed_ports: Some(exposed),
        host_config: Some(host),
        networking_config: primary
            .map(|endpoint| NetworkingConfig { endpoints_config: Some(HashMap::from([endpoint])) }),
        ..ContainerCreateBody::default()
    }
}

fn host_config(
    container: &Container,
    mounts: Vec<BollardMount>,
    publish: Option<(u16, u16)>,
    restart: bool,
    primary: &Option<(String, EndpointSettings)>,
) -> HostConfig {
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let bytes = |size: domain::units::Size| i64::try_from(size.0).ok();
    let bindings = publish.map(|(port, host)| {
        let host_port = if host == 0 { String::new() } else { host.to_string() };
        let binding = PortBinding { host_ip: Some("127.0.0.1".into()), host_port: Some(host_port) };
        HashMap::from([(format!("{port}/tcp"), Some(vec![binding]))])
    });
    let hosts = container.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}"));
    let ulimits = container.ulimits.iter().map(|(name, limit)| ResourcesUlimits {
        name: Some(name.clone()),
        soft: Some(limit.soft),
        hard: Some(limit.hard),
    });
    let limits = &container.limits;
    HostConfig {
        mounts: Some(mounts),
        port_bindings: bindings,
        network_mode: primary.as_ref().map(|(network, _)| network.clone()),
        restart_policy: Some(restart_policy(restart)),
        log_config: Some(log_config(LOG_SIZE, LOG_FILES)),
        init: Some(container.init),
        readonly_rootfs: Some(container.read_only),
        cap_add: some(&container.cap_add),
        cap_drop: some(&container.cap_drop),
        security_opt: some(&container.security_opt),
        group_add: some(&container.group_add),
        sysctls: (!container.sysctls.is_empty())
            .then(|| container.sysctls.clone().into_iter().collect()),
        extra_hosts: Some(hosts.collect()),
        shm_size: container.shm_size.and_then(bytes),
        ulimits: Some(ulimits.collect()),
        nano_cpus: limits.cpu_millis.and_then(|millis| i64::try_from(millis * 1_000_000).ok()),
        memory: limits.memory.and_then(bytes),
        memory_reservation: limits.memory_reservation.and_then(bytes),
        pids_limit: limits.pids,
        ..HostConfig::default()
    }
}

/// `json-file` is the driver that every Engine can read logs from; the Engine's own default may be another.
fn log_config(size: &str, files: &str) -> HostConfigLogConfig {
    let options = [("max-size", size), ("max-file", files)];
    let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
    HostConfigLogConfig { typ: Some("json-file".into()), config: Some(HashMap::from(options)) }
}

/// The API counts in nanoseconds; zero means the Engine's default.
fn health(check: &Healthcheck) -> HealthConfig {
    let nanos = |time: Option<Duration>| time.and_then(|time| i64::try_from(time.as_nanos()).ok());
    HealthConfig {
        test: Some(check.test.clone()),
        interval: nanos(check.interval),
        timeout: nanos(check.timeout),
        start_period: nanos(check.start_period),
        retries: check.retries.map(i64::from),
        start_interval: nanos(check.start_interval),
    }
}
