//! A command inside of a container that runs.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use domain::slot::{Color, Exit};
use domain::{EnvironmentName, ServiceName};
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::Sender;

use super::DockerEngine;
use super::connect::{Trouble, is_conflict, is_missing};
use super::labels;
use super::running::{Inside, Running};
use super::state::exit_of;
use crate::{EngineError, Input, Said, Streams};

/// Long enough for a person at a shell, short enough to end what was forgotten.
const LIMIT: Duration = Duration::from_secs(3600);
/// Of the output of a command that is heard at its end only.
const MOST: usize = 1 << 20;

impl DockerEngine {
    pub(super) async fn exec_inside(
        &self,
        environment: &EnvironmentName,
        slot: Color,
        service: &ServiceName,
        command: &[String],
        streams: Streams,
    ) -> Result<Exit, EngineError> {
        let failed = |why: String| {
            let doing = format!("running a command in {service} of {slot} in {environment}");
            EngineError::new(doing, why)
        };
        let asked = self.records.slot(environment, slot);
        if asked.is_none_or(|spec| spec.services.iter().all(|s| s.name != *service)) {
            return Err(failed("this slot has no such service".into()));
        }
        let found = self.replicas(environment, slot).await;
        let found = found.map_err(|trouble| failed(trouble.to_string()))?;
        let id = found
            .into_iter()
            .find(|found| labels::get(&found.labels, labels::SERVICE) == service.as_str())
            .and_then(|found| found.id)
            .ok_or_else(|| failed("it has no container; see `launchway status`".into()))?;
        let Streams { input, output } = streams;
        tokio::select! {
            ran = self.exec_in(&id, command, Some(input), &output, Some(environment)) => {
                ran.map_err(|trouble| failed(trouble.to_string()))
            }
            () = output.closed() => Err(failed("whoever asked for it went away".into())),
            () = tokio::time::sleep(LIMIT) => {
                Err(failed(format!("it did not end within {} s", LIMIT.as_secs())))
            }
        }
    }

    /// Runs it to its end, without anything to read; how that was, and the beginning of what it said.
    pub(super) async fn ask_inside(
        &self,
        id: &str,
        command: &[String],
    ) -> Result<(Exit, String), Trouble> {
        let (to, mut from) = tokio::sync::mpsc::channel(1);
        let running = async {
            let to = to;
            self.exec_in(id, command, None, &to, None).await
        };
        let hearing = async {
            let mut heard = Vec::new();
            while let Some(Said::Output(piece) | Said::Errors(piece)) = from.recv().await {
                let room = MOST.saturating_sub(heard.len()).min(piece.len());
                heard.extend_from_slice(&piece[..room]);
            }
            String::from_utf8_lossy(&heard).into_owned()
        };
        let (ran, heard) = tokio::join!(running, hearing);
        Ok((ran?, heard))
    }

    /// Runs it to its end, with something to read or without; what nobody waits for any more is stopped. What may
    /// last is noted with its environment.
    async fn exec_in(
        &self,
        id: &str,
        command: &[String],
        input: Option<Input>,
        to: &Sender<Said>,
        noted: Option<&EnvironmentName>,
    ) -> Result<Exit, Trouble> {
        let docker = self.docker().await?;
        let config = ExecConfig {
            attach_stdin: Some(input.is_some()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.to_vec()),
            ..ExecConfig::default()
        };
        let made = docker.create_exec(id, config).await.map_err(|error| match error {
            error if is_conflict(&error) || is_missing(&error) => Trouble::refused(
                "its container does not run; see `launchway status` and `launchway logs`",
            ),
            error => self.trouble(error),
        })?;
        let inside = Inside { exec: made.id.clone(), container: id.to_owned() };
        let note = noted.and_then(|environment| self.note_command(environment, &inside));
        let running = Running::of(&docker, inside, note);
        let started = docker.start_exec(&made.id, None).await;
        if let StartExecResults::Attached { output, input: theirs } =
            started.map_err(|error| self.trouble(error))?
        {
            let heard = tokio::select! {
                heard = hear(output, to) => heard,
                never = feed(input, theirs) => match never {},
            };
            if let Heard::InPart = heard.map_err(|error| self.trouble(error))? {
                return Ok(Exit::Unknown);
            }
        }
        running.ended();
        let seen = docker.inspect_exec(&made.id).await.map_err(|error| self.trouble(error))?;
        Ok(seen.exit_code.map_or(Exit::Unknown, exit_of))
    }

    /// A command is run without a note too: on a full disk somebody may want to look around.
    fn note_command(&self, environment: &EnvironmentName, inside: &Inside) -> Option<PathBuf> {
        let kept = self.records.keep_exec(environment, inside);
        kept.inspect_err(|error| tracing::warn!(%environment, %error, "cannot note a command")).ok()
    }
}

/// Passes on what it writes, to its end or while somebody listens.
async fn hear(
    mut output: impl Stream<Item = Result<LogOutput, Error>> + Unpin,
    to: &Sender<Said>,
) -> Result<Heard, Error> {
    while let Some(piece) = output.next().await {
        let said = match piece? {
            LogOutput::StdErr { message } => Said::Errors(message),
            other => Said::Output(other.into_bytes()),
        };
        if to.send(said).await.is_err() {
            return Ok(Heard::InPart);
        }
    }
    Ok(Heard::Whole)
}

enum Heard {
    Whole,
    /// Then nobody listened any more.
    InPart,
}

/// Passes on what it may read, and its end. That alone does not end it.
async fn feed(input: Option<Input>, mut to: impl AsyncWrite + Unpin) -> Infallible {
    if let Some(mut input) = input {
        // Whoever stops reading has read enough.
        let _ = tokio::io::copy(&mut input, &mut to).await;
        let _ = to.shutdown().await;
    }
    std::future::pending().await
}
