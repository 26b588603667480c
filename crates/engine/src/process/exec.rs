//! A command beside a replica, and errands of the engine's own: run once, forgotten afterwards.

use std::convert::Infallible;
use std::fs;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use bytes::Bytes;
use domain::slot::{Color, Exit, SlotSpec};
use domain::{Digest, EnvironmentName, ServiceName};
use nix::sys::signal::Signal;
use nix::unistd::fchown;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc;

use super::keeper::{Guard, Handed, blocking};
use super::slots::folder_of;
use super::{ProcessEngine, tail};
use crate::proc;
use crate::unit::{LogPlan, Mode, Phase, Unit, UnitSpec, read_json};
use crate::{EngineError, Input, Said, Streams};

/// Long enough for a person at a shell, short enough to end what was forgotten.
const LIMIT: Duration = Duration::from_secs(3600);
const MOST_LINES: usize = 100_000;
/// Of output, at once.
const PIECE: usize = 64 << 10;

impl ProcessEngine {
    pub(super) async fn exec_beside(
        &self,
        environment: &EnvironmentName,
        slot: Color,
        service: &ServiceName,
        command: &[String],
        streams: Streams,
    ) -> Result<Exit, EngineError> {
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
        let errand = Errand { command: command.to_vec(), folder, env, limit: LIMIT };
        let unit = self.layout.exec(environment);
        let exit = self.run_with_streams(&unit, errand, streams).await?;
        exit.ok_or_else(|| EngineError::new(doing(), "whoever asked for it went away"))
    }

    /// Forgets commands whose caller went away.
    fn prune_execs(&self, environment: &EnvironmentName) {
        for unit in self.layout.execs(environment) {
            // One that has just ended may not have been heard of by its caller yet.
            let Some(_guard) = self.keeper.try_guard(unit.folder()) else { continue };
            let over = unit.status().is_none_or(|status| status.phase == Phase::Ended);
            if over && !unit.attended() {
                let _ = fs::remove_dir_all(unit.folder());
            }
        }
    }

    /// Runs a command to its end in a unit that is deleted afterwards; the last of what it said. One that an engine
    /// before us left running in the same unit is stopped first.
    pub(super) async fn run_errand(
        &self,
        unit: &Unit,
        errand: Errand,
    ) -> Result<(Exit, Vec<String>), EngineError> {
        let _guard = self.vacate(unit).await?;
        self.keeper.launch(unit, self.unit_spec(errand, false), false).await?;
        let exit = self.finish_errand(unit).await;
        Ok((exit, take_log(unit).await))
    }

    /// The same of a command that is heard as it speaks. `None`: nobody listened any more, and it was stopped.
    async fn run_with_streams(
        &self,
        unit: &Unit,
        errand: Errand,
        streams: Streams,
    ) -> Result<Option<Exit>, EngineError> {
        let _guard = self.vacate(unit).await?;
        let spec = self.unit_spec(errand, true);
        let (theirs, ours) = self
            .pipes()
            .map_err(|error| EngineError::new("making pipes for a command", error.to_string()))?;
        self.keeper.launch_with_streams(unit, spec, theirs).await?;
        let Streams { input, output: to } = streams;
        let running = async {
            let output = hear(ours.output, Said::Output, &to);
            let errors = hear(ours.errors, Said::Errors, &to);
            tokio::join!(self.finish_errand(unit), output, errors).0
        };
        let exit = tokio::select! {
            exit = running => exit,
            never = feed(input, ours.input) => match never {},
            () = to.closed() => return Ok(None),
        };
        // What its supervisor had to say: that it could not be started, or was stopped at its limit.
        for line in take_log(unit).await {
            let _unheard = to.send(Said::Errors((line + "\n").into())).await;
        }
        Ok(Some(exit))
    }

    /// An empty place for a unit, and the right to it.
    async fn vacate(&self, unit: &Unit) -> Result<Guard, EngineError> {
        let guard = self.keeper.guard(unit.folder()).await;
        self.keeper.stop_held(unit).await?;
        let _ = fs::remove_dir_all(unit.folder());
        Ok(guard)
    }

    fn unit_spec(&self, errand: Errand, streams: bool) -> UnitSpec {
        UnitSpec {
            digest: Digest::of(errand.command.join("\0")).to_string(),
            command: errand.command,
            folder: errand.folder,
            env: errand.env,
            port: None,
            user: self.config.run_as.as_ref().map(|user| user.ids()),
            mode: Mode::Once { time_limit: errand.limit, lock: None, streams },
            stop_signal: Signal::SIGTERM as i32,
            grace: Duration::from_secs(5),
            log: LogPlan::once(None),
        }
    }

    async fn finish_errand(&self, unit: &Unit) -> Exit {
        let abandoned = Abandoned(unit);
        let exit = self.keeper.finish(unit).await;
        std::mem::forget(abandoned);
        exit
    }

    /// Pipes for the three streams of a command: (its ends, ours).
    fn pipes(&self) -> io::Result<(Handed, Ours)> {
        let (input, to_input): (PipeReader, PipeWriter) = io::pipe()?;
        let (from_output, output) = io::pipe()?;
        let (from_errors, errors) = io::pipe()?;
        let theirs: [OwnedFd; 3] = [input.into(), output.into(), errors.into()];
        if let Some(user) = &self.config.run_as {
            // Else the command could not open /dev/stdin and its like.
            let ids = user.ids();
            for end in &theirs {
                fchown(end.as_fd(), Some(ids.uid.into()), Some(ids.gid.into()))?;
            }
        }
        let [input, output, errors] = theirs.map(Some);
        let ours = Ours {
            input: Sender::from_owned_fd(to_input.into())?,
            output: Receiver::from_owned_fd(from_output.into())?,
            errors: Receiver::from_owned_fd(from_errors.into())?,
        };
        Ok((Handed { input, output, errors }, ours))
    }
}

/// Our ends of the pipes of a command.
struct Ours {
    input: Sender,
    output: Receiver,
    errors: Receiver,
}

/// Passes on what the command may read, and its end. That alone does not end the command.
async fn feed(mut input: Input, mut to: Sender) -> Infallible {
    // Whoever stops reading has read enough.
    let _ = tokio::io::copy(&mut input, &mut to).await;
    drop(to);
    std::future::pending().await
}

/// Passes on what comes out of a pipe, to its end: that of its supervisor and of all that the command started.
async fn hear(mut from: Receiver, kind: fn(Bytes) -> Said, to: &mpsc::Sender<Said>) {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        match from.read_buf(&mut piece).await {
            Ok(1..) => {}
            _ => return,
        }
        if to.send(kind(piece.into())).await.is_err() {
            return;
        }
    }
}

/// What a unit that has ended said, last; then nothing is left of it.
async fn take_log(unit: &Unit) -> Vec<String> {
    let unit = unit.clone();
    blocking(move || {
        let lines = tail::tail(&unit, MOST_LINES);
        let _ = fs::remove_dir_all(unit.folder());
        lines
    })
    .await
}

/// What [`ProcessEngine::run_errand`] runs.
pub(super) struct Errand {
    pub(super) command: Vec<String>,
    pub(super) folder: std::path::PathBuf,
    pub(super) env: std::collections::BTreeMap<String, String>,
    pub(super) limit: Duration,
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
