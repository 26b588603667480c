//! Backing services: any image, its data in named volumes, published on a port of 127.0.0.1 that it keeps.
//!
//! A first start is different: it fills the volumes (and loads `load`). If that fails, the image would take the half
//! of it for whole at its next start; so it is not restarted then, and volumes that never held a server that became
//! ready are removed with it. A volume that was there before is never removed.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bollard::models::{ContainerInspectResponse, ContainerUpdateBody, Mount as BollardMount};
use domain::container::{Container, Source};
use domain::slot::{BackingSpec, Exit};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::DockerEngine;
use super::connect::Trouble;
use super::containers::{Place, Plan, restart_policy};
use super::images::Facts;
use super::labels;
use super::logs::BACKING;
use super::mounts::{Owner, bind, volumes_of};
use super::observe::local;
use super::records::Backing;
use super::slots::port_taken;
use super::state::{self, Health, Life};
use crate::EngineError;
use crate::process::backing::{Kind, kind};
use crate::process::ports::Reservation;
use crate::process::{postgres, redis};

/// Recovery after a crash may take a database a while, its first data longer.
const READY_WITHIN: Duration = Duration::from_secs(120);
const LOADED_WITHIN: Duration = Duration::from_secs(1800);
const STOP_GRACE: Duration = Duration::from_secs(60);
/// How often it may end before it is given up.
const TRIES: i64 = 6;
const INIT_FOLDER: &str = "/docker-entrypoint-initdb.d";

impl DockerEngine {
    pub(super) async fn back_service(&self, spec: &BackingSpec) -> Result<SocketAddr, EngineError> {
        let failed = |why: String| {
            let doing =
                format!("starting {} ({}) in {}", spec.service, spec.image, spec.environment);
            EngineError::new(doing, why)
        };
        let _guard = self.records.guard_backing(&spec.environment, &spec.service).await;
        let backed = self.connection.steadily(|| async {
            self.provide(spec).await?;
            self.until_ready(spec).await
        });
        let port = backed.await.map_err(|trouble| failed(trouble.to_string()))?;
        Ok(local(port))
    }

    /// Makes and starts its container, if it is not there as asked. By who holds its guard.
    async fn provide(&self, spec: &BackingSpec) -> Result<(), Trouble> {
        let Some(container) = spec.container.as_deref() else {
            return Err(Trouble::refused(
                "it is to run as processes: that is for the process engine",
            ));
        };
        let facts = self.ensure_image(&spec.image).await?;
        let digest = self.backing_digest(spec, container, &facts)?;
        let known = self.records.backing(&spec.environment, &spec.service);
        let mut record = Backing { spec: spec.clone(), ..known.unwrap_or_else(|| new(spec)) };
        record.down = false;
        let found = self
            .containers(&[
                (labels::ENVIRONMENT, spec.environment.as_str()),
                (labels::SLOT, BACKING),
                (labels::SERVICE, spec.service.as_str()),
            ])
            .await?;
        let (kept, other): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|found| labels::get(&found.labels, labels::DIGEST) == digest);
        self.keep(&record)?;
        self.discard_all(&spec.environment, &other).await?;
        if let Some(id) = kept.first().and_then(|found| found.id.as_deref()) {
            return match self.start(id).await {
                Err(Trouble::Refused(why)) if port_taken(&why) => {
                    self.discard_all(&spec.environment, &kept).await?;
                    record.port = None;
                    self.first_start(&mut record, container, &facts, &digest).await
                }
                started => started,
            };
        }
        self.first_start(&mut record, container, &facts, &digest).await
    }

    async fn first_start(
        &self,
        record: &mut Backing,
        container: &Container,
        facts: &Facts,
        digest: &str,
    ) -> Result<(), Trouble> {
        let mut tries = 0;
        loop {
            let id = self.make_backing(record, container, facts, digest).await?;
            match self.start(&id).await {
                // The port was free when we looked, or was ours until somebody took it.
                Err(Trouble::Refused(why)) if tries < 3 && port_taken(&why) => {
                    tries += 1;
                    self.discard(&id).await?;
                    record.port = None;
                }
                Err(trouble) => {
                    self.discard(&id).await?;
                    return Err(trouble);
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn make_backing(
        &self,
        record: &mut Backing,
        container: &Container,
        facts: &Facts,
        digest: &str,
    ) -> Result<String, Trouble> {
        let spec = record.spec.clone();
        let (app, service) = (spec.app.as_str(), spec.service.as_str());
        let texts = self.records.texts(&spec.environment, &format!("backing.{service}"));
        let environment = &spec.environment;
        let owner =
            Owner { app, environment, service, texts: texts.join(&digest[..16]), keeps: true };
        for volume in volumes_of(container, &facts.volumes, &owner) {
            let (name, there) = self.volume_name(app, environment, &volume).await?;
            if !there && !record.fresh.contains(&name) {
                record.fresh.push(name);
            }
        }
        let inside = port_inside(&spec, container, facts);
        if inside.is_some() && record.port.is_none() {
            let free =
                Reservation::make(None).map_err(|error| Trouble::refused(error.to_string()))?;
            record.port = Some(free.port);
        }
        let network = self.environment_network(app, environment).await?;
        // Services of an environment are started side by side.
        let choosing = self.records.environment(environment).join("addresses");
        let addresses = self.records.guard(&choosing).await;
        let fixed = network.subnet.is_some_and(|net| record.address.is_some_and(|a| net.holds(a)));
        if !fixed {
            let others = self.records.every_backing(environment);
            let taken = others.iter().filter_map(|other| other.address).collect();
            record.address = network.subnet.and_then(|subnet| subnet.free(&taken));
        }
        self.keep(record)?;
        drop(addresses);
        let mut mounts = self.mounts(container, &facts.volumes, &owner).await?;
        mounts.extend(self.load_mount(&spec, container, facts, &owner)?);
        let inside_text = inside.map(|port| port.to_string()).unwrap_or_default();
        let pairs = [
            (labels::STATE, self.state.as_str()),
            (labels::APP, app),
            (labels::ENVIRONMENT, environment.as_str()),
            (labels::SLOT, BACKING),
            (labels::SERVICE, service),
            (labels::DIGEST, digest),
            (labels::PORT, &inside_text),
        ];
        let mut aliases = vec![service.to_owned()];
        aliases.extend(container.networks.values().flat_map(|net| net.aliases.iter().cloned()));
        aliases.dedup();
        self.create(Plan {
            name: format!("{app}-{environment}-{service}"),
            image: facts.id.clone(),
            container,
            env: spec.env.clone(),
            labels: labels::of(&pairs),
            mounts,
            networks: vec![Place { network: network.id, aliases, address: record.address }],
            publish: inside.zip(record.port),
            restart: record.fresh.is_empty(),
            stop_grace: STOP_GRACE,
        })
        .await
    }

    fn keep(&self, record: &Backing) -> Result<(), Trouble> {
        let kept = self.records.keep_backing(record);
        kept.map_err(|error| Trouble::refused(format!("writing the state folder: {error}")))
    }

    fn backing_digest(
        &self,
        spec: &BackingSpec,
        container: &Container,
        facts: &Facts,
    ) -> Result<String, Trouble> {
        let asked = serde_json::json!([spec.app, spec.service, facts.id, spec.env, container]);
        self.salted(&asked.to_string())
    }

    /// `load`, where the image runs what lies there on its first start. A copy: the container outlives the original.
    fn load_mount(
        &self,
        spec: &BackingSpec,
        container: &Container,
        facts: &Facts,
        owner: &Owner<'_>,
    ) -> Result<Option<BollardMount>, Trouble> {
        let Some(load) = &spec.load else { return Ok(None) };
        let is_postgres = kind(&spec.image) == Ok(Kind::Postgres)
            || facts.volumes.iter().any(|path| path.starts_with("/var/lib/postgresql"));
        if !is_postgres {
            return Err(Trouble::refused(format!(
                "{} cannot be loaded into {}: `load` is for PostgreSQL; mount the file as its image wants it, in the Compose file",
                load.display(),
                spec.image
            )));
        }
        let failed = |error: std::io::Error| {
            Trouble::refused(format!("reading {}: {error}", load.display()))
        };
        let content = fs::read(load).map_err(failed)?;
        let same = |mount: &domain::container::Mount| match &mount.source {
            Source::Host(path) => {
                mount.target.starts_with(INIT_FOLDER) && fs::read(path).is_ok_and(|c| c == content)
            }
            _ => false,
        };
        // The Compose file mounts the very same for `docker compose up`: once is enough.
        if container.mounts.iter().any(same) {
            return Ok(None);
        }
        let copy = owner.texts.join("load.sql");
        super::mounts::write_file(&copy, &content, 0o444, (None, None)).map_err(failed)?;
        Ok(Some(bind(&copy, &format!("{INIT_FOLDER}/launchway-load.sql"))))
    }

    /// Waits until it takes work. Answers where it is published, 0 if nowhere.
    async fn until_ready(&self, spec: &BackingSpec) -> Result<u16, Trouble> {
        let mut before = None;
        let begun = Instant::now();
        loop {
            let Some(mut record) = self.records.backing(&spec.environment, &spec.service) else {
                return Err(Trouble::refused("it was stopped meanwhile"));
            };
            let Some(found) = self.backing_container(&record).await? else {
                return Err(Trouble::refused("its container was removed meanwhile"));
            };
            let id = found.id.clone().unwrap_or_default();
            let restarts = found.restart_count.unwrap_or(0);
            let problem = match state::life(&found) {
                Life::Running { .. } => match self.backing_problem(&record, &found).await {
                    None => {
                        self.settle(&id, &mut record).await?;
                        return Ok(record.port.unwrap_or(0));
                    }
                    Some(problem) => problem,
                },
                Life::Ended { exit, .. } if !record.fresh.is_empty() => {
                    return Err(self.undo(&id, &mut record, exit).await?);
                }
                Life::Ended { exit, .. } => {
                    let said = self.tail(&id, 5).await?.join(" / ");
                    format!("it {}; it said: {said}", exit.predicate())
                }
                Life::Created => "it was not started yet".to_owned(),
            };
            let limit = if record.fresh.is_empty() { READY_WITHIN } else { LOADED_WITHIN };
            let hopeless = restarts >= *before.get_or_insert(restarts) + TRIES;
            if hopeless || begun.elapsed() > limit {
                return Err(Trouble::refused(format!(
                    "it is not ready: {problem}; see `launchway logs`"
                )));
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// It was ready once: from now on its data are kept, and it is kept running.
    async fn settle(&self, id: &str, record: &mut Backing) -> Result<(), Trouble> {
        if record.fresh.is_empty() {
            return Ok(());
        }
        let update = ContainerUpdateBody {
            restart_policy: Some(restart_policy(true)),
            ..ContainerUpdateBody::default()
        };
        let updated = self.docker().await?.update_container(id, update).await;
        updated.map_err(|error| self.trouble(error))?;
        record.fresh.clear();
        self.keep(record)
    }

    /// Takes a failed first start back, so that the next one begins anew.
    async fn undo(&self, id: &str, record: &mut Backing, exit: Exit) -> Result<Trouble, Trouble> {
        let said = self.tail(id, 20).await?.join("\n");
        self.discard(id).await?;
        for volume in &record.fresh {
            self.drop_volume(volume).await?;
        }
        record.fresh.clear();
        self.keep(record)?;
        Ok(Trouble::refused(format!(
            "its first start failed ({exit}), and nothing of it was kept; it said:\n{said}"
        )))
    }

    async fn backing_container(
        &self,
        record: &Backing,
    ) -> Result<Option<ContainerInspectResponse>, Trouble> {
        let spec = &record.spec;
        let wanted = [
            (labels::ENVIRONMENT, spec.environment.as_str()),
            (labels::SLOT, BACKING),
            (labels::SERVICE, spec.service.as_str()),
        ];
        match self.containers(&wanted).await?.first().and_then(|found| found.id.clone()) {
            Some(id) => self.inspect(&id).await,
            None => Ok(None),
        }
    }

    /// Why it takes no work, if it does not: its own health check, and a question in its own protocol.
    pub(super) async fn backing_problem(
        &self,
        record: &Backing,
        found: &ContainerInspectResponse,
    ) -> Option<String> {
        let id = found.id.as_deref().unwrap_or_default();
        let health = state::health(found);
        match &health {
            Health::Unhealthy { answer } => {
                return Some(format!("its health check fails: {answer}"));
            }
            Health::Starting => {
                if let Some(failed) = self.own_check(found, id).await.filter(|record| !record.ok) {
                    return Some(format!("its health check fails: {}", failed.answer));
                }
            }
            Health::None | Health::Healthy => {}
        }
        let address = reachable(found, record)?;
        ping(&record.spec, address, health == Health::None).await.err()
    }

    /// A container that somebody removed or stopped behind our back.
    pub(super) async fn back_again(&self, record: &Backing) {
        let spec = &record.spec;
        let Some(_guard) = self.records.try_guard_backing(&spec.environment, &spec.service) else {
            return;
        };
        let known = self.records.backing(&spec.environment, &spec.service);
        if known.as_ref() != Some(record) || !record.fresh.is_empty() {
            return;
        }
        if let Err(trouble) = self.provide(spec).await {
            tracing::warn!(service = %spec.service, environment = %spec.environment, %trouble, "a backing service that is gone could not be brought back");
        }
    }
}

fn new(spec: &BackingSpec) -> Backing {
    let spec = spec.clone();
    Backing { spec, port: None, address: None, fresh: Vec::new(), down: false }
}

/// The container's own address where the machine reaches that, else where it is published: Docker's proxy accepts
/// connections before anybody answers them.
fn reachable(found: &ContainerInspectResponse, record: &Backing) -> Option<SocketAddr> {
    let published = record.port?;
    let labels = found.config.as_ref().and_then(|config| config.labels.clone());
    let inside: u16 = labels::get(&labels, labels::PORT).parse().ok()?;
    let networks = found.network_settings.as_ref().and_then(|net| net.networks.as_ref());
    let own = networks.into_iter().flat_map(|networks| networks.values()).find_map(|net| {
        let gateway = net.gateway.as_deref()?.parse().ok()?;
        let address = net.ip_address.as_deref()?.parse::<std::net::Ipv4Addr>().ok()?;
        super::networks::is_ours(gateway).then_some(address)
    });
    Some(own.map_or(local(published), |address| (address, inside).into()))
}

/// One question in its own protocol; of a server that we do not know, a connection if `alone` nothing else was asked.
async fn ping(spec: &BackingSpec, address: SocketAddr, alone: bool) -> Result<(), String> {
    const LIMIT: Duration = Duration::from_secs(2);
    let asking = async {
        match kind(&spec.image) {
            Ok(Kind::Postgres) if spec.env.contains_key("POSTGRES_PASSWORD") => {
                postgres::ping(address, spec).await
            }
            Ok(Kind::Redis) => redis::ping(address).await,
            _ if alone => accepts(address).await,
            _ => Ok(()),
        }
    };
    let late = |_| Err(format!("{address} did not answer within {LIMIT:?}"));
    tokio::time::timeout(LIMIT, asking).await.unwrap_or_else(late)
}

/// Whether somebody accepts a connection and keeps it: a proxy with nobody behind it closes it at once.
pub(super) async fn accepts(address: SocketAddr) -> Result<(), String> {
    const MOMENT: Duration = Duration::from_millis(100);
    let text = |error: std::io::Error| format!("{address}: {error}");
    let mut stream = TcpStream::connect(address).await.map_err(text)?;
    match tokio::time::timeout(MOMENT, stream.read(&mut [0])).await {
        Ok(Ok(0)) => Err(format!("{address} closes the connection at once")),
        Ok(Err(error)) => Err(text(error)),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

/// The port that it answers on inside; `None` if it seems to have none. Of several, the first that Compose names.
fn port_inside(spec: &BackingSpec, container: &Container, facts: &Facts) -> Option<u16> {
    let usual = match kind(&spec.image) {
        Ok(Kind::Postgres) => Some(5432),
        Ok(Kind::Redis) => Some(6379),
        Err(_) => None,
    };
    container
        .answers_at
        .or_else(|| container.ports.first().map(|port| port.target))
        .or_else(|| container.expose.first().copied())
        .or(usual)
        .or_else(|| facts.exposes.first().copied())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use domain::{AppName, EnvironmentName, ServiceName};

    #[test]
    fn a_backing_service_answers_where_compose_or_its_image_says() {
        let spec = |image: &str| BackingSpec {
            app: AppName::new("teahouse").unwrap(),
            environment: EnvironmentName::new("staging").unwrap(),
            service: ServiceName::new("data").unwrap(),
            image: image.to_owned(),
            env: BTreeMap::new(),
            load: None,
            container: None,
        };
        let facts = |exposes: &[u16]| Facts { exposes: exposes.to_vec(), ..Facts::default() };
        let mut container = Container::default();
        assert_eq!(port_inside(&spec("postgres:16"), &container, &facts(&[5432])), Some(5432));
        assert_eq!(port_inside(&spec("rabbitmq:3"), &container, &facts(&[4369, 5672])), Some(4369));
        assert_eq!(port_inside(&spec("worker"), &container, &facts(&[])), None);
        container.expose = vec![5672];
        assert_eq!(port_inside(&spec("rabbitmq:3"), &container, &facts(&[4369])), Some(5672));
    }
}
