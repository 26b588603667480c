//! Starting and stopping the edge: folder, address, rights, threads.

use std::cell::RefCell;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use arc_swap::ArcSwap;
use domain::route::Table;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use tokio::net::{TcpSocket, UnixListener};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::access_log::AccessLog;
use crate::certificates::CertificatesFile;
use crate::config::{EdgeConfig, EdgeError, Limits};
use crate::control::{self, Control};
use crate::facts::{Away, now_ms};
use crate::headers::Trusted;
use crate::health;
use crate::live::Live;
use crate::registry::Registry;
use crate::table::TableFile;
use crate::tls::{Tls, ticketer};
use crate::worker::{self, Shared, Sockets};

/// A running edge. Dropping it without [`Edge::stop`] leaves it running until the process ends.
pub struct Edge {
    address: SocketAddr,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    control: JoinHandle<()>,
    ended: watch::Sender<bool>,
    _lock: Flock<File>,
}

/// Runs an edge until SIGTERM or SIGINT; then answers what is in flight and returns.
pub fn main(config: EdgeConfig) -> Result<(), EdgeError> {
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
        let edge = Edge::start(&config, Limits::default())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: requests in flight are answered first");
        edge.stop();
        Ok(())
    })
}

impl Edge {
    /// Starts an edge. When it returns, traffic and the control socket are served.
    pub fn start(config: &EdgeConfig, limits: Limits) -> Result<Self, EdgeError> {
        let lock = prepare(&config.state)?;
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        let count = config.workers.unwrap_or_else(cores).max(1);
        let open =
            |address| bind(address, count).map_err(|source| EdgeError::Listen { address, source });
        let (address, plain) = open(config.listen)?;
        let (https, secured) = config.https.map(open).transpose()?.unzip();
        let mut secured = secured.unwrap_or_default().into_iter();
        let sockets = plain.into_iter().map(|http| Sockets { http, https: secured.next() });
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
            recheck: Notify::new(),
            away: Away::new(None, count),
            access_log,
            open: AtomicU64::new(0),
            started_ms: now_ms(),
        });
        let ended = watch::Sender::new(false);
        // The table first, then the workers: an edge that starts alone serves from the first connection on.
        let control = start_control(&config.state, address, &shared, ended.subscribe())?;
        let mut workers = Vec::with_capacity(count);
        for (index, sockets) in sockets.enumerate() {
            let shared = shared.clone();
            workers.push(start_thread(format!("edge-{index}"), move |ready| {
                worker::run(index, shared, sockets, ready);
            })?);
        }
        tracing::info!(%address, workers = count, "carrying traffic");
        Ok(Self { address, shared, workers, control, ended, _lock: lock })
    }

    /// The address that carries traffic.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address that carries TLS, if there is one.
    pub fn https_address(&self) -> Option<SocketAddr> {
        self.shared.https
    }

    /// Accepts nothing more, answers what is in flight within its time, and ends all threads.
    pub fn stop(self) {
        self.shared.stop.send_replace(true);
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
fn prepare(folder: &Path) -> Result<Flock<File>, EdgeError> {
    let state = |source| EdgeError::State { path: folder.into(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(state)?;
    let lock = File::options().create(true).append(true).open(folder.join("edge.lock"));
    match Flock::lock(lock.map_err(state)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(EdgeError::Locked { path: folder.into() }),
        Err((_, error)) => Err(state(error.into())),
    }
}

/// One socket per worker on the same address; the kernel spreads connections over them.
fn bind(listen: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<TcpSocket>)> {
    // Shared addresses hide a second edge on the same port; without sharing the kernel says so.
    let probe = socket(listen)?;
    probe.bind(listen)?;
    let address = probe.local_addr()?;
    drop(probe);
    let shared = |_| {
        let socket = socket(address)?;
        socket.set_reuseport(true)?;
        socket.bind(address)?;
        Ok(socket)
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

fn start_control(
    folder: &Path,
    listen: SocketAddr,
    shared: &Arc<Shared>,
    ended: watch::Receiver<bool>,
) -> Result<JoinHandle<()>, EdgeError> {
    let (folder, shared) = (folder.to_path_buf(), shared.clone());
    let path = folder.join("control.sock");
    let started = start_thread("edge-control".into(), {
        let path = path.clone();
        move |ready| run_control(folder, path, listen, shared, ended, ready)
    });
    started.map_err(|error| match error {
        EdgeError::Thread { source, .. } => EdgeError::Control { path, source },
        other => other,
    })
}

fn run_control(
    folder: PathBuf,
    path: PathBuf,
    listen: SocketAddr,
    shared: Arc<Shared>,
    mut ended: watch::Receiver<bool>,
    ready: impl FnOnce(io::Result<()>),
) {
    let runtime = match worker::local_runtime() {
        Ok(runtime) => runtime,
        Err(error) => return ready(Err(error)),
    };
    runtime.block_on(async move {
        let listener = match open_socket(&path) {
            Ok(listener) => listener,
            Err(error) => return ready(Err(error)),
        };
        let registry = RefCell::new(Registry::new(shared.workers));
        let file = TableFile::new(&folder);
        let last = file.load();
        let ticketer = match ticketer() {
            Ok(ticketer) => ticketer,
            Err(error) => return ready(Err(io::Error::other(error))),
        };
        let certificates = CertificatesFile::new(&folder);
        let shared_too = shared.clone();
        let control =
            Control {
            shared: shared_too,
            registry,
            file,
            certificates,
            ticketer,
            listen,
            pauses: RefCell::default(),
        };
        let control = Rc::new(control);
        control.put_in_force(&Table::default(), &last);
        control.load_certificates();
        ready(Ok(()));
        tokio::select! {
            () = control::run(control, listener) => {}
            () = health::run(shared) => {}
            _ = ended.wait_for(|ended| *ended) => {}
        }
        // Left behind it would be replaced at the next start; the lock is still ours here.
        let _ = fs::remove_file(&path);
    });
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
