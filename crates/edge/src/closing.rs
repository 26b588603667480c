//! When long-lived connections end: at their slot's deadline, when this edge was replaced, or when it stops;
//! spread over time, so that not every client comes back in the same moment.
//!
//! On each worker one task for each service waits for that, and wakes a connection when its turn has come and
//! no earlier: a switch costs the requests beside it the same with ten thousand connections as with one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use domain::EnvironmentName;
use domain::route::close_spread;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::facts::Service;
use crate::worker::{Shared, Worker};

/// Resolves when one WebSocket or stream should end, and says so as often as it is asked.
pub struct Ended {
    number: u64,
    group: Rc<Group>,
    turn: oneshot::Receiver<()>,
    over: bool,
}

/// The long-lived connections of one worker, by their services.
#[derive(Default)]
pub struct Lasting(RefCell<Vec<Rc<Group>>>);

struct Group {
    service: Arc<Service>,
    /// Who waits, by a number that is evenly drawn: in this order, and so far into the spread, they end.
    waiting: RefCell<BTreeMap<u64, oneshot::Sender<()>>>,
}

impl Worker {
    /// Joins a WebSocket or stream of `service` to those that end with it.
    pub fn ended(self: &Rc<Self>, service: &Arc<Service>) -> Ended {
        let group = self.lasting.group(service).unwrap_or_else(|| {
            let group = Rc::new(Group { service: service.clone(), waiting: RefCell::default() });
            self.lasting.0.borrow_mut().push(group.clone());
            tokio::task::spawn_local(attend(self.clone(), group.clone()));
            group
        });
        let (sender, turn) = oneshot::channel();
        let number = self.ids.next();
        group.waiting.borrow_mut().insert(number, sender);
        Ended { number, group, turn, over: false }
    }
}

impl Lasting {
    fn group(&self, service: &Arc<Service>) -> Option<Rc<Group>> {
        let all = self.0.borrow();
        all.iter().find(|group| Arc::ptr_eq(&group.service, service)).cloned()
    }

    fn forget(&self, group: &Rc<Group>) {
        self.0.borrow_mut().retain(|other| !Rc::ptr_eq(other, group));
    }
}

impl Future for Ended {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.over {
            // Where nobody tells turns any more, the worker has ended.
            let _ = ready!(Pin::new(&mut self.turn).poll(cx));
            self.over = true;
        }
        Poll::Ready(())
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.group.waiting.borrow_mut().remove(&self.number);
    }
}

/// Waits for the time of `group`, and ends its connections in their turns.
async fn attend(worker: Rc<Worker>, group: Rc<Group>) {
    let shared = &worker.shared;
    time_is_over(shared, &group.service).await;
    // Whoever comes after this has the whole spread before it, in a group of its own.
    worker.lasting.forget(&group);
    let (begun, spread) = (Instant::now(), spread(shared, &group.service.key.environment));
    let mut stop = shared.stop.subscribe();
    let mut stopped = None;
    loop {
        let Some(number) = group.waiting.borrow().keys().next().copied() else { return };
        // The top 53 bits are a fraction of one.
        let fraction = (number >> 11) as f64 / (1u64 << 53) as f64;
        let due = begun + spread.mul_f64(fraction);
        if let Some(stopped) = stopped {
            // A stopping edge has a time of its own, of which half is for saying goodbye.
            let latest: Instant = stopped + (shared.limits.stop / 2).mul_f64(fraction);
            sleep_until(due.min(latest)).await;
        } else {
            tokio::select! {
                () = sleep_until(due) => {}
                _ = stop.wait_for(|stop| *stop) => {
                    stopped = Some(Instant::now());
                    continue;
                }
            }
        }
        if let Some(turn) = group.waiting.borrow_mut().remove(&number) {
            // It may have left in this moment.
            let _ = turn.send(());
        }
    }
}

/// Resolves when connections of `service` begin to end.
async fn time_is_over(shared: &Shared, service: &Service) {
    let environment = &service.key.environment;
    let mut retired = service.retired.subscribe();
    let mut replaced = shared.replaced.subscribe();
    let mut stop = shared.stop.subscribe();
    loop {
        let own = *retired.borrow_and_update();
        let ours = replaced.borrow_and_update().map(|at| at + drain_deadline(shared, environment));
        let due = own.into_iter().chain(ours).min();
        let wait = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = retired.changed() => if changed.is_err() { return },
            changed = replaced.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
            () = wait => return,
        }
    }
}

/// Over how much time connections of the environment are closed.
pub fn spread(shared: &Shared, environment: &EnvironmentName) -> Duration {
    let live = shared.live.load();
    live.table.environments.get(environment).map_or(close_spread(), |routes| routes.close_spread)
}

fn drain_deadline(shared: &Shared, environment: &EnvironmentName) -> Duration {
    let live = shared.live.load();
    live.table.environments.get(environment).map_or(Duration::ZERO, |routes| routes.drain_deadline)
}

/// How long an edge that was taken over from lets connections end by themselves: as long as the slowest
/// environment's WebSockets may stay, and no idle connection is closed before its usual time.
pub fn patience(shared: &Shared) -> Duration {
    let live = shared.live.load();
    let drains = live.table.environments.values().map(|e| e.drain_deadline + e.close_spread);
    drains.max().unwrap_or_default().max(shared.limits.idle) + shared.limits.half_close
}
