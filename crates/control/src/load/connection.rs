//! Keep-alive connections to one target.
//!
//! A connection that the target closed while it was idle is thrown away before a request is put on it. If the target
//! closes just as a request arrives, that request is lost, and it counts: nothing is sent a second time here, because
//! what is tested is whether a switch loses requests.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::FailureKind;

/// A request as it is sent: without a body.
pub(super) type Get = Request<Empty<Bytes>>;

/// Why a request got no whole answer.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) kind: FailureKind,
    pub(super) why: String,
}

/// The connections that wait for the next request. The last one used is the first one taken: the rest may grow cold.
pub(super) struct Pool {
    connect: SocketAddr,
    idle: Mutex<Vec<Connection>>,
}

struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Connection {
    /// Closes the socket: a request that was given up must not keep it open.
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Pool {
    pub(super) fn new(connect: SocketAddr) -> Self {
        Self { connect, idle: Mutex::default() }
    }

    /// Sends a request and reads its answer to the end.
    pub(super) async fn ask(&self, mut get: Get) -> Result<StatusCode, Broken> {
        while let Some(connection) = self.waiting().await {
            match self.ask_on(connection, get, true).await {
                // It closed before a byte was written, as if it had been found closed: take another.
                Err(Refused::Unsent(unsent)) => get = *unsent,
                Err(Refused::Broken(broken)) => return Err(broken),
                Ok(status) => return Ok(status),
            }
        }
        let fresh = self.open().await?;
        self.ask_on(fresh, get, false).await.map_err(|refused| match refused {
            Refused::Broken(broken) => broken,
            Refused::Unsent(_) => Broken {
                kind: FailureKind::Broken,
                why: "the new connection was closed before the request was sent".into(),
            },
        })
    }

    /// An idle connection that is still open.
    async fn waiting(&self) -> Option<Connection> {
        loop {
            let mut connection = self.idle().pop()?;
            if connection.sender.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self) -> Result<Connection, Broken> {
        let failed = |why: String| Broken { kind: FailureKind::Connect, why };
        let stream = TcpStream::connect(self.connect)
            .await
            .map_err(|error| failed(format!("cannot connect to {}: {error}", self.connect)))?;
        // Only affects speed, so a refusal is no failure.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(format!("cannot speak HTTP with {}: {error}", self.connect)))?;
        // Its errors reach the request that suffers from them.
        let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Connection { sender, driver })
    }

    async fn ask_on(
        &self,
        mut connection: Connection,
        get: Get,
        reused: bool,
    ) -> Result<StatusCode, Refused> {
        let sent = connection.sender.try_send_request(get).await;
        let mut answer = sent.map_err(|error| refused(error, reused))?;
        while let Some(frame) = answer.body_mut().frame().await {
            frame.map_err(|error| {
                let why = format!("the answer was cut off: {}", causes(&error));
                Refused::Broken(Broken { kind: FailureKind::Broken, why })
            })?;
        }
        if !closes(&answer) {
            self.idle().push(connection);
        }
        Ok(answer.status())
    }
}

enum Refused {
    /// Nothing of it was written.
    Unsent(Box<Get>),
    Broken(Broken),
}

fn refused(mut error: TrySendError<Get>, reused: bool) -> Refused {
    if let Some(unsent) = error.take_message() {
        return Refused::Unsent(Box::new(unsent));
    }
    let error = error.into_error();
    let closed = error.is_incomplete_message() || error.is_canceled() || error.is_closed();
    let kind = if reused && (closed || is_reset(&error)) {
        FailureKind::StaleConnection
    } else {
        FailureKind::Broken
    };
    Refused::Broken(Broken { kind, why: causes(&error) })
}

fn is_reset(error: &hyper::Error) -> bool {
    use std::error::Error as _;
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| matches!(io.kind(), BrokenPipe | ConnectionAborted | ConnectionReset))
}

/// The error with what it stands on.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn closes(answer: &Response<Incoming>) -> bool {
    let says_close = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or_default();
        text.split(',').any(|token| token.trim().eq_ignore_ascii_case("close"))
    };
    answer.headers().get_all(header::CONNECTION).iter().any(says_close)
}
