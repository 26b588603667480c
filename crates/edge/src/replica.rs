//! One replica as the workers and the health checks see it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use domain::route::FactsKey;
use tokio::sync::Notify;

use crate::facts::now_ms;

/// A replica behind an address. Its state is atomics only, shared by all threads.
pub struct Replica {
    /// Names it in the pools: never reused within a process.
    pub id: u64,
    pub key: FactsKey,
    pub address: SocketAddr,
    /// The path of the active health check; `None` checks that a TCP connection opens.
    pub health: Option<String>,
    /// Requests being answered by it.
    load: AtomicU32,
    /// Why it is kept out; 0 when it is not.
    ejected: AtomicU32,
    /// Since when, milliseconds since the Unix epoch.
    ejected_ms: AtomicI64,
    failures: AtomicU32,
    /// It left the table: nothing may be kept open for it.
    gone: AtomicBool,
    /// Tells the requests that wait for it that it hangs.
    hangs: Notify,
}

/// Why a replica is kept out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Refused,
    ConnectTimeout,
    ConnectFailed,
    NoAnswer,
    Garbled,
    Status(u16),
}

const FAILURES_TO_EJECT: u32 = 2;

impl Fault {
    fn encode(self) -> u32 {
        match self {
            Self::Refused => 1,
            Self::ConnectTimeout => 2,
            Self::ConnectFailed => 3,
            Self::NoAnswer => 4,
            Self::Garbled => 5,
            Self::Status(status) => 1000 + u32::from(status),
        }
    }

    fn describe(code: u32) -> String {
        match code {
            1 => "refused a connection".into(),
            2 => "did not accept a connection in time".into(),
            3 => "could not be connected to".into(),
            4 => "did not answer its health check in time".into(),
            5 => "closed the connection or answered no HTTP to its health check".into(),
            code => format!("answered {} to its health check", code - 1000),
        }
    }
}

impl Replica {
    pub fn new(id: u64, key: FactsKey, address: SocketAddr, health: Option<String>) -> Self {
        Self {
            id,
            key,
            address,
            health,
            load: AtomicU32::new(0),
            ejected: AtomicU32::new(0),
            ejected_ms: AtomicI64::new(0),
            failures: AtomicU32::new(0),
            gone: AtomicBool::new(false),
            hangs: Notify::new(),
        }
    }

    pub fn load(&self) -> u32 {
        self.load.load(Relaxed)
    }

    pub fn healthy(&self) -> bool {
        self.ejected.load(Relaxed) == 0
    }

    /// Why it is kept out, for people.
    pub fn fault(&self) -> Option<String> {
        match self.ejected.load(Relaxed) {
            0 => None,
            code => Some(Fault::describe(code)),
        }
    }

    /// A request could not be connected: out at once, until a health check succeeds.
    pub fn eject(&self, fault: Fault) {
        self.failures.store(FAILURES_TO_EJECT, Relaxed);
        if self.ejected.swap(fault.encode(), Relaxed) == 0 {
            self.ejected_ms.store(now_ms(), Relaxed);
        }
    }

    /// For how long it has been kept out.
    pub fn away(&self) -> Duration {
        let since = now_ms().saturating_sub(self.ejected_ms.load(Relaxed));
        Duration::from_millis(u64::try_from(since).unwrap_or(0))
    }

    /// The outcome of an active check: two failures in a row put it out, one success brings it back.
    pub fn checked(&self, outcome: Result<(), Fault>) {
        let Err(fault) = outcome else {
            self.failures.store(0, Relaxed);
            self.ejected.store(0, Relaxed);
            return;
        };
        if self.failures.fetch_add(1, Relaxed) + 1 >= FAILURES_TO_EJECT {
            self.eject(fault);
            if fault == Fault::NoAnswer {
                self.hangs.notify_waiters();
            }
        }
    }

    /// Whether health checks found that it takes connections and answers nothing.
    pub fn is_hanging(&self) -> bool {
        self.ejected.load(Relaxed) == Fault::NoAnswer.encode()
    }

    /// Resolves when health checks find that it takes connections and answers nothing.
    pub async fn hangs(&self) {
        self.hangs.notified().await;
    }

    pub fn gone(&self) -> bool {
        self.gone.load(Relaxed)
    }

    pub fn set_gone(&self, gone: bool) {
        self.gone.store(gone, Relaxed);
    }
}

/// One request's weight on its replica.
pub struct Load(Arc<Replica>);

impl Load {
    pub fn on(replica: Arc<Replica>) -> Self {
        replica.load.fetch_add(1, Relaxed);
        Self(replica)
    }

    pub fn replica(&self) -> &Arc<Replica> {
        &self.0
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.load.fetch_sub(1, Relaxed);
    }
}
