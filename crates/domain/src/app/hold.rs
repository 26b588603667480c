//! Why something does not move: the same words in the terminal, on a page and in the log.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::App;
use crate::pipeline::{Run, RunPhase};
use crate::rollout::{Phase, Rollout};
use crate::{Timestamp, rollout::Check};

/// What something waits for, and until when at the most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub reason: String,
    pub until: Option<Timestamp>,
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl App {
    /// What a rollout waits for; `None` when it has ended.
    pub fn hold(&self, rollout: &Rollout, now: Timestamp) -> Option<Hold> {
        let slot = rollout.candidate.map(|c| c.to_string()).unwrap_or_default();
        let reason = match &rollout.phase {
            Phase::AwaitingApproval { .. } => {
                let from = rollout.gates.approval.as_ref().map(|a| a.from.join(", "));
                format!("approval by one of: {}", from.unwrap_or_default())
            }
            Phase::Queued => match self.active(&rollout.environment) {
                Some(active) => behind(active),
                None => "its turn".into(),
            },
            Phase::Preparing => "backing services to be ready".into(),
            Phase::Migrating => "migrations to finish".into(),
            Phase::Clearing => format!("the old release to leave slot {slot}"),
            Phase::Starting => format!("every replica of slot {slot} to be ready"),
            Phase::Exposing => "the edge to learn the preview host".into(),
            Phase::Verifying { check } => {
                let name = rollout.gates.checks.get(*check).map(Check::name).unwrap_or_default();
                format!("the check `{name}` of slot {slot}")
            }
            Phase::Switching => format!("the edge to move the traffic to slot {slot}"),
            Phase::Baking { .. } => format!("slot {slot} to prove itself under traffic"),
            Phase::Draining { .. } => "the old slot to finish what it has in flight".into(),
            Phase::Reverting { .. } => "the edge to move the traffic back".into(),
            Phase::Discarding { .. } => format!("slot {slot} to be taken away"),
            Phase::Live | Phase::Ended { .. } => return None,
        };
        // What was configured, and the margin after it only when that has begun.
        let until = rollout.limit().filter(|limit| now < *limit).or_else(|| rollout.deadline());
        Some(Hold { reason, until })
    }

    /// What a run waits for; `None` when it has ended.
    pub fn run_hold(&self, run: &Run) -> Option<Hold> {
        if let Some(first) = self.run_before(run).filter(|_| !run.ended()) {
            return Some(Hold { reason: format!("{} to end", first.id), until: None });
        }
        let reason = match run.phase {
            RunPhase::Planning => "the commit to be read".to_string(),
            RunPhase::Running => format!("stage {}", run.stage()?),
            _ => return None,
        };
        Some(Hold { reason, until: None })
    }
}

/// For the end of a rollout, and how not to wait for it.
fn behind(active: &Rollout) -> String {
    let way_out = active.way_out().map_or(String::new(), |way_out| format!("; {way_out}"));
    format!("{} ({}, {}) to end{way_out}", active.id, active.release, active.phase.name())
}
