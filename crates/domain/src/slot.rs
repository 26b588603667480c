//! What an engine is asked to run and what it answers: slots, replicas, backing services, jobs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::container::Container;
use crate::units::Size;
use crate::{AppName, Digest, EnvironmentName, ReleaseId, ServiceName, Timestamp};

/// One of the two sets of replicas of an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    Blue,
    Green,
}

impl Color {
    /// The other slot.
    pub fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }

    /// `blue` or `green`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }
}

impl std::fmt::Display for Color {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Everything an engine needs to bring up one slot; applying it twice changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotSpec {
    pub app: AppName,
    pub environment: EnvironmentName,
    pub slot: Color,
    pub release: ReleaseId,
    pub services: Vec<ServiceSpec>,
}

/// One service of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    pub name: ServiceName,
    /// How many replicas run side by side; at least 1.
    pub replicas: u32,
    /// What was built once and is run everywhere.
    pub artifact: ArtifactRef,
    pub launch: Launch,
    /// The whole environment of the replica, interpolated. `PORT` is added by the engine.
    pub env: BTreeMap<String, String>,
    pub health: HealthCheck,
    /// Between SIGTERM and SIGKILL.
    pub stop_grace: Duration,
    /// Services of the slot that are started first: containers find each other by name only once they run.
    #[serde(default)]
    pub after: Vec<ServiceName>,
}

impl SlotSpec {
    /// How many others are started one after the other before this service.
    pub fn wave(&self, service: &ServiceSpec) -> usize {
        let named = |name: &ServiceName| self.services.iter().find(|service| service.name == *name);
        let mut wave = 0;
        let mut before: Vec<&ServiceSpec> = service.after.iter().filter_map(named).collect();
        // Reading refuses circles; one that is there all the same ends here.
        while !before.is_empty() && wave < self.services.len() {
            wave += 1;
            before = before.iter().flat_map(|one| one.after.iter().filter_map(named)).collect();
        }
        wave
    }
}

/// What was built of a service, by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRef {
    pub digest: Digest,
    pub location: Location,
}

impl ArtifactRef {
    /// Its folder, if it is a tree.
    pub fn folder(&self) -> Option<&Path> {
        match &self.location {
            Location::Folder(folder) => Some(folder),
            Location::Image { .. } => None,
        }
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Image { image, .. } => f.pad(image),
        }
    }
}

/// Where an artifact lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Location {
    /// A read-only tree of this machine (process engine).
    Folder(PathBuf),
    /// An image (docker). The artifact's digest is that of its configuration, the image's id.
    Image {
        /// For people: `teahouse/backend:<commit>`. What runs is always named by digest.
        image: String,
        /// `name@sha256:...` in a registry, if it was pushed to one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pushed: Option<String>,
    },
}

/// How a service of ours is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Launch {
    /// `sh -c COMMAND` in the artifact's folder, with `$PORT` set.
    Command(String),
    /// This folder inside the artifact is served by the edge; nothing runs.
    Static(PathBuf),
    /// A container of the artifact's image.
    Container(Box<Container>),
}

/// When a replica is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    pub probe: Probe,
    /// Between two probes.
    pub interval: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// From the start of the process until it must have been ready once.
    pub start_deadline: Duration,
}

/// How readiness is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// `GET` this path: 2xx is ready; a redirect is a failure.
    Http(String),
    /// The port accepts a connection.
    Tcp,
}

/// A backing service of an environment (PostgreSQL, Redis): shared by both slots, kept over releases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackingSpec {
    pub app: AppName,
    pub environment: EnvironmentName,
    pub service: ServiceName,
    /// The Compose image, for example `postgres:16-alpine`.
    pub image: String,
    /// The Compose environment, interpolated (`POSTGRES_USER`, ...).
    pub env: BTreeMap<String, String>,
    /// An SQL file that is loaded once, when the data folder is new.
    #[serde(default)]
    pub load: Option<PathBuf>,
    /// Run as this container; `None`: as processes of this machine.
    #[serde(default)]
    pub container: Option<Box<Container>>,
}

/// A command that runs once: a migration, a test against an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Names the job over crashes: the same id never runs twice, a finished one answers from its record.
    pub id: String,
    pub environment: EnvironmentName,
    /// `sh -c COMMAND`.
    pub command: String,
    pub place: Place,
    pub env: BTreeMap<String, String>,
    pub time_limit: Duration,
    /// Jobs with the same lock never overlap; the lock outlives a crash of the server, not of the job.
    pub lock: Option<String>,
    /// Where all of its output is appended as it comes, standard output and error alike, up to 16 MiB
    /// (then one line says that the rest was dropped); by default in the engine's own log of the job.
    #[serde(default)]
    pub log: Option<PathBuf>,
}

/// Where a job runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A container of its own, of the image and in the networks of this service of the slot.
    Container { slot: Color, service: ServiceName, image: ArtifactRef, container: Box<Container> },
}

/// How a job or a replica's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// The time limit ran out and the process group was killed.
    TimedOut,
    /// The kernel killed it for using more memory than its container may; the limit in bytes, where there is one.
    OutOfMemory {
        limit: Option<u64>,
    },
    /// The owner of the process died too, so nobody saw the status.
    Unknown,
}

impl Exit {
    /// Ended by itself with status 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// What became of it, to stand after its name.
    pub fn predicate(self) -> String {
        match self {
            Self::Code(code) => format!("exited with code {code}"),
            Self::Unknown => self.to_string(),
            _ => format!("was {self}"),
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::TimedOut => f.write_str("stopped at its time limit"),
            Self::OutOfMemory { limit: Some(limit) } => {
                write!(f, "killed for lack of memory (limit {})", Size(*limit))
            }
            Self::OutOfMemory { limit: None } => f.write_str("killed for lack of memory"),
            Self::Unknown => f.write_str("ended unseen, its supervisor was killed"),
        }
    }
}

/// The result of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOutcome {
    pub exit: Exit,
    pub started: Timestamp,
    pub finished: Timestamp,
    /// The last lines of its output, at most 200.
    pub tail: Vec<String>,
}

/// All that an engine runs for one environment. Whole, so that a missed one is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Snapshot {
    pub slots: BTreeMap<Color, SlotStatus>,
    pub backing: BTreeMap<ServiceName, BackingStatus>,
}

/// What one slot really runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStatus {
    pub release: ReleaseId,
    pub services: BTreeMap<ServiceName, Vec<ReplicaStatus>>,
}

impl SlotStatus {
    /// Every service has all its replicas ready.
    pub fn ready(&self) -> bool {
        !self.services.is_empty()
            && self.services.values().all(|replicas| {
                !replicas.is_empty() && replicas.iter().all(|r| r.state == ReplicaState::Ready)
            })
    }
}

/// One replica as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    pub index: u32,
    pub endpoint: Endpoint,
    pub state: ReplicaState,
    /// How often its process was started again since the slot was applied.
    pub restarts: u32,
    pub pid: Option<u32>,
    /// `None` as long as its process never ended.
    #[serde(default)]
    pub ends: Option<Ends>,
}

impl ReplicaStatus {
    /// How it ended before it was started again, as far as that is known: what it does now is not why.
    pub fn end_before(&self) -> Option<Exit> {
        self.ends.as_ref().filter(|_| self.restarts > 0)?.exit
    }
}

/// How a replica's process ended since the slot was applied, whatever it does now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// How often within [`Ends::WHILE`] before it was looked at.
    pub recent: u32,
    /// How it ended last; `None` where nobody saw that.
    pub exit: Option<Exit>,
    /// When that was.
    pub at: Timestamp,
    /// The last line it wrote before.
    pub said: Option<String>,
}

impl Ends {
    /// Ends longer ago are forgotten. The longest pause before a restart is a tenth of it.
    pub const WHILE: Duration = Duration::from_secs(300);
    /// Once is an accident, and twice may be.
    const CRASHES: u32 = 3;

    /// Whether it ended so often that it will end again.
    pub fn crashing(&self) -> bool {
        self.recent >= Self::CRASHES
    }
}

/// Where a replica answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    Http(SocketAddr),
    Files(PathBuf),
}

/// What a replica is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum ReplicaState {
    /// Runs, and was not ready yet.
    Starting {
        transcript: Vec<ProbeRecord>,
    },
    Ready,
    /// Was ready and is not any more.
    Unready {
        transcript: Vec<ProbeRecord>,
    },
    /// Its process ended; the shim starts it again after a backoff.
    Exited {
        exit: Exit,
        tail: Vec<String>,
    },
}

/// One probe and its answer, as kept for the failure report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRecord {
    pub at: Timestamp,
    /// For example `GET http://127.0.0.1:4711/health`.
    pub request: String,
    /// For example `301 Moved Permanently, to /login`, or `connection refused`.
    pub answer: String,
    pub ok: bool,
}

/// What a backing service is doing and where it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackingStatus {
    pub address: SocketAddr,
    /// Host name and port for containers of the environment, if they reach it elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<(String, u16)>,
    pub ready: bool,
    /// Why it is not ready, for people.
    pub problem: Option<String>,
    pub restarts: u32,
    pub pid: Option<u32>,
}

/// What one replica or backing service uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    pub slot: Option<Color>,
    pub service: ServiceName,
    pub index: u32,
    /// The process that [`ReplicaStatus`] and [`BackingStatus`] show.
    pub pid: u32,
    /// When that was started, in the engine's own words: another process with its pid has another start.
    pub started: String,
    /// CPU time used since the process started, of its whole group.
    pub cpu: Duration,
    /// Resident memory, bytes, of its whole group.
    pub memory: u64,
    /// Disk used by its data and logs, bytes.
    pub disk: u64,
}

#[cfg(test)]
mod tests {
    use super::Exit;

    #[test]
    fn how_a_process_ended_reads_as_the_rest_of_a_sentence_about_it() {
        assert_eq!(Exit::Code(1).predicate(), "exited with code 1");
        assert_eq!(Exit::Signal(9).predicate(), "was killed by signal 9");
        assert_eq!(Exit::TimedOut.predicate(), "was stopped at its time limit");
        assert_eq!(Exit::Unknown.predicate(), "ended unseen, its supervisor was killed");
    }
}
