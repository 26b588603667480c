//! Starts, adopts, replaces and stops units through their shims.

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use domain::slot::Exit;
use nix::sys::signal::Signal;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::ports::Reservation;
use super::{ShimCommand, clock};
use crate::EngineError;
use crate::lock::FileLock;
use crate::proc;
use crate::shim::{ALREADY_ATTENDED, numbered_log, sweep};
use crate::unit::{Phase, Unit, UnitSpec};

/// For what takes no time unless the machine is in trouble.
const PATIENCE: Duration = Duration::from_secs(20);

/// The only place that starts and signals shims.
#[derive(Debug)]
pub(super) struct Keeper {
    shim: ShimCommand,
    /// One change at a time per unit (or slot), inside this process. Between processes the unit's lock decides.
    guards: Mutex<HashMap<PathBuf, Arc<AsyncMutex<()>>>>,
}

/// What becomes the shim's standard streams.
#[derive(Debug, Default)]
pub(super) struct Handed {
    /// What holds the port, or what the command reads.
    pub(super) input: Option<OwnedFd>,
    pub(super) output: Option<OwnedFd>,
    /// By default its `shim.log`.
    pub(super) errors: Option<OwnedFd>,
}

/// The right to change one thing, until dropped.
pub(super) struct Guard {
    // The file first: who waits here must not get in before who waits elsewhere can see it.
    _shared: Option<FileLock>,
    _local: OwnedMutexGuard<()>,
}

impl Keeper {
    pub(super) fn new(shim: ShimCommand) -> Self {
        Self { shim, guards: Mutex::default() }
    }

    /// The right to change what lies at `path`: in this process and, by a file, on this machine.
    pub(super) async fn guard(&self, path: &Path) -> Guard {
        let local = self.gate(path).lock_owned().await;
        loop {
            match take_change(path) {
                Ok(None) => tokio::time::sleep(clock::TICK).await,
                Ok(shared) => return Guard { _shared: shared, _local: local },
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot lock against other engines");
                    return Guard { _shared: None, _local: local };
                }
            }
        }
    }

    /// The same, unless somebody is changing it right now.
    pub(super) fn try_guard(&self, path: &Path) -> Option<Guard> {
        let local = self.gate(path).try_lock_owned().ok()?;
        let shared = take_change(path).ok()??;
        Some(Guard { _shared: Some(shared), _local: local })
    }

    fn gate(&self, path: &Path) -> Arc<AsyncMutex<()>> {
        let mut guards = self.guards.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody waits for are dropped, so that finished jobs do not pile up.
        if guards.len() > 1000 {
            guards.retain(|_, gate| Arc::strong_count(gate) > 1);
        }
        guards.entry(path.to_owned()).or_default().clone()
    }

    /// Makes sure that the unit runs what `digest` names; `make` is asked for it only if it does not yet.
    pub(super) async fn ensure(
        &self,
        unit: &Unit,
        digest: &str,
        with_port: bool,
        make: impl FnOnce() -> UnitSpec + Send,
    ) -> Result<(), EngineError> {
        let _guard = self.guard(unit.folder()).await;
        if self.runs(unit, digest).await {
            return Ok(());
        }
        self.stop_held(unit).await?;
        self.launch(unit, make(), with_port).await
    }

    /// Starts a unit again whose shim was killed. Does nothing if it is not wanted or attended already.
    pub(super) async fn revive(&self, unit: &Unit) -> Result<(), EngineError> {
        let Some(_guard) = self.try_guard(unit.folder()) else { return Ok(()) };
        if unit.attended() {
            return Ok(());
        }
        let Some(spec) = unit.spec() else { return Ok(()) };
        tracing::warn!(unit = %unit.marker(), "its supervisor is gone; starting it again");
        let with_port = spec.port.is_some();
        self.launch(unit, spec, with_port).await
    }

    /// Gives a unit another port, because a stranger sits on its own.
    pub(super) async fn move_port(&self, unit: &Unit) -> Result<(), EngineError> {
        let Some(_guard) = self.try_guard(unit.folder()) else { return Ok(()) };
        let Some(spec) = unit.spec() else { return Ok(()) };
        tracing::warn!(unit = %unit.marker(), port = ?spec.port, "somebody else uses its port; it gets another");
        self.stop_held(unit).await?;
        self.launch(unit, spec, true).await
    }

    /// Stops the unit and makes sure that nothing of it runs. Its record of what is asked is deleted.
    pub(super) async fn stop(&self, unit: &Unit) -> Result<(), EngineError> {
        let _guard = self.guard(unit.folder()).await;
        self.stop_held(unit).await
    }

    /// Attended by a shim that was given `digest`.
    async fn runs(&self, unit: &Unit, digest: &str) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while unit.attended() && Instant::now() < deadline {
            let settled = unit.status().filter(|s| s.shim.alive() && s.phase != Phase::Starting);
            match settled.map(|status| (status.phase, status.digest)) {
                Some((Phase::Stopping | Phase::Ended, _)) => return false,
                Some((_, running)) => return running == digest && unit.spec_path().exists(),
                None => tokio::time::sleep(clock::TICK).await,
            }
        }
        false
    }

    /// Records the spec and starts a shim for it. The caller has the guard, and no shim runs.
    pub(super) async fn launch(
        &self,
        unit: &Unit,
        spec: UnitSpec,
        with_port: bool,
    ) -> Result<(), EngineError> {
        self.launch_with(unit, spec, with_port, Handed::default()).await
    }

    /// [`Keeper::launch`] of a command with `streams` of its own, and no port.
    pub(super) async fn launch_with_streams(
        &self,
        unit: &Unit,
        spec: UnitSpec,
        streams: Handed,
    ) -> Result<(), EngineError> {
        self.launch_with(unit, spec, false, streams).await
    }

    async fn launch_with(
        &self,
        unit: &Unit,
        mut spec: UnitSpec,
        with_port: bool,
        mut handed: Handed,
    ) -> Result<(), EngineError> {
        let failed = |error: std::io::Error| starting(unit, &error.to_string());
        fs::create_dir_all(unit.folder()).map_err(failed)?;
        // Whoever is left from a killed shim may still sit on the port.
        let (left, before) = (unit.clone(), unit.status());
        blocking(move || sweep(&left, before.as_ref())).await;
        if with_port {
            handed.input = Some(self.reserve(unit, &mut spec).await?);
        }
        if unit.status().is_some_and(|before| before.digest != spec.digest) {
            forget_log(unit);
        }
        unit.write_spec(&spec).map_err(failed)?;
        self.spawn(unit, handed).await
    }

    /// The unit's own port again, if it is free; its last shim may need a moment to let go.
    async fn reserve(&self, unit: &Unit, spec: &mut UnitSpec) -> Result<OwnedFd, EngineError> {
        let failed = |error: std::io::Error| starting(unit, &error.to_string());
        let reservation = Reservation::make(unit.port()).map_err(failed)?;
        spec.port = Some(reservation.port);
        unit.write_port(reservation.port).map_err(failed)?;
        Ok(reservation.into_holder())
    }

    async fn spawn(&self, unit: &Unit, handed: Handed) -> Result<(), EngineError> {
        let complaints = unit.folder().join("shim.log");
        let failed = |error: std::io::Error| starting(unit, &error.to_string());
        let errors = match handed.errors {
            Some(errors) => errors,
            None => fs::File::create(&complaints).map_err(failed)?.into(),
        };
        let mut child = tokio::process::Command::new(&self.shim.program)
            .args(&self.shim.args)
            .arg(unit.spec_path())
            .env_clear()
            .stdin(handed.input.map_or_else(Stdio::null, Stdio::from))
            .stdout(handed.output.map_or_else(Stdio::null, Stdio::from))
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|error| {
                let program = self.shim.program.display();
                starting(unit, &format!("its supervisor {program} cannot be started: {error}"))
            })?;
        let pid = child.id();
        let ours = || unit.status().filter(|status| Some(status.shim.pid) == pid);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if ours().is_some_and(|status| status.phase != Phase::Starting) {
                // Collects the shim whenever it ends; it does not end with us.
                tokio::spawn(async move { child.wait().await });
                return Ok(());
            }
            if let Some(exit) = child.try_wait().map_err(failed)? {
                return match exit.code() {
                    Some(0 | ALREADY_ATTENDED) => Ok(()),
                    // Killed, but it had begun: what became of the command is told by the record.
                    None if ours().is_some() => Ok(()),
                    _ => Err(starting(unit, &died_early(exit, &complaints))),
                };
            }
            if Instant::now() > deadline {
                let why = format!(
                    "its supervisor said nothing for {PATIENCE:?}; see {}",
                    complaints.display()
                );
                return Err(starting(unit, &why));
            }
            tokio::time::sleep(clock::TICK).await;
        }
    }

    /// [`Keeper::stop`] for who has the guard already.
    pub(super) async fn stop_held(&self, unit: &Unit) -> Result<(), EngineError> {
        let grace = grace_of(unit);
        // First the wish, then the deed: if we die in between, nobody starts it again.
        let _ = fs::remove_file(unit.spec_path());
        self.halt_within(unit, grace).await
    }

    /// Stops what runs but keeps the record of what was asked. The caller has the guard.
    pub(super) async fn halt(&self, unit: &Unit) -> Result<(), EngineError> {
        self.halt_within(unit, grace_of(unit)).await
    }

    async fn halt_within(&self, unit: &Unit, grace: Duration) -> Result<(), EngineError> {
        self.end_shim(unit, grace + PATIENCE).await;
        if unit.attended() {
            let why = "its supervisor holds the lock and does not end; see its shim.log";
            return Err(EngineError::new(format!("stopping {}", unit.marker()), why));
        }
        let (unit, status) = (unit.clone(), unit.status());
        blocking(move || sweep(&unit, status.as_ref())).await;
        Ok(())
    }

    async fn end_shim(&self, unit: &Unit, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut asked = None;
        while unit.attended() {
            let shim = unit.status().map(|status| status.shim).filter(|shim| shim.alive());
            if let Some(shim) = shim.filter(|shim| asked != Some(*shim)) {
                proc::signal(shim.pid, Signal::SIGTERM);
                asked = Some(shim);
            }
            if Instant::now() > deadline {
                if let Some(shim) = shim {
                    proc::signal(shim.pid, Signal::SIGKILL);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                return;
            }
            tokio::time::sleep(clock::TICK).await;
        }
    }

    /// Waits until the unit, run once, has ended. Answers how; a shim that was killed makes it unknown.
    pub(super) async fn finish(&self, unit: &Unit) -> Exit {
        let mut pause = clock::TICK;
        while unit.attended() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(25));
        }
        let Some(mut status) = unit.status() else { return Exit::Unknown };
        if status.phase != Phase::Ended {
            let (left, before) = (unit.clone(), status.clone());
            blocking(move || sweep(&left, Some(&before))).await;
            status.phase = Phase::Ended;
            status.child = None;
            status.last_exit = Some(Exit::Unknown);
            status.last_exit_at = Some(clock::now());
            if let Err(error) = unit.write_status(&status, true) {
                tracing::warn!(unit = %unit.marker(), %error, "cannot record that it ended unseen");
            }
        }
        status.last_exit.unwrap_or(Exit::Unknown)
    }
}

/// Inside a unit's folder, or hidden beside anything else.
fn take_change(path: &Path) -> std::io::Result<Option<FileLock>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let parent = path.parent().unwrap_or(Path::new("/"));
    let inside = parent.file_name().is_some_and(|kind| kind != "slots" && kind != "data");
    let lock = match inside {
        true => path.join("change"),
        false => parent.join(format!(".{name}.change")),
    };
    fs::create_dir_all(lock.parent().unwrap_or(parent))?;
    FileLock::take(&lock)
}

/// Runs what may take milliseconds away from the threads that carry everything else.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn grace_of(unit: &Unit) -> Duration {
    unit.spec().map_or(PATIENCE, |spec| spec.grace)
}

fn starting(unit: &Unit, why: &str) -> EngineError {
    EngineError::new(format!("starting {}", unit.marker()), why)
}

fn died_early(exit: std::process::ExitStatus, complaints: &Path) -> String {
    let said = fs::read_to_string(complaints).unwrap_or_default();
    format!("its supervisor ended with {exit}: {}", said.trim())
}

/// The output of what ran here before must not be taken for that of what runs now.
fn forget_log(unit: &Unit) {
    let log = unit.log_path();
    let _ = fs::remove_file(&log);
    for number in 1.. {
        if fs::remove_file(numbered_log(&log, number)).is_err() {
            return;
        }
    }
}
