//! What a client costs that is connected and asks for nothing: memory per idle connection.

use std::rc::Rc;
use std::time::Duration;

use nix::unistd::Pid;
use serde::Serialize;
use tokio::task::LocalSet;

use super::connection::{Line, Target};
use super::generator::open_all_from;
use super::scenario::{Connection, Protocol};
use crate::peers::{Backend, Ground, Kind, Outcome, Peer, failing, usage};

/// One proxy's memory as its idle connections become more.
#[derive(Debug, Serialize)]
pub struct Idle {
    pub peer: &'static str,
    pub tls: bool,
    /// Before, with one request answered.
    pub base_mib: f64,
    pub levels: Vec<Level>,
    /// Why there are no levels, or fewer connections than there should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Level {
    pub connections: usize,
    pub memory_mib: f64,
    /// What was added since the start, per connection. User space only: the kernel's share is the same for all.
    pub bytes_per_connection: f64,
}

/// Memory is read when the last answers are out of the way.
const SETTLE: Duration = Duration::from_millis(300);

/// Opens as many connections as each of `levels` says, one after the other, to a fresh proxy.
pub async fn grow(
    ground: &Ground,
    backend: &Backend,
    kind: Kind,
    tls: bool,
    levels: &[usize],
) -> Idle {
    let mut idle =
        Idle { peer: kind.name(), tls, base_mib: 0.0, levels: Vec::new(), missing: None };
    if let Err(why) = measure(ground, backend, kind, levels, &mut idle).await {
        idle.missing = Some(why.to_string());
    }
    idle
}

async fn measure(
    ground: &Ground,
    backend: &Backend,
    kind: Kind,
    levels: &[usize],
    idle: &mut Idle,
) -> Outcome<()> {
    let peer = Peer::start(kind, ground, backend.address).await?;
    let target = Target {
        address: if idle.tls { peer.https() } else { peer.http() },
        path: "/1k",
        protocol: if idle.tls { Protocol::TlsHttp1 } else { Protocol::Http1 },
        connection: Connection::KeepAlive,
        tls: ground.certificate.client(&[b"http/1.1"])?,
    };
    let most = ground.connections() as usize;
    if let Some(wanted) = levels.iter().max().filter(|wanted| **wanted > most) {
        idle.missing = Some(format!(
            "{most} connections in place of {wanted}: this machine lets no process open more files"
        ));
    }
    let mut levels: Vec<usize> = levels.iter().map(|level| *level.min(&most)).collect();
    levels.dedup();
    let pid = peer.process().pid();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failing("starting the clients"))?;
        LocalSet::new().block_on(&runtime, hold(target, levels, pid))
    };
    let held = tokio::task::spawn_blocking(work).await;
    let (base, levels) = held.map_err(failing("holding idle connections"))??;
    idle.base_mib = mib(base);
    idle.levels = levels;
    Ok(())
}

async fn hold(target: Target, levels: Vec<usize>, pid: Pid) -> Outcome<(u64, Vec<Level>)> {
    let target = Rc::new(target);
    let mut lines: Vec<Line> = open_all_from(&target, 0, 1).await?;
    lines[0].ask().await?;
    tokio::time::sleep(SETTLE).await;
    let base = usage(pid).memory;
    let mut told = Vec::new();
    for connections in levels {
        for mut line in open_all_from(&target, lines.len(), connections).await? {
            line.ask().await?;
            lines.push(line);
        }
        tokio::time::sleep(SETTLE).await;
        let memory = usage(pid).memory;
        told.push(Level {
            connections,
            memory_mib: mib(memory),
            bytes_per_connection: memory.saturating_sub(base) as f64 / connections as f64,
        });
    }
    Ok((base, told))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}
