//! An open-loop generator: requests are due at a constant rate, whether the earlier ones are answered or not, and
//! latency counts from when a request was due. With [`Pace::Closed`] each client asks when it was answered.
//!
//! ```text
//!   timerfd ─ due ─▶ queue ─▶ client 0..n, each with its connection ─▶ histogram of (answered − due)
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};

use super::connection::{Line, Target};
use super::scenario::Connection;
use crate::peers::{Outcome, failing};

/// What to send.
pub struct Plan {
    pub target: Target,
    pub clients: usize,
    pub pace: Pace,
    /// Before anything counts.
    pub warm: Duration,
    /// While it counts.
    pub window: Duration,
}

#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// Requests per second.
    Rate(f64),
    /// Each client asks again when it was answered.
    Closed,
}

/// What came of it, within the window.
pub struct Told {
    /// From due to answered, in microseconds, of what was due in the window; also of what failed: until it did.
    pub latency: Histogram<u64>,
    /// Answers that came within the window.
    pub answered: u64,
    /// Due in the window, but broken, refused, or not answered until [`GRACE`] after it.
    pub failed: u64,
    pub first_failure: Option<String>,
    /// The difference of what the meter read at both ends.
    pub cpu: Duration,
    pub lasted: Duration,
}

/// How long after the window an answer is still waited for.
pub const GRACE: Duration = Duration::from_millis(500);
/// How many connections are opened at the same time.
const OPENING: usize = 32;

struct State {
    due: RefCell<VecDeque<Instant>>,
    wake: Notify,
    told: RefCell<Told>,
    /// When what each client is busy with was due.
    busy: Vec<Cell<Option<Instant>>>,
    begins: Instant,
    ends: Instant,
    pace: Pace,
}

/// Runs the plan in a thread of its own; `meter` reads the processor time of what is measured.
pub async fn run(plan: Plan, meter: impl Fn() -> Duration + Send + 'static) -> Outcome<Told> {
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failing("starting the generator"))?;
        LocalSet::new().block_on(&runtime, drive(plan, meter))
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(failing("running the generator"))?
}

/// Opens connections for the clients from `first` up to `end`. Must be called within a [`LocalSet`].
pub async fn open_all_from(target: &Rc<Target>, first: usize, end: usize) -> Outcome<Vec<Line>> {
    let mut lines = Vec::with_capacity(end.saturating_sub(first));
    for chunk in (first..end).step_by(OPENING) {
        let mut opening = JoinSet::new();
        for nth in chunk..end.min(chunk + OPENING) {
            let target = target.clone();
            opening.spawn_local(async move { Line::open(&target, nth).await });
        }
        for line in opening.join_all().await {
            lines.push(line?);
        }
    }
    Ok(lines)
}

async fn drive(plan: Plan, meter: impl Fn() -> Duration) -> Outcome<Told> {
    let target = Rc::new(plan.target);
    let lines = match target.connection {
        Connection::KeepAlive => {
            open_all_from(&target, 0, plan.clients).await?.into_iter().map(Some).collect::<Vec<_>>()
        }
        Connection::New => (0..plan.clients).map(|_| None).collect(),
    };
    let begins = Instant::now() + plan.warm;
    let state = Rc::new(State {
        due: RefCell::default(),
        wake: Notify::new(),
        told: RefCell::new(Told::new(plan.window)?),
        busy: (0..plan.clients).map(|_| Cell::new(None)).collect(),
        begins,
        ends: begins + plan.window,
        pace: plan.pace,
    });
    let mut clients = JoinSet::new();
    for (nth, line) in lines.into_iter().enumerate() {
        clients.spawn_local(client(state.clone(), target.clone(), nth, line));
    }
    let metering = async {
        tokio::time::sleep_until(state.begins.into()).await;
        let (at, before) = (Instant::now(), meter());
        tokio::time::sleep_until(state.ends.into()).await;
        (meter().saturating_sub(before), at.elapsed())
    };
    let (sent, (cpu, lasted)) = tokio::join!(send(&state), metering);
    sent?;
    tokio::time::sleep(GRACE).await;
    state.give_up();
    clients.shutdown().await;
    let mut told = state.told.replace(Told::new(plan.window)?);
    (told.cpu, told.lasted) = (cpu, lasted);
    Ok(told)
}

impl Told {
    fn new(window: Duration) -> Outcome<Self> {
        let latency = Histogram::new_with_bounds(1, 120_000_000, 3);
        Ok(Self {
            latency: latency.map_err(failing("making a histogram"))?,
            answered: 0,
            failed: 0,
            first_failure: None,
            cpu: Duration::ZERO,
            lasted: window,
        })
    }
}

impl State {
    fn counts(&self, due: Instant) -> bool {
        (self.begins..self.ends).contains(&due)
    }

    fn record(&self, due: Instant) {
        let micros = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.told.borrow_mut().latency.saturating_record(micros);
    }

    fn answered(&self, due: Instant) {
        if self.counts(Instant::now()) {
            self.told.borrow_mut().answered += 1;
        }
        if self.counts(due) {
            self.record(due);
        }
    }

    fn failed(&self, due: Instant, why: impl ToString) {
        if !self.counts(due) {
            return;
        }
        self.record(due);
        let mut told = self.told.borrow_mut();
        told.failed += 1;
        told.first_failure.get_or_insert_with(|| why.to_string());
    }

    /// What is still waiting or under way has failed.
    fn give_up(&self) {
        for due in self.due.take() {
            self.failed(due, "not sent in time: the proxy, or this machine, cannot hold the rate");
        }
        for due in self.busy.iter().filter_map(Cell::take) {
            self.failed(due, "not answered in time");
        }
    }

    /// The next request's time; `None` when there will be no more.
    async fn next(&self) -> Option<Instant> {
        if matches!(self.pace, Pace::Closed) {
            let now = Instant::now();
            return (now < self.ends).then_some(now);
        }
        loop {
            if let Some(due) = self.due.borrow_mut().pop_front() {
                return Some(due);
            }
            self.wake.notified().await;
        }
    }
}

/// Lets requests be due until the end. tokio's own timer has a grain of a millisecond, which is longer than an answer takes.
async fn send(state: &State) -> Outcome<()> {
    let Pace::Rate(rate) = state.pace else { return Ok(()) };
    let setting = || failing::<nix::Error>("setting a timer");
    let timer =
        TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).map_err(setting())?;
    let interval = TimeSpec::from_duration(Duration::from_secs_f64(1.0 / rate));
    timer.set(Expiration::Interval(interval), TimerSetTimeFlags::empty()).map_err(setting())?;
    let timer = watched(timer.into())?;
    let start = Instant::now();
    let mut sent = 0_u64;
    loop {
        let mut ready = timer.readable().await.map_err(failing("waiting for a timer"))?;
        // How often it rang does not matter: what is due follows from the clock.
        let _ = ready.try_io(|timer| Ok(nix::unistd::read(timer, &mut [0; 8])?));
        let now = Instant::now();
        loop {
            let due = start + Duration::from_secs_f64(sent as f64 / rate);
            if due >= state.ends {
                return Ok(());
            }
            if due > now {
                break;
            }
            sent += 1;
            state.due.borrow_mut().push_back(due);
            state.wake.notify_one();
        }
    }
}

#[allow(unsafe_code)]
pub(crate) fn watched(timer: OwnedFd) -> Outcome<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by what is registered, and never replaced while it is.
    unsafe { AsyncFd::register(timer) }.map_err(failing("watching a timer"))
}

/// One client: takes what is due, asks, and says how long it took.
async fn client(state: Rc<State>, target: Rc<Target>, nth: usize, mut line: Option<Line>) {
    while let Some(due) = state.next().await {
        state.busy[nth].set(Some(due));
        let asked = async {
            let mut open = match line.take() {
                Some(open) => open,
                None => Line::open(&target, nth).await?,
            };
            open.ask().await?;
            Ok::<_, crate::peers::Failed>(open)
        };
        let done = asked.await;
        state.busy[nth].set(None);
        match done {
            Ok(open) => {
                state.answered(due);
                match target.connection {
                    Connection::KeepAlive => line = Some(open),
                    Connection::New => open.close().await,
                }
            }
            Err(why) => state.failed(due, why),
        }
        // A client that fails at once, over and over, must not keep the others from running.
        tokio::task::yield_now().await;
    }
}
