//! A connection that left HTTP: bytes pass both ways until both sides are done, or its time is over.
//!
//! A WebSocket whose time is over is closed as its protocol wants it (RFC 6455 section 7):
//!
//! ```text
//!   client                edge                       replica
//!     │ ◀── rest of frame ─┼──────────── frame ────────│   up to the end of the current frame
//!     │ ◀── Close 1012 ────│   (further ones dropped)  │
//!     │ ── frames, Close ──┼──────────────────────────▶│   what the client had sent still arrives
//!     │ ◀────── FIN ───────│── (Close) FIN ───────────▶│   the Close is ours if the client sent none in time
//! ```

use std::error::Error;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use domain::route::Reason;
use http::header::{HeaderMap, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::facts::{Flight, Service, Upgraded};
use crate::pool::Lease;
use crate::websocket::{Framer, close_for_client, close_for_replica};
use crate::worker::{Shared, Worker};

const BUFFER: usize = 4 * 1024;

/// After the end, how long the client may take to end too. Closing with bytes of it unread would reset the
/// connection, and the Close that is under way might be lost.
const LINGER: Duration = Duration::from_secs(2);

/// Whether the protocol that both sides agreed on is WebSocket.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Tunnels between the client and the replica, in its own task.
pub fn start(
    worker: &Rc<Worker>,
    flight: Flight,
    lease: Lease,
    websocket: bool,
    down: OnUpgrade,
    up: OnUpgrade,
) {
    let open = worker.connection();
    let end = worker.ended(flight.service());
    let upgraded = flight.upgrade();
    let shared = worker.shared.clone();
    let key = (worker.ids.next() as u32).to_be_bytes();
    tokio::task::spawn_local(async move {
        let tunnel = async {
            let (down, up) = tokio::try_join!(down, up)?;
            let expected = || leaving(&shared, upgraded.service());
            let half_close = shared.limits.half_close;
            let rules = Rules { websocket, half_close, key, expected, bytes: &upgraded };
            relay(TokioIo::new(down), TokioIo::new(up), end, rules).await?;
            Ok::<_, Box<dyn Error>>(())
        };
        if let Err(error) = tunnel.await {
            tracing::debug!(%error, "upgraded connection ended");
        }
        // The lease keeps the replica's load until here; its connection is not HTTP any more.
        drop((lease, upgraded, open));
    });
}

/// Whether connections of `service` are about to be closed, so that the end of its replica is no surprise.
fn leaving(shared: &Shared, service: &Arc<Service>) -> bool {
    service.retired.borrow().is_some() || *shared.stop.borrow()
}

struct Rules<'a, E> {
    bytes: &'a Upgraded,
    websocket: bool,
    half_close: Duration,
    /// Masks the Close for the replica.
    key: [u8; 4],
    expected: E,
}

/// One direction.
struct Way<R, W> {
    from: R,
    to: W,
    framer: Framer,
    closing: watch::Sender<bool>,
}

/// How one way was done.
enum Done {
    /// The side that sends has ended.
    Ended,
    /// The client has answered our Close.
    Answered,
}

async fn relay<E: Fn() -> bool>(
    down: impl AsyncRead + AsyncWrite,
    up: impl AsyncRead + AsyncWrite,
    end: impl Future<Output = ()>,
    rules: Rules<'_, E>,
) -> io::Result<()> {
    let (from_client, to_client) = split(down);
    let (from_replica, to_replica) = split(up);
    let closing = watch::Sender::new(false);
    let framer = Framer::default();
    let mut there = Way { from: from_client, to: to_replica, framer, closing: closing.clone() };
    let mut back = Way { from: from_replica, to: to_client, framer, closing: closing.clone() };
    let passed = {
        let (up, down) = (pin!(there.toward_replica(&rules)), pin!(back.toward_client(&rules)));
        tokio::select! {
            passed = both(up, down, rules.half_close) => passed,
            // Neither the end of the frame nor the client's answer came in time.
            () = over(end, &closing, rules.half_close) => Ok(()),
        }
    };
    if *closing.borrow() {
        finish(there, back, &rules).await;
    }
    passed
}

/// Until both ways are done. When one side has ended, the other gets `half_close` to end too; whoever
/// answered our Close need not wait for what is dropped anyway.
async fn both(
    mut there: Pin<&mut impl Future<Output = io::Result<Done>>>,
    mut back: Pin<&mut impl Future<Output = io::Result<Done>>>,
    half_close: Duration,
) -> io::Result<()> {
    tokio::select! {
        done = &mut there => if let Done::Ended = done? {
            timeout(half_close, back).await??;
        },
        done = &mut back => {
            done?;
            timeout(half_close, there).await??;
        }
    }
    Ok(())
}

/// Begins to close when the time has come, and resolves when it has taken too long.
async fn over(end: impl Future<Output = ()>, closing: &watch::Sender<bool>, half_close: Duration) {
    end.await;
    closing.send_replace(true);
    sleep(half_close).await;
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Way<R, W> {
    /// From the replica to the client: whole frames, and our Close behind them when the time has come.
    async fn toward_client(&mut self, rules: &Rules<'_, impl Fn() -> bool>) -> io::Result<Done> {
        let mut buffer = vec![0; BUFFER];
        loop {
            if self.is_closing() && self.may_say_goodbye(rules) {
                self.say_goodbye(rules).await?;
                drop_the_rest(&mut self.from, &mut buffer).await?;
                return Ok(Done::Ended);
            }
            let n = match self.read(&mut buffer).await {
                None => continue,
                Some(Ok(n)) => n,
                // A replica that is stopped may reset its connections; its clients still get a Close.
                Some(Err(_)) if (rules.expected)() => 0,
                Some(Err(error)) => return Err(error),
            };
            if n == 0 {
                return self.replica_ended(rules).await;
            }
            let go = match (rules.websocket, self.is_closing()) {
                (false, _) => n,
                (true, true) => self.framer.advance(&buffer[..n]),
                (true, false) => {
                    self.framer.follow(&buffer[..n]);
                    n
                }
            };
            self.to.write_all(&buffer[..go]).await?;
            rules.bytes.sent(go as u64);
        }
    }

    /// A replica that ends without a Close, when connections to it are about to be closed anyway, is stopped:
    /// the client hears of it in the protocol's own words.
    async fn replica_ended(&mut self, rules: &Rules<'_, impl Fn() -> bool>) -> io::Result<Done> {
        if rules.websocket && (rules.expected)() && self.may_say_goodbye(rules) {
            self.closing.send_replace(true);
            self.say_goodbye(rules).await?;
        } else {
            self.to.shutdown().await?;
        }
        Ok(Done::Ended)
    }

    fn may_say_goodbye(&self, rules: &Rules<'_, impl Fn() -> bool>) -> bool {
        !rules.websocket || self.framer.between_frames() && !self.framer.closed()
    }

    async fn say_goodbye(&mut self, rules: &Rules<'_, impl Fn() -> bool>) -> io::Result<()> {
        if !rules.websocket {
            return self.to.shutdown().await;
        }
        rules.bytes.because(Reason::Drained);
        self.to.write_all(&close_for_client()).await?;
        self.to.flush().await
    }

    /// From the client to the replica, until the client has ended or answered our Close.
    async fn toward_replica(&mut self, rules: &Rules<'_, impl Fn() -> bool>) -> io::Result<Done> {
        let mut buffer = vec![0; BUFFER];
        let mut lost = false;
        loop {
            if self.is_closing() && self.framer.closed() {
                return Ok(Done::Answered);
            }
            let Some(read) = self.read(&mut buffer).await else { continue };
            let n = read?;
            if n == 0 {
                if !lost {
                    self.to.shutdown().await?;
                }
                return Ok(Done::Ended);
            }
            if rules.websocket {
                self.framer.follow(&buffer[..n]);
            }
            rules.bytes.received(n as u64);
            if lost {
                continue;
            }
            match self.to.write_all(&buffer[..n]).await {
                // The replica has gone first; the client will still answer our Close.
                Err(_) if rules.websocket && (rules.expected)() => lost = true,
                outcome => outcome?,
            }
        }
    }

    fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// What the sending side sends next; `None` when closing begins meanwhile.
    async fn read(&mut self, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        let mut closing = self.closing.subscribe();
        let begun = *closing.borrow();
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing), if !begun => None,
            read = self.from.read(buffer) => Some(read),
        }
    }
}

/// What a side still sends when nobody wants it: a full buffer must not keep it from its own end.
async fn drop_the_rest(from: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> io::Result<()> {
    while from.read(buffer).await? > 0 {}
    Ok(())
}

/// Ends both connections so that what was said last arrives. Each side may be gone already.
async fn finish<R, W, R2, W2>(
    mut there: Way<R, W>,
    mut back: Way<R2, W2>,
    rules: &Rules<'_, impl Fn() -> bool>,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    W2: AsyncWrite + Unpin,
{
    let replica = async {
        let silent = !there.framer.closed() && there.framer.between_frames();
        if rules.websocket
            && silent
            && there.to.write_all(&close_for_replica(rules.key)).await.is_err()
        {
            return;
        }
        let _ = there.to.shutdown().await;
    };
    let client = async {
        if back.to.shutdown().await.is_ok() {
            let _ = drop_the_rest(&mut there.from, &mut [0; BUFFER]).await;
        }
    };
    // Its own time is the bound; how it ends does not matter.
    let _ = timeout(LINGER, async { tokio::join!(replica, client) }).await;
}
