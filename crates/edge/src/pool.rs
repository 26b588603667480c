//! One worker's connections to replicas: taken for a request, given back when its answer is read to the end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::body::Outgoing;
use crate::config::Limits;
use crate::replica::{Fault, Load, Replica};
use crate::stream::{Stream, quiet};
use crate::upstream_h2::Streams;

/// hyper's own buffers, per connection.
pub const BUFFER: usize = 64 * 1024;

pub struct Pool {
    idle: RefCell<HashMap<u64, Kept>>,
    connect: Duration,
    keep: Duration,
    size: usize,
    streams: Streams,
}

struct Kept {
    replica: Arc<Replica>,
    idle: Vec<Idle>,
}

struct Idle {
    sender: SendRequest<Outgoing>,
    /// Gone with hyper's connection, so that a descriptor is never looked at after it was closed.
    peer: Weak<TcpStream>,
    since: Instant,
}

/// A connection in use by one request. Dropping it closes it.
pub struct Lease {
    sender: SendRequest<Outgoing>,
    peer: Weak<TcpStream>,
    load: Load,
    pool: Rc<Pool>,
    reused: bool,
}

impl Pool {
    pub fn new(limits: &Limits) -> Rc<Self> {
        Rc::new(Self {
            idle: RefCell::default(),
            connect: limits.connect,
            keep: limits.pool_idle,
            size: limits.pool_size,
            streams: Streams::new(limits),
        })
    }

    /// An idle connection to `replica`, the one used last. With `alive`, one that is seen to stand: for
    /// requests that cannot be sent a second time.
    pub fn take(self: &Rc<Self>, replica: &Arc<Replica>, alive: bool) -> Option<Lease> {
        let mut pool = self.idle.borrow_mut();
        let idle = &mut pool.get_mut(&replica.id)?.idle;
        let stands = |idle: &Idle| !alive || idle.peer.upgrade().is_some_and(|peer| quiet(&peer));
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            let expired = idle[at].since.elapsed() >= self.keep;
            if idle[at].sender.is_closed() || expired {
                idle.remove(at);
                continue;
            }
            // One that is not ready yet is still busy with the end of its last exchange.
            if !idle[at].sender.is_ready() {
                continue;
            }
            let found = idle.remove(at);
            if stands(&found) {
                return Some(self.lease(found.sender, found.peer, replica, true));
            }
        }
        None
    }

    /// A new connection to `replica`.
    pub async fn connect(self: &Rc<Self>, replica: &Arc<Replica>) -> Result<Lease, Fault> {
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
        let stream = Arc::new(stream);
        let peer = Arc::downgrade(&stream);
        let stream = TokioIo::new(Stream::connected(stream));
        let handshake = http1::Builder::new().max_buf_size(BUFFER).handshake(stream);
        let (sender, connection) = handshake.await.map_err(|_| Fault::ConnectFailed)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(self.lease(sender, peer, replica, false))
    }

    fn lease(
        self: &Rc<Self>,
        sender: SendRequest<Outgoing>,
        peer: Weak<TcpStream>,
        replica: &Arc<Replica>,
        reused: bool,
    ) -> Lease {
        Lease { sender, peer, load: Load::on(replica.clone()), pool: self.clone(), reused }
    }

    /// The connections that requests share.
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Closes what was unused for too long, and everything to replicas that left the table.
    pub fn sweep(&self) {
        self.streams.sweep();
        self.idle.borrow_mut().retain(|_, kept| {
            let stays = |idle: &Idle| !idle.sender.is_closed() && idle.since.elapsed() < self.keep;
            kept.idle.retain(stays);
            !kept.idle.is_empty() && !kept.replica.gone()
        });
    }
}

impl Lease {
    /// Whether the connection carried a request before this one.
    pub fn reused(&self) -> bool {
        self.reused
    }

    pub async fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Outgoing>>> {
        self.sender.try_send_request(request).await
    }

    /// The answer was read to its end: the connection may serve the next request.
    pub fn give_back(self) {
        let replica = self.load.replica();
        if self.sender.is_closed() || replica.gone() {
            return;
        }
        let mut pool = self.pool.idle.borrow_mut();
        let kept = pool
            .entry(replica.id)
            .or_insert_with(|| Kept { replica: replica.clone(), idle: Vec::new() });
        if kept.idle.len() < self.pool.size {
            kept.idle.push(Idle { sender: self.sender, peer: self.peer, since: Instant::now() });
        }
    }
}
