//! One worker's own connections to replicas, as plain sockets: the one used last is used next.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::config::Limits;
use crate::replica::{Fault, Load, Replica};
use crate::stream::quiet;

pub struct Upstreams {
    kept: RefCell<HashMap<u64, Kept, BuildHasherDefault<Spread>>>,
    connect: Duration,
    /// Milliseconds.
    keep: u64,
    size: usize,
}

struct Kept {
    replica: Arc<Replica>,
    idle: Vec<Idle>,
}

struct Idle {
    stream: TcpStream,
    since: u64,
}

/// A connection in use by one request. Dropping it closes it.
pub struct Upstream {
    pub stream: TcpStream,
    load: Load,
    reused: bool,
}

impl Upstreams {
    pub fn new(limits: &Limits) -> Self {
        Self {
            kept: RefCell::default(),
            connect: limits.connect,
            keep: u64::try_from(limits.pool_idle.as_millis()).unwrap_or(u64::MAX),
            size: limits.pool_size,
        }
    }

    /// An idle connection to `replica`. With `alive`, one that the kernel says stands: for requests that
    /// cannot be sent a second time.
    pub fn take(&self, replica: &Arc<Replica>, alive: bool, now: u64) -> Option<Upstream> {
        let mut kept = self.kept.borrow_mut();
        let idle = &mut kept.get_mut(&replica.id)?.idle;
        while let Some(Idle { stream, since }) = idle.pop() {
            let fresh = now.saturating_sub(since) < self.keep;
            if fresh && silent(&stream) && (!alive || quiet(&stream)) {
                return Some(Upstream { stream, load: Load::on(replica.clone()), reused: true });
            }
        }
        None
    }

    /// A new connection to `replica`, and how long it took.
    pub async fn connect(&self, replica: &Arc<Replica>) -> Result<(Upstream, Duration), Fault> {
        let began = Instant::now();
        let stream = match timeout(self.connect, TcpStream::connect(replica.address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(Fault::Refused);
            }
            Ok(Err(_)) => return Err(Fault::ConnectFailed),
            Err(_) => return Err(Fault::ConnectTimeout),
        };
        // Without it small requests wait for the acknowledgement of the ones before; nothing breaks.
        let _ = stream.set_nodelay(true);
        let upstream = Upstream { stream, load: Load::on(replica.clone()), reused: false };
        Ok((upstream, began.elapsed()))
    }

    /// The answer was read to its end: the connection may serve the next request.
    pub fn give_back(&self, upstream: Upstream, now: u64) {
        let replica = upstream.load.replica();
        if replica.gone() {
            return;
        }
        let mut kept = self.kept.borrow_mut();
        let fresh = || Kept { replica: replica.clone(), idle: Vec::new() };
        let kept = kept.entry(replica.id).or_insert_with(fresh);
        if kept.idle.len() < self.size {
            kept.idle.push(Idle { stream: upstream.stream, since: now });
        }
    }

    /// Closes what was unused for too long or was closed by its replica, and everything to replicas that left
    /// the table.
    pub fn sweep(&self, now: u64) {
        self.kept.borrow_mut().retain(|_, kept| {
            let stays = |idle: &Idle| now.saturating_sub(idle.since) < self.keep;
            kept.idle.retain(|idle| stays(idle) && silent(&idle.stream));
            !kept.idle.is_empty() && !kept.replica.gone()
        });
    }
}

impl Upstream {
    /// Whether the connection carried a request before this one.
    pub fn reused(&self) -> bool {
        self.reused
    }
}

/// Spreads numbers that we gave ourselves and that no client chooses.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Whether nothing was heard on an idle connection, as far as this thread has been told: bytes that nobody
/// asked for, or its end.
fn silent(stream: &TcpStream) -> bool {
    stream.poll_read_ready(&mut Context::from_waker(Waker::noop())).is_pending()
}
