//! A command beside a replica, and errands of the engine's own: run once, forgotten afterwards.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::fchown;
use std::time::Duration;

use domain::slot::{Color, Exit, SlotSpec};
use domain::{Digest, EnvironmentName, ServiceName};
use nix::sys::signal::Signal;
use tokio::net::unix::pipe::Sender;

use super::keeper::blocking;
use super::slots::folder_of;
use super::{ProcessEngine, tail};
use crate::proc;
use crate::unit::{LogPlan, Mode, Phase, Unit, UnitSpec, read_json};
use crate::{EngineError, ExecOutcome, Input};

/// Long enough for a person at a shell, short enough to end what was forgotten.
const LIMIT: Duration = Duration::from_secs(3600);
const MOST_LINES: usize = 100_000;

impl ProcessEngine {
    pub(super) async fn exec_beside(
        &self,
        environment: &EnvironmentName,
        slot: Color,
        service: &ServiceName,
        command: &[String],
        input: Input,
    ) -> Result<ExecOutcome, EngineError> {
        self.prune_execs(environment);
        let doing = || format!("running a command beside {service} of {slot} in {environment}");
        let record: Option<SlotSpec> = read_json(&self.layout.slot(environment, slot));
        let wanted = record.and_then(|r| r.services.into_iter().find(|s| s.name == *service));
        let Some(asked) = wanted else {
            return Err(EngineError::new(doing(), "this slot has no such service"));
        };
        let replica = self.layout.replica(environment, slot, service, 0);
        let mut env = replica.spec().map_or_else(|| self.config.base_env(), |spec| spec.env);
        let folder = folder_of(&asked).to_owned();
        env.extend(asked.env);
        if let Some(port) = replica.port() {
            env.insert("PORT".into(), port.to_string());
        }
        let command = command.to_vec();
        let errand = Errand { command, folder, env, limit: LIMIT, input: Some(input) };
        let (exit, lines) = self.run_errand(&self.layout.exec(environment), errand).await?;
        let output = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        Ok(ExecOutcome { exit, output })
    }

    /// Forgets commands whose caller went away.
    fn prune_execs(&self, environment: &EnvironmentName) {
        for unit in self.layout.execs(environment) {
            let over = unit.status().is_some_and(|status| status.phase == Phase::Ended);
            if over && !unit.attended() {
                let _ = fs::remove_dir_all(unit.folder());
            }
        }
    }

    /// Runs a command to its end in a unit that is deleted afterwards. One that an engine before us left
    /// running in the same unit is stopped first.
    pub(super) async fn run_errand(
        &self,
        unit: &Unit,
        errand: Errand,
    ) -> Result<(Exit, Vec<String>), EngineError> {
        let _guard = self.keeper.guard(unit.folder()).await;
        self.keeper.stop_held(unit).await?;
        let _ = fs::remove_dir_all(unit.folder());
        let spec = UnitSpec {
            digest: Digest::of(errand.command.join("\0")).to_string(),
            command: errand.command,
            folder: errand.folder,
            env: errand.env,
            port: None,
            user: self.config.run_as.as_ref().map(|user| user.ids()),
            mode: Mode::Once {
                time_limit: errand.limit,
                lock: None,
                reads: errand.input.is_some(),
            },
            stop_signal: Signal::SIGTERM as i32,
            grace: Duration::from_secs(5),
            log: LogPlan::once(None),
        };
        let exit = match errand.input {
            None => {
                self.keeper.launch(unit, spec, false).await?;
                self.finish_errand(unit).await
            }
            Some(input) => {
                let (theirs, ours) = self.input_pipe().map_err(|error| {
                    EngineError::new("making a pipe for a command's input", error.to_string())
                })?;
                self.keeper.launch_reading(unit, spec, theirs).await?;
                tokio::select! {
                    exit = self.finish_errand(unit) => exit,
                    never = feed(input, ours) => match never {},
                }
            }
        };
        let unit = unit.clone();
        let lines = blocking(move || {
            let lines = tail::tail(&unit, MOST_LINES);
            let _ = fs::remove_dir_all(unit.folder());
            lines
        })
        .await;
        Ok((exit, lines))
    }

    async fn finish_errand(&self, unit: &Unit) -> Exit {
        let abandoned = Abandoned(unit);
        let exit = self.keeper.finish(unit).await;
        std::mem::forget(abandoned);
        exit
    }

    /// A pipe for what a command reads: (the command's end, ours).
    fn input_pipe(&self) -> io::Result<(OwnedFd, Sender)> {
        let (theirs, ours) = io::pipe()?;
        if let Some(user) = &self.config.run_as {
            // Else the command could not open /dev/stdin.
            let ids = user.ids();
            fchown(&theirs, Some(ids.uid), Some(ids.gid))?;
        }
        Ok((theirs.into(), Sender::from_owned_fd(ours.into())?))
    }
}

/// Passes on what the command may read, and its end. That alone does not end the command.
async fn feed(mut input: Input, mut to: Sender) -> Infallible {
    // Whoever stops reading has read enough.
    let _ = tokio::io::copy(&mut input, &mut to).await;
    drop(to);
    std::future::pending().await
}

/// What [`ProcessEngine::run_errand`] runs.
pub(super) struct Errand {
    pub(super) command: Vec<String>,
    pub(super) folder: std::path::PathBuf,
    pub(super) env: std::collections::BTreeMap<String, String>,
    pub(super) limit: Duration,
    pub(super) input: Option<Input>,
}

/// If nobody waits for the command any more, it is asked to stop; its shim sees to the rest.
struct Abandoned<'a>(&'a Unit);

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        let running = self.0.status().filter(|status| status.phase != Phase::Ended);
        if let Some(shim) = running.map(|status| status.shim).filter(|shim| shim.alive()) {
            proc::signal(shim.pid, Signal::SIGTERM);
        }
    }
}
