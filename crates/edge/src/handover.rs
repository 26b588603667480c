//! One edge takes over from another: the listening sockets and the folder's lock go through a Unix socket.
//!
//! ```text
//!   new                                         old, which goes on accepting
//!    │ ── POST /handover, upgrade ─────────────▶ │  publishes nothing from here on
//!    │ ◀─ 101, offer, lock, every socket ─────── │
//!    │    loads table and certificates,          │
//!    │    accepts too, takes control.sock        │
//!    │ ── ready ───────────────────────────────▶ │
//!    │ ◀─ yes ────────────────────────────────── │  lets go of sockets and lock; finishes what it has
//! ```
//!
//! Sockets and lock are the same open files in both, so the kernel's queue of connections and the lock have no
//! gap. If the new one dies before it is ready, or takes too long, the old one goes on as if nothing had been.
//! If the old one dies, the new one has everything already.
//!
//! The old one does not close idle connections: a request could be on its way on any of them, and a client
//! cannot know whether it was read (RFC 9112 section 9.6). It answers the next request with
//! `connection: close`, and leaves connections without a next request to their usual idle limit.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream as AsyncUnixStream;
use tokio::time::timeout;

use crate::client::Problem;
use crate::control::{Control, Standing};

/// What one edge gives to the next.
pub struct Hand {
    pub lock: std::fs::File,
    pub listeners: Listeners,
}

/// Sockets that are listened on already.
#[derive(Default)]
pub struct Listeners {
    pub plain: Vec<TcpListener>,
    pub secured: Vec<TcpListener>,
}

/// Announces what follows.
#[derive(Debug, Serialize, Deserialize)]
pub struct Offer {
    pub pid: u32,
    pub listen: SocketAddr,
    pub https: Option<SocketAddr>,
    plain: usize,
    secured: usize,
}

/// What was taken from the edge that runs, which still waits for a word.
pub struct Taken {
    pub offer: Offer,
    pub hand: Hand,
    stream: UnixStream,
}

/// Names the protocol and its version.
const PROTOCOL: &str = "launchway-handover-1";
const MAX_HEAD: usize = 4096;
const MAX_OFFER: usize = 64 * 1024;
/// Descriptors that are taken at most: far more than workers have sockets.
const MAX_SOCKETS: usize = 4096;
/// For one step of the other side that takes no time unless it hangs.
const STEP: Duration = Duration::from_secs(5);
/// For the new edge to load what is on disk and to start its workers.
const START: Duration = Duration::from_secs(20);

const READY: u8 = b'R';
const YES: u8 = b'Y';
const NO: u8 = b'N';

/// Asks the edge behind `socket` for everything; `None` if there is none.
pub fn take(socket: &Path) -> io::Result<Option<Taken>> {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    let request = format!(
        "POST /handover HTTP/1.1\r\nhost: edge\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if head.len() > MAX_HEAD || stream.read(&mut byte)? == 0 {
            return Err(io::Error::other("it broke off before it offered anything"));
        }
        head.push(byte[0]);
    }
    if !head.starts_with(b"HTTP/1.1 101") {
        let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        return Err(io::Error::other(format!("it does not hand over now: {line}")));
    }
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    let mut offer = vec![0; length.min(MAX_OFFER)];
    stream.read_exact(&mut offer)?;
    let offer: Offer = serde_json::from_slice(&offer)?;
    if offer.plain + offer.secured > MAX_SOCKETS {
        return Err(io::Error::other("it offers more sockets than any edge has"));
    }
    let lock = receive(&stream)?.into();
    let listeners =
        |count| (0..count).map(|_| Ok(receive(&stream)?.into())).collect::<io::Result<_>>();
    let (plain, secured) = (listeners(offer.plain)?, listeners(offer.secured)?);
    let hand = Hand { lock, listeners: Listeners { plain, secured } };
    Ok(Some(Taken { offer, hand, stream }))
}

/// One descriptor, with one byte, so that two messages cannot be read as one.
fn receive(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut into = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut into, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let [descriptor] = descriptors[..]
        {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
            #[allow(unsafe_code)]
            return Ok(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
    Err(io::Error::other("it broke off before it gave every socket"))
}

/// How the old edge took the word that the new one is ready.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// It lets go, or is dead: either way the new one is the edge now.
    Yes,
    /// It had given up waiting and goes on.
    No,
}

/// Says that everything runs. The old edge has let go when this returns [`Heard::Yes`].
pub fn ready(mut stream: UnixStream) -> io::Result<Heard> {
    let mut word = [0];
    let asked = stream.write_all(&[READY]).and_then(|()| stream.read(&mut word));
    match asked {
        Ok(1) if word == [YES] => Ok(Heard::Yes),
        Ok(1) => Ok(Heard::No),
        // A dead one says nothing; one that gave up said so before it closed.
        Ok(_) => Ok(Heard::Yes),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
        {
            Err(error)
        }
        Err(_) => match stream.read(&mut word) {
            Ok(1) if word == [NO] => Ok(Heard::No),
            _ => Ok(Heard::Yes),
        },
    }
}

impl Taken {
    /// The parts: the offer, what was given, and where to say [`ready`].
    pub fn split(self) -> (Offer, Hand, UnixStream) {
        (self.offer, self.hand, self.stream)
    }
}

/// Answers a new edge, and hands over behind the answer.
pub fn answer(control: &Rc<Control>, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let asked = request.headers().get(UPGRADE).is_some_and(|name| name == PROTOCOL);
    if !asked || control.standing.get() != Standing::Current {
        let why = "an edge of another version asks, or another one has asked already";
        return crate::control::problem(StatusCode::CONFLICT, Problem::Other(why.into()));
    }
    control.standing.set(Standing::Handing);
    tokio::task::spawn_local(give(control.clone(), hyper::upgrade::on(&mut request)));
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}

async fn give(control: Rc<Control>, upgrade: OnUpgrade) {
    match try_give(&control, upgrade).await {
        Ok(pid) => {
            tracing::info!(pid, "another edge took over: finishing what is under way");
            control.let_go();
        }
        Err(error) => {
            control.standing.set(Standing::Current);
            control.claim_socket();
            tracing::warn!(%error, "a new edge did not take over: going on as before");
        }
    }
}

/// Offers everything and waits for the new edge's word; its process id.
async fn try_give(control: &Control, upgrade: OnUpgrade) -> io::Result<i32> {
    let upgraded = timeout(STEP, upgrade).await?.map_err(io::Error::other)?;
    let Ok(parts) = upgraded.downcast::<TokioIo<AsyncUnixStream>>() else {
        return Err(io::Error::other("not a Unix socket"));
    };
    let mut stream = parts.io.into_inner();
    let pid = stream.peer_cred()?.pid().unwrap_or(0);
    timeout(STEP, offer(control, &mut stream)).await??;
    let mut word = [0];
    match timeout(START, stream.read_exact(&mut word)).await {
        Ok(read) => read?,
        Err(late) => {
            // It may be ready in this very moment: it must hear that it is too late.
            stream.write_all(&[NO]).await?;
            return Err(late.into());
        }
    };
    if word != [READY] {
        return Err(io::Error::other("it said something else than that it is ready"));
    }
    // Of those that finished before us, the new edge finds only the ones that are alive.
    let live = control.shared.live.load_full();
    control.predecessors.look(&live.table).await;
    stream.write_all(&[YES]).await?;
    Ok(pid)
}

async fn offer(control: &Control, stream: &mut AsyncUnixStream) -> io::Result<()> {
    let descriptors = {
        let hand = control.hand.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(hand) = &*hand else { return Err(io::Error::other("this edge stops")) };
        let lock = OwnedFd::from(hand.lock.try_clone()?);
        let all = hand.listeners.plain.iter().chain(&hand.listeners.secured);
        let sockets = all.map(|socket| Ok(OwnedFd::from(socket.try_clone()?)));
        (
            std::iter::once(Ok(lock)).chain(sockets).collect::<io::Result<Vec<_>>>()?,
            hand.listeners.plain.len(),
            hand.listeners.secured.len(),
        )
    };
    let (descriptors, plain, secured) = descriptors;
    let (listen, https) = (control.listen, control.shared.https);
    let offer = Offer { pid: std::process::id(), listen, https, plain, secured };
    let text = serde_json::to_vec(&offer)?;
    stream.write_all(&(text.len() as u32).to_be_bytes()).await?;
    stream.write_all(&text).await?;
    for descriptor in descriptors {
        let rights = [descriptor.as_raw_fd()];
        let send = || {
            let rights = [ControlMessage::ScmRights(&rights)];
            let byte = [IoSlice::new(b".")];
            sendmsg::<UnixAddr>(stream.as_raw_fd(), &byte, &rights, MsgFlags::MSG_NOSIGNAL, None)
                .map_err(io::Error::from)
        };
        stream.async_io(Interest::WRITABLE, send).await?;
    }
    Ok(())
}
