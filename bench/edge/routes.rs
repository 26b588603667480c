//! How it grows with the table: 10, 1,000 and 100,000 routes, each request to another one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use domain::Color;
use domain::route::Route;
use serde::Serialize;

use super::scenario::{Body, Connection, Protocol, Scenario};
use super::statistics::Spread;
use super::tools::{self, Times};
use crate::peers::{
    Backend, EdgePeer, Failed, Ground, HaproxyPeer, Kind, NginxPeer, Outcome, Peer, failing,
    one_route, route, usage,
};

/// What a table of so many routes costs.
#[derive(Debug, Serialize)]
pub struct Grown {
    pub routes: usize,
    /// CPU per request of the edge against nginx: the median of the rounds, and both ends.
    pub cpu_ratio_nginx: Option<Spread>,
    pub peers: BTreeMap<&'static str, Cost>,
}

#[derive(Debug, Default, Serialize)]
pub struct Cost {
    /// From handing the table over until requests are answered by it.
    pub publish_ms: Option<f64>,
    /// Of each round.
    pub cpu_us: Vec<f64>,
    pub memory_mib: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

pub const SIZES: [usize; 3] = [10, 1_000, 100_000];
const KINDS: [Kind; 3] = [Kind::Edge, Kind::Nginx, Kind::Haproxy];
const LOAD: Scenario = Scenario {
    protocol: Protocol::Http1,
    size: Body::Small,
    connection: Connection::KeepAlive,
    clients: 64,
};
const TIMES: Times =
    Times { run: 2, warm: Duration::from_millis(500), window: Duration::from_millis(1300) };

/// Measures all three with `routes` routes, in turns.
pub async fn grow(
    ground: &Ground,
    backend: &Backend,
    routes: usize,
    rounds: usize,
) -> Outcome<Grown> {
    let script = script(ground, routes)?;
    let mut running = Vec::new();
    let mut peers = BTreeMap::new();
    for kind in KINDS {
        let mut cost = Cost::default();
        match start(ground, backend, kind, routes).await {
            Ok((peer, took)) => {
                cost.publish_ms = Some(took.as_secs_f64() * 1e3);
                running.push((kind, peer));
            }
            Err(why) => cost.missing = Some(why.to_string()),
        }
        peers.insert(kind.name(), cost);
    }
    for _ in 0..rounds {
        running.reverse();
        for (kind, peer) in &running {
            let cost = peers.entry(kind.name()).or_default();
            match load(peer, &script, backend).await {
                Ok(seen) => {
                    cost.cpu_us.push(seen.cpu.as_secs_f64() * 1e6 / seen.requests as f64);
                    cost.memory_mib = Some(seen.memory as f64 / (1024.0 * 1024.0));
                }
                Err(why) => cost.missing = Some(why.to_string()),
            }
        }
    }
    let pairs = peers["edge"].cpu_us.iter().zip(&peers["nginx"].cpu_us);
    let cpu_ratio_nginx = Spread::of(pairs.map(|(edge, nginx)| edge / nginx));
    Ok(Grown { routes, cpu_ratio_nginx, peers })
}

async fn load(peer: &Peer, script: &std::path::Path, backend: &Backend) -> Outcome<tools::Seen> {
    let pid = peer.process().pid();
    let seen = tools::once(LOAD, peer.http(), Some(script), TIMES, backend, || usage(pid)).await?;
    if seen.opening > Duration::ZERO {
        return Err(Failed("wrk does not end".into()));
    }
    if seen.errors > 0 {
        return Err(Failed(format!("{} requests failed", seen.errors)));
    }
    Ok(seen)
}

/// Starts a proxy, then gives it the table; how long that took.
async fn start(
    ground: &Ground,
    backend: &Backend,
    kind: Kind,
    routes: usize,
) -> Outcome<(Peer, Duration)> {
    let to = backend.address;
    match kind {
        Kind::Edge => {
            let mut peer = EdgePeer::start(ground, to).await?;
            let mut table: Vec<Route> = (0..routes).map(|n| route(&prefix(n), to)).collect();
            table.extend(one_route(to));
            let began = Instant::now();
            peer.publish(Color::Green, table).await?;
            Ok((Peer::Edge(peer), began.elapsed()))
        }
        Kind::Nginx => {
            let location = |n| format!("location {}/ {{ proxy_pass http://app; }}\n", prefix(n));
            let locations: String = (0..routes).map(location).collect();
            let mut peer = NginxPeer::start(ground, to, "").await?;
            let began = Instant::now();
            peer.publish(&locations).await?;
            Ok((Peer::Nginx(peer), began.elapsed()))
        }
        Kind::Haproxy => {
            let map = ground.folder("map")?.join("routes.map");
            let lines: String = (0..routes).map(|n| format!("{}/ app\n", prefix(n))).collect();
            write(&map, "")?;
            let rule = format!("use_backend %[path,map_beg({})]", map.display());
            let mut peer = HaproxyPeer::start(ground, to, &rule).await?;
            let began = Instant::now();
            write(&map, &lines)?;
            peer.switch_by_reload(to).await?;
            Ok((Peer::Haproxy(peer), began.elapsed()))
        }
        Kind::Kamal => Err(Failed("a table of routes is not what kamal-proxy is for".into())),
    }
}

fn prefix(nth: usize) -> String {
    format!("/r/{nth:06}")
}

/// For wrk: each request to another route, at random, the same sequence for every proxy.
fn script(ground: &Ground, routes: usize) -> Outcome<PathBuf> {
    let path = ground.folder("wrk")?.join("routes.lua");
    let text = format!(
        "request = function()\n  return wrk.format('GET', string.format('/r/%06d/x', math.random(0, {})))\nend\n",
        routes - 1
    );
    write(&path, &text)?;
    Ok(path)
}

fn write(path: &std::path::Path, text: &str) -> Outcome<()> {
    std::fs::write(path, text).map_err(failing(format_args!("writing {}", path.display())))
}
