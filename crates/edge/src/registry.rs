//! What outlives one table: the counters of services and the state of replicas.
//!
//! Compiling a table looks here first, so that a service keeps its facts and a replica its health from one
//! epoch to the next, and a slot that left the table can still be asked about for a while.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use domain::route::{EnvironmentRoutes, FactsKey, Route as RouteSpec, SlotRoutes, Table};
use domain::slot::Endpoint;
use domain::{Color, EnvironmentName, ServiceName};
use tokio::time::Instant;

use crate::facts::Service;
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
            left: VecDeque::new(),
        }
    }

    /// Every service in the table or remembered.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// Builds what requests use. Nothing is in force yet.
    pub fn compile(&mut self, table: &Table) -> Live {
        let mut live = Live { table: table.clone(), ..Live::default() };
        for (name, environment) in &table.environments {
            let slots: HashMap<Color, Arc<Slot>> = environment
                .slots
                .iter()
                .map(|(color, slot)| {
                    let other = environment.slots.get(&color.other());
                    (*color, self.slot(name, *color, slot, other, &mut live.replicas))
                })
                .collect();
            let https = environment.https;
            let host =
                |color: Color, preview| Host { slot: slots.get(&color).cloned(), preview, https };
            live.hosts.insert(key(&environment.preview_host), host(environment.live.other(), true));
            live.hosts.insert(key(&environment.host), host(environment.live, false));
        }
        live
    }

    fn slot(
        &mut self,
        environment: &EnvironmentName,
        color: Color,
        slot: &SlotRoutes,
        other: Option<&SlotRoutes>,
        all: &mut Vec<Arc<Replica>>,
    ) -> Arc<Slot> {
        let mut routes: Vec<_> = slot
            .routes
            .iter()
            .map(|route| {
                let key = FactsKey {
                    environment: environment.clone(),
                    slot: color,
                    release: slot.release.clone(),
                    service: route.service.clone(),
                };
                let target = self.target(&key, route, other, all);
                let service = self.service(key);
                let max_body = route.max_body.map(|size| size.0);
                Arc::new(Route { prefix: route.prefix.clone(), service, target, max_body })
            })
            .collect();
        routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        Arc::new(Slot { routes })
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
        other: Option<&SlotRoutes>,
        all: &mut Vec<Arc<Replica>>,
    ) -> Target {
        if let Some(folder) = files(&route.endpoints) {
            let other = other.and_then(|slot| files_of(slot, &route.service));
            return Target::Files { folder, other };
        }
        let addresses = route.endpoints.iter().filter_map(|endpoint| match endpoint {
            Endpoint::Http(address) => Some(*address),
            Endpoint::Files(_) => None,
        });
        let replicas: Vec<_> =
            addresses.map(|at| self.replica((key.clone(), at, route.health.clone()))).collect();
        for replica in &replicas {
            if !all.iter().any(|known| known.id == replica.id) {
                all.push(replica.clone());
            }
        }
        Target::Replicas(replicas)
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
        for service in self.services.values() {
            let key = &service.key;
            let was_live = role(before, key) == Some(true);
            let due = match role(&after.table, key) {
                Some(true) => None,
                Some(false) if !was_live && service.retired.borrow().is_none() => None,
                _ => Some(deadline(before, &after.table, key)),
            };
            service.retired.send_if_modified(|retired| retire(retired, due));
        }
        self.forget(&after.table);
    }

    fn forget(&mut self, table: &Table) {
        self.left.retain(|key| role(table, key).is_none());
        let gone = self.services.keys().filter(|key| role(table, key).is_none());
        let new: Vec<_> = gone.filter(|key| !self.left.contains(key)).cloned().collect();
        self.left.extend(new);
        while self.left.len() > REMEMBERED {
            if let Some(key) = self.left.pop_front() {
                self.services.remove(&key);
            }
        }
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

fn files(endpoints: &[Endpoint]) -> Option<PathBuf> {
    endpoints.iter().find_map(|endpoint| match endpoint {
        Endpoint::Files(folder) => Some(folder.clone()),
        Endpoint::Http(_) => None,
    })
}

fn files_of(slot: &SlotRoutes, service: &ServiceName) -> Option<PathBuf> {
    let same = slot.routes.iter().filter(|route| route.service == *service);
    same.filter_map(|route| files(&route.endpoints)).next()
}

/// Whether a service is in the table, and if so whether it has the traffic.
fn role(table: &Table, key: &FactsKey) -> Option<bool> {
    let environment = table.environments.get(&key.environment)?;
    let slot = environment.slots.get(&key.slot).filter(|slot| slot.release == key.release)?;
    slot.routes.iter().find(|route| route.service == key.service)?;
    Some(environment.live == key.slot)
}

fn deadline(before: &Table, after: &Table, key: &FactsKey) -> Instant {
    let of = |table: &Table| -> Option<std::time::Duration> {
        table.environments.get(&key.environment).map(|e: &EnvironmentRoutes| e.drain_deadline)
    };
    Instant::now() + of(after).or_else(|| of(before)).unwrap_or_default()
}
