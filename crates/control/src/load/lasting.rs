//! Clients that stay: WebSockets and streams of events, opened again at once whenever they end, and how each ended.
//!
//! ```text
//!   opened ──messages──> polite end (Close frame; end of the stream between two events) ──┐
//!      ▲                 abnormal end (1006: no Close frame, reset, cut in an event) ─────┤
//!      └────────────────────────────────────────────── at once <──────────────────────────┘
//! ```

mod events;
mod tally;
mod websocket;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::Target;
use tally::Tally;

/// Which clients stay, and where.
#[derive(Debug, Clone)]
pub struct LastingLoad {
    pub target: Target,
    pub websockets: usize,
    pub websocket_path: String,
    pub event_streams: usize,
    pub event_path: String,
    /// Over how much time the first ones are opened.
    pub ramp: Duration,
    /// A client that hears nothing for so long counts a silence; after six of them it opens anew.
    pub silence: Duration,
    /// For a connection and the answer to its first request.
    pub open_limit: Duration,
    /// Of the jitter: the same seed waits the same times.
    pub seed: u64,
}

impl LastingLoad {
    /// No client yet; five seconds without a message are a silence.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            websockets: 0,
            websocket_path: "/".into(),
            event_streams: 0,
            event_path: "/".into(),
            ramp: Duration::from_millis(500),
            silence: Duration::from_secs(5),
            open_limit: Duration::from_secs(10),
            seed: 1,
        }
    }
}

/// What became of clients that stay.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LastingReport {
    pub websockets: LastingCounts,
    pub event_streams: LastingCounts,
    /// Abnormal ends and failed opens, the first ten thousand of them.
    pub incidents: Vec<Incident>,
}

impl LastingReport {
    /// Ends that nobody should have seen.
    pub fn abnormal(&self) -> u64 {
        self.websockets.abnormal + self.event_streams.abnormal
    }

    /// Ends in good order.
    pub fn polite(&self) -> u64 {
        let all = self.websockets.polite.values().chain(self.event_streams.polite.values());
        all.sum()
    }
}

/// One kind of client.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LastingCounts {
    /// Open now.
    pub open: u64,
    /// Opened in all.
    pub opened: u64,
    /// Messages or events that came.
    pub messages: u64,
    /// Ends in good order, by WebSocket close code; a stream that ended between two events is `end`.
    pub polite: BTreeMap<String, u64>,
    /// Connections that broke: what a browser calls 1006, and close codes that report a fault.
    pub abnormal: u64,
    /// Attempts to open that came to nothing.
    pub failed_opens: u64,
    /// Times that nothing came although the connection was open.
    pub silences: u64,
    /// The longest that a client was without a connection, in milliseconds.
    pub longest_gap_ms: u64,
}

/// Something that a client should not have seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    pub at: Timestamp,
    pub client: ClientKind,
    /// An open that failed; else a connection that broke.
    pub opening: bool,
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientKind {
    WebSocket,
    EventStream,
}

/// How a connection ended.
enum End {
    Polite(String),
    Abnormal(String),
}

/// Silences in a row after which a connection is given up.
const SILENCES: u32 = 6;
/// After a failed open, times the number of failures in a row, at most ten.
const PAUSE: Duration = Duration::from_millis(50);
/// A connection that ends sooner counts as one more failure in a row: nobody is to be stormed.
const SHORT: Duration = Duration::from_millis(20);

/// Clients that stay until they are stopped or dropped.
pub struct Lasting {
    tally: Arc<Tally>,
    clients: JoinSet<()>,
}

impl Lasting {
    /// Begins to open. Must be called within a tokio runtime.
    pub fn start(load: LastingLoad) -> Self {
        let load = Arc::new(load);
        let tally = Arc::new(Tally::new());
        let mut clients = JoinSet::new();
        let kinds = [
            (ClientKind::WebSocket, load.websockets),
            (ClientKind::EventStream, load.event_streams),
        ];
        for (kind, count) in kinds {
            for nth in 0..count {
                let begin = load.ramp.mul_f64(nth as f64 / count as f64);
                let jitter = Jitter(load.seed ^ ((kind as u64) << 32 | nth as u64));
                let client =
                    Client { kind, load: Arc::clone(&load), tally: Arc::clone(&tally), jitter };
                clients.spawn(client.stay(begin));
            }
        }
        Self { tally, clients }
    }

    /// How it stands now.
    pub fn report(&self) -> LastingReport {
        self.tally.report()
    }

    /// Closes all of them and tells how it went.
    pub async fn stop(mut self) -> LastingReport {
        let report = self.tally.report();
        self.clients.shutdown().await;
        report
    }
}

struct Client {
    kind: ClientKind,
    load: Arc<LastingLoad>,
    tally: Arc<Tally>,
    jitter: Jitter,
}

impl Client {
    async fn stay(mut self, begin: Duration) {
        sleep(begin).await;
        let (mut without, mut failures) = (Instant::now(), 0);
        loop {
            match self.open_and_listen(without).await {
                Ok((end, lived)) => {
                    self.tally.ended(self.kind, end);
                    without = Instant::now();
                    failures = if lived < SHORT { (failures + 1).min(10) } else { 0 };
                }
                Err(why) => {
                    self.tally.failed_open(self.kind, why);
                    failures = (failures + 1).min(10);
                }
            }
            if failures > 0 {
                sleep(PAUSE * failures + self.jitter.up_to(PAUSE)).await;
            }
        }
    }

    /// How the connection ended and how long it lived, or why there was none.
    async fn open_and_listen(&self, without: Instant) -> Result<(End, Duration), String> {
        let (load, tally) = (&*self.load, &*self.tally);
        let late = |_| format!("no answer within {:?}", load.open_limit);
        let (end, opened);
        match self.kind {
            ClientKind::WebSocket => {
                let opening = timeout(load.open_limit, websocket::open(load));
                let socket = opening.await.map_err(late)??;
                tally.opened(self.kind, without.elapsed());
                opened = Instant::now();
                end = websocket::listen(socket, load.silence, tally).await;
            }
            ClientKind::EventStream => {
                let opening = timeout(load.open_limit, events::open(load));
                let stream = opening.await.map_err(late)??;
                tally.opened(self.kind, without.elapsed());
                opened = Instant::now();
                end = events::listen(stream, load.silence, tally).await;
            }
        }
        Ok((end, opened.elapsed()))
    }
}

/// Times that differ from client to client and are the same in every run (splitmix64).
struct Jitter(u64);

impl Jitter {
    fn up_to(&mut self, most: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        most.mul_f64(((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// Counts silences of one connection.
struct Ear<'a> {
    kind: ClientKind,
    silence: Duration,
    in_a_row: u32,
    tally: &'a Tally,
}

impl<'a> Ear<'a> {
    fn new(kind: ClientKind, silence: Duration, tally: &'a Tally) -> Self {
        Self { kind, silence, in_a_row: 0, tally }
    }

    /// What `next` gives, or the end of a connection on which nothing comes any more.
    async fn hear<T>(&mut self, next: impl Future<Output = T>) -> Result<T, End> {
        tokio::pin!(next);
        loop {
            if let Ok(heard) = timeout(self.silence, &mut next).await {
                self.in_a_row = 0;
                return Ok(heard);
            }
            self.tally.silence(self.kind);
            self.in_a_row += 1;
            if self.in_a_row == SILENCES {
                let silent = self.silence * SILENCES;
                return Err(End::Abnormal(format!("open, but silent for {silent:?}")));
            }
        }
    }
}
