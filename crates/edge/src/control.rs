//! The control socket: takes tables, tells the status and what a drain waits for.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use domain::route::{EdgeStatus, PauseStatus, RouteFacts, Table, TurnedAway};
use domain::slot::Endpoint;
use domain::{Color, EnvironmentName};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::UnixListener;
use tokio::time::Instant;
use tokio_rustls::rustls::server::ProducesTickets;

use crate::certificates::{self, CertificateInfo, Certificates, CertificatesFile};
use crate::client::{DrainStatus, Problem, Published};
use crate::closing;
use crate::facts::now_ms;
use crate::handover::{self, Hand};
use crate::pause::{Pause, PauseFor, Paused, Pauses};
use crate::predecessors::{Predecessors, socket_name};
use crate::registry::Registry;
use crate::table::{Refused, TableFile, check};
use crate::tls::Tls;
use crate::worker::Shared;

/// The one place where tables are taken.
pub struct Control {
    pub shared: Arc<Shared>,
    pub registry: RefCell<Registry>,
    pub file: TableFile,
    pub certificates: CertificatesFile,
    pub ticketer: Arc<dyn ProducesTickets>,
    pub listen: SocketAddr,
    pub pauses: RefCell<Pauses>,
    pub folder: PathBuf,
    /// What the next edge gets; gone once it has it, or once this edge stops.
    pub hand: Arc<Mutex<Option<Hand>>>,
    pub standing: Cell<Standing>,
    pub predecessors: Predecessors,
}

/// What this edge is to the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Current,
    /// A new edge is starting with our sockets: nothing may be published, or it would not know of it.
    Handing,
    /// A new edge has taken over. It gives us its tables, and it alone writes to the disk.
    Replaced,
}

/// A link to the socket of the edge that carries the traffic.
const CONTROL_SOCKET: &str = "control.sock";
const MAX_PAUSE: usize = 4 * 1024;
const MAX_TABLE: usize = 64 * 1024 * 1024;
const MAX_CERTIFICATES: usize = 64 * 1024 * 1024;
/// Longer than any worker looks at a table.
const KEEP_REPLACED: Duration = Duration::from_secs(1);
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// Serves the control socket.
pub async fn run(control: Rc<Control>, listener: UnixListener) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let control = control.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| {
                let control = control.clone();
                async move {
                    let hands =
                        request.method() == Method::POST && request.uri().path() == "/handover";
                    Ok::<_, Infallible>(match hands {
                        true => handover::answer(&control, request),
                        false => control.answer(request).await,
                    })
                }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_LIMIT)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(error) = served.await {
                tracing::debug!(%error, "control connection ended");
            }
        });
    }
}

impl Control {
    async fn answer(self: &Rc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        if request.method() != Method::GET && self.standing.get() == Standing::Handing {
            return problem(StatusCode::SERVICE_UNAVAILABLE, Problem::Busy);
        }
        match (request.method(), parts.as_slice()) {
            (&Method::PUT, ["table"]) => self.take(request.into_body()).await,
            (&Method::PUT, ["certificates"]) => self.take_certificates(request.into_body()).await,
            (&Method::GET, ["certificates"]) => {
                json(StatusCode::OK, &self.shared.tls.load().info())
            }
            (&Method::GET, ["status"]) => json(StatusCode::OK, &self.whole_status().await),
            (&Method::GET, ["routes"]) => json(StatusCode::OK, &self.whole_routes().await),
            (&Method::GET, ["drain", environment, slot]) => self.drain(environment, slot).await,
            (&Method::POST, ["pause", environment]) => {
                let environment = environment.to_string();
                self.take_pause(&environment, request.into_body()).await
            }
            (&Method::POST, ["resume", environment]) => self.take_resume(environment),
            _ => problem(StatusCode::NOT_FOUND, Problem::Other("no such resource".into())),
        }
    }

    async fn take(&self, body: Incoming) -> Response<Full<Bytes>> {
        let body = match Limited::new(body, MAX_TABLE).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                return problem(StatusCode::BAD_REQUEST, Problem::Other(error.to_string()));
            }
        };
        match serde_json::from_slice::<Table>(&body) {
            Ok(table) => self.publish(table).await,
            Err(error) => {
                problem(StatusCode::UNPROCESSABLE_ENTITY, Problem::Other(error.to_string()))
            }
        }
    }

    async fn take_certificates(&self, body: Incoming) -> Response<Full<Bytes>> {
        let other = |status, text: String| problem(status, Problem::Other(text));
        let body = match Limited::new(body, MAX_CERTIFICATES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return other(StatusCode::BAD_REQUEST, error.to_string()),
        };
        match certificates::parse(&body).and_then(|given| self.put_certificates(given)) {
            Ok(info) => json(StatusCode::OK, &info),
            Err(error) => other(StatusCode::UNPROCESSABLE_ENTITY, error),
        }
    }

    /// Puts `given` in force for new handshakes. They are on disk before; open connections stay as they are.
    fn put_certificates(&self, given: Certificates) -> Result<Vec<CertificateInfo>, String> {
        let before = self.shared.tls.load_full();
        if before.given == given {
            return Ok(before.info());
        }
        let tls = Tls::compile(given, &self.ticketer).map_err(|error| error.to_string())?;
        self.certificates.save(&tls.given).map_err(|error| {
            tracing::error!(%error, "the certificates cannot be kept on disk: not taken");
            format!("keeping the certificates on disk: {error}; the old ones stay in force")
        })?;
        let info = tls.info();
        self.shared.tls.store(Arc::new(tls));
        tracing::info!(certificates = info.len(), "certificates in force");
        Ok(info)
    }

    /// Puts in force what was acknowledged last, before a crash or a stop.
    pub fn load_certificates(&self) {
        match Tls::compile(self.certificates.load(), &self.ticketer) {
            Ok(tls) => self.shared.tls.store(Arc::new(tls)),
            Err(error) => {
                tracing::error!(%error, "the certificates on disk are of no use: no TLS until they are given again");
            }
        }
    }

    /// Puts `table` in force. It is on disk before, so that an acknowledged epoch survives a crash.
    async fn publish(&self, table: Table) -> Response<Full<Bytes>> {
        let before = self.shared.live.load_full();
        let epoch = table.epoch;
        match check(&before.table, &table) {
            Ok(true) => {}
            Ok(false) => return json(StatusCode::OK, &Published { epoch, changed: false }),
            Err(Refused::Stale { offered, in_force }) => {
                return problem(StatusCode::CONFLICT, Problem::Stale { offered, in_force });
            }
            Err(refused) => {
                return problem(StatusCode::CONFLICT, Problem::Other(refused.to_string()));
            }
        }
        if self.standing.get() != Standing::Replaced
            && let Err(error) = self.file.save(&table)
        {
            tracing::error!(%epoch, %error, "the table cannot be kept on disk: not taken");
            let text = format!("keeping the table on disk: {error}; the old one stays in force");
            return problem(StatusCode::INSUFFICIENT_STORAGE, Problem::Other(text));
        }
        self.put_in_force(&before.table, &table);
        tracing::info!(%epoch, "table in force");
        if self.standing.get() == Standing::Current {
            self.predecessors.publish(&table).await;
        }
        json(StatusCode::OK, &Published { epoch, changed: true })
    }

    /// Compiles `table` and lets all workers see it, at once.
    pub fn put_in_force(&self, before: &Table, table: &Table) {
        let mut registry = self.registry.borrow_mut();
        let mut live = registry.compile(table);
        live.paused = self.pauses.borrow().clone();
        let live = Arc::new(live);
        let replaced = self.shared.live.swap(live.clone());
        registry.switched(before, &live);
        // Freeing a large table takes longer than a request may wait: not left to the last worker that read it.
        tokio::task::spawn_local(async move {
            tokio::time::sleep(KEEP_REPLACED).await;
            drop(replaced);
        });
    }

    async fn take_pause(
        self: &Rc<Self>,
        environment: &str,
        body: Incoming,
    ) -> Response<Full<Bytes>> {
        let other = |status, text: String| problem(status, Problem::Other(text));
        let body = match Limited::new(body, MAX_PAUSE).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return other(StatusCode::BAD_REQUEST, error.to_string()),
        };
        let wanted = match serde_json::from_slice::<PauseFor>(&body) {
            Ok(wanted) => wanted,
            Err(error) => return other(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
        };
        let (longest, most) = (PauseFor::LONGEST, self.shared.limits.connections);
        if wanted.duration.is_zero()
            || wanted.duration > longest
            || !(1..=most).contains(&wanted.most)
        {
            let text = format!(
                "pausing {environment} for {:?} with at most {} requests: choose up to {longest:?} and 1 to {most} requests",
                wanted.duration, wanted.most
            );
            return other(StatusCode::UNPROCESSABLE_ENTITY, text);
        }
        let table = &self.shared.live.load_full().table;
        match table.environments.keys().find(|name| name.as_str() == environment) {
            Some(name) => json(StatusCode::OK, &self.pause(name, wanted)),
            None => not_routed(table, environment),
        }
    }

    fn take_resume(&self, environment: &str) -> Response<Full<Bytes>> {
        let table = &self.shared.live.load_full().table;
        let paused: Vec<_> = self.pauses.borrow().keys().cloned().collect();
        let mut known = table.environments.keys().chain(&paused);
        match known.find(|name| name.as_str() == environment) {
            Some(name) => json(StatusCode::OK, &self.resume(name)),
            None => not_routed(table, environment),
        }
    }

    /// Holds new requests to `environment` from now on. A pause in force is replaced, with what it holds.
    fn pause(self: &Rc<Self>, environment: &EnvironmentName, wanted: PauseFor) -> Paused {
        let pause = Arc::new(Pause::new(wanted));
        let before = self.pauses.borrow_mut().insert(environment.clone(), pause.clone());
        self.put_in_force_again();
        tracing::info!(%environment, duration = ?wanted.duration, most = wanted.most, "paused");
        let (control, environment) = (self.clone(), environment.clone());
        tokio::task::spawn_local(async move {
            tokio::time::sleep_until(pause.until).await;
            let same = |now: &Arc<Pause>| Arc::ptr_eq(now, &pause);
            if control.pauses.borrow().get(&environment).is_some_and(same) {
                control.resume(&environment);
            }
        });
        let held = before.map_or(0, |before| {
            let held = before.held();
            before.end();
            held
        });
        Paused { held }
    }

    /// Lets go what is held. What is not paused stays as it is.
    fn resume(&self, environment: &EnvironmentName) -> Paused {
        let Some(pause) = self.pauses.borrow_mut().remove(environment) else {
            return Paused { held: 0 };
        };
        self.put_in_force_again();
        let held = pause.held();
        pause.end();
        tracing::info!(%environment, held, "goes on after a pause");
        Paused { held }
    }

    fn put_in_force_again(&self) {
        let live = self.shared.live.load_full();
        self.put_in_force(&live.table, &live.table);
    }

    /// With the numbers of the edges that this one took over from.
    async fn whole_status(&self) -> EdgeStatus {
        let mut status = self.status();
        self.shared.told.fetch_add(1, Ordering::Relaxed);
        self.predecessors.add_to(&mut status, self.standing.get()).await;
        status
    }

    fn status(&self) -> EdgeStatus {
        let live = self.shared.live.load_full();
        let registry = self.registry.borrow();
        // Also those that nobody asked yet: a bake has to tell "no traffic" from "not known here".
        let mut facts: Vec<_> =
            registry.services().map(|service| (service.key.clone(), service.facts())).collect();
        facts.sort_by(|(a, _), (b, _)| a.cmp(b));
        let ejected = live.replicas.iter().filter_map(|replica| {
            let why = replica.fault()?;
            Some((replica.key.clone(), Endpoint::Http(replica.address), why))
        });
        EdgeStatus {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            build: self.shared.build.clone(),
            started_ms: self.shared.started_ms,
            https: self.shared.https,
            connections: self.shared.open.load(Ordering::Relaxed),
            turned_away: self.turned_away(&registry),
            access_log: self.shared.access_log.as_ref().map(|log| log.status()),
            epoch: live.table.epoch,
            listen: self.listen,
            facts,
            ejected: ejected.collect(),
            pauses: self.paused(),
            finishing: Vec::new(),
        }
    }

    fn paused(&self) -> Vec<PauseStatus> {
        let pauses = self.pauses.borrow();
        let status = |(environment, pause): (&EnvironmentName, &Arc<Pause>)| PauseStatus {
            environment: environment.clone(),
            held: pause.held() as u64,
            ends_in_ms: u64::try_from(
                pause.until.saturating_duration_since(Instant::now()).as_millis(),
            )
            .unwrap_or(u64::MAX),
        };
        let mut all: Vec<_> = pauses.iter().map(status).collect();
        all.sort_by(|a, b| a.environment.cmp(&b.environment));
        all
    }

    fn turned_away(&self, registry: &Registry) -> Vec<TurnedAway> {
        let environments = registry.away().filter(|away| away.is_used());
        let all = environments.map(|away| &**away).chain([&self.shared.away]);
        let mut all: Vec<_> = all.flat_map(|away| away.read()).collect();
        all.sort_by(|a, b| (&a.environment, a.reason).cmp(&(&b.environment, b.reason)));
        all
    }

    /// The numbers of each route that had a request. Built from as many series as there are routes, so it is
    /// apart from the status, which is asked for each second.
    /// Sorted by slot and prefix.
    async fn whole_routes(&self) -> Vec<RouteFacts> {
        self.predecessors.add_routes_to(self.routes(), self.standing.get()).await
    }

    fn routes(&self) -> Vec<RouteFacts> {
        let registry = self.registry.borrow();
        registry.services().filter(|s| s.is_used()).flat_map(|s| s.routes()).collect()
    }

    async fn drain(&self, environment: &str, slot: &str) -> Response<Full<Bytes>> {
        let color = [Color::Blue, Color::Green].into_iter().find(|c| c.as_str() == slot);
        let (Ok(environment), Some(color)) = (EnvironmentName::new(environment), color) else {
            let text = format!("`{environment}/{slot}` names no slot");
            return problem(StatusCode::NOT_FOUND, Problem::Other(text));
        };
        let mut status = self.own_drain(&environment, color);
        if self.standing.get() != Standing::Replaced {
            match self.predecessors.drain(&environment, color).await {
                Ok(theirs) => status.add(&theirs),
                Err(error) => {
                    let text = format!("asking an edge that finishes what it still has: {error}");
                    return problem(StatusCode::BAD_GATEWAY, Problem::Other(text));
                }
            }
        }
        json(StatusCode::OK, &status)
    }

    fn own_drain(&self, environment: &EnvironmentName, color: Color) -> DrainStatus {
        let live = self.shared.live.load_full();
        let slots = live.table.environments.get(environment).map(|e| &e.slots);
        let release = slots.and_then(|slots| slots.get(&color)).map(|slot| &slot.release);
        let mut status = DrainStatus::default();
        for service in self.registry.borrow().services() {
            let key = &service.key;
            let other = release.is_some_and(|release| *release != key.release);
            if key.environment != *environment || key.slot != color || other {
                continue;
            }
            status.in_flight += service.in_flight();
            status.upgraded += service.upgraded();
            status.event_streams += service.streams();
            let due = *service.retired.borrow();
            let left = due.map(|due| {
                let due = due + closing::spread(&self.shared, environment);
                u64::try_from(due.saturating_duration_since(Instant::now()).as_millis())
                    .unwrap_or(u64::MAX)
            });
            status.closed_in_ms = status.closed_in_ms.max(left);
            let age = service.oldest_ms().map(|ms| u64::try_from(now_ms() - ms).unwrap_or(0));
            status.oldest_ms = status.oldest_ms.max(age);
        }
        status
    }

    /// The next edge has everything: this one finishes what it has, and answers on its own socket.
    pub fn let_go(&self) {
        let paused: Vec<_> = self.pauses.borrow().keys().cloned().collect();
        for environment in paused {
            self.resume(&environment);
        }
        self.standing.set(Standing::Replaced);
        self.shared.leaving.store(true, Ordering::Relaxed);
        self.shared.replaced.send_replace(Some(Instant::now()));
        drop(self.hand.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Makes `control.sock` lead to this edge, in the place of whatever it leads to.
    pub fn claim_socket(&self) {
        if let Err(error) = claim_socket(&self.folder) {
            tracing::error!(%error, "control.sock does not lead to this edge");
        }
    }
}

/// Makes `control.sock` lead to the edge of this process: a link, replaced at once.
pub fn claim_socket(folder: &Path) -> io::Result<()> {
    let fresh = folder.join("control.sock.new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(socket_name(std::process::id()), &fresh)?;
    fs::rename(&fresh, folder.join(CONTROL_SOCKET))
}

/// Takes the socket away, and `control.sock` if it leads there.
pub fn remove_socket(folder: &Path) {
    let (own, link) = (socket_name(std::process::id()), folder.join(CONTROL_SOCKET));
    if fs::read_link(&link).is_ok_and(|to| to == Path::new(&own)) {
        // What is left of it leads nowhere, and is replaced at the next start.
        let _ = fs::remove_file(link);
    }
    let _ = fs::remove_file(folder.join(own));
}

fn not_routed(table: &Table, environment: &str) -> Response<Full<Bytes>> {
    let routed: Vec<&str> = table.environments.keys().map(|name| name.as_str()).collect();
    let routed = match routed.is_empty() {
        true => "none yet".into(),
        false => routed.join(", "),
    };
    let text = format!("the edge routes no environment {environment}; it routes {routed}");
    problem(StatusCode::NOT_FOUND, Problem::Unknown(text))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let (status, text) = match serde_json::to_vec(value) {
        Ok(text) => (status, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into_bytes()),
    };
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}

pub fn problem(status: StatusCode, problem: Problem) -> Response<Full<Bytes>> {
    json(status, &problem)
}
