//! One proxy under the whole load, while releases come and go behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use control::load::{Lasting, LastingLoad, LastingReport, Target};
use tokio::time::{Instant, sleep, sleep_until};

use super::backend::Release;
use super::traffic::{Counts, Traffic};
use super::transfers::{Transferred, Transfers};
use crate::peers::{EdgePeer, Ground, HOST, HaproxyPeer, Kind, NginxPeer, Outcome, Peer, failing};

/// What is kept up all the time.
#[derive(Debug, Clone, Copy)]
pub struct Clients {
    pub rate: f64,
    pub websockets: usize,
    pub event_streams: usize,
    pub transfers: usize,
}

/// How often a proxy is switched.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub switches: usize,
    pub every: Duration,
    /// Before the first switch: the steady time.
    pub lead: Duration,
    /// Without it releases come and go as ever, and the traffic stays: what the machine does by itself.
    pub moves: bool,
}

/// WebSockets and streams may stay so long on a release that lost the traffic ...
const DRAIN: Duration = Duration::from_secs(2);
/// ... and are closed over so much time after it.
pub const SPREAD: Duration = Duration::from_secs(1);
/// A release is stopped so long after its traffic went elsewhere, whatever it still has.
const KEPT: Duration = Duration::from_secs(4);

/// Everything that was seen.
pub struct Seen {
    /// When each switch began, and when the proxy said that it was in force; since the beginning of the traffic.
    pub switches: Vec<(Duration, Duration)>,
    pub counts: Counts,
    pub lasting: LastingReport,
    pub transferred: Transferred,
    pub lasted: Duration,
}

impl Seen {
    /// Requests and transfers that failed, and opens of long-lived connections that did.
    pub fn failed(&self) -> u64 {
        let opens = self.lasting.websockets.failed_opens + self.lasting.event_streams.failed_opens;
        self.counts.all_failed() + self.transferred.failed + opens
    }

    pub fn mixed(&self) -> u64 {
        self.counts.mixed + self.transferred.mixed
    }
}

/// A load on a proxy; the clients that stay, the transfers and the releases run in `world`.
pub struct Load {
    pub traffic: Arc<Traffic>,
    lasting: Lasting,
    transfers: Transfers,
    thread: std::thread::JoinHandle<Outcome<()>>,
}

impl Load {
    /// Returns when all clients that stay are there.
    pub async fn start(
        world: &tokio::runtime::Handle,
        address: SocketAddr,
        clients: Clients,
    ) -> Outcome<Self> {
        let target = Target { connect: address, host: HOST.into() };
        let (lasting, transfers) = {
            let _world = world.enter();
            let load = LastingLoad {
                websockets: clients.websockets,
                websocket_path: "/live".into(),
                event_streams: clients.event_streams,
                event_path: "/events".into(),
                ramp: Duration::from_secs(3),
                ..LastingLoad::new(target)
            };
            (Lasting::start(load), Transfers::start(address, clients.transfers))
        };
        let all = (clients.websockets + clients.event_streams) as u64;
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            let report = lasting.report();
            if report.websockets.open + report.event_streams.open >= all {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        let (traffic, thread) = Traffic::start(address, clients.rate);
        Ok(Self { traffic, lasting, transfers, thread })
    }

    /// Ends all of it and tells what was seen.
    pub async fn stop(self, switches: Vec<(Duration, Duration)>) -> Outcome<Seen> {
        let lasted = self.traffic.now();
        self.traffic.stop();
        let (lasting, transferred) = (self.lasting.stop().await, self.transfers.stop().await);
        let thread = self.thread;
        let ended = tokio::task::spawn_blocking(move || thread.join()).await;
        let ended = ended.map_err(failing("waiting for the traffic"))?;
        ended.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))?;
        let counts = self.traffic.counts();
        Ok(Seen { switches, counts, lasting, transferred, lasted })
    }
}

/// Starts a proxy as its users would for WebSockets and streams.
pub async fn proxy(kind: Kind, ground: &Ground, backend: SocketAddr) -> Outcome<Peer> {
    match kind {
        Kind::Edge => {
            let mut edge = EdgePeer::start(ground, backend).await?;
            (edge.drain, edge.spread) = (DRAIN, SPREAD);
            Ok(Peer::Edge(edge))
        }
        Kind::Nginx => {
            let peer = NginxPeer::start(ground, backend, include_str!("nginx.conf")).await?;
            Ok(Peer::Nginx(peer))
        }
        Kind::Haproxy => Ok(Peer::Haproxy(HaproxyPeer::start(ground, backend, "").await?)),
        Kind::Kamal => Peer::start(kind, ground, backend).await,
    }
}

/// Releases of an app, each on its port in `world`, of which the old ones are stopped in time.
pub struct Releases {
    world: tokio::runtime::Handle,
    pub number: u64,
    current: Option<Release>,
    before: Option<Release>,
}

impl Releases {
    pub async fn first(world: tokio::runtime::Handle) -> Outcome<(Self, SocketAddr)> {
        let mut all = Self { world, number: 0, current: None, before: None };
        let address = all.next().await?;
        Ok((all, address))
    }

    /// Starts the next one; the one before stays until [`Releases::left`].
    pub async fn next(&mut self) -> Outcome<SocketAddr> {
        let number = self.number + 1;
        let started = self.world.spawn(Release::start(number)).await;
        let release = started.map_err(failing("starting a release"))??;
        let address = release.address;
        self.number = number;
        self.before = self.current.replace(release);
        Ok(address)
    }

    /// The traffic stays where it was: the newest is the one that goes.
    pub fn stayed(&mut self) {
        std::mem::swap(&mut self.current, &mut self.before);
    }

    /// The traffic has gone to the newest: the one before has [`KEPT`] to finish.
    pub fn left(&mut self) {
        let Some(before) = self.before.take() else { return };
        self.world.spawn(async move {
            sleep(KEPT).await;
            drop(before);
        });
    }
}

/// The whole of it, for one proxy.
pub async fn switching(
    ground: &Ground,
    world: &tokio::runtime::Handle,
    kind: Kind,
    clients: Clients,
    pace: Pace,
) -> Outcome<Seen> {
    let (mut releases, first) = Releases::first(world.clone()).await?;
    let mut proxy = proxy(kind, ground, first).await?;
    let load = Load::start(world, proxy.http(), clients).await?;
    sleep(pace.lead).await;
    let mut switches = Vec::with_capacity(pace.switches);
    let mut next = Instant::now();
    for _ in 0..pace.switches {
        sleep_until(next).await;
        next = (next + pace.every).max(Instant::now());
        let address = releases.next().await?;
        let began = load.traffic.now();
        if pace.moves {
            proxy.switch(address).await?;
            load.traffic.acknowledged.store(releases.number, SeqCst);
        } else {
            releases.stayed();
        }
        switches.push((began, load.traffic.now()));
        releases.left();
    }
    // What the last switch leaves behind has its time too.
    sleep(KEPT + SPREAD).await;
    load.stop(switches).await
}
