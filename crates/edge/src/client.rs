//! The control side of the edge's socket: publish a table, ask for the status, watch a drain.

use std::fmt;
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
use crate::pause::{PauseFor, Paused};

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

/// What a slot still carries. [`Display`](fmt::Display) says it in a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DrainStatus {
    /// Requests being answered, event streams among them.
    pub in_flight: u64,
    /// Upgraded connections, which are WebSockets almost always.
    pub upgraded: u64,
    #[serde(default)]
    pub event_streams: u64,
    /// How long the oldest known request in flight has been running.
    pub oldest_ms: Option<u64>,
    /// When WebSockets and event streams will all have been closed; `None` while the slot has the traffic.
    #[serde(default)]
    pub closed_in_ms: Option<u64>,
}

impl DrainStatus {
    /// Adds what another edge still carries of the same slot.
    pub fn add(&mut self, other: &Self) {
        self.in_flight += other.in_flight;
        self.upgraded += other.upgraded;
        self.event_streams += other.event_streams;
        self.oldest_ms = self.oldest_ms.max(other.oldest_ms);
        self.closed_in_ms = self.closed_in_ms.max(other.closed_in_ms);
    }

    /// Nothing is left.
    pub fn done(&self) -> bool {
        self.in_flight == 0 && self.upgraded == 0
    }
}

impl fmt::Display for DrainStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            (self.in_flight.saturating_sub(self.event_streams), "request"),
            (self.upgraded, "WebSocket"),
            (self.event_streams, "event stream"),
        ];
        let named = kinds.iter().filter(|(count, _)| *count > 0).map(|(count, what)| {
            let plural = if *count == 1 { "" } else { "s" };
            format!("{count} {what}{plural}")
        });
        let named: Vec<String> = named.collect();
        if named.is_empty() {
            return f.write_str("nothing");
        }
        f.write_str(&named.join(", "))?;
        if let Some(age) = self.oldest_ms {
            write!(f, "; the oldest for {}", seconds(age))?;
        }
        if let Some(left) = self.closed_in_ms.filter(|_| self.upgraded + self.event_streams > 0) {
            write!(f, "; closed in {} at the latest", seconds(left))?;
        }
        Ok(())
    }
}

/// Whole seconds, as people wait.
fn seconds(millis: u64) -> String {
    format!("{}s", millis.div_ceil(1000))
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
    #[error("the edge is handing over to a new one; ask again in a moment")]
    Busy,
    /// It routes no environment of this name, and says which ones it does.
    #[error("{0}")]
    Unknown(String),
    #[error("the edge refused: {0}")]
    Refused(String),
    #[error("the edge's answer is not understood: {0}; check that both are of the same version")]
    Protocol(String),
}

/// Why the edge refuses, on the wire.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    Stale {
        offered: Epoch,
        in_force: Epoch,
    },
    /// For a moment: whoever asks again is heard, by this edge or by the next.
    Busy,
    Unknown(String),
    Other(String),
}

const DEADLINE: Duration = Duration::from_secs(5);

/// Between two tries at an edge that is busy.
const AGAIN: Duration = Duration::from_millis(20);

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

    /// Holds new requests to `environment`; those in flight go on. When it returns, no further request is
    /// routed there until [`Client::resume`] or the end of the time. A pause in force is replaced.
    pub async fn pause(
        &self,
        environment: &EnvironmentName,
        wanted: PauseFor,
    ) -> Result<Paused, ClientError> {
        let text = serde_json::to_vec(&wanted).map_err(protocol)?;
        self.call(Method::POST, format!("/pause/{environment}"), text.into()).await
    }

    /// Lets the held requests go, to wherever the table in force says. Without a pause it does nothing.
    pub async fn resume(&self, environment: &EnvironmentName) -> Result<Paused, ClientError> {
        self.call(Method::POST, format!("/resume/{environment}"), Bytes::new()).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let deadline = self.deadline;
        let late = || ClientError::Deadline { path: self.socket.clone(), deadline };
        let asked = async {
            loop {
                match self.exchange(method.clone(), path.clone(), body.clone()).await {
                    Err(ClientError::Busy) => tokio::time::sleep(AGAIN).await,
                    answered => return answered,
                }
            }
        };
        tokio::time::timeout(deadline, asked).await.unwrap_or_else(|_| Err(late()))
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
            Ok(Problem::Busy) => ClientError::Busy,
            Ok(Problem::Unknown(why)) => ClientError::Unknown(why),
            Ok(Problem::Other(why)) => ClientError::Refused(why),
            Err(error) => protocol(format!("status {status}: {error}")),
        })
    }
}

fn protocol(error: impl ToString) -> ClientError {
    ClientError::Protocol(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_says_in_one_sentence_what_it_waits_for() {
        let drain = DrainStatus {
            in_flight: 4,
            upgraded: 2,
            event_streams: 1,
            oldest_ms: Some(11_900),
            closed_in_ms: Some(18_000),
        };
        assert_eq!(
            drain.to_string(),
            "3 requests, 2 WebSockets, 1 event stream; the oldest for 12s; closed in 18s at the latest"
        );
        let one = DrainStatus { in_flight: 1, closed_in_ms: Some(500), ..DrainStatus::default() };
        assert_eq!(one.to_string(), "1 request");
        assert_eq!(DrainStatus::default().to_string(), "nothing");
    }
}
