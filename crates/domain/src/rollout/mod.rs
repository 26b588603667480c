//! Bringing one release live in one environment, or back.
//!
//! ```text
//! AwaitingApproval ─▶ Queued ─▶ Preparing ─▶ Migrating ─▶ Clearing ─▶ Starting ─▶ Exposing ─▶ Verifying
//!        │                          └──────────────┴───── failed ─────────┴────────────┴──────────┤
//!        ▼                                                                                        ▼
//!      Ended ◀──────────────────────────────── Discarding ◀─── Reverting ◀── breach, abort   Discarding
//!                                                                  ▲
//!                        Live ◀── Draining ◀── Baking ◀── Switching ◀── (verified)
//! ```
//!
//! A rollout knows its own phases only. What it needs of its environment (the slots, the routing
//! epoch) is decided by [`crate::app::App`], which moves it through `Queued`, `Clearing`,
//! `Exposing`, `Switching`, `Reverting` and `Discarding`.

mod evidence;
mod gates;
pub mod starting;
mod step;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::slot::Endpoint;
use crate::{Color, EnvironmentName, Identity, ReleaseId, RolloutId, ServiceName, Timestamp};

pub use evidence::Evidence;
pub use gates::{Check, Gates, MIGRATE_LIMIT};

/// A rollout and how far it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    pub id: RolloutId,
    pub environment: EnvironmentName,
    pub release: ReleaseId,
    pub kind: Kind,
    pub by: Identity,
    /// People who may not approve it when the gate says `not_author`.
    pub authors: Vec<String>,
    pub created: Timestamp,
    pub gates: Gates,
    pub phase: Phase,
    /// When the phase was entered.
    pub since: Timestamp,
    /// The slot it brings up; known once it is under way.
    pub candidate: Option<Color>,
    /// The slot that was live when it got under way.
    pub previous: Option<Color>,
    /// It may have started replicas in the candidate's slot.
    pub holds_slot: bool,
    /// Its going live was noted by the environment.
    pub recorded: bool,
    pub approved: Option<(Identity, Timestamp)>,
    /// To the candidate, and back again after a breach.
    pub switches: Vec<Switch>,
    pub evidence: Option<Evidence>,
    /// What the checks and the bake had to say.
    pub notes: Vec<String>,
    /// Nobody asked anything during its bake: it passed, and is not known to be good.
    #[serde(default)]
    pub unjudged: bool,
    /// Each phase and when it was entered.
    pub timeline: Vec<(Timestamp, String)>,
}

/// Forward or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Deploy,
    Rollback,
}

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    AwaitingApproval {
        expires: Timestamp,
    },
    /// Another rollout of the environment is under way.
    Queued,
    /// Backing services are made ready.
    Preparing,
    Migrating,
    /// What was left in the candidate's slot leaves it.
    Clearing,
    /// Replicas start and must become ready.
    Starting,
    /// The edge learns the candidate's preview host.
    Exposing,
    /// The check with this index runs against the candidate.
    Verifying {
        check: usize,
    },
    /// The edge moves the traffic.
    Switching,
    Baking {
        until: Timestamp,
    },
    /// The old slot finishes what it has.
    Draining {
        until: Timestamp,
    },
    Live,
    /// The edge moves the traffic back.
    Reverting {
        end: End,
    },
    /// The candidate is taken away.
    Discarding {
        end: End,
    },
    Ended {
        end: End,
    },
}

/// How a rollout ended that did not go live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Never got the traffic.
    Failed {
        cause: String,
    },
    /// Had the traffic and lost it again.
    RolledBack {
        cause: String,
    },
    /// Failed its bake with nothing to go back to: it stays live.
    Stranded {
        cause: String,
    },
    Aborted {
        by: Identity,
    },
    Rejected {
        by: Identity,
        reason: String,
    },
    Expired,
    Superseded {
        by: RolloutId,
    },
}

/// A move of an environment's traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    pub from: Option<Color>,
    pub to: Color,
    pub decided: Timestamp,
    /// The edge acknowledged the new table.
    pub published: Option<Timestamp>,
    /// The last request that the slot it moved from got.
    pub last_request: Option<Timestamp>,
}

impl Switch {
    /// From the decision to the last request that the old slot got; `None` until both are known.
    pub fn took(&self) -> Option<Duration> {
        self.last_request.map(|last| last.since(self.decided))
    }
}

/// What happens to a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutEvent {
    Approved {
        by: Identity,
        /// The OS groups of the one who approves.
        groups: Vec<String>,
    },
    Rejected {
        by: Identity,
        groups: Vec<String>,
        reason: String,
    },
    Aborted {
        by: Identity,
    },
    Prepared,
    Migrated {
        notes: Vec<String>,
    },
    /// Every replica of every service is ready and answers here.
    Started {
        endpoints: BTreeMap<ServiceName, Vec<Endpoint>>,
    },
    CheckPassed {
        check: usize,
        notes: Vec<String>,
    },
    Baked {
        notes: Vec<String>,
        #[serde(default)]
        unjudged: bool,
    },
    Breached {
        evidence: Evidence,
        /// The last request that the old slot got before the switch took effect.
        last_request: Option<Timestamp>,
    },
    Drained {
        last_request: Option<Timestamp>,
    },
    /// What the current phase waited for went wrong.
    EffectFailed {
        evidence: Evidence,
    },
}

impl Rollout {
    /// Nothing follows any more.
    pub fn ended(&self) -> bool {
        matches!(self.phase, Phase::Live | Phase::Ended { .. })
    }

    /// It has taken its place in the environment: slot and lock are its own.
    pub fn under_way(&self) -> bool {
        !self.ended() && !matches!(self.phase, Phase::AwaitingApproval { .. } | Phase::Queued)
    }

    /// What people have to know of one that went live.
    pub fn caveat(&self) -> Option<&'static str> {
        self.unjudged.then_some("no requests came during its bake: nothing was judged")
    }

    /// What ends it before its time, for people; `None` when it cannot be aborted (any more).
    pub fn way_out(&self) -> Option<String> {
        let does = match self.phase {
            Phase::Switching | Phase::Baking { .. } | Phase::Draining { .. } => {
                self.previous?;
                "takes it back"
            }
            Phase::Live
            | Phase::Reverting { .. }
            | Phase::Discarding { .. }
            | Phase::Ended { .. } => return None,
            _ => "stops it",
        };
        Some(format!("`launchway abort {}` {does}", self.id))
    }

    /// Until when what the phase waits for may take, as it was configured; see [`Rollout::deadline`].
    pub fn limit(&self) -> Option<Timestamp> {
        let waits = |limit: Duration| Some(self.since + limit);
        match &self.phase {
            Phase::AwaitingApproval { expires } => Some(*expires),
            Phase::Preparing => waits(gates::PREPARE_LIMIT),
            Phase::Migrating => waits(gates::MIGRATE_LIMIT),
            Phase::Starting => waits(self.gates.start_limit),
            Phase::Exposing | Phase::Switching => waits(gates::PUBLISH_LIMIT),
            Phase::Verifying { check } => waits(self.gates.checks.get(*check)?.limit()),
            Phase::Baking { until } | Phase::Draining { until } => Some(*until),
            _ => None,
        }
    }

    /// When time alone moves it on: an effect with a limit of its own has a margin to keep to it.
    pub fn deadline(&self) -> Option<Timestamp> {
        let margin = match &self.phase {
            Phase::Migrating
            | Phase::Starting
            | Phase::Verifying { .. }
            | Phase::Baking { .. }
            | Phase::Draining { .. } => gates::MARGIN,
            _ => Duration::ZERO,
        };
        Some(self.limit()? + margin)
    }

    pub(crate) fn enter(&mut self, phase: Phase, now: Timestamp) {
        self.timeline.push((now, phase.name().into()));
        self.phase = phase;
        self.since = now;
    }
}

impl Phase {
    /// A few words for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AwaitingApproval { .. } => "awaiting approval",
            Self::Queued => "queued",
            Self::Preparing => "preparing",
            Self::Migrating => "migrating",
            Self::Clearing => "clearing",
            Self::Starting => "starting",
            Self::Exposing => "exposing",
            Self::Verifying { .. } => "verifying",
            Self::Switching => "switching",
            Self::Baking { .. } => "baking",
            Self::Draining { .. } => "draining",
            Self::Live => "live",
            Self::Reverting { .. } => "reverting",
            Self::Discarding { .. } => "discarding",
            Self::Ended { end } => end.name(),
        }
    }
}

impl End {
    /// A word or two for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Failed { .. } => "failed",
            Self::RolledBack { .. } => "rolled back",
            Self::Stranded { .. } => "stranded",
            Self::Aborted { .. } => "aborted",
            Self::Rejected { .. } => "rejected",
            Self::Expired => "expired",
            Self::Superseded { .. } => "superseded",
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed { cause } => write!(f, "failed: {cause}"),
            Self::RolledBack { cause } => write!(f, "rolled back: {cause}"),
            Self::Stranded { cause } => {
                write!(f, "failed its bake and stays live, as nothing was live before: {cause}")
            }
            Self::Aborted { by } => write!(f, "aborted by {by}"),
            Self::Rejected { by, reason } => write!(f, "rejected by {by}: {reason}"),
            Self::Expired => f.write_str("nobody approved it in time"),
            Self::Superseded { by } => write!(f, "superseded by {by}"),
        }
    }
}
