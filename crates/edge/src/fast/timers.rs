//! One worker's deadlines: coarse, and free to set.
//!
//! A request moves its connection's deadline several times. Each move is one store; a ticker looks at all of
//! them now and then and wakes who is late.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Limits;

pub struct Timers {
    began: Instant,
    /// Milliseconds since `began`, at the last tick.
    now: Cell<u64>,
    tick: Duration,
    stopping: Cell<bool>,
    list: RefCell<Vec<Rc<Entry>>>,
}

struct Entry {
    due: Cell<u64>,
    /// Its place in the list.
    at: Cell<usize>,
    waker: Waker,
}

/// One task's deadline.
pub struct Alarm {
    timers: Rc<Timers>,
    entry: Rc<Entry>,
}

const LONGEST_TICK: Duration = Duration::from_secs(1);

impl Timers {
    pub fn new(limits: &Limits) -> Rc<Self> {
        let shortest = limits.head.min(limits.idle).min(limits.answer);
        Rc::new(Self {
            began: Instant::now(),
            now: Cell::new(0),
            tick: (shortest / 4).clamp(Duration::from_millis(1), LONGEST_TICK),
            stopping: Cell::new(false),
            list: RefCell::default(),
        })
    }

    /// Time between two looks at the deadlines: by so much they may be late.
    pub fn tick(&self) -> Duration {
        self.tick
    }

    /// Milliseconds since the worker began, never ahead of the truth.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// Whether the edge stops: connections end with their next answer.
    pub fn stopping(&self) -> bool {
        self.stopping.get()
    }

    /// An alarm for the task of `cx`, far away.
    pub fn alarm(self: &Rc<Self>, cx: &Context<'_>) -> Alarm {
        let mut list = self.list.borrow_mut();
        let (due, at) = (Cell::new(u64::MAX), Cell::new(list.len()));
        let entry = Rc::new(Entry { due, at, waker: cx.waker().clone() });
        list.push(entry.clone());
        Alarm { timers: self.clone(), entry }
    }

    /// Looks at the clock, and wakes who is late.
    pub fn advance(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.now.set(now);
        for entry in self.list.borrow().iter().filter(|entry| entry.due.get() <= now) {
            entry.waker.wake_by_ref();
        }
    }

    /// Tells everybody that the edge stops.
    pub fn stop(&self) {
        self.stopping.set(true);
        self.wake_all();
    }

    /// Has everybody look around.
    pub fn wake_all(&self) {
        for entry in self.list.borrow().iter() {
            entry.waker.wake_by_ref();
        }
    }
}

impl Alarm {
    /// Goes off after `limit`, or up to two ticks later.
    pub fn set(&self, limit: Duration) {
        let limit = u64::try_from((limit + self.timers.tick).as_millis()).unwrap_or(u64::MAX);
        self.entry.due.set(self.timers.now.get().saturating_add(limit));
    }

    pub fn went_off(&self) -> bool {
        self.entry.due.get() <= self.timers.now.get()
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut list = self.timers.list.borrow_mut();
        let at = self.entry.at.get();
        list.swap_remove(at);
        if let Some(moved) = list.get(at) {
            moved.at.set(at);
        }
    }
}
