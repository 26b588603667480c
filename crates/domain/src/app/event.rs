//! What is logged, and what is to be done.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::pipeline::{RunAction, RunEvent};
use crate::rollout::RolloutEvent;
use crate::slot::Endpoint;
use crate::{
    Color, CommitId, EnvironmentName, Epoch, Identity, ReleaseId, RolloutId, RunId, ServiceName,
    Timestamp,
};

/// One entry of the event log: the truth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    RunRequested {
        commit: CommitId,
        /// The branch whose new head it is.
        branch: Option<String>,
        /// Deploy there once green.
        deploy_to: Option<EnvironmentName>,
        by: Identity,
    },
    Run {
        run: RunId,
        event: RunEvent,
    },
    DeployRequested {
        environment: EnvironmentName,
        release: ReleaseId,
        by: Identity,
    },
    RollbackRequested {
        environment: EnvironmentName,
        by: Identity,
    },
    Rollout {
        rollout: RolloutId,
        event: RolloutEvent,
    },
    Environment {
        environment: EnvironmentName,
        event: EnvironmentEvent,
    },
    /// The edge has this table, on its disk and in force.
    Published {
        epoch: Epoch,
    },
    /// A deadline has come.
    Timer,
}

/// What happens to an environment apart from rollouts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvironmentEvent {
    /// The replicas of a slot answer elsewhere now.
    Moved { slot: Color, endpoints: BTreeMap<ServiceName, Vec<Endpoint>> },
    /// A slot's replicas are gone.
    Removed { slot: Color, last_request: Option<Timestamp> },
    /// Somebody wants the environment gone.
    DownRequested { by: Identity, with_data: bool },
    /// It is gone.
    WentDown,
}

/// An effect on the world. Complete by the ids it names, and safe to repeat.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Run {
        run: RunId,
        action: RunAction,
    },
    /// Give the edge the table of this epoch.
    Publish {
        epoch: Epoch,
    },
    /// Backing services up and ready.
    Prepare {
        rollout: RolloutId,
    },
    /// Once, under the environment's lock.
    Migrate {
        rollout: RolloutId,
    },
    /// Replicas up and ready.
    Start {
        rollout: RolloutId,
        slot: Color,
    },
    Check {
        rollout: RolloutId,
        check: usize,
    },
    /// Watch the candidate under traffic.
    Watch {
        rollout: RolloutId,
    },
    /// Wait for what the old slot still has in flight.
    Drain {
        rollout: RolloutId,
        slot: Color,
    },
    /// Drain and stop a slot that nothing routes to any more.
    Remove {
        environment: EnvironmentName,
        slot: Color,
        release: ReleaseId,
    },
    TakeDown {
        environment: EnvironmentName,
        with_data: bool,
    },
}
