//! A command inside of a container that runs.

use std::convert::Infallible;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use domain::slot::{Color, Exit};
use domain::{EnvironmentName, ServiceName};
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::DockerEngine;
use super::connect::{Trouble, is_conflict, is_missing};
use super::labels;
use super::state::exit_of;
use crate::{EngineError, ExecOutcome, Input};

/// Long enough for a person at a shell, short enough to end what was forgotten.
const LIMIT: Duration = Duration::from_secs(3600);
/// Of its output.
const MOST: usize = 16 << 20;

impl DockerEngine {
    pub(super) async fn exec_inside(
        &self,
        environment: &EnvironmentName,
        slot: Color,
        service: &ServiceName,
        command: &[String],
        input: Input,
    ) -> Result<ExecOutcome, EngineError> {
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
        let ran = tokio::time::timeout(LIMIT, self.exec_in(&id, command, Some(input))).await;
        let ran = ran.map_err(|_| failed(format!("it did not end within {LIMIT:?}")))?;
        ran.map_err(|trouble| failed(trouble.to_string()))
    }

    /// Runs it to its end, with something to read or without. What it started stays, if whoever waits goes away.
    pub(super) async fn exec_in(
        &self,
        id: &str,
        command: &[String],
        input: Option<Input>,
    ) -> Result<ExecOutcome, Trouble> {
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
        let started = docker.start_exec(&made.id, None).await;
        let bytes = match started.map_err(|error| self.trouble(error))? {
            StartExecResults::Attached { output, input: to } => {
                let heard = tokio::select! {
                    heard = hear(output) => heard,
                    never = feed(input, to) => match never {},
                };
                heard.map_err(|error| self.trouble(error))?
            }
            StartExecResults::Detached => Vec::new(),
        };
        let seen = docker.inspect_exec(&made.id).await.map_err(|error| self.trouble(error))?;
        let exit = seen.exit_code.map_or(Exit::Unknown, exit_of);
        Ok(ExecOutcome { exit, output: String::from_utf8_lossy(&bytes).into_owned() })
    }
}

/// What it writes, to its end.
async fn hear(
    mut output: impl Stream<Item = Result<LogOutput, Error>> + Unpin,
) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = output.next().await {
        let piece = piece?.into_bytes();
        let room = MOST.saturating_sub(bytes.len()).min(piece.len());
        bytes.extend_from_slice(&piece[..room]);
    }
    Ok(bytes)
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
