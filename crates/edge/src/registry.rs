//! What outlives one table: the counters of services and the state of replicas.
//!
//! Compiling a table looks here first, so that a service keeps its facts and a replica its health from one
//! epoch to the next, and a slot that left the table can still be asked about for a while.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use domain::route::{EnvironmentRoutes, FactsKey, Route as RouteSpec, SlotRoutes, Table};
use domain::slot::Endpoint;
use domain::{Color, EnvironmentName, ReleaseId, ServiceName};
use tokio::time::Instant;

use crate::facts::{Away, Service};
use crate::live::{Host, Live, Route, Slot, Target, host_name};
use crate::replica::Replica;

/// How many services that left the table are remembered.
const REMEMBERED: usize = 64;

type ReplicaKey = (FactsKey, SocketAddr, Option<String>);

pub struct Registry {
    workers: usize,
    next_id: u64,
    services: HashMap<FactsKey, Arc<Service>>,
    replicas: HashMap<ReplicaKey, Arc<Replica>>,
    away: HashMap<EnvironmentName, Arc<Away>>,
    /// Services that left the table, the oldest first.
    left: VecDeque<FactsKey>,
}

impl Registry {
    pub fn new(workers: usize) -> Self {
        Self {
            workers,
            next_id: 1,
            services: HashMap::new(),
            replicas: HashMap::new(),
            away: HashMap::new(),
            left: VecDeque::new(),
        }
    }

    /// Every service in the table or remembered.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// Every counter of requests that reached no route.
    pub fn away(&self) -> impl Iterator<Item = &Arc<Away>> {
        self.away.values()
    }

    /// Builds what requests use. Nothing is in force yet.
    pub fn compile(&mut self, table: &Table) -> Live {
        let mut live = Live { table: table.clone(), ..Live::default() };
        let mut seen = HashSet::new();
        for (name, environment) in &table.environments {
            let mut slots = HashMap::new();
            for (color, slot) in &environment.slots {
                let other = environment.slots.get(&color.other()).map(folders).unwrap_or_default();
                let compiled = self.slot(name, *color, slot, &other);
                for replica in compiled.replicas().filter(|replica| seen.insert(replica.id)) {
                    live.replicas.push(replica.clone());
                }
                slots.insert(*color, Arc::new(compiled));
            }
            let away = self.away_from(name);
            let host = |color: Color, preview| Host {
                slot: slots.get(&color).cloned(),
                preview,
                // Checks before a switch ask it over plain HTTP, and no CA is asked for its name.
                https: environment.https && !preview,
                away: away.clone(),
            };
            live.hosts.insert(key(&environment.preview_host), host(environment.live.other(), true));
            for name in [&environment.host].into_iter().chain(&environment.names) {
                live.hosts.insert(key(name), host(environment.live, false));
            }
        }
        live
    }

    fn slot(
        &mut self,
        environment: &EnvironmentName,
        color: Color,
        slot: &SlotRoutes,
        other: &HashMap<&ServiceName, &Path>,
    ) -> Slot {
        let routes = slot.routes.iter().map(|route| {
            let key = FactsKey {
                environment: environment.clone(),
                slot: color,
                release: slot.release.clone(),
                service: route.service.clone(),
            };
            let target = self.target(&key, route, other);
            let service = self.service(key);
            let series = service.series(&route.prefix);
            let max_body = route.max_body.map(|size| size.0);
            Arc::new(Route { prefix: route.prefix.clone(), service, series, target, max_body })
        });
        Slot::new(routes.collect())
    }

    fn away_from(&mut self, environment: &EnvironmentName) -> Arc<Away> {
        let workers = self.workers;
        let fresh = || Arc::new(Away::new(Some(environment.clone()), workers));
        self.away.entry(environment.clone()).or_insert_with(fresh).clone()
    }

    fn service(&mut self, key: FactsKey) -> Arc<Service> {
        let workers = self.workers;
        let fresh = || Arc::new(Service::new(key.clone(), workers));
        self.services.entry(key.clone()).or_insert_with(fresh).clone()
    }

    fn target(
        &mut self,
        key: &FactsKey,
        route: &RouteSpec,
        other: &HashMap<&ServiceName, &Path>,
    ) -> Target {
        if let Some(folder) = files(&route.endpoints) {
            let other = other.get(&route.service).map(|folder| folder.to_path_buf());
            return Target::Files { folder: folder.into(), other };
        }
        let addresses = route.endpoints.iter().filter_map(|endpoint| match endpoint {
            Endpoint::Http(address) => Some(*address),
            Endpoint::Files(_) => None,
        });
        let health = &route.health;
        let replica = |at| self.replica((key.clone(), at, health.clone()));
        Target::Replicas(addresses.map(replica).collect())
    }

    fn replica(&mut self, key: ReplicaKey) -> Arc<Replica> {
        let id = &mut self.next_id;
        let fresh = |(service, address, health): &ReplicaKey| {
            *id += 1;
            Arc::new(Replica::new(*id, service.clone(), *address, health.clone()))
        };
        self.replicas.entry(key).or_insert_with_key(fresh).clone()
    }

    /// Tells what lost the traffic when `after` replaced `before`, and forgets what is long gone.
    pub fn switched(&mut self, before: &Table, after: &Live) {
        let mut kept: HashSet<u64> = after.replicas.iter().map(|r| r.id).collect();
        self.replicas.retain(|_, replica| {
            let stays = kept.remove(&replica.id);
            replica.set_gone(!stays);
            stays
        });
        let (was, is) = (roles(before), roles(&after.table));
        for service in self.services.values() {
            let key = &service.key;
            let was_live = was.get(&names(key)) == Some(&true);
            let due = match is.get(&names(key)) {
                Some(true) => None,
                Some(false) if !was_live && service.retired.borrow().is_none() => None,
                _ => Some(deadline(before, &after.table, key)),
            };
            service.retired.send_if_modified(|retired| retire(retired, due));
            service.forget();
        }
        self.forget(&after.table, &is);
    }

    fn forget(&mut self, table: &Table, roles: &HashMap<Names<'_>, bool>) {
        let there = |key: &FactsKey| roles.contains_key(&names(key));
        self.left.retain(|key| !there(key));
        let known: HashSet<&FactsKey> = self.left.iter().collect();
        let gone = self.services.keys().filter(|key| !there(key));
        let new: Vec<_> = gone.filter(|key| !known.contains(key)).cloned().collect();
        self.left.extend(new);
        while self.left.len() > REMEMBERED {
            if let Some(key) = self.left.pop_front() {
                self.services.remove(&key);
            }
        }
        self.away.retain(|name, _| table.environments.contains_key(name));
    }
}

/// Sets a deadline once; only going live again takes it back.
fn retire(retired: &mut Option<Instant>, due: Option<Instant>) -> bool {
    if retired.is_some() == due.is_some() {
        return false;
    }
    *retired = due;
    true
}

fn key(host: &str) -> Box<str> {
    host_name(host).to_ascii_lowercase().into()
}

fn files(endpoints: &[Endpoint]) -> Option<&Path> {
    endpoints.iter().find_map(|endpoint| match endpoint {
        Endpoint::Files(folder) => Some(folder.as_path()),
        Endpoint::Http(_) => None,
    })
}

/// Where the files of a slot's services lie.
fn folders(slot: &SlotRoutes) -> HashMap<&ServiceName, &Path> {
    let of = |route| -> Option<(&ServiceName, &Path)> {
        let route: &RouteSpec = route;
        Some((&route.service, files(&route.endpoints)?))
    };
    slot.routes.iter().rev().filter_map(of).collect()
}

/// A [`FactsKey`] that lies in a table.
type Names<'a> = (&'a EnvironmentName, Color, &'a ReleaseId, &'a ServiceName);

fn names(key: &FactsKey) -> Names<'_> {
    (&key.environment, key.slot, &key.release, &key.service)
}

/// The services in a table, and whether they have the traffic.
fn roles(table: &Table) -> HashMap<Names<'_>, bool> {
    let slots = table.environments.iter().flat_map(|(name, environment)| {
        let slots = environment.slots.iter();
        slots.map(move |(color, slot)| (name, *color, slot, environment.live == *color))
    });
    let services = slots.flat_map(|(name, color, slot, live)| {
        slot.routes.iter().map(move |route| ((name, color, &slot.release, &route.service), live))
    });
    services.collect()
}

fn deadline(before: &Table, after: &Table, key: &FactsKey) -> Instant {
    let of = |table: &Table| -> Option<std::time::Duration> {
        table.environments.get(&key.environment).map(|e: &EnvironmentRoutes| e.drain_deadline)
    };
    Instant::now() + of(after).or_else(|| of(before)).unwrap_or_default()
}
