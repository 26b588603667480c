//! Which process is the edge: started, adopted, or replaced by one of another build without losing a request.
//!
//! An edge that is replaced finishes what it has under its old name, while the next one runs under another. Nothing
//! about it is written down: which is which follows from what runs, so a server that died in between finds it out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::route::EdgeStatus;
use engine::process::{ProcessEngine, Supervised, supervised_digest};
use engine::{EngineError, UnitStatus};
use tokio::time::{Instant, sleep};

/// The names under which the engine supervises edges: one for the current, the others for those that finish.
const NAMES: [&str; 8] =
    ["edge", "edge-2", "edge-3", "edge-4", "edge-5", "edge-6", "edge-7", "edge-8"];

const PAUSE: Duration = Duration::from_millis(20);
/// For an edge that runs to say who it is.
const ANSWER: Duration = Duration::from_secs(5);
/// For a new edge to take over: longer than the old one waits for it.
const TAKE_OVER: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_secs(1);

/// The edges of one state folder.
#[derive(Clone)]
pub struct Edges {
    pub engine: Arc<ProcessEngine>,
    pub client: edge::Client,
    /// The program whose build the edge should be.
    pub program: PathBuf,
    /// What the edge should run as.
    pub command: Vec<String>,
}

impl Edges {
    /// Makes sure that an edge of this build with this command carries the traffic. An edge that does not take
    /// over leaves the one before as it is: that is no error, for traffic flows.
    pub async fn ensure(&self) -> Result<(), EngineError> {
        let Some(current) = self.current().await else {
            // Those that crashed together with the machine are not wanted any more.
            for name in &NAMES[1..] {
                self.engine.dismiss(name).await;
            }
            return self.supervise(NAMES[0]).await;
        };
        for name in NAMES.into_iter().filter(|name| *name != current) {
            if self.engine.look_at_supervised(name).wanted {
                self.engine.dismiss(name).await;
            }
        }
        if self.is_as_wished(current).await {
            return Ok(());
        }
        self.replace(current).await
    }

    /// Asking after the edge brings back its shim, should somebody have killed that.
    pub async fn keep(self) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            ticks.tick().await;
            for name in NAMES {
                self.engine.supervised(name).await;
            }
        }
    }

    /// The name of the edge that carries the traffic; `None` if no edge runs.
    async fn current(&self) -> Option<&'static str> {
        let deadline = Instant::now() + ANSWER;
        loop {
            let running: Vec<_> = attended(&self.engine).collect();
            if running.len() <= 1 {
                return running.first().map(|(name, _)| *name);
            }
            if let Some(status) = self.status().await
                && let Some((name, _)) = running.iter().find(|(_, it)| it.pid() == Some(status.pid))
            {
                return Some(name);
            }
            if Instant::now() > deadline {
                // None of them says that it is the one: the one that should run at all is as good as any.
                let wanted = running.iter().find(|(_, it)| it.wanted).or(running.first());
                return wanted.map(|(name, _)| *name);
            }
            sleep(PAUSE).await;
        }
    }

    async fn status(&self) -> Option<EdgeStatus> {
        self.client.clone().with_deadline(LOOK).status().await.ok()
    }

    async fn is_as_wished(&self, name: &str) -> bool {
        let found = self.engine.look_at_supervised(name);
        let digest = supervised_digest(&self.command, &BTreeMap::new(), true);
        if !found.wanted || found.status.is_none_or(|status| status.digest != digest) {
            return false;
        }
        let Ok(build) = edge::build_of(&self.program) else { return true };
        let deadline = Instant::now() + ANSWER;
        while Instant::now() < deadline {
            match self.status().await {
                Some(status) => return status.build == build,
                None => sleep(PAUSE).await,
            }
        }
        // It does not say; its supervisor starts it from this program's file when it ends.
        true
    }

    async fn replace(&self, current: &str) -> Result<(), EngineError> {
        let free = NAMES.into_iter().find(|name| !self.engine.look_at_supervised(name).attended);
        let Some(next) = free else {
            tracing::warn!(
                "too many edges still finish what they have: the edge is replaced later"
            );
            return Ok(());
        };
        tracing::info!(current, next, "replacing the edge by one of this build");
        self.supervise(next).await?;
        let deadline = Instant::now() + TAKE_OVER;
        while Instant::now() < deadline {
            let pid = self.engine.look_at_supervised(next).pid();
            if pid.is_some() && self.status().await.map(|status| status.pid) == pid {
                self.engine.dismiss(current).await;
                return Ok(());
            }
            sleep(PAUSE).await;
        }
        tracing::error!(
            current,
            next,
            "the new edge did not take over: the one before goes on; see supervised/{next}/log"
        );
        self.engine.stop_supervised(next).await
    }

    async fn supervise(&self, name: &str) -> Result<(), EngineError> {
        let command = self.command.iter().map(Into::into).collect();
        self.engine.supervise(name, command, BTreeMap::new(), true).await
    }
}

fn attended(engine: &ProcessEngine) -> impl Iterator<Item = (&'static str, Supervised)> {
    let all = NAMES.into_iter().map(|name| (name, engine.look_at_supervised(name)));
    all.filter(|(_, found)| found.attended)
}

/// The unit of the edge with this process id, or of whichever runs if none says.
pub fn unit(engine: &ProcessEngine, pid: Option<u32>) -> Option<UnitStatus> {
    let mut running: Vec<_> = attended(engine).map(|(_, found)| found).collect();
    let at = running.iter().position(|found| pid.is_some() && found.pid() == pid);
    let at = at.or(running.iter().position(|found| found.wanted));
    at.and_then(|at| running.swap_remove(at).status)
}

/// Whether there is one to stop.
pub fn any(engine: &ProcessEngine) -> bool {
    NAMES.into_iter().any(|name| {
        let found = engine.look_at_supervised(name);
        found.wanted || found.attended
    })
}

/// Stops all of them for good.
pub async fn stop(engine: &ProcessEngine) -> Result<(), EngineError> {
    for name in NAMES {
        let found = engine.look_at_supervised(name);
        if found.wanted || found.attended || found.status.is_some() {
            engine.stop_supervised(name).await?;
        }
    }
    Ok(())
}
