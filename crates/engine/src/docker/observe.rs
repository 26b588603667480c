//! Looks at everything that runs: the records, the containers, and a probe of each replica.
//!
//! What it finds gone by accident it brings back; what belongs to nothing that is known, it removes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use bollard::models::{ContainerInspectResponse, ContainerSummary};
use domain::EnvironmentName;
use domain::slot::{
    BackingStatus, Color, Endpoint, Launch, ReplicaState, ReplicaStatus, ServiceSpec, SlotSpec,
    SlotStatus, Snapshot,
};
use futures_util::stream::{FuturesOrdered, StreamExt};

use super::DockerEngine;
use super::connect::Trouble;
use super::labels;
use super::logs::BACKING;
use super::records::Backing;
use super::state::{self, Life};
use crate::EngineError;
use crate::process::now;
use crate::process::observe::look_at_files;
use crate::process::tail::{REPORT, said};

impl DockerEngine {
    pub(super) async fn look(
        &self,
        environment: &EnvironmentName,
    ) -> Result<Snapshot, EngineError> {
        let slots = self.records.slots(environment);
        let backings = self.records.backings(environment);
        // An environment that has nothing here does not depend on Docker.
        if slots.is_empty() && backings.is_empty() {
            return Ok(Snapshot::default());
        }
        let looked = self.look_at(environment, &slots, &backings).await;
        looked.map_err(|trouble| {
            EngineError::new(format!("looking at {environment}"), trouble.to_string())
        })
    }

    async fn look_at(
        &self,
        environment: &EnvironmentName,
        slots: &[SlotSpec],
        backings: &[Backing],
    ) -> Result<Snapshot, Trouble> {
        let found = self.containers(&[(labels::ENVIRONMENT, environment.as_str())]).await?;
        let ids: Vec<&str> = found.iter().filter_map(|found| found.id.as_deref()).collect();
        self.memory.trim(&ids);
        self.sweep(environment, &found).await;
        let mut snapshot = Snapshot::default();
        for spec in slots {
            let status = self.look_at_slot(spec, &found).await?;
            snapshot.slots.insert(spec.slot, status);
        }
        for record in backings {
            let status = self.look_at_backing(record, &found).await?;
            snapshot.backing.insert(record.spec.service.clone(), status);
        }
        Ok(snapshot)
    }

    async fn look_at_slot(
        &self,
        spec: &SlotSpec,
        found: &[ContainerSummary],
    ) -> Result<SlotStatus, Trouble> {
        let mut services: BTreeMap<_, Vec<ReplicaStatus>> = BTreeMap::new();
        let mut looks = FuturesOrdered::new();
        for service in &spec.services {
            let replicas = services.entry(service.name.clone()).or_default();
            if let Launch::Static(folder) = &service.launch {
                let tree = service.artifact.folder().unwrap_or(std::path::Path::new(""));
                replicas.push(look_at_files(&tree.join(folder)));
                continue;
            }
            for index in 0..service.replicas {
                let wanted = found.iter().find(|found| is(found, spec.slot, service, index));
                looks.push_back(async move {
                    let status = self.look_at_replica(spec, service, index, wanted).await;
                    status.map(|status| (&service.name, status))
                });
            }
        }
        let mut gone = false;
        while let Some(look) = looks.next().await {
            let (service, (status, there)) = look?;
            gone |= !there;
            services.entry(service.clone()).or_default().push(status);
        }
        if gone {
            self.bring_back(spec).await;
        }
        Ok(SlotStatus { release: spec.release.clone(), services })
    }

    /// Its status, and whether it is as asked for, as far as containers go.
    async fn look_at_replica(
        &self,
        spec: &SlotSpec,
        service: &ServiceSpec,
        index: u32,
        found: Option<&ContainerSummary>,
    ) -> Result<(ReplicaStatus, bool), Trouble> {
        let nowhere = Endpoint::Http(local(0));
        let starting = |endpoint| ReplicaStatus {
            index,
            endpoint,
            state: ReplicaState::Starting { transcript: Vec::new() },
            restarts: 0,
            pid: None,
            ends: None,
        };
        let id = found.and_then(|found| found.id.as_deref()).unwrap_or_default();
        let inspected = match id {
            "" => None,
            id => self.inspect(id).await?,
        };
        let Some(inspected) = inspected else { return Ok((starting(nowhere), false)) };
        let digest = self.digest_of(spec, service)?;
        let labels = inspected.config.as_ref().and_then(|config| config.labels.clone());
        // What ended here before is not this release's end.
        if labels::get(&labels, labels::DIGEST) != digest {
            return Ok((starting(nowhere), true));
        }
        let address = address_of(&inspected, &labels);
        let endpoint = Endpoint::Http(address);
        let restarts = inspected.restart_count.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let (state, pid, there) = match state::life(&inspected) {
            Life::Created => (ReplicaState::Starting { transcript: Vec::new() }, None, false),
            Life::Running { pid } => {
                (self.readiness(&inspected, address, &service.health).await, pid, true)
            }
            Life::Ended { exit, again } => {
                let tail = self.tail(id, REPORT).await?;
                (ReplicaState::Exited { exit, tail }, None, again)
            }
        };
        let ended = match &state {
            ReplicaState::Exited { exit, tail } => Some((*exit, said(tail))),
            _ => None,
        };
        let ends = self.memory.ends(&inspected, restarts, ended, now());
        Ok((ReplicaStatus { index, endpoint, state, restarts, pid, ends }, there))
    }

    /// A container that somebody removed or stopped behind our back, or that a crash left unmade. Not while somebody
    /// is changing the slot: then it is on its way.
    async fn bring_back(&self, spec: &SlotSpec) {
        let Some(_guard) = self.records.try_guard_slot(&spec.environment, spec.slot) else {
            return;
        };
        // It may have been changed or removed since we read it.
        if self.records.slot(&spec.environment, spec.slot).as_ref() != Some(spec) {
            return;
        }
        if let Err(trouble) = self.bring_up(spec).await {
            tracing::warn!(slot = %spec.slot, environment = %spec.environment, %trouble, "a replica that is gone could not be brought back");
        }
    }

    /// Removes containers that nobody asked for: of a slot, service or job without a record.
    pub(super) async fn sweep(&self, environment: &EnvironmentName, found: &[ContainerSummary]) {
        for container in found {
            let part = |name| labels::get(&container.labels, name);
            let _guard = match part(labels::SLOT) {
                _ if !part(labels::JOB).is_empty() => {
                    let job = self.records.job(environment, part(labels::JOB));
                    if self.records.begun(environment, part(labels::JOB)).is_some() {
                        continue;
                    }
                    self.records.try_guard(&job)
                }
                BACKING => {
                    let Ok(service) = domain::ServiceName::new(part(labels::SERVICE)) else {
                        continue;
                    };
                    if self
                        .records
                        .backing(environment, &service)
                        .is_some_and(|record| !record.down)
                    {
                        continue;
                    }
                    self.records.try_guard_backing(environment, &service)
                }
                slot => {
                    let color =
                        if slot == Color::Blue.as_str() { Color::Blue } else { Color::Green };
                    if self.records.slot(environment, color).is_some() {
                        continue;
                    }
                    self.records.try_guard_slot(environment, color)
                }
            };
            if _guard.is_none() {
                continue;
            }
            let name = container.names.as_ref().and_then(|names| names.first());
            tracing::warn!(%environment, container = name.map_or("", String::as_str), "removing a container that belongs to nothing that was asked for");
            if let Err(trouble) =
                self.discard_all(environment, std::slice::from_ref(container)).await
            {
                tracing::warn!(%trouble, "it could not be removed");
            }
        }
    }

    async fn look_at_backing(
        &self,
        record: &Backing,
        found: &[ContainerSummary],
    ) -> Result<BackingStatus, Trouble> {
        let service = record.spec.service.as_str();
        let found = found.iter().find(|found| {
            labels::get(&found.labels, labels::SLOT) == BACKING
                && labels::get(&found.labels, labels::SERVICE) == service
        });
        let inspected = match found.and_then(|found| found.id.as_deref()) {
            Some(id) => self.inspect(id).await?,
            None => None,
        };
        let address = local(record.port.unwrap_or(0));
        let Some(inspected) = inspected else {
            self.back_again(record).await;
            return Ok(BackingStatus {
                address,
                inside: None,
                ready: false,
                problem: Some("it has no container; it is made again".to_owned()),
                restarts: 0,
                pid: None,
            });
        };
        let labels = inspected.config.as_ref().and_then(|config| config.labels.clone());
        let port = labels::get(&labels, labels::PORT).parse::<u16>().ok();
        let (pid, problem) = match state::life(&inspected) {
            Life::Running { pid } => (pid, self.backing_problem(record, &inspected).await),
            Life::Created => {
                self.back_again(record).await;
                (None, Some("it was not started yet".to_owned()))
            }
            Life::Ended { exit, again } => {
                if !again {
                    self.back_again(record).await;
                }
                let last = self.tail(inspected.id.as_deref().unwrap_or_default(), 5).await?;
                let said = last.join(" / ");
                let exit = exit.predicate();
                (None, Some(format!("it {exit} and is started again; it said: {said}")))
            }
        };
        Ok(BackingStatus {
            address,
            inside: port.map(|port| (service.to_owned(), port)),
            ready: problem.is_none(),
            problem,
            restarts: inspected.restart_count.and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            pid,
        })
    }
}

fn is(found: &ContainerSummary, slot: Color, service: &ServiceSpec, index: u32) -> bool {
    let part = |name| labels::get(&found.labels, name);
    part(labels::SLOT) == slot.as_str()
        && part(labels::SERVICE) == service.name.as_str()
        && part(labels::INDEX) == index.to_string()
        && part(labels::JOB).is_empty()
}

pub(super) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Where the machine reaches a replica: at its own address if that is fixed, else where it is published.
fn address_of(found: &ContainerInspectResponse, labels: &Option<labels::Labels>) -> SocketAddr {
    let port = labels::get(labels, labels::PORT);
    let number: u16 = port.parse().unwrap_or(0);
    if let Ok(address) = labels::get(labels, labels::ADDRESS).parse::<Ipv4Addr>() {
        return (address, number).into();
    }
    let ports = found.network_settings.as_ref().and_then(|net| net.ports.as_ref());
    let bound = ports.and_then(|ports| ports.get(&format!("{port}/tcp"))?.as_ref()?.first());
    local(bound.and_then(|bound| bound.host_port.as_ref()?.parse().ok()).unwrap_or(0))
}
