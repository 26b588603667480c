//! What is said on the socket, both ways.

use axum::body::Bytes;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::slot::Exit;
use domain::{Color, EnvironmentName, ReleaseId, RolloutId, RunId, ServiceName};
use engine::Said;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::view::{RolloutView, RunView};

/// Why not.
#[derive(Debug, Serialize, Deserialize)]
pub struct Complaint {
    pub error: String,
    pub help: Option<String>,
    /// A gate said no.
    pub gate: bool,
    /// Mistakes in the project's files, each with its place.
    #[serde(default)]
    pub mistakes: Vec<String>,
}

/// `POST /v1/runs`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    pub revision: String,
    pub deploy_to: Option<EnvironmentName>,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunAnswer {
    pub run: RunId,
}

/// `POST /v1/deploy`: a release (`r12`) or a revision of the repository.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    pub environment: EnvironmentName,
    pub what: String,
    /// The run that was followed meanwhile: what it brought to the environment is the answer.
    #[serde(default)]
    pub built_by: Option<RunId>,
}

/// What became of a wish to deploy.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeployAnswer {
    /// The release has to be built first; then ask again.
    Builds(RunId),
    /// It is on its way.
    RollsOut(RolloutId),
    /// It is there, and what is on its way to replace it, in a sentence.
    Live { release: ReleaseId, next: Option<String> },
}

/// `POST /v1/promote`: from an environment or a release.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromoteRequest {
    pub from: String,
    pub to: Option<EnvironmentName>,
}

/// `POST /v1/approve` and `/v1/abort`: an environment, a rollout, and for `abort` a run.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub target: String,
}

/// `POST /v1/reject`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RejectRequest {
    pub target: String,
    pub reason: String,
}

/// `POST /v1/rollback`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    pub environment: EnvironmentName,
}

/// What was decided about.
#[derive(Debug, Serialize, Deserialize)]
pub struct Decided {
    /// A rollout or a run.
    pub id: String,
    /// What became of it, for people.
    pub said: String,
}

/// `POST /v1/exec`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    pub environment: EnvironmentName,
    pub service: ServiceName,
    /// By default the live slot.
    pub slot: Option<Color>,
    pub command: Vec<String>,
}

/// A line of its answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecEvent {
    /// A piece of its standard output.
    Output(Base64),
    /// A piece of its standard error.
    Errors(Base64),
    /// Nothing new.
    Runs,
    /// The last line: how it ended.
    Ended(Exit),
    /// The last line: it could not be run, or how it ended is not known. `status` is that of HTTP for it.
    Failed { status: u16, complaint: Complaint },
}

impl From<Said> for ExecEvent {
    fn from(said: Said) -> Self {
        match said {
            Said::Output(bytes) => Self::Output(Base64(bytes)),
            Said::Errors(bytes) => Self::Errors(Base64(bytes)),
        }
    }
}

/// Bytes as JSON has them: base64 (RFC 4648, section 4).
#[derive(Debug)]
pub struct Base64(pub Bytes);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        STANDARD.encode(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes.into()))
    }
}

/// `POST /v1/down`: without an environment everything, the server last.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DownRequest {
    pub environment: Option<EnvironmentName>,
    #[serde(default)]
    pub with_data: bool,
}

/// A line of its answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DownUpdate {
    Progress(String),
    Failed(String),
    Done,
}

/// `GET /v1/logs`: of an environment's services, or of a step of a run.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    pub environment: Option<EnvironmentName>,
    pub service: Option<ServiceName>,
    pub slot: Option<Color>,
    pub run: Option<RunId>,
    pub step: Option<String>,
    pub lines: Option<usize>,
    pub follow: Option<bool>,
}

/// A line of its answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct LogLine {
    /// `web.0`, `postgres`, or the step.
    pub source: String,
    pub text: String,
}

/// `GET /v1/history`.
#[derive(Debug, Serialize, Deserialize)]
pub struct History {
    pub now: domain::Timestamp,
    /// Newest first.
    pub runs: Vec<RunView>,
    /// Newest first.
    pub rollouts: Vec<RolloutView>,
}
