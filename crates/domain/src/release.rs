//! A release: a commit and the digests of what was built from it. Immutable, built once, promoted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::slot::ArtifactRef;
use crate::{CommitId, ReleaseId, RunId, ServiceName, Timestamp};

/// What the build pipeline made of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub id: ReleaseId,
    pub commit: Commit,
    pub run: RunId,
    pub artifacts: BTreeMap<ServiceName, ArtifactRef>,
    pub built: Timestamp,
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
