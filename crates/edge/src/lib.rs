//! The edge: a reverse proxy in its own process, that loses nothing when traffic moves to another slot.
//!
//! ```text
//!   control thread: socket · table on disk · health     one ArcSwap<Live>: hosts, slots, routes, replicas
//!                        │ publish                          ▲ read by every request, no lock
//!                        ▼                                  │
//!   worker 0..n:  listener (SO_REUSEPORT) → guard (raw bytes) → hyper → proxy → pool → replica
//!                                                                        └→ files
//! ```
//!
//! Each worker is one thread with its own runtime, listener and upstream connections; workers share the
//! compiled table, counters that only their own worker writes, and the replicas' health.

mod accept;
mod access_log;
mod body;
mod certificates;
mod client;
mod closing;
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
mod live;
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
mod websocket;
mod worker;

pub use certificates::{
    Certificate, CertificateInfo, Certificates, Challenge, Challenges, PrivateKey,
};
pub use client::{Client, ClientError, DrainStatus, Published};
pub use pause::{PauseFor, Paused};
pub use config::{EdgeConfig, EdgeError, Limits};
pub use server::{Edge, main, run};
