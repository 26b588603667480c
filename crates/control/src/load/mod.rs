//! Open-loop load: requests at a constant arrival rate, free of coordinated omission.
//!
//! ```text
//!   arrivals ──due──> lane ──> connection pool ──> target
//!   (when)            (what, at most so many at once)
//!                      └──> tally (latency from `due`, failures by kind)
//! ```
//! Requests are sent when they are due, whether or not earlier ones were answered, as users do. Latency counts from
//! that moment, so a stall of the target is felt by every request that was due in it. See `domain::judge::performance`
//! for why that matters.

mod arrivals;
mod connection;
mod lane;
mod lasting;
mod report;
mod tally;
mod traffic;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domain::units::Rate;
use http::HeaderMap;
use tokio_util::sync::CancellationToken;

pub use lasting::{ClientKind, Incident, Lasting, LastingCounts, LastingLoad, LastingReport};
pub use report::{FailedRequest, FailureKind, LoadReport, PathReport};
pub use traffic::{Counters, Traffic};

use lane::Lane;

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What is connected to.
    pub connect: SocketAddr,
    /// What the `Host` header says.
    pub host: String,
}

/// What is sent, and how fast.
#[derive(Debug, Clone)]
pub struct Load {
    pub target: Target,
    pub rate: Rate,
    /// `None`: until stopped.
    pub duration: Option<Duration>,
    /// Asked with GET, in turn.
    pub paths: Vec<String>,
    pub headers: HeaderMap,
    /// From the moment a request is sent to the end of its answer.
    pub timeout: Duration,
    /// Requests that are due while this many are unanswered are not sent and count as failed.
    pub max_in_flight: usize,
}

impl Load {
    /// `GET /` until stopped, with ten seconds for each answer.
    pub fn new(target: Target, rate: Rate) -> Self {
        Self {
            target,
            rate,
            duration: None,
            paths: vec!["/".into()],
            headers: HeaderMap::new(),
            timeout: Duration::from_secs(10),
            max_in_flight: 1024,
        }
    }
}

/// Why a load cannot be sent at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error(
        "cannot send load to {host}: there is no path to ask for; name at least one in `paths`"
    )]
    NoPath { host: String },
    #[error("cannot ask {host} for `{path}`: {why}; a path begins with `/` and is percent-encoded")]
    Path { host: String, path: String, why: String },
    #[error("cannot send load to `{host}`: {why}")]
    Host { host: String, why: String },
}

/// Sends `load` to its end, or until `stop` is cancelled.
pub async fn run(load: &Load, stop: &CancellationToken) -> Result<LoadReport, LoadError> {
    let lane = Arc::new(Lane::new(load)?);
    let lanes = [Arc::clone(&lane)];
    arrivals::drive(&lanes, load, stop).await;
    Ok(lane.report())
}

/// Two loads that were sent interleaved.
#[derive(Debug, Clone)]
pub struct Pair {
    pub candidate: LoadReport,
    pub live: LoadReport,
}

/// Sends `load` to its target, the candidate, and the same to `live`, request by request in turn, each at the full
/// rate. Who goes first alternates too, so that neither always finds what the other has just warmed up.
pub async fn pair(load: &Load, live: Target, stop: &CancellationToken) -> Result<Pair, LoadError> {
    let candidate = Arc::new(Lane::new(load)?);
    let live = Arc::new(Lane::new(&Load { target: live, ..load.clone() })?);
    let lanes = [Arc::clone(&candidate), Arc::clone(&live)];
    arrivals::drive(&lanes, load, stop).await;
    Ok(Pair { candidate: candidate.report(), live: live.report() })
}
