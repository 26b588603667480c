//! One worker: a thread with its own runtime, listener and upstream connections.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use domain::route::Reason;
use http::Response;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::accept;
use crate::access_log::AccessLog;
use crate::body::Answer;
use crate::closing::{self, Lasting};
use crate::config::Limits;
use crate::facts::Away;
use crate::fast::{self, Fast};
use crate::headers::Trusted;
use crate::ids::Ids;
use crate::limits::{Addresses, Place};
use crate::listener::Listener;
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
    /// The same, as cheap to ask as it must be for each request: answers are the last of their connections.
    pub leaving: AtomicBool,
    /// How often the status was told: a successor that has read the last numbers keeps them.
    pub told: AtomicU64,
    /// A replica was ejected and should be looked at soon.
    pub recheck: Notify,
    /// Requests that wait for a replica to come back, and what tells them that one has.
    pub awaiting: AtomicUsize,
    pub recovered: Notify,
    /// Requests that reached no environment.
    pub away: Away,
    pub access_log: Option<Arc<AccessLog>>,
    /// Open client connections of all workers.
    pub open: AtomicU64,
    /// Names the program's file, see [`crate::build_of`].
    pub build: String,
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
    pub lasting: Lasting,
    addresses: Rc<Addresses>,
    open: Cell<usize>,
    closed: Notify,
}

/// One open connection of a worker. Dropping it closes it, as far as the worker counts.
pub struct Open(Rc<Worker>);

/// One of the sockets that a worker listens on.
pub struct Socket {
    pub listener: std::net::TcpListener,
    pub secure: bool,
}

impl Shared {
    pub fn leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Resolves when nothing more is accepted: the edge stops, or another one took over.
    pub fn accepts_no_more(&self) -> impl Future<Output = ()> + 'static {
        let (mut stop, mut replaced) = (self.stop.subscribe(), self.replaced.subscribe());
        async move {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {}
                _ = replaced.wait_for(Option::is_some) => {}
            }
        }
    }
}

const SWEEP: Duration = Duration::from_secs(1);

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
    sockets: Vec<Socket>,
    ready: impl FnOnce(io::Result<()>),
) {
    let runtime = match local_runtime() {
        Ok(runtime) => runtime,
        Err(error) => return ready(Err(error)),
    };
    runtime.block_on(async move {
        let listen = |socket: Socket| Ok((Listener::new(socket.listener)?, socket.secure));
        let listeners: Vec<_> = match sockets.into_iter().map(listen).collect::<io::Result<_>>() {
            Ok(listeners) => listeners,
            Err(error) => return ready(Err(error)),
        };
        ready(Ok(()));
        let worker = Rc::new(Worker {
            index,
            ids: Ids::new(index),
            pool: Pool::new(&shared.limits),
            fast: Fast::new(&shared.limits),
            lasting: Lasting::default(),
            addresses: Rc::default(),
            open: Cell::new(0),
            closed: Notify::new(),
            shared,
        });
        let sweeper = tokio::task::spawn_local(sweep(worker.pool.clone()));
        let tending = tokio::task::spawn_local(fast::tend(worker.clone()));
        let mut accepting = JoinSet::new();
        for (listener, secure) in listeners {
            let worker = worker.clone();
            accepting.spawn_local(async move { accept::run(&worker, listener, secure).await });
        }
        while accepting.join_next().await.is_some() {}
        finish(&worker).await;
        sweeper.abort();
        tending.abort();
    });
}

/// Until every connection is closed: after a handover each in its own time, at a stop all within one.
async fn finish(worker: &Worker) {
    let shared = &worker.shared;
    let mut finished = pin!(async {
        while worker.open.get() > 0 {
            worker.closed.notified().await;
        }
    });
    let mut stop = shared.stop.subscribe();
    if shared.leaving() {
        tokio::select! {
            () = &mut finished => return,
            () = sleep(closing::patience(shared)) => {
                shared.stop.send_replace(true);
            }
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
    if timeout(shared.limits.stop, finished).await.is_err() {
        let (worker, open) = (worker.index, worker.open.get());
        tracing::warn!(worker, open, "stopped with connections open: their time is over");
    }
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
