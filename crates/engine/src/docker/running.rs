//! A command inside of a container, until it has ended. The Engine itself would let it run when nobody waits for it any
//! more: we stop it. We may be killed ourselves: a note on disk tells whoever comes after us.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::DockerEngine;
use super::connect::{Trouble, is_missing};
use crate::EngineError;
use crate::proc::{self, ProcessRef, descendants};

/// For a command that is stopped, before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// A command that is stopped if nobody waits for it any more.
pub(super) struct Running {
    docker: Docker,
    inside: Inside,
    note: Option<PathBuf>,
    ended: bool,
}

/// What the Engine calls a command and the container that it is in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Inside {
    pub(super) exec: String,
    pub(super) container: String,
}

/// Commands that were begun before this server, which may still run: nobody waits for them any more.
#[derive(Debug)]
pub struct Abandoned(Vec<(PathBuf, Inside)>);

impl Running {
    /// `note` is where it is noted, if it is.
    pub(super) fn of(docker: &Docker, inside: Inside, note: Option<PathBuf>) -> Self {
        Self { docker: docker.clone(), inside, note, ended: false }
    }

    pub(super) fn ended(mut self) {
        self.ended = true;
        forget(self.note.as_deref());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let (docker, inside, note) = (self.docker.clone(), self.inside.clone(), self.note.take());
        if !self.ended
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                if stop(&docker, &inside).await.is_ok() {
                    forget(note.as_deref());
                }
            });
        }
    }
}

impl DockerEngine {
    /// What is noted now: it is all abandoned if it is asked for before this server begins any command.
    pub fn abandoned(&self) -> Abandoned {
        Abandoned(self.records.execs())
    }

    /// Stops commands that nobody waits for any more. Without any, Docker is not asked.
    pub async fn stop_abandoned(&self, abandoned: &Abandoned) -> Result<(), EngineError> {
        let stopped = self.stop_all(&abandoned.0).await;
        stopped.map_err(|trouble| {
            let doing = "stopping commands of `exec` that a server before this one began";
            EngineError::new(doing, trouble.to_string())
        })
    }

    async fn stop_all(&self, noted: &[(PathBuf, Inside)]) -> Result<(), Trouble> {
        let left: Vec<_> = noted.iter().filter(|(note, _)| note.exists()).collect();
        if left.is_empty() {
            return Ok(());
        }
        let docker = &self.docker().await?;
        let stopping = left.into_iter().map(|(note, inside)| async move {
            stop(docker, inside).await.map_err(|error| self.trouble(error))?;
            forget(Some(note));
            Ok(())
        });
        join_all(stopping).await.into_iter().collect()
    }
}

/// Stops the command and what it started, where the Engine is on this machine and we may: it has no call for that.
async fn stop(docker: &Docker, Inside { exec, container }: &Inside) -> Result<(), Error> {
    let seen = match docker.inspect_exec(exec).await {
        Err(error) if is_missing(&error) => return Ok(()),
        seen => seen?,
    };
    let pid = seen.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
    let Some(pid) = pid.filter(|_| seen.running == Some(true)) else { return Ok(()) };
    // Else it is a pid of another machine's.
    let inside = |pid: u32| {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
        groups.is_ok_and(|groups| groups.contains(container))
    };
    let family: Vec<u32> = [pid].into_iter().chain(descendants(pid, &proc::all())).collect();
    let told: Vec<ProcessRef> =
        family.into_iter().filter(|pid| inside(*pid)).filter_map(ProcessRef::of).collect();
    told.iter().for_each(|process| proc::signal(process.pid, Signal::SIGTERM));
    tokio::time::sleep(GRACE).await;
    let left = told.iter().filter(|process| process.alive());
    left.for_each(|process| proc::signal(process.pid, Signal::SIGKILL));
    Ok(())
}

/// One that stays is of a command that has ended, which the next server sees.
fn forget(note: Option<&Path>) {
    if let Some(note) = note {
        let _ = std::fs::remove_file(note);
    }
}
