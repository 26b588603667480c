//! The proxies that are measured, each started and stopped the same way, and switched in its own way.
//!
//! ```text
//!   Ground: folder, user, certificate, workers ─┬─ Backend  (nginx that answers from files)
//!                                               └─ Peer     (edge · nginx · haproxy · kamal-proxy)
//! ```
//!
//! All run as a user that is not root, in a folder of their own, on free ports, with as many workers as
//! cores, and end with the benchmark. Their configuration stands beside this file, with the reasons.

mod backend;
mod certificate;
mod edge;
mod ground;
mod haproxy;
mod kamal;
mod nginx;
mod process;
mod usage;

use std::net::SocketAddr;
use std::path::Path;

pub use backend::Backend;
pub use certificate::{Certificate, HOST};
pub use edge::{EdgePeer, one_route, route};
pub use ground::{Ground, free_address};
pub use haproxy::HaproxyPeer;
pub use kamal::KamalPeer;
pub use nginx::NginxPeer;
pub use process::Process;
pub use usage::{Usage, processes_of, usage};

/// Why something of the benchmark itself did not work.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub String);

/// A result of the benchmark's own work.
pub type Outcome<T> = Result<T, Failed>;

/// Which proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Edge,
    Nginx,
    Haproxy,
    Kamal,
}

/// A running proxy in front of one backend.
pub enum Peer {
    Edge(EdgePeer),
    Nginx(NginxPeer),
    Haproxy(HaproxyPeer),
    Kamal(KamalPeer),
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Edge, Self::Nginx, Self::Haproxy, Self::Kamal];

    /// The name in tables and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Kamal => "kamal-proxy",
        }
    }
}

impl Peer {
    /// Starts a proxy; when this returns it answers with what `backend` says.
    pub async fn start(kind: Kind, ground: &Ground, backend: SocketAddr) -> Outcome<Self> {
        Ok(match kind {
            Kind::Edge => Self::Edge(EdgePeer::start(ground, backend).await?),
            Kind::Nginx => Self::Nginx(NginxPeer::start(ground, backend, "").await?),
            Kind::Haproxy => Self::Haproxy(HaproxyPeer::start(ground, backend, "").await?),
            Kind::Kamal => Self::Kamal(KamalPeer::start(ground, backend).await?),
        })
    }

    /// Where it takes plain HTTP.
    pub fn http(&self) -> SocketAddr {
        match self {
            Self::Edge(peer) => peer.http,
            Self::Nginx(peer) => peer.http,
            Self::Haproxy(peer) => peer.http,
            Self::Kamal(peer) => peer.http,
        }
    }

    /// Where it takes TLS.
    pub fn https(&self) -> SocketAddr {
        match self {
            Self::Edge(peer) => peer.https,
            Self::Nginx(peer) => peer.https,
            Self::Haproxy(peer) => peer.https,
            Self::Kamal(peer) => peer.https,
        }
    }

    /// The process it was started as; its workers may be children of it.
    pub fn process(&self) -> &Process {
        match self {
            Self::Edge(peer) => &peer.process,
            Self::Nginx(peer) => &peer.process,
            Self::Haproxy(peer) => &peer.process,
            Self::Kamal(peer) => &peer.process,
        }
    }

    /// Sends new requests to `backend`, in the way this proxy recommends. Returns once that is in force.
    pub async fn switch(&mut self, backend: SocketAddr) -> Outcome<()> {
        match self {
            Self::Edge(peer) => peer.switch(backend).await,
            Self::Nginx(peer) => peer.switch(backend).await,
            Self::Haproxy(peer) => peer.switch(backend).await,
            Self::Kamal(peer) => peer.switch(backend).await,
        }
    }
}

/// Turns an error into one that says what was being done.
pub(crate) fn failing<E: std::fmt::Display>(
    what: impl std::fmt::Display,
) -> impl FnOnce(E) -> Failed {
    move |error| Failed(format!("{what}: {error}"))
}

/// Writes a configuration: `template` with each `{name}` replaced.
fn write_filled(path: &Path, template: &str, values: &[(&str, &str)]) -> Outcome<()> {
    let text = values.iter().fold(template.to_owned(), |text, (name, value)| {
        text.replace(&format!("{{{name}}}"), value)
    });
    std::fs::write(path, text).map_err(failing(format_args!("writing {}", path.display())))
}
