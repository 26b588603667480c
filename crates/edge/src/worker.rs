//! One worker: a thread with its own runtime, listener and upstream connections.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use domain::route::Reason;
use http::Response;
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::accept;
use crate::access_log::AccessLog;
use crate::body::Answer;
use crate::config::Limits;
use crate::fast::{self, Fast};
use crate::facts::Away;
use crate::headers::Trusted;
use crate::ids::Ids;
use crate::limits::{Addresses, Place};
use crate::live::Live;
use crate::pool::Pool;
use crate::tls::Tls;

/// What all threads of the edge share.
pub struct Shared {
    pub live: ArcSwap<Live>,
    pub limits: Limits,
    pub trusted: Trusted,
    pub tls: ArcSwap<Tls>,
    /// Where plain requests to an environment with HTTPS are sent, if there is TLS.
    pub https: Option<SocketAddr>,
    pub workers: usize,
    /// True from the moment the edge stops.
    pub stop: watch::Sender<bool>,
    /// When another edge took over the listening sockets: this one only finishes what it has.
    pub replaced: watch::Sender<Option<Instant>>,
    /// A replica was ejected and should be looked at soon.
    pub recheck: Notify,
    /// Requests that reached no environment.
    pub away: Away,
    pub access_log: Option<Arc<AccessLog>>,
    /// Open client connections of all workers.
    pub open: AtomicU64,
    /// When this edge began to carry traffic, milliseconds since the Unix epoch.
    pub started_ms: i64,
}

/// One worker's own things; never shared between threads.
pub struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub ids: Ids,
    pub pool: Rc<Pool>,
    pub fast: Fast,
    addresses: Rc<Addresses>,
    open: Cell<usize>,
    closed: Notify,
}

/// One open connection of a worker. Dropping it closes it, as far as the worker counts.
pub struct Open(Rc<Worker>);

/// What one worker listens on.
pub struct Sockets {
    pub http: TcpSocket,
    pub https: Option<TcpSocket>,
}

const SWEEP: Duration = Duration::from_secs(1);
const BACKLOG: u32 = 1024;

impl Worker {
    /// Counts a connection as open.
    pub fn connection(self: &Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        Open(self.clone())
    }

    /// Counts a request to `host` that reached no route: for its environment, if there is one.
    pub fn turned_away(&self, host: Option<&str>, reason: Reason, status: u16) {
        let live = self.shared.live.load();
        let of_host = host.and_then(|host| live.hosts.get(host)).map(|host| &*host.away);
        of_host.unwrap_or(&self.shared.away).count(self.index, reason, status);
    }

    /// The same for a request that is answered with `response`, which tells the access log why.
    pub fn turn_away(
        &self,
        host: Option<&str>,
        reason: Reason,
        mut response: Response<Answer>,
    ) -> Response<Answer> {
        self.turned_away(host, reason, response.status().as_u16());
        response.extensions_mut().insert(reason);
        response
    }

    /// Whether one more connection is within this worker's share.
    pub fn has_room(&self) -> bool {
        self.open.get() < self.shared.limits.connections.div_ceil(self.shared.workers)
    }

    /// A place for one more connection from `peer`, if it has not too many. Proxies that are believed stand
    /// for many clients and have no limit of their own.
    pub fn place(&self, peer: IpAddr) -> Option<Place> {
        let trusted = self.shared.trusted.covers(peer);
        let limit = if trusted { usize::MAX } else { self.shared.limits.connections_per_address };
        self.addresses.place(peer, limit)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.shared.open.fetch_sub(1, Ordering::Relaxed);
        self.0.closed.notify_one();
    }
}

/// Serves on `sockets` until the edge stops and the requests in flight are answered, or their time is over.
/// Calls `ready` once connections are accepted.
pub fn run(
    index: usize,
    shared: Arc<Shared>,
    sockets: Sockets,
    ready: impl FnOnce(io::Result<()>),
) {
    let runtime = match local_runtime() {
        Ok(runtime) => runtime,
        Err(error) => return ready(Err(error)),
    };
    runtime.block_on(async move {
        let secured = sockets.https.map(|socket| socket.listen(BACKLOG)).transpose();
        let (plain, secured) = match (sockets.http.listen(BACKLOG), secured) {
            (Ok(plain), Ok(secured)) => (plain, secured),
            (Err(error), _) | (_, Err(error)) => return ready(Err(error)),
        };
        ready(Ok(()));
        let worker = Rc::new(Worker {
            index,
            ids: Ids::new(index),
            pool: Pool::new(&shared.limits),
            fast: Fast::new(&shared.limits),
            addresses: Rc::default(),
            open: Cell::new(0),
            closed: Notify::new(),
            shared,
        });
        let sweeper = tokio::task::spawn_local(sweep(worker.pool.clone()));
        let tending = tokio::task::spawn_local(fast::tend(worker.clone()));
        let secured = async {
            if let Some(listener) = secured {
                accept::run(&worker, listener, true).await;
            }
        };
        tokio::join!(accept::run(&worker, plain, false), secured);
        let finished = async {
            while worker.open.get() > 0 {
                worker.closed.notified().await;
            }
        };
        if tokio::time::timeout(worker.shared.limits.stop, finished).await.is_err() {
            let open = worker.open.get();
            tracing::warn!(
                worker = index,
                open,
                "stopped with connections open: their time is over"
            );
        }
        sweeper.abort();
        tending.abort();
    });
}

async fn sweep(pool: Rc<Pool>) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        pool.sweep();
    }
}

/// The runtime of one thread of the edge: everything on it stays on that thread.
pub fn local_runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build_local(LocalOptions::default())
}
