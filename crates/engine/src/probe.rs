//! Readiness: one `GET` or one connection, and the words for how it went.

use std::net::SocketAddr;
use std::time::Duration;

use domain::slot::{HealthCheck, Probe, ProbeRecord};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST, LOCATION, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::process::now;

/// Asks once.
pub(crate) async fn probe(address: SocketAddr, check: &HealthCheck) -> ProbeRecord {
    let at = now();
    let (request, asked) = match &check.probe {
        Probe::Http(path) => {
            (format!("GET http://{address}{path}"), within(check.timeout, get(address, path)).await)
        }
        Probe::Tcp => {
            (format!("connect to {address}"), within(check.timeout, connect(address)).await)
        }
    };
    let (ok, answer) = match asked {
        Ok(answer) => (true, answer),
        Err(answer) => (false, answer),
    };
    ProbeRecord { at, request, answer, ok }
}

async fn within(
    limit: Duration,
    asking: impl Future<Output = Result<String, String>>,
) -> Result<String, String> {
    let late = |_| Err(format!("no answer within {limit:?}"));
    tokio::time::timeout(limit, asking).await.unwrap_or_else(late)
}

async fn connect(address: SocketAddr) -> Result<String, String> {
    let connected = TcpStream::connect(address).await;
    connected.map(|_| "accepted".to_owned()).map_err(|error| plain(&error))
}

async fn get(address: SocketAddr, path: &str) -> Result<String, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| plain(&error))?;
    let shake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = shake.await.map_err(|error| error.to_string())?;
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .header(USER_AGENT, "launchway-health")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("`{path}` is not a path: {error}"))?;
    tokio::pin!(connection);
    let asking = sender.send_request(request);
    tokio::pin!(asking);
    let response = tokio::select! {
        response = &mut asking => response,
        // The answer may have come with the end of the connection.
        _ = &mut connection => asking.await,
    };
    judge(&response.map_err(|error| describe(&error))?)
}

/// Only 2xx is ready. A redirect says where it leads, because that is mostly the login page.
fn judge<B>(response: &Response<B>) -> Result<String, String> {
    let status = response.status();
    if status.is_success() {
        return Ok(status.to_string());
    }
    let target = response.headers().get(LOCATION).and_then(|target| target.to_str().ok());
    match target {
        Some(target) if status.is_redirection() => Err(format!("{status}, to {target}")),
        _ => Err(status.to_string()),
    }
}

fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}

fn describe(error: &hyper::Error) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}
