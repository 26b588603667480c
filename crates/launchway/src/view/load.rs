//! What a replica uses, and what traffic a service had.

use std::collections::BTreeMap;

use domain::Timestamp;
use domain::route::{Facts, Reason};
use serde::{Deserialize, Serialize};

/// What one replica or backing service uses, with every process below it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsageView {
    /// 1.0 is one core, since the reading before this one; `None` until there are two.
    pub cpu_share: Option<f64>,
    pub memory_bytes: u64,
    /// Its data and its logs.
    pub disk_bytes: u64,
}

/// What the edge saw of one service in one slot since it first routed to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrafficView {
    /// Requests answered, from `1xx` to `5xx`.
    pub classes: BTreeMap<String, u64>,
    /// Those of them that the edge answered itself because no replica could.
    pub unreachable: u64,
    /// Requests that failed because of a replica, by why.
    #[serde(default)]
    pub failed: BTreeMap<Reason, u64>,
    /// When one of them was seen last; `None` if none was since the server began.
    #[serde(default)]
    pub failed_last: Option<Timestamp>,
    pub in_flight: u64,
    /// WebSocket connections open now.
    pub upgraded: u64,
    /// `None` as long as nothing was answered.
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

impl TrafficView {
    /// What the edge saw; when it failed last, it does not know.
    pub fn of(facts: &Facts, failed_last: Option<Timestamp>) -> Self {
        let millis = |quantile| facts.latency_at(quantile).map(|took| took.as_secs_f64() * 1e3);
        let classes = facts.classes.iter().zip(1..);
        Self {
            classes: classes.map(|(count, class)| (format!("{class}xx"), *count)).collect(),
            unreachable: facts.unreachable(),
            failed: facts.failures(),
            failed_last,
            in_flight: facts.in_flight,
            upgraded: facts.upgraded,
            p50_ms: millis(0.50),
            p95_ms: millis(0.95),
            p99_ms: millis(0.99),
        }
    }
}
