//! The fast path: our own HTTP/1.1 framing in front of hyper, for the requests that most clients send.
//!
//! ```text
//!   connection: read a head ── plain? ──► exchange: pick, send, both bodies at once ──► next head
//!                                └─ no ─► hyper gets the connection and all its unread bytes, for good
//! ```
//!
//! Plain is: HTTP/1.1, a path, no wish for more than an answer, and replicas to answer it. Everything else,
//! whatever is refused included, belongs to hyper, so that there is one place for each kind of answer.
//! Nothing here allocates for a request: heads and bodies pass through buffers that the worker lends. Requests that
//! come over HTTP/2 without a body are admitted in the same way, and [`carry`]ed over the same connections to replicas.

mod admit;
mod buffers;
mod call;
mod connection;
mod dates;
mod exchange;
mod log_line;
mod outbox;
mod pages;
mod reply;
mod request;
pub mod response;
mod timers;
mod upload;
mod upstreams;

use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{MissedTickBehavior, interval};

use crate::accept::Arrival;
use crate::config::Limits;
use crate::worker::Worker;
pub use admit::{Admitted, admit};
pub use buffers::{Buffer, Buffers, held};
pub use call::{Answered, carry};
use connection::Connection;
use dates::Dates;
pub use reply::{Broken, Reply, Taken};
pub use timers::Alarm;
use timers::Timers;
use upstreams::Upstreams;

/// One worker's part of the fast path.
pub struct Fast {
    pub buffers: Buffers,
    upstreams: Upstreams,
    pub timers: Rc<Timers>,
    pub dates: Dates,
}

/// How a connection left the fast path.
pub enum Outcome<S> {
    Closed,
    /// The next request is for hyper, and so is the connection from now on.
    Unusual {
        stream: S,
        unread: Vec<u8>,
    },
}

impl Fast {
    pub fn new(limits: &Limits) -> Self {
        Self {
            buffers: Buffers::default(),
            upstreams: Upstreams::new(limits),
            timers: Timers::new(limits),
            dates: Dates::default(),
        }
    }
}

/// Answers the plain requests on a connection.
pub async fn serve<S>(worker: &Rc<Worker>, arrival: &Arrival, stream: S) -> Outcome<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Connection::open(worker, arrival, stream).await.serve().await
}

/// Keeps one worker's time and connections to replicas, until it is dropped.
pub async fn tend(worker: Rc<Worker>) {
    const SWEEP: Duration = Duration::from_secs(1);
    let fast = &worker.fast;
    let mut stop = worker.shared.stop.subscribe();
    let mut replaced = worker.shared.replaced.subscribe();
    let mut told = false;
    let mut ticks = interval(fast.timers.tick());
    let mut sweeps = interval(SWEEP);
    for interval in [&mut ticks, &mut sweeps] {
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            _ = ticks.tick() => fast.timers.advance(),
            _ = sweeps.tick() => fast.upstreams.sweep(fast.timers.now()),
            _ = stop.wait_for(|stop| *stop), if !fast.timers.stopping() => fast.timers.stop(),
            _ = replaced.wait_for(Option::is_some), if !told => {
                told = true;
                fast.timers.wake_all();
            }
        }
    }
}
