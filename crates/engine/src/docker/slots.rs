//! Brings a slot to what is asked: keeps the containers that are as asked, replaces what differs, removes what is too much.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use bollard::models::ContainerSummary;
use domain::container::Container;
use domain::slot::{Color, Launch, ServiceSpec, SlotSpec};
use domain::{Digest, EnvironmentName};
use futures_util::stream::{StreamExt, TryStreamExt, iter};

use super::DockerEngine;
use super::connect::Trouble;
use super::containers::{Place, Plan, half_made};
use super::images::Facts;
use super::labels;
use super::mounts::Owner;
use super::networks::Net;
use crate::EngineError;
use crate::process::ports::Reservation;

/// Containers that are made, started or stopped side by side.
const SIDE_BY_SIDE: usize = 8;

/// One replica that there should be.
struct Wanted<'a> {
    service: &'a ServiceSpec,
    container: &'a Container,
    index: u32,
    digest: String,
}

impl Wanted<'_> {
    fn is(&self, found: &ContainerSummary) -> bool {
        labels::get(&found.labels, labels::SERVICE) == self.service.name.as_str()
            && labels::get(&found.labels, labels::INDEX) == self.index.to_string()
            && labels::get(&found.labels, labels::DIGEST) == self.digest
    }
}

impl DockerEngine {
    pub(super) async fn apply_slot(&self, spec: &SlotSpec) -> Result<(), EngineError> {
        let doing =
            || format!("applying {} to {} in {}", spec.release, spec.slot, spec.environment);
        let failed = |why: String| EngineError::new(doing(), why);
        for service in &spec.services {
            check(service).map_err(failed)?;
        }
        let _guard = self.records.guard_slot(&spec.environment, spec.slot).await;
        self.records.keep_slot(spec).map_err(|error| failed(error.to_string()))?;
        let made = self.connection.steadily(|| self.bring_up(spec)).await;
        made.map_err(|trouble| failed(trouble.to_string()))
    }

    /// To be called by who holds the slot's guard.
    pub(super) async fn bring_up(&self, spec: &SlotSpec) -> Result<(), Trouble> {
        let wanted = self.wanted(spec)?;
        let (kept, other): (Vec<_>, Vec<_>) =
            self.replicas(&spec.environment, spec.slot).await?.into_iter().partition(|found| {
                !half_made(found) && wanted.iter().any(|wanted| wanted.is(found))
            });
        self.discard_all(&spec.environment, &other).await?;
        if wanted.is_empty() {
            return Ok(());
        }
        let app = spec.app.as_str();
        let slot = self.slot_network(app, &spec.environment, spec.slot).await?;
        let environment = self.environment_network(app, &spec.environment).await?;
        let mut taken: BTreeSet<Ipv4Addr> = kept
            .iter()
            .filter_map(|found| labels::get(&found.labels, labels::ADDRESS).parse().ok())
            .collect();
        let mut waves = BTreeMap::<usize, Vec<_>>::new();
        for wanted in &wanted {
            let found = kept.iter().find(|found| wanted.is(found));
            // Its network may have been made anew: then its address is no more.
            let usable = found.filter(|found| fits(found, &slot));
            if let Some(found) = found.filter(|_| usable.is_none()) {
                self.discard_all(&spec.environment, std::slice::from_ref(found)).await?;
            }
            let address = match (usable, slot.subnet.filter(|_| slot.direct)) {
                (None, Some(subnet)) => {
                    let free = subnet.free(&taken).ok_or_else(|| {
                        Trouble::refused("a slot has at most 126 containers on one machine")
                    })?;
                    taken.insert(free);
                    Some(free)
                }
                _ => None,
            };
            let networks = (&slot, &environment);
            let start = self.replica_runs(spec, wanted, usable, address, networks);
            waves.entry(spec.wave(wanted.service)).or_default().push(start);
        }
        for wave in waves.into_values() {
            iter(wave).buffer_unordered(SIDE_BY_SIDE).try_collect::<Vec<()>>().await?;
        }
        Ok(())
    }

    fn wanted<'a>(&self, spec: &'a SlotSpec) -> Result<Vec<Wanted<'a>>, Trouble> {
        let mut wanted = Vec::new();
        for service in &spec.services {
            let Launch::Container(container) = &service.launch else { continue };
            let digest = self.digest_of(spec, service)?;
            wanted.extend((0..service.replicas).map(|index| Wanted {
                service,
                container,
                index,
                digest: digest.clone(),
            }));
        }
        Ok(wanted)
    }

    async fn replica_runs(
        &self,
        spec: &SlotSpec,
        wanted: &Wanted<'_>,
        found: Option<&ContainerSummary>,
        address: Option<Ipv4Addr>,
        networks: (&Net, &Net),
    ) -> Result<(), Trouble> {
        let about = |trouble: Trouble| match trouble {
            Trouble::Refused(why) => Trouble::refused(format!("{}: {why}", wanted.service.name)),
            lost => lost,
        };
        if let Some(id) = found.and_then(|found| found.id.as_deref()) {
            return self.start(id).await.map_err(about);
        }
        let facts = self.artifact(&wanted.service.artifact).await.map_err(about)?;
        let port =
            answers_at(wanted.container, &facts).map_err(|why| about(Trouble::Refused(why)))?;
        let mut tries = 0;
        loop {
            let made = self.make_replica(spec, wanted, &facts, port, address, networks).await;
            let id = made.map_err(about)?;
            match self.start(&id).await {
                // The port was free when we looked.
                Err(Trouble::Refused(why)) if tries < 3 && port_taken(&why) => {
                    tries += 1;
                    self.discard(&id).await.map_err(about)?;
                }
                started => return started.map_err(about),
            }
        }
    }

    async fn make_replica(
        &self,
        spec: &SlotSpec,
        wanted: &Wanted<'_>,
        facts: &Facts,
        port: u16,
        address: Option<Ipv4Addr>,
        (slot, environment): (&Net, &Net),
    ) -> Result<String, Trouble> {
        let (service, container) = (wanted.service, wanted.container);
        let name = service.name.as_str();
        let of = spec.slot.to_string();
        let short = &wanted.digest[..16];
        let owner = Owner {
            app: spec.app.as_str(),
            environment: &spec.environment,
            service: name,
            texts: self.records.texts(&spec.environment, &of).join(format!("{name}-{short}")),
            keeps: false,
        };
        let mounts = self.mounts(container, &facts.volumes, &owner).await?;
        let mut env = service.env.clone();
        env.insert("PORT".into(), port.to_string());
        // Where the machine reaches the container itself, any port will do for people.
        let published = match address {
            Some(_) => 0,
            None => Reservation::make(None).map_err(|e| Trouble::refused(e.to_string()))?.port,
        };
        let index = wanted.index.to_string();
        let port_text = port.to_string();
        let address_text = address.map(|address| address.to_string());
        let mut pairs = vec![
            (labels::STATE, self.state.as_str()),
            (labels::APP, spec.app.as_str()),
            (labels::ENVIRONMENT, spec.environment.as_str()),
            (labels::SLOT, spec.slot.as_str()),
            (labels::SERVICE, name),
            (labels::INDEX, &index),
            (labels::RELEASE, spec.release.as_str()),
            (labels::DIGEST, &wanted.digest),
            (labels::PORT, &port_text),
        ];
        pairs.extend(address_text.as_deref().map(|address| (labels::ADDRESS, address)));
        let container = &Container {
            extra_hosts: self.hosts(&spec.environment, container),
            ..container.clone()
        };
        let mut aliases = vec![name.to_owned()];
        aliases.extend(container.networks.values().flat_map(|net| net.aliases.iter().cloned()));
        aliases.dedup();
        self.create(Plan {
            name: format!("{}-{}-{of}-{name}-{index}", spec.app, spec.environment),
            image: facts.id.clone(),
            container,
            env,
            labels: labels::of(&pairs),
            mounts,
            networks: vec![
                Place { network: slot.id.clone(), aliases, address },
                // Without a name of its own: both slots are in it.
                Place { network: environment.id.clone(), aliases: Vec::new(), address: None },
            ],
            publish: Some((port, published)),
            restart: true,
            stop_grace: service.stop_grace,
        })
        .await
    }

    /// Names of the environment's backing services, beside those that the file gives: Docker's own name server is
    /// away while the Engine is restarted, and a replica that connects to its database then would fail.
    fn hosts(&self, environment: &EnvironmentName, container: &Container) -> Vec<(String, String)> {
        let mut hosts = container.extra_hosts.clone();
        for backing in self.records.backings(environment) {
            let name = backing.spec.service.to_string();
            let given = hosts.iter().any(|(known, _)| *known == name);
            if let Some(address) = backing.address.filter(|_| !given) {
                hosts.push((name, address.to_string()));
            }
        }
        hosts
    }

    /// Containers of the slot, jobs excepted.
    pub(super) async fn replicas(
        &self,
        environment: &EnvironmentName,
        slot: Color,
    ) -> Result<Vec<ContainerSummary>, Trouble> {
        let wanted = [(labels::ENVIRONMENT, environment.as_str()), (labels::SLOT, slot.as_str())];
        let mut found = self.containers(&wanted).await?;
        found.retain(|found| labels::get(&found.labels, labels::JOB).is_empty());
        Ok(found)
    }

    pub(super) async fn remove_slot(
        &self,
        environment: &EnvironmentName,
        slot: Color,
    ) -> Result<(), EngineError> {
        if !self.records.knows(environment) {
            return Ok(());
        }
        let failed =
            |why: String| EngineError::new(format!("removing {slot} of {environment}"), why);
        let _guard = self.records.guard_slot(environment, slot).await;
        let removing = || async {
            let found = self.replicas(environment, slot).await?;
            self.discard_all(environment, &found).await
        };
        let removed = self.connection.steadily(removing).await;
        removed.map_err(|trouble| failed(trouble.to_string()))?;
        // Last: a crash before this is seen, and the removal repeated.
        self.records.forget_slot(environment, slot).map_err(|error| failed(error.to_string()))
    }

    /// Stops and removes them side by side; their last lines are kept.
    pub(super) async fn discard_all(
        &self,
        environment: &EnvironmentName,
        found: &[ContainerSummary],
    ) -> Result<(), Trouble> {
        let gone = found.iter().map(|found| async move {
            let id = found.id.as_deref().unwrap_or_default();
            self.stop(id).await?;
            self.keep_last_words(environment, found).await?;
            self.discard(id).await
        });
        let all: Vec<_> = gone.collect();
        iter(all).buffer_unordered(SIDE_BY_SIDE).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    pub(super) async fn take_down(
        &self,
        environment: &EnvironmentName,
        with_data: bool,
    ) -> Result<(), EngineError> {
        if !self.records.knows(environment) {
            return Ok(());
        }
        let failed = |why: String| EngineError::new(format!("taking {environment} down"), why);
        let ours = [(labels::ENVIRONMENT, environment.as_str()), (labels::JOB, "")];
        let jobs = self.connection.steadily(|| self.containers(&ours));
        for job in jobs.await.map_err(|trouble| failed(trouble.to_string()))? {
            self.end_job(environment, labels::get(&job.labels, labels::JOB)).await?;
        }
        for slot in [Color::Blue, Color::Green] {
            self.remove_slot(environment, slot).await?;
        }
        let taking = || async {
            let rest = self.containers(&[(labels::ENVIRONMENT, environment.as_str())]).await?;
            self.discard_all(environment, &rest).await?;
            self.drop_networks(environment).await?;
            match with_data {
                true => self.drop_volumes(environment).await,
                false => Ok(()),
            }
        };
        let taken = self.connection.steadily(taking).await;
        taken.map_err(|trouble| failed(trouble.to_string()))?;
        let forgotten = match with_data {
            true => self.records.forget_all(environment),
            false => self.records.backings(environment).into_iter().try_for_each(|mut record| {
                record.down = true;
                self.records.keep_backing(&record)
            }),
        };
        forgotten.map_err(|error| failed(error.to_string()))
    }

    /// All that needs another container when it changes; how many there are and how they are asked does not.
    pub(super) fn digest_of(
        &self,
        slot: &SlotSpec,
        service: &ServiceSpec,
    ) -> Result<String, Trouble> {
        let launch = (&service.artifact.digest, &service.launch, &service.env, service.stop_grace);
        let asked = serde_json::json!([slot.app, slot.release, service.name, launch]);
        self.salted(&asked.to_string())
    }

    pub(super) fn salted(&self, asked: &str) -> Result<String, Trouble> {
        let salt = self.records.salt();
        let salt =
            salt.map_err(|error| Trouble::refused(format!("writing the state folder: {error}")))?;
        Ok(Digest::of(format!("{salt}{asked}")).to_string())
    }
}

/// Whether the container's fixed address is of this network.
fn fits(found: &ContainerSummary, slot: &Net) -> bool {
    let address = labels::get(&found.labels, labels::ADDRESS);
    match (address.parse(), slot.subnet) {
        (Ok(address), Some(subnet)) => subnet.holds(address),
        _ => true,
    }
}

fn check(service: &ServiceSpec) -> Result<(), String> {
    match &service.launch {
        Launch::Container(_) | Launch::Static(_) => Ok(()),
        Launch::Command(_) => Err(format!(
            "{} is a command of this machine: that is for the process engine",
            service.name
        )),
    }
}

/// The container's port that traffic goes to.
pub(super) fn answers_at(container: &Container, facts: &Facts) -> Result<u16, String> {
    if let Some(port) = container.answers_at {
        return Ok(port);
    }
    let published = container.ports.iter().map(|port| port.target).collect();
    for ports in [published, container.expose.clone(), facts.exposes.clone()] {
        let distinct: BTreeSet<u16> = ports.into_iter().collect();
        let mut distinct = distinct.into_iter();
        match (distinct.next(), distinct.next()) {
            (Some(only), None) => return Ok(only),
            (Some(one), Some(other)) => {
                return Err(format!(
                    "it has several ports ({one}, {other}, ...): say which one answers, with `port: {one}` for the service in launchway.yaml"
                ));
            }
            (None, _) => {}
        }
    }
    Err("neither its Compose file nor its image says which port answers: write `port:` for the service in launchway.yaml, or EXPOSE in its Dockerfile".to_owned())
}

pub(super) fn port_taken(why: &str) -> bool {
    why.contains("port is already allocated") || why.contains("address already in use")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_port_answers_and_several_are_asked_about() {
        let image = |exposes: &[u16]| Facts { exposes: exposes.to_vec(), ..Facts::default() };
        let mut container = Container::default();
        assert_eq!(answers_at(&container, &image(&[8000])), Ok(8000));
        assert!(answers_at(&container, &image(&[])).unwrap_err().contains("EXPOSE"));
        let several = answers_at(&container, &image(&[80, 443])).unwrap_err();
        assert!(several.contains("80, 443") && several.contains("`port: 80`"), "{several}");
        container.expose = vec![9000];
        assert_eq!(answers_at(&container, &image(&[80, 443])), Ok(9000));
        container.answers_at = Some(443);
        assert_eq!(answers_at(&container, &image(&[80, 443])), Ok(443));
    }
}
