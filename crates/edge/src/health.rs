//! Asks every replica again and again whether it is well; never stops, also for replicas that always were.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::replica::{Fault, Replica};
use crate::worker::Shared;

/// Checks under way at one time.
const PARALLEL: usize = 64;
/// Checks that begin in the same moment.
const TOGETHER: usize = 16;
/// Between a failed request and the check that may bring its replica back.
const RECHECK: Duration = Duration::from_millis(100);

/// Checks the replicas of the table in force, once per interval; an ejected one also soon after its ejection.
pub async fn run(shared: Arc<Shared>) {
    let under_way = Rc::new(RefCell::new(HashSet::new()));
    let permits = Arc::new(Semaphore::new(PARALLEL));
    let mut ticks = interval(shared.limits.health_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let all = tokio::select! {
            // However often requests eject a replica, the rounds over all of them go on.
            biased;
            _ = ticks.tick() => true,
            () = shared.recheck.notified() => {
                sleep(RECHECK).await;
                false
            }
        };
        let live = shared.live.load_full();
        let due = live.replicas.iter().filter(|replica| all || !replica.healthy());
        let due: Vec<Arc<Replica>> = due.cloned().collect();
        // A table may be replaced meanwhile, and should not be kept for as long as a round takes.
        drop(live);
        round(&shared, due, all, &under_way, &permits).await;
    }
}

/// Checks `due`, spread over half of the interval if it is a round over `all`; no more tasks than permits.
async fn round(
    shared: &Arc<Shared>,
    due: Vec<Arc<Replica>>,
    all: bool,
    under_way: &Rc<RefCell<HashSet<u64>>>,
    permits: &Arc<Semaphore>,
) {
    let began = Instant::now();
    let count = due.len().div_ceil(TOGETHER) as u32;
    let pause = if all { shared.limits.health_interval / 2 / count.max(1) } else { Duration::ZERO };
    for (group, replicas) in due.chunks(TOGETHER).enumerate() {
        sleep_until(began + pause * group as u32).await;
        for replica in replicas {
            if replica.gone() || !under_way.borrow_mut().insert(replica.id) {
                continue;
            }
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let (replica, limit) = (replica.clone(), shared.limits.health_timeout);
            let (shared, under_way) = (shared.clone(), under_way.clone());
            tokio::task::spawn_local(async move {
                let outcome = timeout(limit, check(&replica)).await;
                note(&shared, &replica, outcome.unwrap_or(Err(Fault::NoAnswer)));
                under_way.borrow_mut().remove(&replica.id);
                drop(permit);
            });
        }
    }
}

fn note(shared: &Shared, replica: &Replica, outcome: Result<(), Fault>) {
    let before = replica.healthy();
    replica.checked(outcome);
    match replica.healthy() {
        true => shared.recovered.notify_waiters(),
        // Somebody waits for one to come back: not until the next round.
        false if shared.awaiting.load(Relaxed) > 0 => shared.recheck.notify_one(),
        false => {}
    }
    let (now, key) = (replica.healthy(), &replica.key);
    if before == now {
        return;
    }
    let (environment, slot, service) = (&key.environment, key.slot, &key.service);
    match replica.fault() {
        Some(why) => {
            tracing::warn!(%environment, %slot, %service, address = %replica.address, %why, "replica kept out");
        }
        None => {
            tracing::info!(%environment, %slot, %service, address = %replica.address, "replica is back");
        }
    }
}

async fn check(replica: &Replica) -> Result<(), Fault> {
    let connected = TcpStream::connect(replica.address).await;
    let mut stream = connected.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Fault::Refused,
        _ => Fault::ConnectFailed,
    })?;
    let Some(path) = &replica.health else { return Ok(()) };
    match ask(&mut stream, path, replica).await {
        Ok(Some(status)) if (200..300).contains(&status) => Ok(()),
        Ok(Some(status)) => Err(Fault::Status(status)),
        Ok(None) | Err(_) => Err(Fault::Garbled),
    }
}

/// The status of the answer, from its first line.
async fn ask(stream: &mut TcpStream, path: &str, replica: &Replica) -> io::Result<Option<u16>> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {}\r\nuser-agent: launchway-edge\r\naccept: */*\r\nconnection: close\r\n\r\n",
        replica.address
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::with_capacity(64);
    while head.len() < 12 {
        let room = 12 - head.len();
        if stream.take(room as u64).read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
    }
    // Read to the end, within bounds: a server that is cut off in mid-answer would log an error each second.
    let mut rest = [0; 1024];
    let mut left = 64;
    while left > 0 && stream.read(&mut rest).await.unwrap_or(0) > 0 {
        left -= 1;
    }
    Ok(status(&head))
}

fn status(head: &[u8]) -> Option<u16> {
    let digits = head.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
