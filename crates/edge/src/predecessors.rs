//! Edges that were taken over from and still finish what they have: their numbers are part of ours, and the
//! tables that we get reach them too.
//!
//! Each answers on a socket of its own in the folder, `control-<pid>.sock`. What one had counted stays with us
//! when it is gone, so that no total ever falls.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use domain::route::{EdgeStatus, Facts, FactsKey, Finishing, RouteFacts, Table};
use domain::{Color, EnvironmentName};

use crate::client::{Client, ClientError, DrainStatus};
use crate::control::{Control, Standing};

/// For an answer that takes no time unless the process hangs.
const DEADLINE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(500);
/// How many services' numbers, and how many routes', are kept of edges that are gone.
const INHERITED: usize = 1000;

#[derive(Default)]
pub struct Predecessors {
    alive: RefCell<Vec<Predecessor>>,
    inherited: RefCell<BTreeMap<FactsKey, Facts>>,
    inherited_routes: RefCell<Routes>,
}

type Routes = BTreeMap<(FactsKey, String), Facts>;

#[derive(Clone)]
struct Predecessor {
    socket: PathBuf,
    /// What it said last.
    last: Option<Rc<Said>>,
}

/// How one is.
struct Said {
    status: EdgeStatus,
    routes: Vec<RouteFacts>,
}

impl Predecessor {
    fn client(&self) -> Client {
        Client::new(&self.socket).with_deadline(DEADLINE)
    }

    async fn ask(&self) -> Result<Rc<Said>, ClientError> {
        let client = self.client();
        // The status last: once its last numbers were told there, it may be gone.
        let routes = client.routes().await?;
        let status = client.status().await?;
        Ok(Rc::new(Said { status, routes }))
    }
}

/// The name of the control socket of the edge with this process id.
pub fn socket_name(pid: u32) -> String {
    format!("control-{pid}.sock")
}

impl Predecessors {
    /// Finds those that have a socket in `folder`, alive or not. From now on their numbers are ours to keep.
    pub fn find(&self, folder: &Path) {
        let own = socket_name(std::process::id());
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let others = names
            .filter(|name| *name != own && name.starts_with("control-") && name.ends_with(".sock"));
        let found = others.map(|name| Predecessor { socket: folder.join(name), last: None });
        self.alive.borrow_mut().extend(found);
    }

    /// Adds the numbers of all that were and are.
    pub async fn add_to(&self, status: &mut EdgeStatus, standing: Standing) {
        let mut facts: BTreeMap<_, _> = std::mem::take(&mut status.facts).into_iter().collect();
        for Said { status: theirs, .. } in self.said(standing).await.iter().map(Rc::as_ref) {
            status.connections += theirs.connections;
            status.finishing.push(Finishing::of(theirs));
            merge(&mut facts, &theirs.facts);
        }
        merge(&mut facts, &self.inherited());
        status.facts = facts.into_iter().collect();
    }

    /// The same for the numbers of single routes; sorted by slot and prefix.
    pub async fn add_routes_to(&self, own: Vec<RouteFacts>, standing: Standing) -> Vec<RouteFacts> {
        let said = self.said(standing).await;
        // Whoever was found to be gone right now is in it.
        let mut routes = self.inherited_routes.borrow().clone();
        merge_routes(&mut routes, &own);
        for said in said {
            merge_routes(&mut routes, &said.routes);
        }
        let fact = |((key, prefix), facts)| RouteFacts { key, prefix, facts };
        routes.into_iter().map(fact).collect()
    }

    /// What each says of itself.
    async fn said(&self, standing: Standing) -> Vec<Rc<Said>> {
        let mut alive = self.alive.borrow().clone();
        if standing == Standing::Replaced {
            // Our successor asks them itself.
            alive.clear();
        }
        let mut all = Vec::new();
        for predecessor in alive {
            match predecessor.ask().await {
                Ok(said) => {
                    self.keep(&predecessor, &said);
                    all.push(said);
                }
                Err(error) if is_gone(&error) => self.bury(&predecessor.socket),
                // It is as it was.
                Err(_) => all.extend(predecessor.last),
            }
        }
        all
    }

    /// The numbers of those that are gone.
    pub fn inherited(&self) -> Vec<(FactsKey, Facts)> {
        let inherited = self.inherited.borrow();
        inherited.iter().map(|(key, facts)| (key.clone(), facts.clone())).collect()
    }

    /// What all of them still carry of one slot. An error if one is there and does not say: it may carry a lot.
    pub async fn drain(
        &self,
        environment: &EnvironmentName,
        slot: Color,
    ) -> Result<DrainStatus, ClientError> {
        let mut sum = DrainStatus::default();
        let alive = self.alive.borrow().clone();
        for predecessor in alive {
            match predecessor.client().drain(environment, slot).await {
                Ok(status) => sum.add(&status),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sum)
    }

    /// Gives `table` to all of them. Whoever misses it gets it soon, see [`tend`].
    pub async fn publish(&self, table: &Table) {
        let alive = self.alive.borrow().clone();
        for predecessor in alive {
            if let Err(error) = predecessor.client().publish(table).await
                && !is_gone(&error)
            {
                let socket = predecessor.socket.display();
                tracing::warn!(%socket, %error, "an edge that finishes did not take the new table yet");
            }
        }
    }

    /// Asks each how it is, and keeps the numbers of those that are gone.
    pub async fn look(&self, table: &Table) {
        let alive = self.alive.borrow().clone();
        for predecessor in alive {
            match predecessor.ask().await {
                Ok(said) => {
                    if said.status.epoch < table.epoch {
                        self.publish(table).await;
                    }
                    self.keep(&predecessor, &said);
                }
                Err(error) if is_gone(&error) => self.bury(&predecessor.socket),
                Err(_) => {}
            }
        }
    }

    /// What one says may be the last that it says.
    fn keep(&self, predecessor: &Predecessor, said: &Rc<Said>) {
        let mut alive = self.alive.borrow_mut();
        let known = alive.iter_mut().find(|known| known.socket == predecessor.socket);
        if let Some(known) = known {
            known.last = Some(said.clone());
        }
    }

    fn bury(&self, socket: &Path) {
        let _ = fs::remove_file(socket);
        let mut alive = self.alive.borrow_mut();
        let Some(at) = alive.iter().position(|known| known.socket == socket) else { return };
        let gone = alive.swap_remove(at);
        let Some(said) = gone.last else { return };
        let mut inherited = self.inherited.borrow_mut();
        for (key, facts) in &said.status.facts {
            inherited.entry(key.clone()).or_default().merge(&over(facts));
        }
        while inherited.len() > INHERITED {
            inherited.pop_first();
        }
        let mut routes = self.inherited_routes.borrow_mut();
        for RouteFacts { key, prefix, facts } in &said.routes {
            routes.entry((key.clone(), prefix.clone())).or_default().merge(&over(facts));
        }
        while routes.len() > INHERITED {
            routes.pop_first();
        }
    }
}

/// The numbers of one that has nothing under way any more.
fn over(facts: &Facts) -> Facts {
    Facts { in_flight: 0, upgraded: 0, streams: 0, ..facts.clone() }
}

fn merge_routes(into: &mut Routes, routes: &[RouteFacts]) {
    for RouteFacts { key, prefix, facts } in routes {
        into.entry((key.clone(), prefix.clone())).or_default().merge(facts);
    }
}

fn merge(into: &mut BTreeMap<FactsKey, Facts>, facts: &[(FactsKey, Facts)]) {
    for (key, facts) in facts {
        into.entry(key.clone()).or_default().merge(facts);
    }
}

/// Whether nobody listens any more: the process has ended.
fn is_gone(error: &ClientError) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error, ClientError::Unreachable { source, .. }
        if matches!(source.kind(), ConnectionRefused | NotFound))
}

/// Looks after them until they are gone, or this edge is itself one that finishes.
pub async fn tend(control: Rc<Control>) {
    while control.standing.get() != Standing::Replaced {
        if !control.predecessors.alive.borrow().is_empty() {
            let live = control.shared.live.load_full();
            control.predecessors.look(&live.table).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
    std::future::pending().await
}
