//! Looks at everything that runs: the records, `/proc`, and a probe of each replica.
//!
//! What it finds dead by accident it heals: a killed shim is started again, a lost port exchanged.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use domain::EnvironmentName;
use domain::slot::{
    BackingStatus, Color, Endpoint, Exit, HealthCheck, Launch, ProbeRecord, ReplicaState,
    ReplicaStatus, ServiceSpec, SlotSpec, SlotStatus, Snapshot,
};
use tokio::task::JoinSet;

use super::backing::BackingRecord;
use super::keeper::blocking;
use super::{ProcessEngine, clock, owner, ports, slots, tail};
use crate::EngineError;
use crate::probe;
use crate::proc::ProcessRef;
use crate::readiness::Readiness;
use crate::unit::{Phase, Unit, UnitStatus, read_json};

/// What was seen of each unit; may be lost at any time.
#[derive(Debug, Default)]
pub(super) struct Memory {
    seen: Mutex<HashMap<PathBuf, Seen>>,
}

#[derive(Debug, Clone)]
struct Seen {
    child: ProcessRef,
    probes: Readiness,
    /// The port is known to be answered by the unit itself.
    own_port: bool,
}

impl Memory {
    /// What is known about this very process.
    fn recall(&self, unit: &Unit, child: ProcessRef) -> Seen {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.get(unit.folder()).filter(|seen| seen.child == child);
        known.cloned().unwrap_or_else(|| Seen {
            child,
            probes: Readiness::default(),
            own_port: false,
        })
    }

    fn keep(&self, unit: &Unit, known: Seen) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(unit.folder().to_owned(), known);
    }

    fn forget(&self, unit: &Unit) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.remove(unit.folder());
    }
}

impl ProcessEngine {
    pub(super) async fn look(
        &self,
        environment: &EnvironmentName,
    ) -> Result<Snapshot, EngineError> {
        let mut snapshot = Snapshot::default();
        for slot in [Color::Blue, Color::Green] {
            let spec: Option<SlotSpec> = read_json(&self.layout.slot(environment, slot));
            if let Some(spec) = spec {
                snapshot.slots.insert(slot, self.look_at_slot(&spec).await);
            }
        }
        for unit in self.layout.backings(environment) {
            let record: Option<BackingRecord> = read_json(&unit.folder().join("backing.json"));
            if let Some(record) = record {
                let status = self.look_at_backing(&unit, &record).await;
                snapshot.backing.insert(record.spec.service, status);
            }
        }
        Ok(snapshot)
    }

    async fn look_at_slot(&self, spec: &SlotSpec) -> SlotStatus {
        let mut services: BTreeMap<_, Vec<ReplicaStatus>> = BTreeMap::new();
        let mut looks = JoinSet::new();
        for service in &spec.services {
            let replicas = services.entry(service.name.clone()).or_default();
            if let Launch::Static(folder) = &service.launch {
                replicas.push(look_at_files(&slots::folder_of(service).join(folder)));
                continue;
            }
            for index in 0..service.replicas {
                let unit = self.layout.replica(&spec.environment, spec.slot, &service.name, index);
                let (engine, service) = (self.clone(), service.clone());
                let digest = slots::digest_of(spec, &service);
                looks.spawn(async move {
                    (
                        service.name.clone(),
                        engine.look_at_replica(&unit, &service, &digest, index).await,
                    )
                });
            }
        }
        while let Some(look) = looks.join_next().await {
            match look {
                Ok((service, status)) => services.entry(service).or_default().push(status),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        for replicas in services.values_mut() {
            replicas.sort_by_key(|replica| replica.index);
        }
        SlotStatus { release: spec.release.clone(), services }
    }

    async fn look_at_replica(
        &self,
        unit: &Unit,
        service: &ServiceSpec,
        digest: &str,
        index: u32,
    ) -> ReplicaStatus {
        debug_assert!(slots::runs(service));
        let (status, child) = self.attended(unit).await.unzip();
        let child = child.flatten();
        let address = local(unit.port().unwrap_or(0));
        let restarts = status.as_ref().map_or(0, |status| status.restarts);
        let state = match (child, &status) {
            (Some(child), Some(status)) => {
                self.readiness(unit, status, child, address, &service.health).await
            }
            // What ended here before is not this release's end.
            (None, Some(status)) if status.digest == digest => {
                self.leave_taken_port(unit, status).await;
                exited(unit, status.last_exit).await
            }
            _ => ReplicaState::Starting { transcript: Vec::new() },
        };
        let pid = child.map(|child| child.pid);
        let of_this_release = status.as_ref().filter(|status| status.digest == digest);
        let ends = of_this_release.and_then(|status| status.ends(clock::now()));
        ReplicaStatus { index, endpoint: Endpoint::Http(address), state, restarts, pid, ends }
    }

    /// What the shim says, and its command if that lives: at one moment, as it may die in the next. A unit without a
    /// shim that should have one gets one first.
    pub(super) async fn attended(&self, unit: &Unit) -> Option<(UnitStatus, Option<ProcessRef>)> {
        if !unit.attended() && unit.spec_path().exists() {
            self.memory.forget(unit);
            if let Err(error) = self.keeper.revive(unit).await {
                tracing::error!(%error, "a unit without a supervisor could not be started again");
            }
        }
        let deadline = Instant::now() + Duration::from_millis(500);
        loop {
            let status = unit.status()?;
            let child = living_child(&status);
            // Dead, and its supervisor is about to say how.
            let unsaid = status.phase == Phase::Running && child.is_none();
            if !unsaid || !unit.attended() || Instant::now() > deadline {
                return Some((status, child));
            }
            tokio::time::sleep(clock::TICK).await;
        }
    }

    async fn readiness(
        &self,
        unit: &Unit,
        status: &UnitStatus,
        child: ProcessRef,
        address: SocketAddr,
        check: &HealthCheck,
    ) -> ReplicaState {
        let mut seen = self.memory.recall(unit, child);
        if !seen.probes.fresh(check.interval) {
            let record = self.ask(status, &mut seen, address, check).await;
            let ready = record.ok;
            seen.probes.note(record);
            seen.probes.settle(ready);
            self.memory.keep(unit, seen.clone());
        }
        seen.probes.state()
    }

    /// Probes, and once per process makes sure that the answer is its own and not a stranger's.
    async fn ask(
        &self,
        status: &UnitStatus,
        seen: &mut Seen,
        address: SocketAddr,
        check: &HealthCheck,
    ) -> ProbeRecord {
        let mut record = probe::probe(address, check).await;
        if !record.ok || seen.own_port {
            return record;
        }
        let shim = status.shim.pid;
        match blocking(move || owner::listens(shim, address.port())).await {
            false => {
                record.ok = false;
                record.answer.push_str(", but from a process that is not of this replica");
            }
            true => seen.own_port = true,
        }
        record
    }

    /// A replica that cannot start because a stranger has its port gets another.
    async fn leave_taken_port(&self, unit: &Unit, status: &UnitStatus) {
        if status.phase != Phase::Waiting {
            return;
        }
        let Some(port) = unit.port() else { return };
        let taken = blocking(move || ports::answers(port)).await;
        let still = unit
            .status()
            .is_some_and(|now| now.phase == Phase::Waiting && now.restarts == status.restarts);
        if taken
            && still
            && let Err(error) = self.keeper.move_port(unit).await
        {
            tracing::error!(%error, "a replica whose port is taken could not be moved");
        }
    }

    async fn look_at_backing(&self, unit: &Unit, record: &BackingRecord) -> BackingStatus {
        let (status, child) = self.attended(unit).await.unzip();
        let child = child.flatten();
        let address = local(unit.port().unwrap_or(0));
        let problem = match (child, &status) {
            (Some(_), _) => record.ping(address).await.err(),
            (None, Some(status)) => Some(why_down(unit, status).await),
            (None, None) => Some("it was not started yet".to_owned()),
        };
        BackingStatus {
            address,
            inside: None,
            ready: problem.is_none(),
            problem,
            restarts: status.map_or(0, |status| status.restarts),
            pid: child.map(|child| child.pid),
        }
    }
}

/// `127.0.0.1` and this port.
pub(super) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

pub(super) fn living_child(status: &UnitStatus) -> Option<ProcessRef> {
    let up = matches!(status.phase, Phase::Running | Phase::Stopping);
    status.child.filter(|child| up && child.alive())
}

async fn exited(unit: &Unit, exit: Option<Exit>) -> ReplicaState {
    let unit = unit.clone();
    let tail = blocking(move || tail::tail(&unit, tail::REPORT)).await;
    ReplicaState::Exited { exit: exit.unwrap_or(Exit::Unknown), tail }
}

/// How a backing service ended, and its last words.
pub(super) async fn why_down(unit: &Unit, status: &UnitStatus) -> String {
    let exit = status.last_exit.unwrap_or(Exit::Unknown).predicate();
    let unit = unit.clone();
    let last = blocking(move || tail::tail(&unit, 5)).await;
    format!("it {exit} and is started again; it said: {}", last.join(" / "))
}

pub(crate) fn look_at_files(folder: &Path) -> ReplicaStatus {
    let state = match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => ReplicaState::Ready,
        Ok(false) => missing(folder, "it is empty"),
        Err(error) => missing(folder, &error.to_string()),
    };
    let endpoint = Endpoint::Files(folder.to_owned());
    ReplicaStatus { index: 0, endpoint, state, restarts: 0, pid: None, ends: None }
}

fn missing(folder: &Path, why: &str) -> ReplicaState {
    let tail = vec![format!("launchway: cannot serve {}: {why}", folder.display())];
    ReplicaState::Exited { exit: Exit::Unknown, tail }
}
