//! The way to the Engine: lazy, so that a server starts while Docker is down, and in words when it is not there.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, Docker};

/// For one answer; what takes longer by nature (stopping, pulling) sets its own.
const ANSWER_WITHIN: u64 = 120;
/// An Engine that answered before is restarted in less.
const RESTART: Duration = Duration::from_secs(30);
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// Where the Engine answers, and the connection once there is one.
#[derive(Debug)]
pub(super) struct Connection {
    address: String,
    client: Mutex<Option<Docker>>,
}

/// What went wrong on the way to an answer, or in it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(
        "no Docker Engine answers at {address} ({why}); start it (`systemctl start docker`, or `dev/setup docker` where none is installed), or have DOCKER_HOST name it"
    )]
    Unreachable { address: String, why: String },
    #[error("{0}")]
    Refused(String),
}

impl Trouble {
    pub(super) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }
}

impl Connection {
    /// `socket` first, then `$DOCKER_HOST`, then the usual place.
    pub(super) fn new(socket: Option<PathBuf>) -> Self {
        let from_env = || std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        let named = socket.map(|path| format!("unix://{}", path.display())).or_else(from_env);
        let address = named.unwrap_or_else(|| format!("unix://{DEFAULT_SOCKET}"));
        Self { address, client: Mutex::default() }
    }

    /// A client of the Engine, which is asked for its version once.
    pub(super) async fn client(&self) -> Result<Docker, Trouble> {
        if let Some(client) = self.known() {
            return Ok(client);
        }
        let client = self.open().map_err(|error| self.trouble(error))?;
        let client = client.negotiate_version().await.map_err(|error| self.trouble(error))?;
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    fn known(&self) -> Option<Docker> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn open(&self) -> Result<Docker, Error> {
        match self.address.split_once("://") {
            Some(("tcp" | "http", _)) => {
                Docker::connect_with_http(&self.address, ANSWER_WITHIN, API_DEFAULT_VERSION)
            }
            _ => Docker::connect_with_unix(&self.address, ANSWER_WITHIN, API_DEFAULT_VERSION),
        }
    }

    /// Does it again when the Engine went away meanwhile and comes back soon: `doing` must be idempotent.
    pub(super) async fn steadily<T, F>(&self, doing: impl Fn() -> F) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, Trouble>>,
    {
        let deadline = Instant::now() + RESTART;
        loop {
            match doing().await {
                Err(Trouble::Unreachable { .. })
                    if self.known().is_some() && Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                answer => return answer,
            }
        }
    }

    /// In words. A connection that breaks in the middle of an answer counts as unreachable: the Engine was stopped.
    pub(super) fn trouble(&self, error: Error) -> Trouble {
        match error {
            Error::DockerResponseServerError { message, .. } => Trouble::Refused(plain(&message)),
            Error::DockerStreamError { error } => Trouble::Refused(error),
            Error::RequestTimeoutError => {
                Trouble::Refused(format!("no answer within {ANSWER_WITHIN} s"))
            }
            Error::JsonDataError { message, .. } => {
                Trouble::Refused(format!("an answer that cannot be read: {message}"))
            }
            other => Trouble::Unreachable { address: self.address.clone(), why: causes(&other) },
        }
    }
}

/// The innermost cause says most: `Connection refused`, not `client error (Connect)`.
fn causes(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    match deepest.to_string() {
        text if text.is_empty() => error.to_string(),
        text => text,
    }
}

/// Engines begin some answers with words for programmers.
fn plain(message: &str) -> String {
    message.trim().trim_start_matches("Error response from daemon: ").to_owned()
}

pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// There is no such thing.
pub(super) fn is_missing(error: &Error) -> bool {
    status(error) == Some(404)
}

/// The name is taken, or it is being removed already.
pub(super) fn is_conflict(error: &Error) -> bool {
    status(error) == Some(409)
}

/// It is so already, or it is gone: what an `ensure` or a `remove` wants to see.
pub(super) fn is_done(error: &Error) -> bool {
    matches!(status(error), Some(304 | 404))
}
