//! One target of a load: its requests, its connections, its tally.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, Uri, header};
use http_body_util::Empty;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Broken, Get, Pool};
use super::tally::Tally;
use super::{FailureKind, Load, LoadError, LoadReport};

/// Everything that sending to one target takes.
pub(super) struct Lane {
    pub(super) tally: Tally,
    uris: Vec<Uri>,
    headers: HeaderMap,
    pool: Pool,
    room: Arc<Semaphore>,
    max_in_flight: usize,
    time_limit: std::time::Duration,
}

impl Lane {
    pub(super) fn new(load: &Load) -> Result<Self, LoadError> {
        let host = &load.target.host;
        if load.paths.is_empty() {
            return Err(LoadError::NoPath { host: host.clone() });
        }
        let uris = load.paths.iter().map(|path| uri(host, path)).collect::<Result<_, _>>()?;
        let value = HeaderValue::from_str(host)
            .map_err(|error| LoadError::Host { host: host.clone(), why: error.to_string() })?;
        let mut headers = load.headers.clone();
        headers.insert(header::HOST, value);
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static("launchway-load"));
        let max_in_flight = load.max_in_flight.clamp(1, Semaphore::MAX_PERMITS);
        Ok(Self {
            tally: Tally::new(load),
            uris,
            headers,
            pool: Pool::new(load.target.connect),
            room: Arc::new(Semaphore::new(max_in_flight)),
            max_in_flight,
            time_limit: load.timeout,
        })
    }

    /// Sends the request of this turn, which was due at `due`, and comes back at once.
    pub(super) fn send(
        self: &Arc<Self>,
        turn: u64,
        due: Instant,
        work: &TaskTracker,
        abandon: &CancellationToken,
    ) {
        let path = (turn % self.uris.len() as u64) as usize;
        self.tally.sent(path, due);
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            let why = format!("not sent: {} requests were still unanswered", self.max_in_flight);
            self.tally.broken(path, due, Broken { kind: FailureKind::Overloaded, why });
            return;
        };
        let (lane, abandon) = (Arc::clone(self), abandon.clone());
        work.spawn(async move {
            tokio::select! {
                biased;
                () = lane.ask(path, due) => {}
                () = abandon.cancelled() => lane.tally.abandoned(path),
            }
            drop(room);
        });
    }

    async fn ask(&self, path: usize, due: Instant) {
        match timeout(self.time_limit, self.pool.ask(self.get(path))).await {
            Ok(Ok(status)) => self.tally.answered(path, due, status),
            Ok(Err(broken)) => self.tally.broken(path, due, broken),
            Err(_) => {
                let why = format!("no whole answer within {:?}", self.time_limit);
                self.tally.broken(path, due, Broken { kind: FailureKind::Timeout, why });
            }
        }
    }

    fn get(&self, path: usize) -> Get {
        let mut get = Request::new(Empty::new());
        *get.uri_mut() = self.uris[path].clone();
        *get.headers_mut() = self.headers.clone();
        get
    }

    pub(super) fn report(&self) -> LoadReport {
        self.tally.report()
    }
}

/// The path as it stands in the first line of a request.
fn uri(host: &str, path: &str) -> Result<Uri, LoadError> {
    let refused =
        |why: String| LoadError::Path { host: host.to_owned(), path: path.to_owned(), why };
    if !path.starts_with('/') {
        return Err(refused("it does not begin with `/`".into()));
    }
    Uri::builder().path_and_query(path).build().map_err(|error| refused(error.to_string()))
}
