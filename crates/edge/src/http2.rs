//! HTTP/2 with clients: hyper's framing within our bounds, and the same strictness as for HTTP/1.
//!
//! Each stream is one request and routed by itself: at a switch a connection has nothing to move. WebSocket
//! over HTTP/2 (RFC 8441) and HTTP/2 without TLS are not offered; clients take HTTP/1 for a WebSocket.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, COOKIE, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::accept::Arrival;
use crate::guard::State;
use crate::pace::Paces;
use crate::proxy::Connection;
use crate::strict::{self, MAX_FIELDS, REFUSED, Refusal};
use crate::worker::Worker;

/// Requests of one connection at a time.
const STREAMS: u32 = 128;
pub const HEAD: u32 = strict::MAX_HEAD as u32;
/// What a client may send before it is read, per connection and per request.
pub const WINDOW: u32 = 1024 * 1024;
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// What waits to be sent to a client, per request.
pub const SEND_BUFFER: usize = 64 * 1024;
/// A client whose requests come and are reset faster than they are answered (CVE-2023-44487) is sent away.
const PENDING_RESETS: usize = 20;
const LOCAL_RESETS: usize = 256;
/// A client that disappeared is found out by a ping.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);
/// How long a client that was told to go may take.
const LEAVE: Duration = Duration::from_secs(5);

/// hyper's tasks stay on their worker.
#[derive(Clone, Copy)]
pub struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}

/// Speaks HTTP/2 on `stream` until the client goes, is idle for too long, or the edge stops.
pub async fn serve<S>(worker: Rc<Worker>, stream: S, arrival: Arrival)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let state = Arc::new(State::default());
    let idle_limit = worker.shared.limits.idle;
    let no_more = worker.shared.accepts_no_more();
    let connection = Rc::new(Connection { worker, arrival, state: state.clone() });
    let paces = Paces::default();
    let (service, stalled) = (paces.serve(connection), paces.watch(idle_limit));
    let serving = http2::Builder::new(paces)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .serve_connection(TokioIo::new(stream), service);
    // Looked at when it ends, not whenever a frame comes.
    let mut watch = Watch(tokio::task::spawn_local(async move {
        tokio::select! {
            () = no_more => End::NoMore,
            () = idle(&state, idle_limit) => End::Idle,
            () = stalled => End::Idle,
        }
    }));
    tokio::pin!(serving);
    let served = tokio::select! {
        biased;
        served = serving.as_mut() => Some(served),
        end = &mut watch.0 => {
            // GOAWAY tells the client which requests were not read: it may send these again.
            serving.as_mut().graceful_shutdown();
            match end {
                Ok(End::NoMore) => Some(serving.as_mut().await),
                Ok(End::Idle) | Err(_) => timeout(LEAVE, serving.as_mut()).await.ok(),
            }
        }
    };
    if let Some(Err(error)) = served {
        tracing::debug!(%error, "client connection ended");
    }
}

/// Why a connection should end.
enum End {
    /// The edge stops, or another one took over.
    NoMore,
    Idle,
}

/// A task that ends with its owner.
struct Watch(JoinHandle<End>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Resolves when no request was answered or came for `limit`, found out at most as much later.
async fn idle(state: &State, limit: Duration) {
    loop {
        tokio::time::sleep(limit).await;
        let served = state.served.swap(false, Relaxed);
        if state.busy.load(Relaxed) == 0 && !served {
            return;
        }
    }
}

/// The request in the form of HTTP/1, or what stands for a refused one.
pub fn admit(mut request: Request<Incoming>) -> Request<Incoming> {
    if let Err(refusal) = check(&mut request) {
        request.headers_mut().clear();
        *request.method_mut() = refused_method();
        *request.uri_mut() = format!("/{}", refusal.status()).parse().unwrap_or_default();
    }
    request
}

fn refused_method() -> Method {
    Method::from_bytes(REFUSED.as_bytes()).unwrap_or(Method::TRACE)
}

fn check<B>(request: &mut Request<B>) -> Result<(), Refusal> {
    let method = request.method().as_str();
    if method == REFUSED || method == "CONNECT" || request.version() != Version::HTTP_2 {
        return Err(Refusal::Malformed);
    }
    let target = request.uri().path_and_query().cloned();
    let target = target.unwrap_or(PathAndQuery::from_static("/"));
    strict::check_path(method.as_bytes(), target.as_str().as_bytes())?;
    let host = host(request)?;
    let headers = request.headers_mut();
    headers.insert(HOST, host);
    one_length(headers)?;
    join_cookies(headers)?;
    if headers.len() > MAX_FIELDS {
        return Err(Refusal::HeadTooLarge);
    }
    *request.uri_mut() = Uri::from(target);
    Ok(())
}

/// The one host that the request names, in `:authority`, in `Host`, or the same in both (RFC 9113, 8.3.1).
fn host<B>(request: &Request<B>) -> Result<HeaderValue, Refusal> {
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let mut hosts = request.headers().get_all(HOST).into_iter();
    let (host, second) = (hosts.next(), hosts.next());
    let value = match (authority, host) {
        (Some(authority), None) => HeaderValue::try_from(authority).ok(),
        (None, Some(host)) => Some(host.clone()),
        (Some(authority), Some(host)) => {
            let same = host.as_bytes().eq_ignore_ascii_case(authority.as_bytes());
            same.then(|| host.clone())
        }
        (None, None) => None,
    };
    let whole = |value: &HeaderValue| second.is_none() && strict::is_host(value.as_bytes());
    value.filter(whole).ok_or(Refusal::Malformed)
}

fn one_length(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).into_iter();
    let Some(length) = lengths.next() else { return Ok(()) };
    strict::number(length.as_bytes())?;
    lengths.next().map_or(Ok(()), |_| Err(Refusal::Malformed))
}

/// HTTP/2 may split a cookie field into crumbs; a server that speaks HTTP/1 gets it whole (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Refusal> {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).into_iter().map(|c| c.as_bytes()).collect();
    if crumbs.len() < 2 {
        return Ok(());
    }
    let whole = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]));
    headers.insert(COOKIE, whole.map_err(|_| Refusal::Malformed)?);
    Ok(())
}
