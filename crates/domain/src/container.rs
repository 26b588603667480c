//! How a container is run: what Compose says of a service, filled in and checked, as an engine is asked for it.
//!
//! `config` makes it of a Compose file and an environment's variables; an engine makes a container of it. What
//! is not here, Launchway does not do, and `config` refuses it by name and line.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::Size;

/// One service's container. The fields have the meaning of the Compose specification
/// (<https://github.com/compose-spec/compose-spec/blob/main/05-services.md>); its environment is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Replaces the image's `CMD`.
    pub command: Option<Vec<String>>,
    /// Replaces the image's `ENTRYPOINT`; an empty one removes it.
    pub entrypoint: Option<Vec<String>>,
    /// Published on the machine. Only `launchway up` does that: slots are reached through the edge.
    pub ports: Vec<Port>,
    /// Ports that others may connect to, beside those that the image exposes.
    pub expose: Vec<u16>,
    /// Where the replicas of a slot answer; `None`: the only port of `ports`, of `expose` or of the image.
    pub answers_at: Option<u16>,
    pub mounts: Vec<Mount>,
    pub healthcheck: Option<Healthcheck>,
    pub restart: Restart,
    /// By name, like `SIGINT`; `None`: the image's own, or SIGTERM.
    pub stop_signal: Option<String>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub hostname: Option<String>,
    pub read_only: bool,
    pub init: bool,
    pub tty: bool,
    pub stdin_open: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub security_opt: Vec<String>,
    pub sysctls: BTreeMap<String, String>,
    pub extra_hosts: Vec<(String, String)>,
    pub group_add: Vec<String>,
    pub shm_size: Option<Size>,
    pub ulimits: BTreeMap<String, Ulimit>,
    /// By name of the Compose network; empty: `default`.
    pub networks: BTreeMap<String, Attachment>,
    pub labels: BTreeMap<String, String>,
    pub limits: Limits,
}

/// A port of the container, published on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Compose's default is every address of the machine.
    pub host: Option<IpAddr>,
    /// `None`: any free one.
    pub published: Option<u16>,
    pub target: u16,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

/// Something of outside at a path of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub source: Source,
    /// Absolute, in the container.
    pub target: String,
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A named volume: kept over releases, and never removed by a deploy.
    Volume(String),
    /// A volume without a name, as old as its container.
    Anonymous,
    /// A file or folder of the project, from its root: `launchway up` mounts that of the working folder, a
    /// deploy a read-only copy of that of the commit. Never reaches an engine: it is made a `Host` first.
    Project(PathBuf),
    /// An absolute path of the machine.
    Host(PathBuf),
    /// Memory, gone with the container.
    Tmpfs { size: Option<Size>, mode: Option<u32> },
    /// The text of a secret or config, as a file; never in an error or a log.
    Text { text: String, mode: Option<u32>, uid: Option<u32>, gid: Option<u32> },
}

/// Compose's `healthcheck`: a command inside of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// As Docker takes it: `["CMD", ...]` or `["CMD-SHELL", "..."]`; `["NONE"]` switches that of the image off.
    pub test: Vec<String>,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub start_period: Option<Duration>,
    /// Between two probes as long as `start_period` lasts; engines before API 1.44 do not have it.
    #[serde(default)]
    pub start_interval: Option<Duration>,
    pub retries: Option<u32>,
}

/// What happens when the container ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Replicas and backing services are kept running whatever the file says; `launchway up` does as it says.
    #[default]
    No,
    Always,
    UnlessStopped,
    OnFailure {
        most: Option<u32>,
    },
}

/// Of one resource, as `getrlimit(2)` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    pub soft: i64,
    pub hard: i64,
}

/// A network that the container is in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attachment {
    /// Names beside that of the service.
    pub aliases: Vec<String>,
}

/// What the container may use at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// In thousandths of a CPU.
    pub cpu_millis: Option<u64>,
    pub memory: Option<Size>,
    pub memory_reservation: Option<Size>,
    pub pids: Option<i64>,
}
