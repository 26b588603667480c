//! What became of a load, in numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use domain::Timestamp;
use domain::judge::performance::{LoadSummary, PathSummary};
use domain::units::Rate;
use serde::{Deserialize, Serialize};

/// The result of a load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// The host that was asked.
    pub host: String,
    pub rate_wanted: Rate,
    pub rate_reached: Rate,
    pub lasted: Duration,
    /// Requests whose time came and whose fate is known.
    pub sent: u64,
    /// Those that got a whole answer in time.
    pub answered: u64,
    /// Answers by class of status: `[1xx, 2xx, 3xx, 4xx, 5xx]`.
    pub classes: [u64; 5],
    /// Requests that failed, by kind; answers with status 5xx are among them.
    pub failures: BTreeMap<FailureKind, u64>,
    /// Still unanswered when the load was stopped: not in `sent`.
    pub abandoned: u64,
    /// From the moment each request was due to the end of its answer, or to its time limit.
    pub p50: Duration,
    pub p95: Duration,
    pub p99: Duration,
    pub p999: Duration,
    pub max: Duration,
    /// How late requests were sent through the generator's own fault, 99th percentile.
    pub lag_p99: Duration,
    pub by_path: Vec<PathReport>,
    /// The first failures, in the order of their ends.
    pub first_failures: Vec<FailedRequest>,
}

impl LoadReport {
    /// Requests that failed.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// What is judged.
    pub fn summary(&self) -> LoadSummary {
        let path = |path: &PathReport| PathSummary {
            path: path.path.clone(),
            sent: path.sent,
            failed: path.failed,
            refused: path.refused,
            p99: path.p99,
        };
        LoadSummary {
            sent: self.sent,
            answered: self.answered,
            failed: self.failed(),
            rate_wanted: self.rate_wanted,
            rate_reached: self.rate_reached,
            lag_p99: self.lag_p99,
            p50: self.p50,
            p95: self.p95,
            p99: self.p99,
            p999: self.p999,
            by_path: self.by_path.iter().map(path).collect(),
        }
    }
}

/// One path of a load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathReport {
    pub path: String,
    pub sent: u64,
    pub failed: u64,
    /// Answers with status 4xx.
    pub refused: u64,
    pub p99: Duration,
}

/// Why a request counts as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// An answer with status 5xx.
    Status,
    /// No connection: refused, unreachable.
    Connect,
    /// A kept-alive connection was closed as the request arrived on it.
    StaleConnection,
    /// The connection broke, or the answer was not HTTP or not whole.
    Broken,
    /// No whole answer in time.
    Timeout,
    /// Not sent, because too many requests were unanswered.
    Overloaded,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Status => "status",
            Self::Connect => "connect",
            Self::StaleConnection => "stale connection",
            Self::Broken => "broken",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
        })
    }
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRequest {
    /// When it was due.
    pub due: Timestamp,
    /// When it was known to have failed.
    pub ended: Timestamp,
    pub path: String,
    pub kind: FailureKind,
    pub status: Option<u16>,
    pub why: String,
}
