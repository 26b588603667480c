//! What is shown of the state: the same values for people, for `--json` and on the API.

mod load;
mod rollback;
mod status;

use std::collections::HashMap;

use domain::app::{Action, App};
use domain::release::Release;
use domain::rollout::Rollout;
use domain::{CommitId, EnvironmentName, ReleaseId};
use serde::{Deserialize, Serialize};

pub use load::{TrafficView, UsageView};
pub use rollback::{RollbackView, Way};
pub use status::{
    BackingView, EdgeView, EnvironmentView, Gathered, Measured, ReplicaView, RolloutView, RunView,
    ServerView, SlotView, Stale, Status,
};

/// A release as people know it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseView {
    pub id: ReleaseId,
    pub commit: Option<CommitId>,
    pub author: String,
    pub subject: String,
}

impl ReleaseView {
    /// What is known of it.
    pub fn of(app: &App, id: &ReleaseId) -> Self {
        let release: Option<&Release> = app.releases.get(id);
        Self {
            id: id.clone(),
            commit: release.map(|release| release.commit.id.clone()),
            author: release.map_or(String::new(), |release| release.commit.author.clone()),
            subject: release.map_or(String::new(), |release| release.commit.subject.clone()),
        }
    }
}

/// What the effect of a rollout says is in its way.
pub fn note_of(notes: &HashMap<Action, String>, rollout: &Rollout) -> Option<String> {
    let about = |action: &Action| match action {
        Action::Prepare { rollout: id }
        | Action::Migrate { rollout: id }
        | Action::Start { rollout: id, .. }
        | Action::Check { rollout: id, .. }
        | Action::Watch { rollout: id }
        | Action::Drain { rollout: id, .. } => *id == rollout.id,
        Action::Remove { environment, .. } => *environment == rollout.environment,
        Action::Publish { .. } => rollout.under_way(),
        _ => false,
    };
    notes.iter().filter(|(action, _)| about(action)).map(|(_, note)| note.clone()).min()
}

/// What is in the way of taking an environment down or of emptying a slot.
pub fn note_in(notes: &HashMap<Action, String>, name: &EnvironmentName) -> Option<String> {
    let about = |action: &Action| match action {
        Action::Remove { environment, .. } | Action::TakeDown { environment, .. } => {
            environment == name
        }
        _ => false,
    };
    notes.iter().filter(|(action, _)| about(action)).map(|(_, note)| note.clone()).min()
}

/// The command that decides about a rollout which waits for approval.
pub fn approval_command(rollout: &Rollout) -> String {
    format!("launchway approve {}", rollout.environment)
}
