//! What the edge is told when it starts, its limits, and why it may not start.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// How one edge is started.
#[derive(Debug, Clone)]
pub struct EdgeConfig {
    /// The address that carries traffic. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// The folder of `table.json`, `control.sock` and `edge.lock`. One edge per folder.
    pub state: PathBuf,
    /// Worker threads; `None` is one per core.
    pub workers: Option<usize>,
    /// User and group id to become once the addresses are bound.
    pub run_as: Option<(u32, u32)>,
    /// The address that carries TLS; without one there is none.
    pub https: Option<SocketAddr>,
    /// Proxies in front of this edge: what they say about the client is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// One line of JSON on standard output for each request.
    pub access_log: bool,
    /// Takes the listening sockets over from the edge that runs in this folder, which then drains.
    pub take_over: bool,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            state: PathBuf::from("edge"),
            workers: None,
            run_as: None,
            https: None,
            trusted_proxies: Vec::new(),
            access_log: false,
            take_over: false,
        }
    }
}

/// The bounds of everything that a client or a replica could make grow or wait.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open client connections, over all workers.
    pub connections: usize,
    /// Open connections of one client address and worker.
    pub connections_per_address: usize,
    /// Carry plain requests on the fast path; without it everything goes through hyper.
    pub fast: bool,
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// A client connection without a request, a body without progress, an answer that is not read.
    pub idle: Duration,
    /// For a TCP connection to a replica.
    pub connect: Duration,
    /// How long after the last replica of a service went away requests wait for one to come back: as long as
    /// a restart takes. After that they are refused at once.
    pub comeback: Duration,
    /// From the request to the head of the replica's answer.
    pub answer: Duration,
    /// How long an unused upstream connection is kept. Must stay below the replicas' own keep-alive.
    pub pool_idle: Duration,
    /// Unused upstream connections kept per replica and worker.
    pub pool_size: usize,
    /// How long one half of an upgraded connection may outlive the other.
    pub half_close: Duration,
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
            connections: 60_000,
            connections_per_address: 10_000,
            fast: true,
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            connect: Duration::from_secs(2),
            comeback: Duration::from_secs(5),
            answer: Duration::from_secs(300),
            pool_idle: Duration::from_secs(30),
            // As many as one worker's clients may keep busy at once: any fewer are closed after each peak and
            // opened again at the next, which costs more than the requests, and a replica that accepts slowly
            // or has a short queue drops them. What is not used again soon is closed by `pool_idle`.
            pool_size: 1_024,
            half_close: Duration::from_secs(10),
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
    #[error(
        "taking over from the edge that runs in {path}: {why}; it goes on carrying the traffic; see its log, or \
         stop it first"
    )]
    TakeOver { path: PathBuf, why: String },
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
