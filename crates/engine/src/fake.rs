//! An engine in memory: the same answers as a real one, without processes. For the tests of others.
//!
//! Every command succeeds at once unless [`FakeEngine::script`] says otherwise.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::slot::{
    BackingSpec, BackingStatus, Color, Endpoint, Ends, Exit, JobOutcome, JobSpec, Launch, Location,
    Probe, ProbeRecord, ReplicaState, ReplicaStatus, ServiceSpec, SlotSpec, SlotStatus, Snapshot,
    Usage,
};
use domain::{EnvironmentName, ServiceName, Timestamp};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use crate::{Engine, EngineError, LogSource, Said, Streams};

/// What a command does. Chosen by the command's text; the default is [`Behaviour::Works`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// A replica is ready at once; a job ends with 0. Both say this.
    Works { says: Vec<String> },
    /// A replica is ready after a while; a job takes that long.
    Slow(Duration),
    /// A replica runs and its probe gets this answer for ever; one that was ready before is unready now.
    NeverReady { answer: String },
    /// A replica or job ends at once.
    Exits { exit: Exit, says: Vec<String> },
    /// It cannot even be started.
    CannotStart { why: String },
}

/// Remembers instead of running.
#[derive(Debug, Default)]
pub struct FakeEngine {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    scripts: BTreeMap<String, Behaviour>,
    slots: BTreeMap<(EnvironmentName, Color), Slot>,
    backing: BTreeMap<(EnvironmentName, ServiceName), BackingStatus>,
    jobs: BTreeMap<(EnvironmentName, String), JobRecord>,
    /// Replicas that run now, by what they are.
    replicas: BTreeMap<(EnvironmentName, Color, ServiceName, u32), Replica>,
    last_pid: u32,
    executed: Vec<String>,
}

#[derive(Debug)]
struct Slot {
    spec: SlotSpec,
}

#[derive(Debug)]
struct Replica {
    of: ServiceSpec,
    pid: u32,
    /// Where it answers, whatever process it is by now.
    at: u32,
    since: Instant,
    restarts: u32,
    ends: Option<Ends>,
    was_ready: Cell<bool>,
}

#[derive(Debug, Clone)]
struct JobRecord {
    exit: Exit,
    says: Vec<String>,
    started: Timestamp,
    done: Instant,
    took: Duration,
}

impl FakeEngine {
    /// Nothing runs, everything works.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on a command with exactly this text behaves so; replicas that run are asked anew.
    pub fn script(&self, command: impl Into<String>, behaviour: Behaviour) {
        self.lock().scripts.insert(command.into(), behaviour);
    }

    /// The commands of all jobs and replicas that were really started, in order.
    pub fn executed(&self) -> Vec<String> {
        self.lock().executed.clone()
    }

    /// As if the process of this replica was killed and started again.
    pub fn kill_replica(&self, environment: &EnvironmentName, slot: Color, service: &ServiceName) {
        let mut inner = self.lock();
        let pid = inner.next_pid();
        for ((e, color, s, _), replica) in &mut inner.replicas {
            if (e, *color, s) == (environment, slot, service) {
                replica.pid = pid;
                replica.restarts += 1;
                let (recent, exit) = (replica.restarts, Some(Exit::Signal(9)));
                replica.ends = Some(Ends { recent, exit, at: now(), said: None });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn behaviour(&self, command: &str) -> Behaviour {
        let scripted = self.scripts.get(command).cloned();
        scripted.unwrap_or(Behaviour::Works { says: Vec::new() })
    }

    fn next_pid(&mut self) -> u32 {
        self.last_pid += 1;
        1_000_000 + self.last_pid
    }

    fn start(&mut self, spec: &SlotSpec, service: &ServiceSpec, index: u32) {
        let key = (spec.environment.clone(), spec.slot, service.name.clone(), index);
        if self.replicas.get(&key).is_some_and(|running| same(&running.of, service)) {
            return;
        }
        let pid = self.next_pid();
        self.executed.push(command_of(service).to_owned());
        let replica = Replica {
            of: service.clone(),
            pid,
            at: pid,
            since: Instant::now(),
            restarts: 0,
            ends: None,
            was_ready: Cell::new(false),
        };
        self.replicas.insert(key, replica);
    }

    fn stop(&mut self, environment: &EnvironmentName, slot: Color) {
        self.replicas.retain(|(e, color, ..), _| (e, *color) != (environment, slot));
        self.slots.remove(&(environment.clone(), slot));
    }

    fn status(&self, spec: &SlotSpec, service: &ServiceSpec, index: u32) -> ReplicaStatus {
        if let Launch::Static(folder) = &service.launch {
            let tree = service.artifact.folder().unwrap_or(Path::new(""));
            let endpoint = Endpoint::Files(tree.join(folder));
            return ReplicaStatus {
                index,
                endpoint,
                state: ReplicaState::Ready,
                restarts: 0,
                pid: None,
                ends: None,
            };
        }
        let key = (spec.environment.clone(), spec.slot, service.name.clone(), index);
        let Some(replica) = self.replicas.get(&key) else {
            let state = ReplicaState::Starting { transcript: Vec::new() };
            let endpoint = endpoint(0);
            return ReplicaStatus { index, endpoint, state, restarts: 0, pid: None, ends: None };
        };
        let transcript = |answer: &str| vec![record(service, replica.at, answer)];
        let state = match self.behaviour(command_of(service)) {
            Behaviour::Slow(time) if replica.since.elapsed() < time => {
                ReplicaState::Starting { transcript: transcript("connection refused") }
            }
            Behaviour::Works { .. } | Behaviour::Slow(_) => {
                replica.was_ready.set(true);
                ReplicaState::Ready
            }
            Behaviour::NeverReady { answer } if replica.was_ready.get() => {
                ReplicaState::Unready { transcript: transcript(&answer) }
            }
            Behaviour::NeverReady { answer } => {
                ReplicaState::Starting { transcript: transcript(&answer) }
            }
            Behaviour::Exits { exit, says } => ReplicaState::Exited { exit, tail: says },
            Behaviour::CannotStart { why } => {
                ReplicaState::Exited { exit: Exit::Code(127), tail: vec![why] }
            }
        };
        let pid = (!matches!(state, ReplicaState::Exited { .. })).then_some(replica.pid);
        let restarts = replica.restarts;
        // What ends at once does so as often as there is room for.
        let ends = match &state {
            ReplicaState::Exited { exit, tail } => {
                Some(Ends { recent: 10, exit: Some(*exit), at: now(), said: tail.last().cloned() })
            }
            _ => replica.ends.clone(),
        };
        ReplicaStatus { index, endpoint: endpoint(replica.at), state, restarts, pid, ends }
    }

    fn says(&self, command: &str) -> Vec<String> {
        match self.behaviour(command) {
            Behaviour::Works { says } | Behaviour::Exits { says, .. } => says,
            _ => Vec::new(),
        }
    }

    /// The record of a job; makes it, which is what running it means here.
    fn job(&mut self, job: &JobSpec) -> Result<JobRecord, EngineError> {
        let key = (job.environment.clone(), job.id.clone());
        if let Some(record) = self.jobs.get(&key) {
            return Ok(record.clone());
        }
        let (exit, took) = match self.behaviour(&job.command) {
            Behaviour::CannotStart { why } => {
                return Err(EngineError::new(format!("running job {}", job.id), why));
            }
            Behaviour::Exits { exit, .. } => (exit, Duration::ZERO),
            Behaviour::Slow(time) if time > job.time_limit => (Exit::TimedOut, job.time_limit),
            Behaviour::Slow(time) => (Exit::Code(0), time),
            _ => (Exit::Code(0), Duration::ZERO),
        };
        let says = self.says(&job.command);
        let record = JobRecord { exit, says, started: now(), done: Instant::now() + took, took };
        self.executed.push(job.command.clone());
        self.jobs.insert(key, record.clone());
        Ok(record)
    }
}

#[async_trait]
impl Engine for FakeEngine {
    async fn apply(&self, spec: &SlotSpec) -> Result<(), EngineError> {
        let mut inner = self.lock();
        for service in &spec.services {
            if let Behaviour::CannotStart { why } = inner.behaviour(command_of(service)) {
                return Err(EngineError::new(format!("starting {}", service.name), why));
            }
        }
        let key = (spec.environment.clone(), spec.slot);
        let before = inner.slots.insert(key.clone(), Slot { spec: spec.clone() });
        if before.is_some_and(|before| before.spec.release != spec.release) {
            inner.replicas.retain(|(e, color, ..), _| (e, color) != (&key.0, &key.1));
        }
        inner.replicas.retain(|(e, color, name, index), _| {
            let wanted = spec.services.iter().find(|s| s.name == *name);
            (e, *color) != (&key.0, key.1) || wanted.is_some_and(|s| *index < s.replicas)
        });
        for service in &spec.services {
            if matches!(service.launch, Launch::Static(_)) {
                continue;
            }
            for index in 0..service.replicas {
                inner.start(spec, service, index);
            }
        }
        Ok(())
    }

    async fn observe(&self, environment: &EnvironmentName) -> Result<Snapshot, EngineError> {
        let inner = self.lock();
        let mut snapshot = Snapshot::default();
        for ((e, color), Slot { spec }) in &inner.slots {
            if e != environment {
                continue;
            }
            let replicas = |service: &ServiceSpec| {
                let count = match service.launch {
                    Launch::Static(_) => 1,
                    _ => service.replicas,
                };
                (0..count).map(|index| inner.status(spec, service, index)).collect()
            };
            let services = spec.services.iter().map(|s| (s.name.clone(), replicas(s))).collect();
            let status = SlotStatus { release: spec.release.clone(), services };
            snapshot.slots.insert(*color, status);
        }
        for ((e, service), status) in &inner.backing {
            if e == environment {
                snapshot.backing.insert(service.clone(), status.clone());
            }
        }
        Ok(snapshot)
    }

    async fn remove(&self, environment: &EnvironmentName, slot: Color) -> Result<(), EngineError> {
        self.lock().stop(environment, slot);
        Ok(())
    }

    async fn back(&self, spec: &BackingSpec) -> Result<SocketAddr, EngineError> {
        let mut inner = self.lock();
        if let Behaviour::CannotStart { why } = inner.behaviour(&spec.image) {
            return Err(EngineError::new(format!("starting {}", spec.service), why));
        }
        let pid = inner.next_pid();
        let key = (spec.environment.clone(), spec.service.clone());
        let fresh = BackingStatus {
            address: address(pid),
            inside: None,
            ready: true,
            problem: None,
            restarts: 0,
            pid: Some(pid),
        };
        Ok(inner.backing.entry(key).or_insert(fresh).address)
    }

    async fn down(&self, environment: &EnvironmentName, _: bool) -> Result<(), EngineError> {
        let mut inner = self.lock();
        for slot in [Color::Blue, Color::Green] {
            inner.stop(environment, slot);
        }
        inner.backing.retain(|(e, _), _| e != environment);
        Ok(())
    }

    async fn run(&self, job: &JobSpec) -> Result<JobOutcome, EngineError> {
        self.lock().job(job)?;
        loop {
            let record = self.lock().job(job)?;
            let Some(left) = record.done.checked_duration_since(Instant::now()) else {
                let finished = record.started + record.took;
                let (exit, started, tail) = (record.exit, record.started, record.says);
                return Ok(JobOutcome { exit, started, finished, tail });
            };
            // Short steps, because the job may be stopped meanwhile.
            tokio::time::sleep(left.min(Duration::from_millis(5))).await;
        }
    }

    async fn cancel(&self, environment: &EnvironmentName, id: &str) -> Result<(), EngineError> {
        let key = (environment.clone(), id.to_owned());
        if let Some(job) = self.lock().jobs.get_mut(&key).filter(|job| job.done > Instant::now()) {
            job.exit = Exit::Signal(15);
            job.done = Instant::now();
        }
        Ok(())
    }

    async fn logs(
        &self,
        environment: &EnvironmentName,
        source: &LogSource,
        lines: usize,
    ) -> Result<Vec<String>, EngineError> {
        let inner = self.lock();
        let all = match source {
            LogSource::Replica { slot, service, index } => {
                let key = (environment.clone(), *slot, service.clone(), *index);
                inner.replicas.get(&key).map(|replica| inner.says(command_of(&replica.of)))
            }
            LogSource::Backing { service } => {
                inner.backing.get(&(environment.clone(), service.clone())).map(|_| Vec::new())
            }
            LogSource::Job { id } => {
                inner.jobs.get(&(environment.clone(), id.clone())).map(|job| job.says.clone())
            }
        };
        let all = all.ok_or_else(|| {
            let doing = format!("reading the log of {source:?} in {environment}");
            EngineError::new(doing, "nothing of this name has run here")
        })?;
        Ok(all[all.len().saturating_sub(lines)..].to_vec())
    }

    async fn exec(
        &self,
        environment: &EnvironmentName,
        slot: Color,
        service: &ServiceName,
        command: &[String],
        mut streams: Streams,
    ) -> Result<Exit, EngineError> {
        let doing = || format!("running a command beside {service} of {slot} in {environment}");
        let (exit, says) = {
            let inner = self.lock();
            let slot_spec = inner.slots.get(&(environment.clone(), slot));
            if slot_spec.is_none_or(|slot| slot.spec.services.iter().all(|s| s.name != *service)) {
                return Err(EngineError::new(doing(), "this slot has no such service"));
            }
            let command = command.join(" ");
            let exit = match inner.behaviour(&command) {
                Behaviour::Exits { exit, .. } => exit,
                _ => Exit::Code(0),
            };
            (exit, inner.says(&command))
        };
        let mut heard = Vec::new();
        // The one program that shows what it was given.
        if *command == ["cat"] {
            let read = streams.input.read_to_end(&mut heard).await;
            read.map_err(|error| EngineError::new("reading for cat", error.to_string()))?;
        }
        heard.extend(says.iter().flat_map(|line| [line.as_bytes(), b"\n"]).flatten());
        let sent = streams.output.send(Said::Output(heard.into())).await;
        sent.map(|()| exit).map_err(|_| EngineError::new(doing(), "nobody listens any more"))
    }

    async fn usage(&self, environment: &EnvironmentName) -> Result<Vec<Usage>, EngineError> {
        let inner = self.lock();
        let of = |slot, service: &ServiceName, index, pid| Usage {
            slot,
            service: service.clone(),
            index,
            pid,
            started: String::new(),
            cpu: Duration::from_millis(10),
            memory: 1 << 20,
            disk: 4096,
        };
        let here = inner.replicas.iter().filter(|((e, ..), _)| e == environment);
        let replicas = here.map(|((_, slot, service, index), replica)| {
            of(Some(*slot), service, *index, replica.pid)
        });
        let backing = inner.backing.iter().filter(|((e, _), _)| e == environment);
        let backing =
            backing.filter_map(|((_, service), status)| Some(of(None, service, 0, status.pid?)));
        Ok(replicas.chain(backing).collect())
    }
}

fn command_of(service: &ServiceSpec) -> &str {
    match &service.launch {
        Launch::Command(command) => command,
        Launch::Static(_) => "",
        // Its last word: the script of `sh -c SCRIPT`. One that runs what its image says goes by its image.
        Launch::Container(container) => match container.command.as_deref() {
            Some([.., last]) => last,
            _ => image_of(&service.artifact.location),
        },
    }
}

fn image_of(location: &Location) -> &str {
    match location {
        Location::Image { image, .. } => image,
        Location::Folder(_) => "",
    }
}

/// A restart is needed unless these are equal.
fn same(one: &ServiceSpec, other: &ServiceSpec) -> bool {
    (&one.artifact, &one.launch, &one.env) == (&other.artifact, &other.launch, &other.env)
}

fn record(service: &ServiceSpec, pid: u32, answer: &str) -> ProbeRecord {
    let request = match &service.health.probe {
        Probe::Http(path) => format!("GET http://{}{path}", address(pid)),
        Probe::Tcp => format!("connect to {}", address(pid)),
    };
    ProbeRecord { at: now(), request, answer: answer.to_owned(), ok: false }
}

fn endpoint(pid: u32) -> Endpoint {
    Endpoint::Http(address(pid))
}

/// From the pid, so that no two are the same.
fn address(pid: u32) -> SocketAddr {
    let port = u16::try_from(10_000 + pid % 20_000).unwrap_or(10_000);
    ([127, 0, 0, 1], port).into()
}

fn now() -> Timestamp {
    crate::process::now()
}
