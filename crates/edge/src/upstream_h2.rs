//! gRPC: its servers speak HTTP/2 only, so these requests share one HTTP/2 connection per replica and worker.
//!
//! A request that came over HTTP/2 with `content-type: application/grpc` is sent on in HTTP/2 without TLS
//! and without asking first (RFC 9113, 3.3), as nginx's `grpc_pass` does. Everything else goes over HTTP/1.1.
//! The health check of such a replica is a TCP connection: it answers no HTTP/1.1.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::route::Reason;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, TE, TRANSFER_ENCODING};
use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::attempts::Attempts;
use crate::body::Outgoing;
use crate::config::Limits;
use crate::facts::Flight;
use crate::http2::{STREAM_WINDOW, WINDOW};
use crate::replica::{Fault, Load, Replica};
use crate::strict::MAX_HEAD;
use crate::worker::Worker;

/// Bytes that wait to be sent to a replica, per request.
const SEND_BUFFER: usize = 64 * 1024;

/// hyper's tasks stay on their worker.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}

/// One worker's shared connections, by replica.
pub struct Streams {
    open: RefCell<HashMap<u64, Shared>>,
    connect: Duration,
    keep: Duration,
}

struct Shared {
    replica: Arc<Replica>,
    sender: SendRequest<Outgoing>,
    used: Instant,
}

impl Streams {
    pub fn new(limits: &Limits) -> Self {
        Self { open: RefCell::default(), connect: limits.connect, keep: limits.pool_idle }
    }

    /// A way to send to `replica`: the connection that is there, if it stands.
    fn shared(&self, replica: &Replica) -> Option<SendRequest<Outgoing>> {
        let mut open = self.open.borrow_mut();
        let shared = open.get_mut(&replica.id).filter(|shared| !shared.sender.is_closed())?;
        shared.used = Instant::now();
        Some(shared.sender.clone())
    }

    async fn connect(&self, replica: &Arc<Replica>) -> Result<SendRequest<Outgoing>, Fault> {
        let stream = match timeout(self.connect, TcpStream::connect(replica.address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(Fault::Refused);
            }
            Ok(Err(_)) => return Err(Fault::ConnectFailed),
            Err(_) => return Err(Fault::ConnectTimeout),
        };
        // Without it small messages wait for the acknowledgement of the ones before; nothing breaks.
        let _ = stream.set_nodelay(true);
        let handshake = http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .initial_connection_window_size(WINDOW)
            .initial_stream_window_size(STREAM_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEAD as u32)
            .handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(|_| Fault::ConnectFailed)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        // Of two that are opened at a time, the one before ends with its last request.
        let kept = Shared { replica: replica.clone(), sender, used: Instant::now() };
        let sender = kept.sender.clone();
        self.open.borrow_mut().insert(replica.id, kept);
        Ok(sender)
    }

    /// Lets go of connections that are unused or whose replica left the table; requests on them go on.
    pub fn sweep(&self) {
        self.open.borrow_mut().retain(|_, shared| {
            let unused = shared.replica.load() == 0 && shared.used.elapsed() >= self.keep;
            !shared.sender.is_closed() && !shared.replica.gone() && !unused
        });
    }
}

/// Whether `request` came in a form that only a gRPC server understands.
pub fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    is_grpc_kind(kind) && request.version() == Version::HTTP_2
}

/// Whether a content type is one of gRPC's.
pub fn is_grpc_kind(kind: &[u8]) -> bool {
    let rest = kind.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Sends `request` to one of `replicas`. It goes out a second time only if it was never written.
pub async fn send(
    worker: &Rc<Worker>,
    replicas: &[Arc<Replica>],
    request: Request<Outgoing>,
    flight: &mut Flight,
) -> Result<(Response<Incoming>, Load), StatusCode> {
    let streams = worker.pool.streams();
    let mut request = rewrite(request).ok_or(StatusCode::BAD_REQUEST)?;
    let mut attempts = Attempts::default();
    loop {
        let Some(replica) = attempts.pick(replicas, || worker.ids.next()) else {
            flight.because(Reason::NoReplica);
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        };
        let began = Instant::now();
        let shared = if attempts.fresh() { None } else { streams.shared(replica) };
        let reused = shared.is_some();
        let mut sender = match shared {
            Some(sender) => sender,
            None => match streams.connect(replica).await {
                Ok(sender) => sender,
                Err(fault) => {
                    if attempts.missed(worker, replicas, replica, fault, flight).await {
                        continue;
                    }
                    return Err(StatusCode::SERVICE_UNAVAILABLE);
                }
            },
        };
        flight.connected(replica.address, (!reused).then(|| began.elapsed()));
        let load = Load::on(replica.clone());
        let limit = worker.shared.limits.answer;
        let mut error = match timeout(limit, sender.try_send_request(request)).await {
            Err(_) => return Err(StatusCode::GATEWAY_TIMEOUT),
            Ok(Ok(response)) => return Ok((response, load)),
            Ok(Err(error)) => error,
        };
        tracing::debug!(error = %error.error(), "a gRPC request got no answer");
        let Some(back) = error.take_message() else { return Err(StatusCode::BAD_GATEWAY) };
        request = back;
        if reused {
            attempts.renew();
        } else if !attempts.broke(worker, replica, flight).await {
            return Err(StatusCode::BAD_GATEWAY);
        }
    }
}

/// The request as HTTP/2 carries it: its host in `:authority`, no field of one hop but `te: trailers`.
fn rewrite(mut request: Request<Outgoing>) -> Option<Request<Outgoing>> {
    let host = request.headers_mut().remove(HOST)?;
    let mut uri = request.uri().clone().into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(Authority::try_from(host.as_bytes()).ok()?);
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(CONNECTION);
    request.headers_mut().remove(TRANSFER_ENCODING);
    request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    Some(request)
}

/// What ends a call whose slot lost the traffic: gRPC's UNAVAILABLE, upon which clients come back.
pub fn unavailable() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("14"));
    trailers.insert("grpc-message", HeaderValue::from_static("the server is being replaced"));
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_grpc_over_http_2_is_grpc() {
        let is = |version, kind: &str| {
            let request = Request::builder().version(version).header(CONTENT_TYPE, kind);
            is_grpc(&request.body(()).unwrap())
        };
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc; x=y"] {
            assert!(is(Version::HTTP_2, kind) && !is(Version::HTTP_11, kind), "{kind}");
        }
        assert!(!is(Version::HTTP_2, "application/grpc-web+proto"));
    }
}
