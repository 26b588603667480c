//! The edge itself is replaced under the same load, and killed without a warning.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::client::Line;
use super::harness::{Clients, Load, Releases, proxy};
use crate::peers::{Ground, HOST, Kind, Outcome, Peer, Process};

/// Between two upgrades.
const EVERY: Duration = Duration::from_secs(2);
/// An edge that was replaced has so long to finish what it has.
const DRAINED: Duration = Duration::from_secs(45);
const RESTARTS: usize = 10;

/// What upgrades cost.
#[derive(Debug, Clone, Serialize)]
pub struct Upgrades {
    pub upgrades: usize,
    pub failed: u64,
    pub abnormal_closes: u64,
    pub polite_closes: u64,
    pub requests: u64,
    /// From the start of the new process until it answers on the control socket, the longest.
    pub slowest_ms: f64,
    pub first_failures: Vec<String>,
}

/// Replaces the running edge `count` times under the load.
pub async fn upgrading(
    ground: &Ground,
    world: &tokio::runtime::Handle,
    clients: Clients,
    count: usize,
) -> Outcome<Upgrades> {
    let (releases, first) = Releases::first(world.clone()).await?;
    let Peer::Edge(mut edge) = proxy(Kind::Edge, ground, first).await? else {
        unreachable!("the edge was asked for")
    };
    let load = Load::start(world, edge.http, clients).await?;
    load.traffic.acknowledged.store(releases.number, SeqCst);
    sleep(EVERY).await;
    let (mut slowest, mut old) = (Duration::ZERO, Vec::<Process>::new());
    for _ in 0..count {
        let began = Instant::now();
        old.push(edge.upgrade(ground).await?);
        slowest = slowest.max(began.elapsed());
        sleep(EVERY).await;
    }
    let deadline = Instant::now() + DRAINED;
    while Instant::now() < deadline && !gone(&mut old)? {
        sleep(Duration::from_millis(50)).await;
    }
    let seen = load.stop(Vec::new()).await?;
    Ok(Upgrades {
        upgrades: count,
        failed: seen.failed(),
        abnormal_closes: seen.lasting.abnormal(),
        polite_closes: seen.lasting.polite(),
        requests: seen.counts.samples.len() as u64 + seen.counts.all_failed(),
        slowest_ms: slowest.as_secs_f64() * 1e3,
        first_failures: super::report::first_failures(&seen),
    })
}

fn gone(processes: &mut [Process]) -> Outcome<bool> {
    let mut all = true;
    for process in processes {
        all &= process.ended()?.is_some();
    }
    Ok(all)
}

/// Kill -9 and a new start, without a server: milliseconds from the start to the first answer, each time.
pub async fn restarting(ground: &Ground, world: &tokio::runtime::Handle) -> Outcome<Vec<f64>> {
    let (_releases, first) = Releases::first(world.clone()).await?;
    let Peer::Edge(mut edge) = proxy(Kind::Edge, ground, first).await? else {
        unreachable!("the edge was asked for")
    };
    let mut times = Vec::with_capacity(RESTARTS);
    for _ in 0..RESTARTS {
        edge.kill_and_restart(ground).await?;
        let began = Instant::now();
        let answers = async || answers(edge.http).await;
        edge.process.until("the first answer after a kill", answers).await?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

async fn answers(address: std::net::SocketAddr) -> bool {
    use http_body_util::{BodyExt as _, Empty};
    let request = hyper::Request::get("/api").header("host", HOST).body(Empty::new().boxed());
    let (Ok(request), Ok(mut line)) = (request, Line::open(address).await) else { return false };
    line.ask(request).await.is_ok()
}
