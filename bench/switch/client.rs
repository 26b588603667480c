//! One connection to a proxy, and what an answer must look like.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::backend::{RELEASE, mark};

pub type Sent = BoxBody<Bytes, std::convert::Infallible>;

/// A connection, and the newest release that answered on it.
pub struct Line {
    pub sender: SendRequest<Sent>,
    pub newest: u64,
    driver: AbortHandle,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Why a request failed: a word to count by, and the rest.
#[derive(Debug, Clone)]
pub struct Failure {
    pub kind: &'static str,
    pub why: String,
}

pub fn failure(kind: &'static str, why: impl ToString) -> Failure {
    Failure { kind, why: why.to_string() }
}

impl Line {
    pub async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream =
            TcpStream::connect(address).await.map_err(|error| failure("connect", error))?;
        // Only affects speed, so a refusal is no failure.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failure("connect", error))?;
        // Its errors reach the request that suffers from them.
        let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Self { sender, newest: 0, driver })
    }

    /// Sends, and reads the whole answer.
    pub async fn ask(&mut self, request: Request<Sent>) -> Result<Told, Failure> {
        let answer = self.sender.send_request(request).await;
        let answer = answer.map_err(|error| {
            let kind = if self.newest > 0 { "stale connection" } else { "broken" };
            failure(kind, causes(&error))
        })?;
        let told = read(answer).await?;
        self.newest = self.newest.max(told.release);
        Ok(told)
    }
}

/// A whole answer.
pub struct Told {
    /// By its head.
    pub release: u64,
    /// Head, beginning or end name different releases.
    pub mixed: bool,
    pub body: Bytes,
}

async fn read(answer: Response<Incoming>) -> Result<Told, Failure> {
    let status = answer.status();
    let release = answer.headers().get(RELEASE).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = answer.into_body().collect().await;
    let body = body.map_err(|error| failure("cut off", causes(&error)))?.to_bytes();
    if !status.is_success() {
        return Err(failure("status", status));
    }
    let release: u64 = release.ok_or_else(|| failure("content", "it names no release"))?;
    let mark = mark(release);
    let mixed = !body.starts_with(mark.as_bytes()) || !body.ends_with(mark.as_bytes());
    Ok(Told { release, mixed, body })
}

fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
