//! What the edge is told when it starts, its limits, and why it may not start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How one edge is started.
#[derive(Debug, Clone)]
pub struct EdgeConfig {
    /// The address that carries traffic. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// The folder of `table.json`, `control.sock` and `edge.lock`. One edge per folder.
    pub state: PathBuf,
    /// Worker threads; `None` is one per core.
    pub workers: Option<usize>,
    /// User and group id to become once the address is bound.
    pub run_as: Option<(u32, u32)>,
}

/// The bounds of everything that a client or a replica could make grow or wait.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open client connections, over all workers.
    pub connections: usize,
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// A client connection without a request, a body without progress, an answer that is not read.
    pub idle: Duration,
    /// For a TCP connection to a replica.
    pub connect: Duration,
    /// From the request to the head of the replica's answer.
    pub answer: Duration,
    /// How long an unused upstream connection is kept. Must stay below the replicas' own keep-alive.
    pub pool_idle: Duration,
    /// Unused upstream connections kept per replica and worker.
    pub pool_size: usize,
    /// How long one half of an upgraded connection may outlive the other.
    pub half_close: Duration,
    /// Over how much time the connections of a drained slot are closed.
    pub close_spread: Duration,
    /// Between two health checks of one replica.
    pub health_interval: Duration,
    /// For one health check.
    pub health_timeout: Duration,
    /// For requests in flight when the edge stops.
    pub stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            connect: Duration::from_secs(2),
            answer: Duration::from_secs(300),
            pool_idle: Duration::from_secs(30),
            pool_size: 64,
            half_close: Duration::from_secs(10),
            close_spread: Duration::from_secs(1),
            health_interval: Duration::from_secs(1),
            health_timeout: Duration::from_secs(2),
            stop: Duration::from_secs(30),
        }
    }
}

/// Why the edge could not start or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("preparing the edge's folder {path}: {source}; check that it exists and is writable")]
    State { path: PathBuf, source: std::io::Error },
    #[error(
        "another edge already runs in {path}; stop it first, or give this one its own state folder"
    )]
    Locked { path: PathBuf },
    #[error("listening on {address}: {source}; free the address or choose another one")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("opening the control socket {path}: {source}; check the folder's owner and rights")]
    Control { path: PathBuf, source: std::io::Error },
    #[error(
        "becoming user {uid} and group {gid}: {source}; start the edge as root or without them"
    )]
    RunAs { uid: u32, gid: u32, source: nix::Error },
    #[error("starting the {thread} thread: {source}; the machine is short of threads or files")]
    Thread { thread: String, source: std::io::Error },
    #[error("waiting for a stop signal: {source}; start the edge again")]
    Signal { source: std::io::Error },
}
