//! Starting and stopping the edge: folder, address, rights, threads.

use std::cell::{Cell, RefCell};
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use domain::route::Table;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::Backlog;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use tokio::net::{TcpSocket, UnixListener};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot, watch};

use crate::access_log::AccessLog;
use crate::certificates::CertificatesFile;
use crate::config::{EdgeConfig, EdgeError, Limits};
use crate::control::{self, Control, Standing, claim_socket, remove_socket};
use crate::facts::{Away, now_ms};
use crate::handover::{self, Hand, Heard, Listeners, Offer};
use crate::headers::Trusted;
use crate::health;
use crate::listener::BACKLOG;
use crate::live::Live;
use crate::predecessors::{self, Predecessors, socket_name};
use crate::registry::Registry;
use crate::table::TableFile;
use crate::tls::{Tls, ticketer};
use crate::worker::{self, Shared, Socket};

/// For the edge that runs to answer, or to give the lock back.
const TAKE_OVER: Duration = Duration::from_secs(5);
const TAKE_OVER_PAUSE: Duration = Duration::from_millis(20);
/// For the successor to read the last numbers; several times as long as it takes to ask again.
const LAST_WORDS: Duration = Duration::from_secs(3);
const FINISHED_CHECK: Duration = Duration::from_millis(50);

/// A running edge. Dropping it without [`Edge::stop`] leaves it running until the process ends.
pub struct Edge {
    address: SocketAddr,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    control: JoinHandle<()>,
    ended: watch::Sender<bool>,
    hand: Arc<Mutex<Option<Hand>>>,
}

/// Names the file of a program, also one that was replaced or deleted while it runs: a build that was installed
/// over it has another name.
pub fn build_of(program: &Path) -> io::Result<String> {
    let file = fs::metadata(program)?;
    let (version, modified) = (env!("CARGO_PKG_VERSION"), (file.mtime(), file.mtime_nsec()));
    Ok(format!("{version}-{:x}-{:x}-{}.{:09}", file.dev(), file.ino(), modified.0, modified.1))
}

/// How an edge ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Somebody asked for it, with a signal.
    Asked,
    /// Another edge took over, and everything is finished.
    Replaced,
}

/// Runs an edge until SIGTERM or SIGINT, or until another one took over; then answers what is in flight and
/// returns.
pub fn main(config: EdgeConfig) -> Result<(), EdgeError> {
    run(&config, Limits::default()).map(drop)
}

/// The same within other limits.
pub fn run(config: &EdgeConfig, limits: Limits) -> Result<Ended, EdgeError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| EdgeError::Signal { source })?;
    runtime.block_on(async {
        // Before anything is opened, so that no signal is lost.
        let heard = |kind| signal(kind).map_err(|source| EdgeError::Signal { source });
        let (mut terminate, mut interrupt) =
            (heard(SignalKind::terminate())?, heard(SignalKind::interrupt())?);
        raise_file_limit();
        let edge = Edge::start(config, limits)?;
        let ended = tokio::select! {
            _ = terminate.recv() => Ended::Asked,
            _ = interrupt.recv() => Ended::Asked,
            () = edge.finished() => Ended::Replaced,
        };
        match ended {
            Ended::Asked => tracing::info!("stopping: requests in flight are answered first"),
            Ended::Replaced => {
                tracing::info!("finished what was under way when another edge took over")
            }
        }
        edge.stop();
        Ok(ended)
    })
}

impl Edge {
    /// Starts an edge. When it returns, traffic and the control socket are served.
    pub fn start(config: &EdgeConfig, limits: Limits) -> Result<Self, EdgeError> {
        // Before another user is taken on, who may not look there. Without it the edge counts as outdated.
        let build = build_of(Path::new("/proc/self/exe")).unwrap_or_default();
        let (hand, old) = match config.take_over {
            true => take_over(&config.state)?,
            false => {
                (Hand { lock: prepare(&config.state)?, listeners: Listeners::default() }, None)
            }
        };
        let (offer, word) = old.unzip();
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        let count = config.workers.unwrap_or_else(cores).max(1);
        let Listeners { plain, secured } = hand.listeners;
        let bound = offer.as_ref().map(|offer| offer.listen);
        let (address, plain) = listen(config.listen, count, bound.zip(Some(plain)))?;
        let bound = offer.as_ref().and_then(|offer| offer.https);
        let secured = config.https.map(|at| listen(at, count, bound.zip(Some(secured))));
        let (https, secured) = secured.transpose()?.unzip();
        let listeners = Listeners { plain, secured: secured.unwrap_or_default() };
        let sockets =
            deal(&listeners, count).map_err(|source| EdgeError::Listen { address, source })?;
        let hand = Arc::new(Mutex::new(Some(Hand { lock: hand.lock, listeners })));
        if let Some((uid, gid)) = config.run_as {
            become_user(&config.state, uid, gid)?;
        }
        let start_log = || {
            AccessLog::start(io::stdout())
                .map_err(|source| EdgeError::Thread { thread: "edge-log".into(), source })
        };
        let access_log = config.access_log.then(start_log).transpose()?;
        let shared = Arc::new(Shared {
            live: ArcSwap::from_pointee(Live::default()),
            limits,
            trusted: Trusted::new(&config.trusted_proxies),
            tls: ArcSwap::from_pointee(Tls::default()),
            https,
            workers: count,
            stop: watch::Sender::new(false),
            replaced: watch::Sender::new(None),
            leaving: AtomicBool::new(false),
            told: AtomicU64::new(0),
            recheck: Notify::new(),
            awaiting: AtomicUsize::new(0),
            recovered: Notify::new(),
            away: Away::new(None, count),
            access_log,
            open: AtomicU64::new(0),
            build,
            started_ms: now_ms(),
        });
        let ended = watch::Sender::new(false);
        // The table first, then the workers: an edge that starts alone serves from the first connection on.
        let (begin, begun) = oneshot::channel();
        let control = ControlPart {
            folder: config.state.clone(),
            listen: address,
            shared: shared.clone(),
            hand: hand.clone(),
            begun,
            ended: ended.subscribe(),
        };
        let control = control.start()?;
        let mut workers = Vec::with_capacity(count);
        for (index, sockets) in sockets.into_iter().enumerate() {
            let shared = shared.clone();
            workers.push(start_thread(format!("edge-{index}"), move |ready| {
                worker::run(index, shared, sockets, ready);
            })?);
        }
        let edge = Self { address, shared, workers, control, ended, hand };
        let claimed = claim_socket(&config.state);
        claimed.map_err(|source| EdgeError::State { path: config.state.clone(), source })?;
        if let Some(word) = word {
            let why = match handover::ready(word) {
                Ok(Heard::Yes) => None,
                Ok(Heard::No) => Some("it had waited too long".to_owned()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(why) = why {
                edge.stop();
                return Err(EdgeError::TakeOver { path: config.state.clone(), why });
            }
        }
        // The control thread is there as long as we are.
        let _ = begin.send(());
        tracing::info!(%address, workers = count, took_over = offer.is_some(), "carrying traffic");
        Ok(edge)
    }

    /// The address that carries traffic.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address that carries TLS, if there is one.
    pub fn https_address(&self) -> Option<SocketAddr> {
        self.shared.https
    }

    /// Resolves when another edge took over and nothing is left of what this one had.
    async fn finished(&self) {
        let mut replaced = self.shared.replaced.subscribe();
        let _ = replaced.wait_for(Option::is_some).await;
        while !self.workers.iter().all(JoinHandle::is_finished) {
            tokio::time::sleep(FINISHED_CHECK).await;
        }
        // The last numbers are final now: the successor, which asks all the time, should have them.
        let told = || self.shared.told.load(Ordering::Relaxed);
        let (before, deadline) = (told(), Instant::now() + LAST_WORDS);
        while told() == before && Instant::now() < deadline {
            tokio::time::sleep(FINISHED_CHECK).await;
        }
    }

    /// Accepts nothing more, answers what is in flight within its time, and ends all threads.
    pub fn stop(self) {
        self.shared.stop.send_replace(true);
        // Held by the lock until the end, but by nobody's listening.
        if let Some(hand) = &mut *self.hand.lock().unwrap_or_else(PoisonError::into_inner) {
            hand.listeners = Listeners::default();
        }
        for worker in self.workers {
            if worker.join().is_err() {
                tracing::error!("a worker had panicked");
            }
        }
        self.ended.send_replace(true);
        if self.control.join().is_err() {
            tracing::error!("the control thread had panicked");
        }
        if let Some(log) = &self.shared.access_log {
            log.close();
        }
    }
}

/// Makes the folder and takes its lock, which a crash gives back.
fn prepare(folder: &Path) -> Result<File, EdgeError> {
    let state = |source| EdgeError::State { path: folder.into(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(state)?;
    let lock = File::options().create(true).append(true).open(folder.join("edge.lock"));
    let lock = lock.map_err(state)?;
    // Belongs to the open file, which another edge may be given: it ends when the last one closes it.
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(EdgeError::Locked { path: folder.into() }),
        Err(TryLockError::Error(error)) => Err(state(error)),
    }
}

/// Everything from the edge that runs in `folder`, and where to tell it that we are ready; the lock alone if
/// none runs.
#[allow(clippy::type_complexity, reason = "read once, right below")]
fn take_over(folder: &Path) -> Result<(Hand, Option<(Offer, UnixStream)>), EdgeError> {
    let deadline = Instant::now() + TAKE_OVER;
    loop {
        // An edge that died a moment ago leaves its socket, one that starts has none yet: both are tried.
        let why = match handover::take(&folder.join("control.sock")) {
            Ok(Some(taken)) => {
                let (offer, hand, word) = taken.split();
                tracing::info!(pid = offer.pid, "taking over from another edge");
                return Ok((hand, Some((offer, word))));
            }
            Ok(None) => None,
            Err(error) => Some(error.to_string()),
        };
        match prepare(folder) {
            Ok(lock) => return Ok((Hand { lock, listeners: Listeners::default() }, None)),
            Err(EdgeError::Locked { .. }) if Instant::now() < deadline => {
                thread::sleep(TAKE_OVER_PAUSE);
            }
            Err(EdgeError::Locked { path }) => {
                let why = why.unwrap_or_else(|| "it does not answer".into());
                return Err(EdgeError::TakeOver { path, why });
            }
            Err(error) => return Err(error),
        }
    }
}

/// What is listened on already, if it is where `wished` says; new sockets otherwise.
fn listen(
    wished: SocketAddr,
    count: usize,
    open: Option<(SocketAddr, Vec<TcpListener>)>,
) -> Result<(SocketAddr, Vec<TcpListener>), EdgeError> {
    let fits = |at: &SocketAddr| at.ip() == wished.ip() && [0, at.port()].contains(&wished.port());
    match open {
        Some((address, listeners)) if fits(&address) && !listeners.is_empty() => {
            Ok((address, listeners))
        }
        _ => bind(wished, count).map_err(|source| EdgeError::Listen { address: wished, source }),
    }
}

/// Every socket to some worker and every worker some socket, whatever their numbers are: each has its own queue
/// in the kernel, and none may be left without somebody who accepts.
fn deal(listeners: &Listeners, workers: usize) -> io::Result<Vec<Vec<Socket>>> {
    let mut dealt: Vec<Vec<Socket>> = (0..workers).map(|_| Vec::new()).collect();
    for (open, secure) in [(&listeners.plain, false), (&listeners.secured, true)] {
        let turns = if open.is_empty() { 0 } else { workers.max(open.len()) };
        for turn in 0..turns {
            let listener = open[turn % open.len()].try_clone()?;
            dealt[turn % workers].push(Socket { listener, secure });
        }
    }
    Ok(dealt)
}

/// One socket per worker on the same address; the kernel spreads connections over them.
fn bind(listen: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    // Shared addresses hide a second edge on the same port; without sharing the kernel says so.
    let probe = socket(listen)?;
    probe.bind(listen)?;
    let address = probe.local_addr()?;
    drop(probe);
    let shared = |_| {
        let socket = socket(address)?;
        socket.set_reuseport(true)?;
        socket.bind(address)?;
        let socket = socket.as_fd().try_clone_to_owned()?;
        nix::sys::socket::listen(&socket, Backlog::new(BACKLOG)?)?;
        Ok(TcpListener::from(socket))
    };
    let sockets = (0..count).map(shared).collect::<io::Result<_>>()?;
    Ok((address, sockets))
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

/// Gives the folder to the user and becomes it, for good.
fn become_user(folder: &Path, uid: u32, gid: u32) -> Result<(), EdgeError> {
    let state = |source| EdgeError::State { path: folder.into(), source };
    chown(folder, Some(uid), Some(gid)).map_err(state)?;
    for name in ["table.json", "certificates.json", "edge.lock"] {
        match chown(folder.join(name), Some(uid), Some(gid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(state(error)),
            _ => {}
        }
    }
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[group])
        .and_then(|()| setgid(group))
        .and_then(|()| setuid(user))
        .map_err(|source| EdgeError::RunAs { uid, gid, source })
}

/// Each connection takes one or two descriptors; the usual soft limit of 1,024 is none for a proxy.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// What the control thread starts with.
struct ControlPart {
    folder: PathBuf,
    listen: SocketAddr,
    shared: Arc<Shared>,
    hand: Arc<Mutex<Option<Hand>>>,
    /// From then on this edge is the one that carries the traffic.
    begun: oneshot::Receiver<()>,
    ended: watch::Receiver<bool>,
}

impl ControlPart {
    fn start(self) -> Result<JoinHandle<()>, EdgeError> {
        let path = self.folder.join(socket_name(std::process::id()));
        let started = start_thread("edge-control".into(), {
            let path = path.clone();
            move |ready| self.run(&path, ready)
        });
        started.map_err(|error| match error {
            EdgeError::Thread { source, .. } => EdgeError::Control { path, source },
            other => other,
        })
    }

    fn run(mut self, path: &Path, ready: impl FnOnce(io::Result<()>)) {
        let runtime = match worker::local_runtime() {
            Ok(runtime) => runtime,
            Err(error) => return ready(Err(error)),
        };
        runtime.block_on(async move {
            let opened = open_socket(path)
                .and_then(|listener| Ok((listener, ticketer().map_err(io::Error::other)?)));
            let (listener, ticketer) = match opened {
                Ok(opened) => opened,
                Err(error) => return ready(Err(error)),
            };
            let file = TableFile::new(&self.folder);
            let last = file.load();
            let control = Rc::new(Control {
                registry: RefCell::new(Registry::new(self.shared.workers)),
                file,
                certificates: CertificatesFile::new(&self.folder),
                ticketer,
                listen: self.listen,
                pauses: RefCell::default(),
                folder: self.folder.clone(),
                hand: self.hand,
                standing: Cell::new(Standing::Handing),
                predecessors: Predecessors::default(),
                shared: self.shared.clone(),
            });
            control.put_in_force(&Table::default(), &last);
            control.load_certificates();
            ready(Ok(()));
            let serving = control.clone();
            let begun = async {
                if self.begun.await.is_ok() {
                    control.predecessors.find(&self.folder);
                    control.standing.set(Standing::Current);
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = control::run(serving, listener) => {}
                () = health::run(self.shared) => {}
                () = predecessors::tend(control.clone()) => {}
                () = begun => {}
                _ = self.ended.wait_for(|ended| *ended) => {}
            }
            remove_socket(&self.folder);
        });
    }
}

/// Only the edge's own user may connect. The lock says that a socket in the way is a dead edge's.
fn open_socket(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Starts a thread and waits until it says that it is ready.
fn start_thread(
    name: String,
    body: impl FnOnce(Box<dyn FnOnce(io::Result<()>)>) + Send + 'static,
) -> Result<JoinHandle<()>, EdgeError> {
    const STACK: usize = 1024 * 1024;
    let failed = |source| EdgeError::Thread { thread: name.clone(), source };
    let (said, hears) = mpsc::channel();
    let started = thread::Builder::new().name(name.clone()).stack_size(STACK).spawn(move || {
        body(Box::new(move |outcome| {
            // The starter waits for exactly this.
            let _ = said.send(outcome);
        }));
    });
    let thread = started.map_err(failed)?;
    let died = || Err(io::Error::other("the thread died at its start"));
    hears.recv().unwrap_or_else(|_| died()).map_err(failed)?;
    Ok(thread)
}
