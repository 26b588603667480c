//! When long-lived connections end: at their slot's deadline, when this edge was replaced, or when it stops;
//! spread over time, so that not every client comes back in the same moment.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use domain::EnvironmentName;
use domain::route::close_spread;
use tokio::time::{Instant, sleep, sleep_until};

use crate::facts::Service;
use crate::worker::{Shared, Worker};

impl Worker {
    /// Resolves when a WebSocket or stream of `service` should end.
    pub fn ended(self: &Rc<Self>, service: &Arc<Service>) -> impl Future<Output = ()> + 'static {
        // The top 53 bits are a fraction of one, evenly drawn.
        let fraction = (self.ids.next() >> 11) as f64 / (1u64 << 53) as f64;
        ended(self.shared.clone(), service.clone(), fraction)
    }
}

async fn ended(shared: Arc<Shared>, service: Arc<Service>, fraction: f64) {
    let environment = &service.key.environment;
    let mut retired = service.retired.subscribe();
    let mut replaced = shared.replaced.subscribe();
    let mut stop = shared.stop.subscribe();
    loop {
        let own = *retired.borrow_and_update();
        let ours = replaced.borrow_and_update().map(|at| at + drain_deadline(&shared, environment));
        let due = own.into_iter().chain(ours).min();
        let wait = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = retired.changed() => if changed.is_err() { break },
            changed = replaced.changed() => if changed.is_err() { break },
            _ = stop.wait_for(|stop| *stop) => break,
            () = wait => break,
        }
    }
    let due = Instant::now() + spread(&shared, environment).mul_f64(fraction);
    tokio::select! {
        () = sleep_until(due) => return,
        _ = stop.wait_for(|stop| *stop) => {}
    }
    // A stopping edge has a time of its own, of which half is for saying goodbye.
    let most = (shared.limits.stop / 2).mul_f64(fraction);
    sleep(most.min(due.saturating_duration_since(Instant::now()))).await;
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
