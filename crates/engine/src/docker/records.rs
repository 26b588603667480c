//! What is remembered on disk: what was asked, what a job came to, the last words of what is gone.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use domain::slot::{BackingSpec, Color, JobOutcome, SlotSpec};
use domain::{EnvironmentName, ServiceName, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::running::Inside;
use crate::process::layout::file_name;
use crate::unit::{read_json, write_json};

/// The folder of one app's containers, and who is changing what in it.
#[derive(Debug)]
pub(super) struct Records {
    folder: PathBuf,
    guards: Mutex<HashMap<PathBuf, Arc<AsyncMutex<()>>>>,
}

/// A backing service as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Backing {
    pub(super) spec: BackingSpec,
    /// Published on 127.0.0.1.
    pub(super) port: Option<u16>,
    /// Its own in the environment's network, where that has room for fixed ones.
    #[serde(default)]
    pub(super) address: Option<Ipv4Addr>,
    /// Volumes that were made for it and never held a server that became ready: they may be made anew.
    #[serde(default)]
    pub(super) fresh: Vec<String>,
    /// Stopped on purpose; the record keeps its port.
    #[serde(default)]
    pub(super) down: bool,
}

/// A job that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begun {
    /// Where its output goes, and how long that file was before.
    pub(super) log: PathBuf,
    pub(super) log_offset: u64,
    pub(super) time_limit_ms: u64,
    /// Set right before its container is started.
    pub(super) started: Option<Timestamp>,
    #[serde(default)]
    pub(super) canceled: bool,
}

pub(super) type Guard = OwnedMutexGuard<()>;

impl Records {
    pub(super) fn new(state: &Path) -> Self {
        Self { folder: state.join("docker"), guards: Mutex::default() }
    }

    pub(super) fn environment(&self, name: &EnvironmentName) -> PathBuf {
        self.folder.join(name.as_str())
    }

    /// Whether anything of the environment may be on an Engine.
    pub(super) fn knows(&self, name: &EnvironmentName) -> bool {
        self.environment(name).exists()
    }

    fn slot_path(&self, environment: &EnvironmentName, slot: Color) -> PathBuf {
        self.environment(environment).join("slots").join(format!("{slot}.json"))
    }

    pub(super) fn slot(&self, environment: &EnvironmentName, slot: Color) -> Option<SlotSpec> {
        read_json(&self.slot_path(environment, slot))
    }

    /// Both slots that were asked for.
    pub(super) fn slots(&self, environment: &EnvironmentName) -> Vec<SlotSpec> {
        let colors = [Color::Blue, Color::Green].into_iter();
        colors.filter_map(|slot| self.slot(environment, slot)).collect()
    }

    pub(super) fn keep_slot(&self, spec: &SlotSpec) -> io::Result<()> {
        if self.slot(&spec.environment, spec.slot).as_ref() == Some(spec) {
            return Ok(());
        }
        write(&self.slot_path(&spec.environment, spec.slot), spec)
    }

    pub(super) fn forget_slot(&self, environment: &EnvironmentName, slot: Color) -> io::Result<()> {
        forget(&self.slot_path(environment, slot))?;
        remove_folder(&self.texts(environment, &slot.to_string()))
    }

    fn backing_path(&self, environment: &EnvironmentName, service: &ServiceName) -> PathBuf {
        self.environment(environment).join("backing").join(format!("{service}.json"))
    }

    pub(super) fn backing(
        &self,
        environment: &EnvironmentName,
        service: &ServiceName,
    ) -> Option<Backing> {
        read_json(&self.backing_path(environment, service))
    }

    /// Those that are to run.
    pub(super) fn backings(&self, environment: &EnvironmentName) -> Vec<Backing> {
        let mut all = self.every_backing(environment);
        all.retain(|record| !record.down);
        all
    }

    /// Those that were stopped too.
    pub(super) fn every_backing(&self, environment: &EnvironmentName) -> Vec<Backing> {
        let entries = fs::read_dir(self.environment(environment).join("backing"));
        let paths = entries.into_iter().flatten().flatten().map(|entry| entry.path());
        let json = paths.filter(|path| path.extension().is_some_and(|end| end == "json"));
        let mut all: Vec<Backing> = json.filter_map(|path| read_json(&path)).collect();
        all.sort_by(|one, other| one.spec.service.cmp(&other.spec.service));
        all
    }

    pub(super) fn keep_backing(&self, record: &Backing) -> io::Result<()> {
        let spec = &record.spec;
        if self.backing(&spec.environment, &spec.service).as_ref() == Some(record) {
            return Ok(());
        }
        write(&self.backing_path(&spec.environment, &spec.service), record)
    }

    pub(super) fn job(&self, environment: &EnvironmentName, id: &str) -> PathBuf {
        self.environment(environment).join("jobs").join(file_name(id))
    }

    pub(super) fn begun(&self, environment: &EnvironmentName, id: &str) -> Option<Begun> {
        read_json(&self.job(environment, id).join("job.json"))
    }

    pub(super) fn keep_begun(
        &self,
        environment: &EnvironmentName,
        id: &str,
        begun: &Begun,
    ) -> io::Result<()> {
        write(&self.job(environment, id).join("job.json"), begun)
    }

    pub(super) fn outcome(&self, environment: &EnvironmentName, id: &str) -> Option<JobOutcome> {
        read_json(&self.job(environment, id).join("outcome.json"))
    }

    pub(super) fn keep_outcome(
        &self,
        environment: &EnvironmentName,
        id: &str,
        outcome: &JobOutcome,
    ) -> io::Result<()> {
        write(&self.job(environment, id).join("outcome.json"), outcome)
    }

    /// Notes that a command begins inside of a container; whoever sees its end removes the note.
    pub(super) fn keep_exec(
        &self,
        environment: &EnvironmentName,
        inside: &Inside,
    ) -> io::Result<PathBuf> {
        let folder = self.environment(environment).join("execs");
        let path = folder.join(file_name(&inside.exec)).with_extension("json");
        write(&path, inside).map(|()| path)
    }

    /// The commands of all environments that are noted.
    pub(super) fn execs(&self) -> Vec<(PathBuf, Inside)> {
        let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
        let notes = entries(&self.folder).flat_map(|folder| entries(&folder.path().join("execs")));
        let paths = notes.map(|note| note.path());
        paths.filter_map(|path| read_json(&path).map(|inside| (path, inside))).collect()
    }

    /// The last lines of a container that was removed: `blue.web.0`, `backing.postgres`.
    pub(super) fn last_words(&self, environment: &EnvironmentName, of: &str) -> PathBuf {
        self.environment(environment).join("logs").join(file_name(of))
    }

    /// Secrets and configs as files, for the containers of one slot or service.
    pub(super) fn texts(&self, environment: &EnvironmentName, of: &str) -> PathBuf {
        self.environment(environment).join("texts").join(file_name(of))
    }

    /// Everything of the environment, renamed first so that a crash leaves no half of it.
    pub(super) fn forget_all(&self, environment: &EnvironmentName) -> io::Result<()> {
        let folder = self.environment(environment);
        let condemned = folder.with_extension("deleted");
        remove_folder(&condemned)?;
        match fs::rename(&folder, &condemned) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.and_then(|()| remove_folder(&condemned)),
        }
    }

    /// Makes digests of what is asked say nothing about the secrets in it: they are visible as labels.
    pub(super) fn salt(&self) -> io::Result<String> {
        let path = self.folder.join("salt");
        if let Some(salt) = read_json(&path) {
            return Ok(salt);
        }
        // The first services of an app ask side by side; there is one salt.
        let _one = self.guards.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(salt) = read_json(&path) {
            return Ok(salt);
        }
        let salt = hex::encode(rand::random::<[u8; 32]>());
        write(&path, &salt)?;
        Ok(salt)
    }

    /// The right to change one thing, until dropped.
    pub(super) async fn guard(&self, thing: &Path) -> Guard {
        self.gate(thing).lock_owned().await
    }

    /// The same, unless somebody is changing it right now.
    pub(super) fn try_guard(&self, thing: &Path) -> Option<Guard> {
        self.gate(thing).try_lock_owned().ok()
    }

    pub(super) async fn guard_slot(&self, environment: &EnvironmentName, slot: Color) -> Guard {
        self.guard(&self.slot_path(environment, slot)).await
    }

    pub(super) fn try_guard_slot(
        &self,
        environment: &EnvironmentName,
        slot: Color,
    ) -> Option<Guard> {
        self.try_guard(&self.slot_path(environment, slot))
    }

    pub(super) async fn guard_backing(
        &self,
        environment: &EnvironmentName,
        service: &ServiceName,
    ) -> Guard {
        self.guard(&self.backing_path(environment, service)).await
    }

    pub(super) fn try_guard_backing(
        &self,
        environment: &EnvironmentName,
        service: &ServiceName,
    ) -> Option<Guard> {
        self.try_guard(&self.backing_path(environment, service))
    }

    fn gate(&self, thing: &Path) -> Arc<AsyncMutex<()>> {
        let mut guards = self.guards.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody waits for are dropped, so that finished jobs do not pile up.
        if guards.len() > 1000 {
            guards.retain(|_, gate| Arc::strong_count(gate) > 1);
        }
        guards.entry(thing.to_owned()).or_default().clone()
    }
}

fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    write_json(path, value, true)
}

fn forget(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
