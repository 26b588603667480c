//! The control side of the edge's socket: publish a table, ask for the status, watch a drain.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use domain::route::{EdgeStatus, RouteFacts, Table};
use domain::{Color, EnvironmentName, Epoch};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::certificates::{CertificateInfo, Certificates};

/// Talks to one edge. Each call opens its own connection and has a deadline.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    deadline: Duration,
}

/// The table is in force, on all workers, and on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    pub epoch: Epoch,
    /// False if exactly this table was in force already.
    pub changed: bool,
}

/// What a slot still carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DrainStatus {
    pub in_flight: u64,
    pub upgraded: u64,
    /// How long the oldest known request in flight has been running.
    pub oldest_ms: Option<u64>,
}

impl DrainStatus {
    /// Nothing is left.
    pub fn done(&self) -> bool {
        self.in_flight == 0 && self.upgraded == 0
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("reaching the edge at {path}: {source}; check that `launchway edge` runs")]
    Unreachable { path: PathBuf, source: io::Error },
    #[error("the edge at {path} did not answer within {deadline:?}; look at its log")]
    Deadline { path: PathBuf, deadline: Duration },
    #[error("publishing epoch {offered}: epoch {in_force} is in force; read it and decide anew")]
    StaleEpoch { offered: Epoch, in_force: Epoch },
    #[error("the edge refused: {0}")]
    Refused(String),
    #[error("the edge's answer is not understood: {0}; check that both are of the same version")]
    Protocol(String),
}

/// Why the edge refuses, on the wire.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    Stale { offered: Epoch, in_force: Epoch },
    Other(String),
}

const DEADLINE: Duration = Duration::from_secs(5);

/// Ends hyper's connection task together with the call.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// A client of the edge whose control socket is `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), deadline: DEADLINE }
    }

    /// The same, giving up on a call after `deadline`.
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Puts `table` in force. When it returns, no request that comes later is routed by an older table.
    /// Publishing what is in force already is no error.
    pub async fn publish(&self, table: &Table) -> Result<Published, ClientError> {
        let text = serde_json::to_vec(table).map_err(protocol)?;
        self.call(Method::PUT, "/table".into(), text.into()).await
    }

    /// Everything the edge knows.
    pub async fn status(&self) -> Result<EdgeStatus, ClientError> {
        self.call(Method::GET, "/status".into(), Bytes::new()).await
    }

    /// The numbers of each route that had a request since the edge began.
    pub async fn routes(&self) -> Result<Vec<RouteFacts>, ClientError> {
        self.call(Method::GET, "/routes".into(), Bytes::new()).await
    }

    /// What `slot` still carries. Once it lost the traffic and this is nothing, nothing will come any more.
    pub async fn drain(
        &self,
        environment: &EnvironmentName,
        slot: Color,
    ) -> Result<DrainStatus, ClientError> {
        self.call(Method::GET, format!("/drain/{environment}/{slot}"), Bytes::new()).await
    }

    /// Puts `certificates` in force for new connections, in the place of all that were there before. When it
    /// returns, they are on the edge's disk too. One that is of no use refuses them all.
    pub async fn put_certificates(
        &self,
        certificates: &Certificates,
    ) -> Result<Vec<CertificateInfo>, ClientError> {
        let text = serde_json::to_vec(certificates).map_err(protocol)?;
        self.call(Method::PUT, "/certificates".into(), text.into()).await
    }

    /// The certificates in force, without their keys.
    pub async fn certificates(&self) -> Result<Vec<CertificateInfo>, ClientError> {
        self.call(Method::GET, "/certificates".into(), Bytes::new()).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let deadline = self.deadline;
        let late = || ClientError::Deadline { path: self.socket.clone(), deadline };
        tokio::time::timeout(deadline, self.exchange(method, path, body))
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: self.socket.clone(), source };
        let broken = |error: hyper::Error| unreachable(io::Error::other(error));
        let stream = UnixStream::connect(&self.socket).await.map_err(unreachable)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let _driver = Driver(tokio::spawn(async move {
            // The call itself sees how the connection ends.
            let _ = connection.await;
        }));
        let request = Request::builder().method(method).uri(path).header("host", "edge");
        let request = request.body(Full::new(body)).map_err(protocol)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let text = response.into_body().collect().await.map_err(broken)?.to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&text).map_err(protocol);
        }
        Err(match serde_json::from_slice(&text) {
            Ok(Problem::Stale { offered, in_force }) => {
                ClientError::StaleEpoch { offered, in_force }
            }
            Ok(Problem::Other(why)) => ClientError::Refused(why),
            Err(error) => protocol(format!("status {status}: {error}")),
        })
    }
}

fn protocol(error: impl ToString) -> ClientError {
    ClientError::Protocol(error.to_string())
}
