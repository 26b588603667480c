//! Load in the background, with counters that can be read while it flows.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::lane::Lane;
use super::{FailedRequest, Load, LoadError, LoadReport, arrivals};

/// A load that flows until it is stopped or dropped.
pub struct Traffic {
    lane: Arc<Lane>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

/// How a load stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Requests whose time came.
    pub sent: u64,
    /// Those that got a whole answer in time.
    pub answered: u64,
    /// Those that got none, or one with status 5xx.
    pub failed: u64,
    /// Those whose fate is not known yet.
    pub in_flight: u64,
}

impl Traffic {
    /// Begins to send. Must be called within a tokio runtime.
    pub fn start(load: Load) -> Result<Self, LoadError> {
        let lane = Arc::new(Lane::new(&load)?);
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (lane, stop) = (Arc::clone(&lane), stop.clone());
            async move { arrivals::drive(&[lane], &load, &stop).await }
        });
        Ok(Self { lane, stop: stop.drop_guard(), task })
    }

    /// How it stands now.
    pub fn counters(&self) -> Counters {
        self.lane.tally.counters()
    }

    /// The failures so far, in the order of their ends, at most the first ten thousand.
    pub fn failures(&self) -> Vec<FailedRequest> {
        self.lane.tally.failures()
    }

    /// Sends no more, waits a moment for the last answers, and tells how it went.
    pub async fn stop(self) -> LoadReport {
        drop(self.stop);
        // The counts stand in the lane even if the task had died.
        let _ = self.task.await;
        self.lane.report()
    }
}
