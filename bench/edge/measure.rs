//! One scenario: all proxies side by side, in turns, in several rounds.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::unistd::Pid;
use serde::Serialize;

use super::connection::Target;
use super::generator::{self, Pace, Plan};
use super::scenario::{Connection, Protocol, Scenario};
use super::statistics::Spread;
use super::tools::{self, Times};
use crate::peers::{Backend, Failed, Ground, Kind, Outcome, Peer, usage};

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Rounds of the edge and nginx; the others take part in fewer.
    pub rounds: usize,
    /// Longer within a scenario once its connections take longer to open.
    pub closed: Times,
    pub open_warm: Duration,
    /// Longer where the rate is low.
    pub open_window: Duration,
    /// The constant rate, as a share of what nginx answered in a closed loop in the same scenario.
    pub share: f64,
    /// The same with one client, whose requests wait for each other.
    pub share_of_one: f64,
}

/// Requests that a p99 takes at least: ten of them are beyond it.
const ENOUGH: f64 = 1_000.0;

/// What one round of one proxy gave.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Closed loop.
    pub requests_per_second: f64,
    pub cpu_us: f64,
    pub memory_mib: f64,
    /// Open loop.
    pub rate: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub cpu_us_at_rate: f64,
    /// In both loops.
    pub failed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
}

/// One proxy in one scenario.
#[derive(Debug, Default, Serialize)]
pub struct Figures {
    pub rounds: Vec<Round>,
    /// Why there are none, or fewer than there should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// All proxies in one scenario.
pub struct Measured {
    pub scenario: Scenario,
    pub peers: BTreeMap<Kind, Figures>,
}

impl Figures {
    /// The median of a figure over the rounds.
    pub fn median(&self, figure: impl Fn(&Round) -> f64) -> Option<f64> {
        Spread::of(self.rounds.iter().map(figure)).map(|spread| spread.median)
    }
}

impl Measured {
    /// The edge against `other`, round by round.
    pub fn ratio(&self, other: Kind, figure: impl Fn(&Round) -> f64) -> Option<Spread> {
        let (edge, other) = (self.peers.get(&Kind::Edge)?, self.peers.get(&other)?);
        let pairs = edge.rounds.iter().zip(&other.rounds);
        Spread::of(pairs.map(|(edge, other)| figure(edge) / figure(other)))
    }
}

/// Starts every proxy afresh, and measures them in turns.
pub async fn scenario(
    ground: &Ground,
    backend: &Backend,
    scenario: Scenario,
    effort: &Effort,
) -> Outcome<Measured> {
    let mut peers = BTreeMap::new();
    let mut running = Vec::new();
    for kind in Kind::ALL {
        let mut figures = Figures::default();
        match Peer::start(kind, ground, backend.address).await {
            Ok(peer) => running.push((kind, peer)),
            Err(why) => figures.missing = Some(why.to_string()),
        }
        peers.insert(kind, figures);
    }
    let (mut rate, mut closed) = (None, effort.closed);
    for round in 0..effort.rounds {
        // nginx is first in the first round: the rate is a share of its throughput. Then turn by turn.
        running.sort_by_key(|(kind, _)| (*kind != Kind::Nginx, *kind));
        if round % 2 == 1 {
            running.reverse();
        }
        for (kind, peer) in &running {
            let Some(figures) = peers.get_mut(kind).filter(|_| takes_part(*kind, round)) else {
                continue;
            };
            if figures.missing.is_some() {
                continue;
            }
            match one(ground, backend, scenario, effort, peer, &mut closed, &mut rate).await {
                Ok(round) => figures.rounds.push(round),
                Err(why) => figures.missing = Some(why.to_string()),
            }
        }
    }
    Ok(Measured { scenario, peers })
}

/// The bars compare with nginx only: the others are there for orientation, in the first rounds.
fn takes_part(kind: Kind, round: usize) -> bool {
    match kind {
        Kind::Edge | Kind::Nginx => true,
        Kind::Haproxy => round < 3,
        Kind::Kamal => round == 0,
    }
}

async fn one(
    ground: &Ground,
    backend: &Backend,
    scenario: Scenario,
    effort: &Effort,
    peer: &Peer,
    times: &mut Times,
    rate: &mut Option<f64>,
) -> Outcome<Round> {
    let address = if scenario.tls() { peer.https() } else { peer.http() };
    let alpn: &[&[u8]] =
        if scenario.protocol == Protocol::TlsHttp2 { &[b"h2"] } else { &[b"http/1.1"] };
    let target = Target {
        address,
        path: scenario.path(),
        protocol: scenario.protocol,
        connection: scenario.connection,
        tls: ground.certificate.client(alpn)?,
    };
    let plan = |pace, warm, window| Plan {
        target: target.clone(),
        clients: scenario.clients,
        pace,
        warm,
        window,
    };
    let pid = peer.process().pid();
    let closed =
        if scenario.protocol == Protocol::TlsHttp2 && scenario.connection == Connection::New {
            // No tool of Debian's does it.
            let plan = plan(Pace::Closed, effort.open_warm, times.window);
            let told = generator::run(plan, cpu_of(pid)).await?;
            tools::Seen {
                requests: told.answered,
                lasted: told.lasted,
                cpu: told.cpu,
                memory: usage(pid).memory,
                errors: told.failed,
                opening: Duration::ZERO,
            }
        } else {
            tools::run(scenario, address, times, backend, || usage(pid)).await?
        };
    let per_second = closed.requests as f64 / closed.lasted.as_secs_f64();
    if closed.requests == 0 {
        return Err(Failed(format!("it answered nothing; {} errors", closed.errors)));
    }
    let share = if scenario.clients == 1 { effort.share_of_one } else { effort.share };
    let rate = *rate.get_or_insert(per_second * share);
    let window = effort.open_window.max(Duration::from_secs_f64(ENOUGH / rate));
    let open = plan(Pace::Rate(rate), effort.open_warm, window);
    let told = generator::run(open, cpu_of(pid)).await?;
    Ok(Round {
        requests_per_second: per_second,
        cpu_us: micros(closed.cpu) / closed.requests as f64,
        memory_mib: closed.memory as f64 / (1024.0 * 1024.0),
        rate,
        p50_us: told.latency.value_at_quantile(0.5),
        p99_us: told.latency.value_at_quantile(0.99),
        p999_us: told.latency.value_at_quantile(0.999),
        cpu_us_at_rate: micros(told.cpu) / told.answered as f64,
        failed: closed.errors + told.failed,
        first_failure: told.first_failure,
    })
}

fn cpu_of(pid: Pid) -> impl Fn() -> Duration + Send + 'static {
    move || usage(pid).cpu
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
