//! The project after reading and checking: every reference resolved, every default filled in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::template::{ContainerError, ContainerTemplate};
use crate::container::Container;
use crate::route::close_spread;
use crate::scan::Rules;
use crate::units::{Factor, Percent, Rate, Size};
use crate::{AppName, EnvironmentName, ServiceName, StepName};

/// A checked project. Serialised into the release, so that what was tested is what is deployed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Project {
    pub app: AppName,
    pub services: BTreeMap<ServiceName, Service>,
    /// Path prefix to what answers it.
    pub routes: BTreeMap<String, Target>,
    pub build: Build,
    /// In the order of `after`: what others wait for comes first.
    pub environments: Vec<Environment>,
    /// Environments of one road may run different artifacts: `mixed_artifacts: allow`, in writing.
    #[serde(default)]
    pub mixed_artifacts: bool,
    /// Where images are pushed to and pulled from.
    #[serde(default)]
    pub registry: Option<Registry>,
}

/// A registry of images. Who may use it is in Docker's own configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// What the names of images begin with: `registry.example.com/team`.
    pub push: String,
}

impl Project {
    /// The environment called `name`.
    pub fn environment(&self, name: &EnvironmentName) -> Option<&Environment> {
        self.environments.iter().find(|e| e.name == *name)
    }

    /// Whether an environment of it runs on this engine.
    pub fn runs_on(&self, engine: EngineKind) -> bool {
        self.environments.iter().any(|environment| environment.engine == engine)
    }

    /// What throwaway environments run on: the engine of the environment that the road ends in, so that what is
    /// tested is what will be live there.
    pub fn tested_on(&self) -> EngineKind {
        self.environments.last().map_or(EngineKind::Process, |environment| environment.engine)
    }

    /// The services that are built here and go blue-green.
    pub fn built(&self) -> impl Iterator<Item = (&ServiceName, &Service, &Built)> {
        self.services.iter().filter_map(|(name, service)| match &service.kind {
            ServiceKind::Built(built) => Some((name, service, &**built)),
            ServiceKind::Backing { .. } => None,
        })
    }
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredTarget")]
pub struct Target {
    /// A service of ours.
    pub service: ServiceName,
    /// The largest request body that is let through; `None` is no limit.
    pub max_body: Option<Size>,
}

/// Releases of before there were limits name the service alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredTarget {
    Service(ServiceName),
    Full { service: ServiceName, max_body: Option<Size> },
}

impl From<StoredTarget> for Target {
    fn from(stored: StoredTarget) -> Self {
        match stored {
            StoredTarget::Service(service) => Self { service, max_body: None },
            StoredTarget::Full { service, max_body } => Self { service, max_body },
        }
    }
}

/// One Compose service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub kind: ServiceKind,
    /// As written in Compose, not yet interpolated: values depend on the environment.
    pub env: BTreeMap<String, String>,
    /// Files of variables, in order; what a later one says, and what `env` says, counts.
    #[serde(default)]
    pub env_files: Vec<EnvFile>,
    pub depends_on: Vec<ServiceName>,
    /// How it runs in a container; empty in releases of before there was an engine for them.
    #[serde(default)]
    pub template: ContainerTemplate,
}

impl Service {
    /// Its container where variables have these values.
    pub fn container(
        &self,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Container, ContainerError> {
        self.template.fill(lookup)
    }
}

/// A file of variables for a container (Compose's `env_file`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvFile {
    /// From the project's root, without `./`.
    pub path: String,
    /// It must be there.
    pub required: bool,
    /// Lines are taken as they are: no quotes, no variables.
    #[serde(default)]
    pub raw: bool,
}

/// Ours or backing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    /// Has `build`: blue-green.
    Built(Box<Built>),
    /// Has only `image`: shared by both slots.
    Backing { image: String },
}

/// What a backing service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackingKind {
    Postgres,
    Redis,
}

impl BackingKind {
    /// What an official image runs; `None` for others.
    pub fn of(image: &str) -> Option<Self> {
        let name = ["docker.io/library/", "docker.io/", "library/"]
            .iter()
            .find_map(|prefix| image.strip_prefix(prefix))
            .unwrap_or(image);
        match name.split([':', '@']).next()? {
            "postgres" => Some(Self::Postgres),
            "redis" => Some(Self::Redis),
            _ => None,
        }
    }
}

/// What the variables with a service's address begin with: `my-db` gives `MY_DB`.
pub fn variable_prefix(service: &str) -> String {
    service.to_uppercase().replace(['-', '.'], "_")
}

/// `<SERVICE>_HOST`: where the service answers.
pub fn host_variable(service: &ServiceName) -> String {
    format!("{}_HOST", variable_prefix(service.as_str()))
}

/// `<SERVICE>_PORT`: the port it answers at.
pub fn port_variable(service: &ServiceName) -> String {
    format!("{}_PORT", variable_prefix(service.as_str()))
}

/// A service that is built here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Built {
    /// The build context's folder, relative to the project's root, without `./`; empty for the root.
    pub context: String,
    /// From the context.
    pub dockerfile: String,
    /// What else Compose says of the image.
    #[serde(default)]
    pub options: BuildOptions,
    pub health: crate::slot::HealthCheck,
    /// Run once per release before the switch.
    pub migrate: Option<String>,
    /// `None`: no environment runs processes.
    pub native: Option<Native>,
    pub replicas: u32,
    pub stop_grace: Duration,
}

impl Built {
    /// Whether replicas of it are started on this engine: where nothing runs as a container, the edge serves static files.
    pub fn starts_on(&self, engine: EngineKind) -> bool {
        let files = |native: &Native| matches!(native.launch, crate::slot::Launch::Static(_));
        engine == EngineKind::Docker || !self.native.as_ref().is_some_and(files)
    }
}

/// How an image is built, beside its context and Dockerfile
/// (<https://github.com/compose-spec/compose-spec/blob/main/build.md>).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildOptions {
    /// The text of the Dockerfile, if it is in the Compose file.
    pub inline: Option<String>,
    /// The stage that is built; `None`: the last.
    pub target: Option<String>,
    pub args: BTreeMap<String, String>,
    pub secrets: Vec<BuildSecret>,
    pub labels: BTreeMap<String, String>,
    pub extra_hosts: Vec<(String, String)>,
}

/// A secret for `RUN --mount=type=secret,id=...`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSecret {
    pub id: String,
    pub from: SecretSource,
}

/// Where a secret is read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretSource {
    /// A file, from the project's root or absolute.
    File(PathBuf),
    /// The variable of this name.
    Variable(String),
}

/// How the process engine builds and runs a service, without containers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Native {
    /// Makes the artifact, in a clean copy of the build context.
    pub setup: Option<String>,
    pub launch: crate::slot::Launch,
}

/// The build pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Build {
    pub analyze: Vec<Step>,
    pub test: Vec<Step>,
    pub integrate: Vec<Step>,
    pub scan: Scan,
    /// Steps of one stage that may run side by side.
    pub parallel: u32,
}

/// A command with its results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub name: StepName,
    /// Folder relative to the project's root; empty for the root.
    pub folder: String,
    pub run: String,
    /// Added to the allowed environment.
    pub env: BTreeMap<String, String>,
    pub time_limit: Duration,
    /// Tried again this often before it counts as failed; passing only then marks it flaky.
    pub retries: u32,
    /// Paths (files or folders relative to the project's root) whose content decides about reuse;
    /// by default the folder the step runs in, or the whole project for steps with `with`.
    pub inputs: Vec<String>,
    /// Report files, relative to `folder`.
    pub junit: Option<String>,
    pub sarif: Option<String>,
    pub cyclonedx: Option<String>,
    /// Services of the throwaway environment it needs (stage `integrate`).
    pub with: Vec<ServiceName>,
}

/// The scan gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scan {
    /// `scan: off`, in writing.
    Off,
    /// Without steps and with nothing to look for the gate answers "unavailable" and refuses.
    On {
        fail_on: Severity,
        steps: Vec<Step>,
        /// What Launchway looks for itself, and what is lived with.
        #[serde(default)]
        rules: Box<Rules>,
    },
}

/// How bad a finding is; the order is by weight.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    /// Its name in `launchway.yaml`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// Where releases run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    pub name: EnvironmentName,
    pub engine: EngineKind,
    /// Host name that the edge answers for, by default `<environment>.<app>.localhost`.
    pub host: String,
    /// Further host names that answer the same.
    #[serde(default)]
    pub names: Vec<String>,
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Every green build of this branch is deployed here by itself.
    pub branch: Option<String>,
    /// A release comes here after it was good there.
    pub after: Option<EnvironmentName>,
    pub verify: Verify,
    pub approval: Option<Approval>,
    pub bake: Option<Bake>,
    /// How many replicas of each service, where it differs from Compose.
    pub replicas: BTreeMap<ServiceName, u32>,
    /// Variables for Compose interpolation in this environment.
    pub variables: BTreeMap<String, String>,
    /// SQL file loaded into a backing service once, when its data folder is new.
    pub load: BTreeMap<ServiceName, String>,
    /// How long WebSockets and streams may stay on the old slot.
    pub drain: Duration,
    /// Over how much time they are closed after that.
    #[serde(default = "close_spread")]
    pub spread: Duration,
    /// How long the old slot stays warm after a switch, for an instant rollback.
    pub keep: Duration,
}

impl Environment {
    /// All names that answer with the live slot: the host first.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.host).chain(&self.names).map(String::as_str)
    }

    /// Answers with the slot that is not live. Reading makes sure that no environment has it as its host.
    pub fn preview_host(&self) -> String {
        format!("preview-{}", self.host)
    }
}

/// HTTPS of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    pub certificate: CertificateSource,
    /// Plain HTTP is sent to HTTPS.
    pub redirect: bool,
}

/// Where a certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateSource {
    /// PEM files of the machine that the server runs on, absolute or from the project's folder. They are no
    /// part of a commit.
    Files {
        certificate: String,
        key: String,
    },
    Acme(Acme),
}

/// A CA that speaks ACME.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Acme {
    pub email: Option<String>,
    /// The URL of its directory.
    pub directory: String,
    pub challenge: ChallengeKind,
    /// A PEM file with the root by which the directory is known, absolute or from the project's folder;
    /// `None` for the roots of the machine.
    pub trust: Option<String>,
}

/// How a CA sees that a name is ours.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
pub enum ChallengeKind {
    /// A file below `/.well-known/acme-challenge/` on port 80 (RFC 8555, section 8.3).
    #[serde(rename = "http-01")]
    Http01,
    /// A TLS handshake on port 443 (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

/// What runs replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    Process,
    Docker,
}

/// Checks of a candidate before it gets the traffic.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Verify {
    /// Run with `BASE_URL` pointing at the candidate.
    pub e2e: Vec<Step>,
    pub performance: Option<Performance>,
}

/// An open-loop load test with thresholds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Performance {
    pub rate: Rate,
    pub duration: Duration,
    /// Asked in turn.
    pub paths: Vec<String>,
    pub p95: Option<Duration>,
    pub p99: Option<Duration>,
    pub errors: Percent,
    /// Run live and candidate interleaved and judge the pair: latency thresholds then hold for the
    /// candidate, or it is at most this much slower than live.
    pub versus_live: Option<Factor>,
}

/// A human gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// OS users or groups.
    pub from: Vec<String>,
    pub not_author: bool,
    pub expires: Duration,
}

/// The watch after a switch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bake {
    pub duration: Duration,
    /// Share of answers with status 5xx.
    pub errors: Percent,
    /// Against the old slot's p99 before the switch.
    pub p99: Option<Factor>,
}
