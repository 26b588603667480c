//! Plain HTTP to the Engine's socket, for the two calls that need more than bollard offers: a build by BuildKit,
//! whose answer it does not read, and a session, for which it would bring a second gRPC stack.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use super::BuildError;

/// The Engine is on this machine, mostly.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

pub type Body = BoxBody<Bytes, std::io::Error>;

/// Where the Engine answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Unix(PathBuf),
    Tcp(String),
}

/// One connection; it closes when this is dropped, and what runs on it is given up by the Engine.
pub struct Wire {
    sender: SendRequest<Body>,
    driver: JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Place {
    /// What `DOCKER_HOST` says, or the socket of a machine's own Engine.
    pub fn from_env() -> Result<Self, BuildError> {
        Self::of(std::env::var("DOCKER_HOST").ok().as_deref())
    }

    pub fn of(host: Option<&str>) -> Result<Self, BuildError> {
        let host = host.filter(|host| !host.is_empty()).unwrap_or("unix:///var/run/docker.sock");
        if let Some(path) = host.strip_prefix("unix://") {
            return Ok(Self::Unix(path.into()));
        }
        if let Some(address) = host.strip_prefix("tcp://").or(host.strip_prefix("http://")) {
            return Ok(Self::Tcp(address.trim_end_matches('/').to_owned()));
        }
        let why =
            format!("DOCKER_HOST is `{host}`; it can be `unix://<socket>` or `tcp://<address>`");
        Err(BuildError::Unreachable(why))
    }

    /// A fresh connection.
    pub async fn dial(&self) -> Result<Wire, BuildError> {
        let dialled = tokio::time::timeout(DIAL_LIMIT, async {
            match self {
                Self::Unix(path) => {
                    let stream =
                        UnixStream::connect(path).await.map_err(|e| self.unreachable(e))?;
                    self.shake(TokioIo::new(stream)).await
                }
                Self::Tcp(address) => {
                    let stream =
                        TcpStream::connect(address).await.map_err(|e| self.unreachable(e))?;
                    self.shake(TokioIo::new(stream)).await
                }
            }
        });
        dialled.await.unwrap_or_else(|_| Err(self.unreachable("it does not answer")))
    }

    async fn shake<S>(&self, io: TokioIo<S>) -> Result<Wire, BuildError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::handshake(io).await.map_err(|e| self.unreachable(e))?;
        let driver = tokio::spawn(async move {
            // Whoever reads the answer sees how it ended.
            let _ended = connection.with_upgrades().await;
        });
        Ok(Wire { sender, driver })
    }

    fn unreachable(&self, why: impl std::fmt::Display) -> BuildError {
        BuildError::Unreachable(match self {
            Self::Unix(path) => format!("{}: {why}", path.display()),
            Self::Tcp(address) => format!("{address}: {why}"),
        })
    }
}

impl Wire {
    /// Sends a request and waits for the head of its answer.
    pub async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, BuildError> {
        self.sender.send_request(request).await.map_err(BuildError::broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_where_docker_host_says() {
        assert_eq!(Place::of(None).unwrap(), Place::Unix("/var/run/docker.sock".into()));
        assert_eq!(Place::of(Some("unix:///run/x")).unwrap(), Place::Unix("/run/x".into()));
        assert_eq!(
            Place::of(Some("tcp://10.0.0.1:2375")).unwrap(),
            Place::Tcp("10.0.0.1:2375".into())
        );
        assert!(Place::of(Some("ssh://me@there")).is_err());
    }
}
