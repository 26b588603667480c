//! A Compose project by itself, with no launchway.yaml: what `launchway up` runs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::project::{BuildOptions, EnvFile};
use crate::ServiceName;
use crate::container::Container;

/// Everything that a Compose file says, with the values of variables filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Composition {
    /// The top-level `name`; else the caller takes that of the folder.
    pub name: Option<String>,
    /// Those that run: without `profiles`, with an active one, or asked for by name.
    pub services: BTreeMap<ServiceName, ComposedService>,
    /// Those that are used, by their name in the file. `default` is there if some service is in it.
    pub networks: BTreeMap<String, Network>,
    /// Named volumes, by their name in the file.
    pub volumes: BTreeMap<String, Volume>,
}

/// One service of a composition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposedService {
    /// The image it runs, or the name of the one that is built.
    pub image: Option<String>,
    pub build: Option<ImageBuild>,
    /// `environment`, filled in. A name without a value is here only if the shell has one.
    pub env: BTreeMap<String, String>,
    /// To be read by the caller: see [`super::with_env_files`]. Paths from the project's root or absolute.
    pub env_files: Vec<EnvFile>,
    pub container: Container,
    pub depends_on: BTreeMap<ServiceName, Dependency>,
    /// May be 0.
    pub replicas: u32,
    /// Between the stop signal and SIGKILL.
    pub stop_grace: Duration,
    /// The container's name, if the file gives it one.
    pub container_name: Option<String>,
}

/// An image that is built of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageBuild {
    /// From the project's root (it may lead out of it), or absolute; empty for the root.
    pub context: String,
    /// From the context, or absolute.
    pub dockerfile: String,
    pub options: BuildOptions,
}

/// What a service waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    pub condition: Condition,
    /// If not, a service that is missing or fails is only warned of.
    pub required: bool,
    /// Restarted when the other one is recreated or restarted by hand.
    pub restart: bool,
}

/// When a service that others wait for is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    ServiceStarted,
    ServiceHealthy,
    ServiceCompletedSuccessfully,
}

/// A network of the project.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Network {
    /// Its real name; `None`: `<project>_<name in the file>`.
    pub name: Option<String>,
    /// It exists already and is left alone.
    pub external: bool,
    /// Nothing of outside is reached from it.
    pub internal: bool,
    pub labels: BTreeMap<String, String>,
}

/// A named volume of the project.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Volume {
    /// Its real name; `None`: `<project>_<name in the file>`.
    pub name: Option<String>,
    /// It exists already and is left alone.
    pub external: bool,
    /// Of the `local` driver.
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}
