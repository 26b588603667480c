//! A release: a commit and the digests of what was built from it. Immutable, built once, promoted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::EngineKind;
use crate::slot::ArtifactRef;
use crate::{CommitId, ReleaseId, RunId, ServiceName, Timestamp};

/// What the build pipeline made of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub id: ReleaseId,
    pub commit: Commit,
    pub run: RunId,
    /// Trees, for environments of the process engine.
    pub artifacts: BTreeMap<ServiceName, ArtifactRef>,
    /// Images, for environments that run containers.
    #[serde(default)]
    pub images: BTreeMap<ServiceName, ArtifactRef>,
    pub built: Timestamp,
}

impl Release {
    /// What it runs on `engine`.
    pub fn artifacts_for(&self, engine: EngineKind) -> &BTreeMap<ServiceName, ArtifactRef> {
        match engine {
            EngineKind::Process => &self.artifacts,
            EngineKind::Docker => &self.images,
        }
    }
}

/// A commit as people know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    pub id: CommitId,
    /// `Name <address>` of its author.
    pub author: String,
    /// The first line of its message.
    pub subject: String,
}
