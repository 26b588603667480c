//! One worker: a thread with its own runtime, listener and upstream connections.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{Notify, watch};

use crate::accept;
use crate::config::Limits;
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
    /// A replica was ejected and should be looked at soon.
    pub recheck: Notify,
}

/// One worker's own things; never shared between threads.
pub struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub ids: Ids,
    pub pool: Rc<Pool>,
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
        Open(self.clone())
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

    /// A random moment within the time over which connections are closed.
    pub fn spread(&self) -> Duration {
        let millis = self.shared.limits.close_spread.as_millis() as u64;
        Duration::from_millis(self.ids.next() % (millis + 1))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
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
            addresses: Rc::default(),
            open: Cell::new(0),
            closed: Notify::new(),
            shared,
        });
        let sweeper = tokio::task::spawn_local(sweep(worker.pool.clone()));
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
