//! The edge: a reverse proxy in its own process, that loses nothing when traffic moves to another slot.
//!
//! ```text
//!   control thread: socket · table and certificates    one ArcSwap<Live>: hosts, slots, routes, replicas
//!                   on disk · health                     one ArcSwap<Tls>: a configuration per certificate
//!                        │ publish                          ▲ read by every request, or handshake: no lock
//!                        ▼                                  │
//!   worker 0..n:  listener (SO_REUSEPORT) ──────────────▶ HTTP/1: fast path ───────────────────▶ replica
//!                                                           │ anything unusual: the whole connection
//!                                                           ▼
//!                                                         guard (raw bytes) → hyper → proxy → pool → replica
//!                 listener (SO_REUSEPORT) → tls: by SNI ─▶ HTTP/1, as above         ▲   ├→ files
//!                                           by ALPN     ─▶ HTTP/2: hyper ───────────┘   ├→ upstream_h2 (gRPC)
//!                                                                                       └→ fast::carry (no body)
//!                                           acme-tls/1  ─▶ the challenge's certificate, then closed
//! ```
//!
//! Each worker is one thread with its own runtime, listeners and upstream connections; workers share the
//! compiled table, counters that only their own worker writes, and the replicas' health.
//!
//! A client without SNI, or with a name that no certificate covers, is shown the first certificate. Not offered:
//! HTTP/2 without TLS, WebSocket over HTTP/2 (RFC 8441; browsers take HTTP/1 for it), `100 Continue` over
//! HTTP/2 (its flow control stops a body as well), early data of TLS 1.3 (it can be replayed).

mod accept;
mod access_log;
mod attempts;
mod body;
mod certificates;
mod client;
mod closing;
mod comeback;
mod config;
mod control;
mod elsewhere;
mod error_page;
mod facts;
mod fast;
mod files;
mod forward;
mod forwarded;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod handover;
mod headers;
mod health;
mod http2;
mod ids;
mod limits;
mod lines;
mod listener;
mod live;
mod patience;
mod pause;
mod pick;
mod pool;
mod predecessors;
mod prefixes;
mod proxy;
mod registry;
mod replica;
mod server;
mod stream;
mod strict;
mod table;
mod tls;
mod upgrade;
mod upstream_h2;
mod websocket;
mod worker;

pub use certificates::{
    Certificate, CertificateInfo, Certificates, Challenge, Challenges, PrivateKey,
};
pub use client::{Client, ClientError, DrainStatus, Published};
pub use config::{EdgeConfig, EdgeError, Limits};
pub use pause::{PauseFor, Paused};
pub use server::{Edge, Ended, build_of, main, run};
