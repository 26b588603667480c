//! 2,000 requests each second, due at a constant rate whether the earlier ones are answered or not: GET and POST, on
//! kept and on new connections. Each answer is checked; each time counts from when the request was due.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::Request;
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use tokio::time::timeout;

use super::client::{Failure, Line, Sent, failure};
use crate::edge::generator::watched;
use crate::peers::{HOST, Outcome, failing};

/// For one answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Requests under way at the same time; more are not sent and have failed.
const MOST: u64 = 4_000;
/// Every so many requests have a new connection, and every so many post something.
const NEW_CONNECTION: u64 = 10;
const POST: u64 = 5;
const ORDER: &[u8] = &[b'o'; 512];
const REMEMBERED: usize = 20;

/// What traffic and switches know of each other.
pub struct Traffic {
    address: SocketAddr,
    rate: f64,
    began: Instant,
    /// The newest release whose switch was acknowledged by the proxy.
    pub acknowledged: AtomicU64,
    stop: AtomicBool,
    flying: AtomicU64,
    idle: Mutex<Vec<Line>>,
    counts: Mutex<Counts>,
}

/// What became of the requests.
#[derive(Default, Clone)]
pub struct Counts {
    /// When each answered request was due, since the beginning, and how long it took.
    pub samples: Vec<(Duration, Duration)>,
    pub failed: BTreeMap<&'static str, u64>,
    pub first_failures: Vec<(Duration, Failure)>,
    /// Answers with parts of two releases, or from an older release than one before on the same connection.
    pub mixed: u64,
    /// Answers of an older release than the one whose switch was acknowledged before the request was sent.
    pub stale: u64,
    /// How late requests were sent by the generator's own fault.
    pub lag: Vec<Duration>,
}

impl Counts {
    pub fn all_failed(&self) -> u64 {
        self.failed.values().sum()
    }
}

impl Traffic {
    /// Begins to send, in a thread of its own; it ends by [`Traffic::stop`].
    pub fn start(
        address: SocketAddr,
        rate: f64,
    ) -> (Arc<Self>, std::thread::JoinHandle<Outcome<()>>) {
        let traffic = Arc::new(Self {
            address,
            rate,
            began: Instant::now(),
            acknowledged: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            flying: AtomicU64::new(0),
            idle: Mutex::default(),
            counts: Mutex::default(),
        });
        let sending = Arc::clone(&traffic);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(failing("starting the traffic"))?;
            runtime.block_on(sending.send())
        });
        (traffic, thread)
    }

    /// No more requests; those under way have their time limit.
    pub fn stop(&self) {
        self.stop.store(true, SeqCst);
    }

    /// Since the beginning.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Line>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By a timer of the kernel: tokio's own has a grain of a millisecond, longer than an answer takes.
    async fn send(self: Arc<Self>) -> Outcome<()> {
        let setting = || failing::<nix::Error>("setting a timer");
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).map_err(setting())?;
        let interval = TimeSpec::from_duration(Duration::from_secs_f64(1.0 / self.rate));
        timer.set(Expiration::Interval(interval), TimerSetTimeFlags::empty()).map_err(setting())?;
        let timer = watched(timer.into())?;
        let mut nth = 0_u64;
        while !self.stop.load(SeqCst) {
            let mut ready = timer.readable().await.map_err(failing("waiting for a timer"))?;
            // How often it rang does not matter: what is due follows from the clock.
            let _ = ready.try_io(|timer| Ok(nix::unistd::read(timer, &mut [0; 8])?));
            let now = self.now();
            loop {
                let due = Duration::from_secs_f64(nth as f64 / self.rate);
                if due > now {
                    break;
                }
                self.lock().lag.push(now - due);
                tokio::spawn(Arc::clone(&self).one(nth, due));
                nth += 1;
            }
        }
        let deadline = Instant::now() + LIMIT + Duration::from_secs(1);
        while self.flying.load(SeqCst) > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.idle().clear();
        Ok(())
    }

    async fn one(self: Arc<Self>, nth: u64, due: Duration) {
        if self.flying.fetch_add(1, SeqCst) >= MOST {
            self.failed_with(failure("overloaded", "too many requests are unanswered"));
        } else {
            match timeout(LIMIT, self.ask(nth)).await {
                Ok(Ok(())) => {
                    let took = self.now().saturating_sub(due);
                    self.lock().samples.push((due, took));
                }
                Ok(Err(failure)) => self.failed_with(failure),
                Err(_) => self.failed_with(failure("timeout", format!("none within {LIMIT:?}"))),
            }
        }
        self.flying.fetch_sub(1, SeqCst);
    }

    fn failed_with(&self, failure: Failure) {
        let now = self.now();
        let mut counts = self.lock();
        *counts.failed.entry(failure.kind).or_default() += 1;
        if counts.first_failures.len() < REMEMBERED {
            counts.first_failures.push((now, failure));
        }
    }

    async fn ask(&self, nth: u64) -> Result<(), Failure> {
        let new = nth.is_multiple_of(NEW_CONNECTION);
        let mut line = match (new, self.kept().await) {
            (false, Some(line)) => line,
            _ => Line::open(self.address).await?,
        };
        let (acknowledged, before) = (self.acknowledged.load(SeqCst), line.newest);
        let told = line.ask(request(nth, new)?).await?;
        if told.mixed || told.release < before {
            self.lock().mixed += 1;
        }
        if told.release < acknowledged {
            self.lock().stale += 1;
        }
        if !new {
            self.idle().push(line);
        }
        Ok(())
    }

    /// An idle connection that was not closed meanwhile.
    async fn kept(&self) -> Option<Line> {
        loop {
            let mut line = self.idle().pop()?;
            if line.sender.ready().await.is_ok() {
                return Some(line);
            }
        }
    }
}

fn request(nth: u64, new: bool) -> Result<Request<Sent>, Failure> {
    let post = nth % POST == 1;
    let path = match (post, nth % 2) {
        (true, _) => "/order",
        (false, 0) => "/asset",
        (false, _) => "/api",
    };
    let mut request = Request::builder().uri(path).header("host", HOST);
    if new {
        request = request.header("connection", "close");
    }
    let request = if post {
        request.method("POST").body(Full::new(Bytes::from_static(ORDER)).boxed())
    } else {
        request.body(Empty::new().boxed())
    };
    request.map_err(|error| failure("content", error))
}
