//! The table as requests use it: compiled once per epoch, shared by all workers, never changed.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use domain::route::{Reason, Table};
use tokio::time::Instant;

use crate::facts::{Away, Flight, Series, Service};
use crate::pause::{Pause, Pauses};
use crate::prefixes::Prefixes;
use crate::replica::Replica;

/// One epoch, whole.
#[derive(Default)]
pub struct Live {
    pub table: Table,
    pub hosts: HashMap<Box<str>, Host>,
    /// Every replica of every slot, for the health checks.
    pub replicas: Vec<Arc<Replica>>,
    /// Environments whose new requests are held.
    pub paused: Pauses,
}

/// What answers at one host name: `None` when the slot does not exist.
pub struct Host {
    pub slot: Option<Arc<Slot>>,
    /// Whether this is a preview host, which has no slot most of the time.
    pub preview: bool,
    /// Plain requests are sent to HTTPS.
    pub https: bool,
    /// Counts the requests to it that reach no route.
    pub away: Arc<Away>,
}

/// One slot's routes.
pub struct Slot {
    routes: Vec<Arc<Route>>,
    prefixes: Prefixes,
}

pub struct Route {
    pub prefix: String,
    pub service: Arc<Service>,
    /// The numbers of this route.
    pub series: Arc<Series>,
    pub target: Target,
    /// The largest request body that is let through, in bytes.
    pub max_body: Option<u64>,
}

pub enum Target {
    Replicas(Vec<Arc<Replica>>),
    Files {
        /// Where this slot's files lie.
        folder: PathBuf,
        /// Where the other slot's files of the same service lie: an old page still asks for its assets.
        other: Option<PathBuf>,
    },
}

/// A request that belongs to a slot, and is marked there.
pub struct Acquired {
    pub flight: Flight,
    pub route: Arc<Route>,
}

/// Why no slot gets a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotRouted {
    UnknownHost,
    NoPreview,
    NotLive,
    NoRoute,
    /// New requests are held: see [`crate::pause::hold`].
    Paused,
}

impl NotRouted {
    /// What is counted, and with which status it is answered.
    pub fn reason(self) -> Reason {
        match self {
            Self::UnknownHost => Reason::UnknownHost,
            Self::NoPreview => Reason::NoPreview,
            Self::NotLive => Reason::NotLive,
            Self::NoRoute => Reason::NoRoute,
            Self::Paused => Reason::PauseFull,
        }
    }
}

impl Slot {
    pub fn new(routes: Vec<Arc<Route>>) -> Self {
        let prefixes = Prefixes::new(routes.iter().map(|route| route.prefix.as_str()));
        Self { routes, prefixes }
    }

    /// The replicas of all its routes; one that is behind several comes several times.
    pub fn replicas(&self) -> impl Iterator<Item = &Arc<Replica>> {
        self.routes.iter().flat_map(|route| match &route.target {
            Target::Replicas(replicas) => replicas.as_slice(),
            Target::Files { .. } => &[],
        })
    }

    fn matching(&self, path: &str) -> Option<&Arc<Route>> {
        self.routes.get(self.prefixes.longest(path)?)
    }
}

impl Live {
    /// The pause that holds requests for `path` at `host`. Checks at the preview host go on.
    pub fn pause(&self, host: &str, path: &str) -> Option<&Arc<Pause>> {
        if self.paused.is_empty() {
            return None;
        }
        let host = self.hosts.get(host).filter(|host| !host.preview)?;
        let route = host.slot.as_ref()?.matching(path)?;
        let pause = self.paused.get(&route.service.key.environment)?;
        (Instant::now() < pause.until).then_some(pause)
    }

    fn route(&self, host: &str, path: &str) -> Result<&Arc<Route>, NotRouted> {
        if self.pause(host, path).is_some() {
            return Err(NotRouted::Paused);
        }
        let host = self.hosts.get(host).ok_or(NotRouted::UnknownHost)?;
        let Some(slot) = &host.slot else {
            return Err(if host.preview { NotRouted::NoPreview } else { NotRouted::NotLive });
        };
        slot.matching(path).ok_or(NotRouted::NoRoute)
    }
}

/// Finds the slot for a request and marks the request as in flight on it.
///
/// The mark comes first and the table is read again after it: either the publisher of a new table sees the
/// mark, or this request sees the new table. Without the second reading a request could be routed to a slot
/// after its drain was seen to be over.
pub fn acquire(
    live: &ArcSwap<Live>,
    worker: usize,
    host: &str,
    path: &str,
) -> Result<Acquired, NotRouted> {
    loop {
        let table = live.load();
        let route = table.route(host, path)?;
        let mut flight = Flight::begin(route.clone(), worker);
        if Arc::ptr_eq(&table, &live.load()) {
            flight.routed();
            return Ok(Acquired { flight, route: route.clone() });
        }
    }
}

/// The same for the requests to a route that `fits`; `None` where it does not, and nothing was marked.
pub fn acquire_if(
    live: &ArcSwap<Live>,
    worker: usize,
    host: &str,
    path: &str,
    fits: impl Fn(&Route) -> bool,
) -> Result<Option<Flight>, NotRouted> {
    loop {
        let table = live.load();
        let route = table.route(host, path)?;
        if !fits(route) {
            return Ok(None);
        }
        let mut flight = Flight::begin(route.clone(), worker);
        if Arc::ptr_eq(&table, &live.load()) {
            flight.routed();
            return Ok(Some(flight));
        }
    }
}

/// The host of a `Host` header as the table spells it: without port and final dot, in lower case.
pub fn host_name(header: &str) -> Cow<'_, str> {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-' || *b == b'.';
    // Most are spelled so already, apart from the port.
    let plain = header.bytes().position(|b| !plain(&b)).unwrap_or(header.len());
    let name = match header.as_bytes().get(plain) {
        None | Some(b':') => &header[..plain],
        _ => match header.rfind(']') {
            Some(end) => &header[..=end],
            None => header.split(':').next().unwrap_or_default(),
        },
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > plain && name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Cow::Owned(name.to_ascii_lowercase());
    }
    Cow::Borrowed(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_compared_without_port_case_and_final_dot() {
        assert_eq!(host_name("Tea.Example:8080"), "tea.example");
        assert_eq!(host_name("tea.example."), "tea.example");
        assert_eq!(host_name("[::1]:80"), "[::1]");
    }
}
