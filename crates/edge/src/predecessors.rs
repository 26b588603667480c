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

use domain::route::{EdgeStatus, Facts, FactsKey, Table};
use domain::{Color, EnvironmentName};

use crate::client::{Client, ClientError, DrainStatus};
use crate::control::{Control, Standing};

/// For an answer that takes no time unless the process hangs.
const DEADLINE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(500);
/// How many services' numbers are kept of edges that are gone.
const INHERITED: usize = 1000;

#[derive(Default)]
pub struct Predecessors {
    alive: RefCell<Vec<Predecessor>>,
    inherited: RefCell<BTreeMap<FactsKey, Facts>>,
}

#[derive(Clone)]
struct Predecessor {
    socket: PathBuf,
    /// What it said last.
    last: Option<EdgeStatus>,
}

impl Predecessor {
    fn client(&self) -> Client {
        Client::new(&self.socket).with_deadline(DEADLINE)
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
        let mut alive = self.alive.borrow().clone();
        if standing == Standing::Replaced {
            // Our successor asks them itself.
            alive.clear();
        }
        let mut facts: BTreeMap<_, _> = std::mem::take(&mut status.facts).into_iter().collect();
        for predecessor in alive {
            let answer = predecessor.client().status().await.ok();
            self.keep(&predecessor, &answer);
            // One that does not answer now is as it was; one that is gone is found to be so later.
            let Some(theirs) = answer.or(predecessor.last) else { continue };
            status.connections += theirs.connections;
            merge(&mut facts, &theirs.facts);
        }
        merge(&mut facts, &self.inherited());
        status.facts = facts.into_iter().collect();
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
            let client = predecessor.client();
            match client.status().await {
                Ok(status) => {
                    if status.epoch < table.epoch {
                        self.publish(table).await;
                    }
                    self.keep(&predecessor, &Some(status));
                }
                Err(error) if is_gone(&error) => self.bury(&predecessor.socket),
                Err(_) => {}
            }
        }
    }

    /// What one says may be the last that it says.
    fn keep(&self, predecessor: &Predecessor, said: &Option<EdgeStatus>) {
        let mut alive = self.alive.borrow_mut();
        let known = alive.iter_mut().find(|known| known.socket == predecessor.socket);
        if let (Some(known), Some(said)) = (known, said) {
            known.last = Some(said.clone());
        }
    }

    fn bury(&self, socket: &Path) {
        let _ = fs::remove_file(socket);
        let mut alive = self.alive.borrow_mut();
        let Some(at) = alive.iter().position(|known| known.socket == socket) else { return };
        let gone = alive.swap_remove(at);
        let facts = gone.last.iter().flat_map(|status| &status.facts);
        let mut inherited = self.inherited.borrow_mut();
        for (key, facts) in facts {
            let over = Facts { in_flight: 0, upgraded: 0, streams: 0, ..facts.clone() };
            inherited.entry(key.clone()).or_default().merge(&over);
        }
        while inherited.len() > INHERITED {
            inherited.pop_first();
        }
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
