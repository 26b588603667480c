//! Uploads and downloads that take two seconds each, one after the other, all the time.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::{Body, Frame};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::backend::{PIECE, PIECE_EVERY, PIECES};
use super::client::{Failure, Line, Sent, failure};
use crate::peers::HOST;

/// For one transfer.
const LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);

/// What became of them.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Transferred {
    pub uploads: u64,
    pub downloads: u64,
    pub failed: u64,
    /// Downloads with parts of two releases.
    pub mixed: u64,
    pub first_failures: Vec<String>,
}

/// Transfers until it is stopped or dropped.
pub struct Transfers {
    told: Arc<Mutex<Transferred>>,
    tasks: JoinSet<()>,
}

impl Transfers {
    /// So many uploads and as many downloads, in the runtime it is called in.
    pub fn start(address: SocketAddr, each: usize) -> Self {
        let told = Arc::new(Mutex::default());
        let mut tasks = JoinSet::new();
        for nth in 0..2 * each {
            let begin = PIECE_EVERY * PIECES as u32 * nth as u32 / (2 * each) as u32;
            tasks.spawn(transfer(address, nth % 2 == 0, begin, Arc::clone(&told)));
        }
        Self { told, tasks }
    }

    pub fn told(&self) -> Transferred {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Breaks off what is under way, which counts for nothing, and tells how it went.
    pub async fn stop(mut self) -> Transferred {
        let told = self.told();
        self.tasks.shutdown().await;
        told
    }
}

async fn transfer(address: SocketAddr, up: bool, begin: Duration, told: Arc<Mutex<Transferred>>) {
    sleep(begin).await;
    loop {
        let done = timeout(LIMIT, if_up(address, up)).await;
        let done = done.unwrap_or_else(|_| Err(failure("timeout", format!("over {LIMIT:?}"))));
        {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            match done {
                Ok(mixed) => {
                    told.mixed += u64::from(mixed);
                    *(if up { &mut told.uploads } else { &mut told.downloads }) += 1;
                }
                Err(failure) => {
                    told.failed += 1;
                    if told.first_failures.len() < 10 {
                        let what = if up { "upload" } else { "download" };
                        told.first_failures
                            .push(format!("{what}: {}: {}", failure.kind, failure.why));
                    }
                }
            }
        }
        sleep(PAUSE).await;
    }
}

async fn if_up(address: SocketAddr, up: bool) -> Result<bool, Failure> {
    if up { upload(address).await } else { download(address).await }
}

async fn download(address: SocketAddr) -> Result<bool, Failure> {
    let request = Request::get("/download").header("host", HOST).body(Empty::new().boxed());
    let request: Request<Sent> = request.map_err(|error| failure("content", error))?;
    let told = Line::open(address).await?.ask(request).await?;
    if told.body.len() != PIECE * PIECES {
        return Err(failure("content", format!("{} bytes came", told.body.len())));
    }
    let mark = super::backend::mark(told.release);
    let whole = told.body.chunks(PIECE).all(|piece| piece.starts_with(mark.as_bytes()));
    Ok(told.mixed || !whole)
}

async fn upload(address: SocketAddr) -> Result<bool, Failure> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        for _ in 0..PIECES {
            // The connection broke; the answer tells.
            if sender.send(Bytes::from_static(&[b'u'; PIECE])).await.is_err() {
                return;
            }
            sleep(PIECE_EVERY).await;
        }
    });
    let size = (PIECE * PIECES).to_string();
    let request = Request::post("/upload").header("host", HOST).header("content-length", &size);
    let request = request.body(Pieces(receiver).boxed());
    let request = request.map_err(|error| failure("content", error))?;
    let told = Line::open(address).await?.ask(request).await?;
    let text = String::from_utf8_lossy(&told.body);
    if text.lines().nth(1) != Some(&size) {
        return Err(failure("content", format!("not all of it arrived: {text}")));
    }
    Ok(told.mixed)
}

struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
