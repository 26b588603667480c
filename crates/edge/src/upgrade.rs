//! A connection that left HTTP: bytes pass both ways until both sides are done, or its time is over.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::timeout;

use crate::facts::{Flight, ended};
use crate::pool::Lease;
use crate::worker::Worker;

const BUFFER: usize = 4 * 1024;

/// Tunnels between the client and the replica, in its own task.
pub fn start(worker: &Rc<Worker>, flight: Flight, lease: Lease, down: OnUpgrade, up: OnUpgrade) {
    let open = worker.connection();
    let open_upgrade = flight.upgrade();
    let half_close = worker.shared.limits.half_close;
    let end = ended(
        open_upgrade.service().retired.subscribe(),
        worker.shared.stop.subscribe(),
        worker.spread(),
    );
    tokio::task::spawn_local(async move {
        let tunnel = async {
            let (down, up) = tokio::try_join!(down, up)?;
            pass(TokioIo::new(down), TokioIo::new(up), half_close).await?;
            Ok::<_, Box<dyn std::error::Error>>(())
        };
        tokio::select! {
            passed = tunnel => if let Err(error) = passed {
                tracing::debug!(%error, "upgraded connection ended");
            },
            () = end => {}
        }
        // The lease keeps the replica's load until here; its connection is not HTTP any more.
        drop((lease, open_upgrade, open));
    });
}

/// Passes bytes both ways. When one side has ended, the other gets `half_close` to end too.
async fn pass(
    down: impl AsyncRead + AsyncWrite,
    up: impl AsyncRead + AsyncWrite,
    half_close: Duration,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = split(down);
    let (mut from_replica, mut to_replica) = split(up);
    let there = copy(&mut from_client, &mut to_replica);
    let back = copy(&mut from_replica, &mut to_client);
    tokio::pin!(there, back);
    tokio::select! {
        done = &mut there => { done?; timeout(half_close, back).await? }
        done = &mut back => { done?; timeout(half_close, there).await? }
    }
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..n]).await?;
    }
}
