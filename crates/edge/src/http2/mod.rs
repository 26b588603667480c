//! HTTP/2 with clients (RFC 9113): our own framing, within bounds, and the same strictness as for HTTP/1.
//!
//! ```text
//!   connection: frames ──► receive ──► head: as HTTP/1.1 would say it ──► answer, a task for each stream
//!        ▲                    │                                             │ plain: fast::carry
//!        └──── link, streams: windows, turns, what is sent ◄─────────────────┘ else:  proxy::handle
//! ```
//!
//! Each stream is one request and routed by itself: at a switch a connection has nothing to move. WebSocket
//! over HTTP/2 (RFC 8441) and HTTP/2 without TLS are not offered; clients take HTTP/1 for a WebSocket. Nothing is
//! pushed, and priorities are not used.

mod answer;
mod body;
mod connection;
mod frame;
mod head;
pub mod hpack;
mod link;
mod passing;
mod receive;
mod request;
mod streams;
mod taker;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::accept::{Arrival, linger};
use crate::guard::State;
use crate::proxy;
use crate::worker::Worker;
pub use body::Body;
use connection::{Connection, End};
#[cfg(any(test, feature = "fuzzing"))]
pub use head::{Asked, Reader, Scratch};
use link::Link;

/// Requests of one connection at a time.
const STREAMS: u32 = 128;
/// What a client may send before it is read, per connection and per request, in bytes.
pub const WINDOW: u32 = 1024 * 1024;
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// The windows before anybody says anything else (RFC 9113, 6.9.2).
const FIRST_WINDOW: u32 = 65_535;
/// Bytes of answers that wait to be sent to a client, all together.
const ROOM: usize = 64 * 1024;
/// A block of fields, as it is sent.
const BLOCK: usize = 64 * 1024;
/// A client that disappeared is found out by a ping.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);
/// How long a client that was told to go may take to hear it.
const LEAVE: Duration = Duration::from_secs(5);
/// The ping by which that is known.
const GOODBYE: [u8; 8] = *b"goodbye!";

/// Speaks HTTP/2 on `stream` until the client goes, is idle for too long, or the edge stops.
pub async fn serve<S>(worker: Rc<Worker>, stream: S, arrival: Arrival)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let tcp = arrival.tcp.clone();
    let state = Arc::new(State::default());
    let service = Rc::new(proxy::Connection { worker, arrival, state });
    let mut connection = Connection::open(Rc::new(Link::new(service)), stream).await;
    let end = connection.serve().await;
    tracing::debug!(?end, "client connection ended");
    if end != End::Left {
        linger(&tcp).await;
    }
}
