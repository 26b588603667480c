//! When requests are due, and sending them then.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Load;
use super::lane::Lane;

/// How far behind its end the generator may be and still send what is due. Beyond that it did not hold the rate, and
/// says so, instead of turning a constant rate into a burst.
const CATCH_UP: Duration = Duration::from_millis(250);
/// How long requests in flight may take to end after a stop.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Sends the load to all lanes in turn, waits for the last answers, and leaves the rest in each lane's tally.
pub(super) async fn drive(lanes: &[Arc<Lane>], load: &Load, stop: &CancellationToken) {
    let work = TaskTracker::new();
    let abandon = CancellationToken::new();
    // Whoever drops this future wants no more requests.
    let _guard = abandon.clone().drop_guard();
    let start = Instant::now();
    send_all(lanes, load, start, stop, &work, &abandon).await;
    let lasted = load.duration.filter(|_| !stop.is_cancelled()).unwrap_or_else(|| start.elapsed());
    lanes.iter().for_each(|lane| lane.tally.ran_for(lasted));
    work.close();
    tokio::select! {
        // Each request has its own time limit, so this ends.
        () = work.wait() => return,
        () = stop.cancelled() => {}
    }
    if timeout(STOP_GRACE, work.wait()).await.is_err() {
        abandon.cancel();
        work.wait().await;
    }
}

async fn send_all(
    lanes: &[Arc<Lane>],
    load: &Load,
    start: Instant,
    stop: &CancellationToken,
    work: &TaskTracker,
    abandon: &CancellationToken,
) {
    let width = lanes.len() as u64;
    let spacing = 1.0 / (load.rate.0 * width as f64);
    let count = load.duration.map(|lasts| width * requests(load.rate.0, lasts));
    let last_call = load.duration.map(|lasts| start + lasts + CATCH_UP);
    for nth in (0..).take_while(|nth| count.is_none_or(|count| *nth < count)) {
        let due = start + Duration::from_secs_f64(nth as f64 * spacing);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep_until(due) => {}
        }
        if last_call.is_some_and(|end| Instant::now() > end) {
            return;
        }
        let (lane, turn) = whose_turn(nth, width);
        lanes[lane].send(turn, due, work, abandon);
    }
}

/// How many requests fit into `lasts`: at least one.
fn requests(per_second: f64, lasts: Duration) -> u64 {
    (per_second * lasts.as_secs_f64()).round().max(1.0) as u64
}

/// Which lane the `nth` arrival belongs to, and which turn of that lane it is: A B B A A B B A.
fn whose_turn(nth: u64, width: u64) -> (usize, u64) {
    let (turn, place) = (nth / width, nth % width);
    let lane = if turn.is_multiple_of(2) { place } else { width - 1 - place };
    (lane as usize, turn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lanes_take_turns_and_alternate_who_goes_first() {
        let order: Vec<_> = (0..8).map(|nth| whose_turn(nth, 2)).collect();
        assert_eq!(order, [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2), (1, 2), (1, 3), (0, 3)]);
        assert_eq!(whose_turn(5, 1), (0, 5));
    }

    #[test]
    fn a_short_test_sends_at_least_one_request() {
        assert_eq!(requests(200.0, Duration::from_secs(30)), 6000);
        assert_eq!(requests(0.1, Duration::from_secs(1)), 1);
    }
}
